"""The model card of a release: what it is, from what, how, and how good on validation."""

import json
from collections.abc import Mapping
from typing import Any

from models.dataset import Dataset


def model_card(
    name: str, dataset: Dataset, recipe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Markdown; every number comes from the run itself. Test figures live in `bench/results/`."""
    num_events = sum(len(history) for history in dataset.histories.values())
    return f"""# Release `{name}`

A two-tier reasoning recommender: a reasoner that leaves prefixes of semantic ids at night, and an
online recommender that finishes them. Made by `python -m training all`; nothing in it by hand.

## Data

{len(dataset.histories):,} users, {len(dataset.items):,} items, {num_events:,} interactions
(SHA-256 `{recipe["data_sha256"]}`). Leave-one-out: the last item of each user is the test
target, the one before it the validation target; neither is in any training row. Source, citation
and terms: the README beside the data.

## Parts

| file | what |
|---|---|
| `catalog.parquet` | items, semantic ids, training popularity |
| `online.safetensors` | online recommender, {metrics["online"]["parameters"]:,} parameters |
| `extend.onnx`, `decode_*.onnx` | its graphs, which hold no weights of their own |
| `reasoner/` | Qwen3 causal LM, {metrics["reasoner"]["parameters"]:,} parameters, bfloat16 |
| `manifest.json` | SHA-256 of every file, SID space, recipe, metrics |

## Recipe

```json
{json.dumps(recipe, indent=1, sort_keys=True)}
```

## What each stage made (validation figures on a fixed sample of users)

```json
{json.dumps(metrics, indent=1, sort_keys=True)}
```

Limits: trained on public reviews of one product domain, in English; rationales are category-level
chains (paper, A.1), not free reasoning. Research use, as the data.
"""
