"""Model cards: description, data, recipe and validation figures of a model, in Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from models.catalog.dataset import Dataset


def model_card(
    name: str, dataset: Dataset, recipe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Write the card of a release. All numbers are the run's; test figures: `bench/results/`."""
    num_events = sum(len(history) for history in dataset.histories.values())
    return f"""# Release `{name}`

A two-tier reasoning recommender: a reasoner that writes prefixes of semantic ids at night, and an
online recommender that finishes them. Made by `python -m training all`, without manual steps.

## Data

{len(dataset.histories):,} users, {len(dataset.items):,} items, {num_events:,} interactions
(SHA-256 `{recipe["data_sha256"]}`). Leave-one-out: the last item of each user is the test
target, the one before it the validation target; no training row has either. Source, citation and
terms: the README beside the data.

## Parts

| file | content |
|---|---|
| `catalog.parquet` | items, semantic ids, training popularity |
| `online.safetensors` | online recommender, {metrics["online"]["parameters"]:,} parameters |
| `neighbours.safetensors` | its memory: counts of item pairs in the training histories |
| `extend.onnx` | its graph, without weights |
| `reasoner/` | {_reasoner(recipe)}, {metrics["reasoner"]["parameters"]:,} parameters, bfloat16 |
| `manifest.json` | SHA-256 of every file, SID space, recipe, metrics |

## Recipe

```json
{json.dumps(recipe, indent=1, sort_keys=True)}
```

## Results of each stage (validation figures on a fixed sample of users)

```json
{json.dumps(metrics, indent=1, sort_keys=True)}
```

Limits: trained on public reviews of one product domain, in English; {_thoughts(recipe)}. Research
use, as the data.
"""


def _reasoner(recipe: Mapping[str, Any]) -> str:
    base = recipe.get("reasoner", {}).get("base", "nano")  # older releases have no base
    return "Qwen3 causal LM from scratch" if base == "nano" else f"causal LM, base `{base}`"


def _thoughts(recipe: Mapping[str, Any]) -> str:
    return {
        "category": "rationales are category-level chains (paper, A.1), not free reasoning",
        "three-stage": "rationales are three-stage chains over categories, not free reasoning",
        "bootstrapped": "rationales were written by the aligned model itself; if none passed the "
        "checks, they are category-level chains (paper, A.1)",
    }[recipe.get("thoughts", {}).get("template", "category")]


def baseline_card(facts: Mapping[str, Any]) -> str:
    """Write the card of the language model that `bench finish` compares with."""
    recipe = facts["recipe"]
    return f"""# The baseline of `bench finish`

A user of `transformers` would write this today: a decoder-only language model (Llama,
{facts["parameters"]:,} parameters, in bfloat16) over semantic ids, one token per code, BOS before
the first item; `generate` with `prefix_allowed_tokens_fn` finishes its prefixes. It is compared
with the online tier and is not part of the product. `bench/finish/generate.py` uses it.

Trained with the next-token loss at every position of every training history (at most 50 items),
with dropout on the embeddings and on both branches of every layer. No training row has one of the
last two items of its user. The epoch was chosen by the recall@10 of
{recipe["num_validation_users"]:,} validation users, ranking the whole catalog, items of the history
masked.

| | |
|---|---|
| validation recall@10 | {facts["recall@10"]:.4f} |
| validation NDCG@10 | {facts["ndcg@10"]:.4f} |
| epoch | {facts["epoch"]} of at most {recipe["epochs"]} |
| semantic ids | from `{facts["release"]}`, SID space `{facts["sid_space"]}` |
| data (SHA-256) | `{facts["data_sha256"]}` |
| training | {facts["seconds"] / 60:.0f} min on one core |

`metrics.json` has every number of the recipe. To make it again:

    python -m training baseline --data data/beauty --release releases/beauty --out bench/baseline

An interrupted run continues from the checkpoint in its work folder. Research use, as the data.
"""


def sasrec_card(facts: Mapping[str, Any]) -> str:
    """Write the card of the SASRec that `bench quality` compares with."""
    return f"""# SASRec baseline

SASRec with the full cross-entropy over the catalog, {facts["parameters"]:,} parameters in bfloat16.
It is a row of `bench quality` and not part of the product. Training histories, crops and validation
users are those of the online recommender: recall@10 {facts["recall@10"]:.4f}, NDCG@10
{facts["ndcg@10"]:.4f}, epoch {facts["epoch"]}. `metrics.json` has every number of the recipe. To
make it again:

    python -m training sasrec --data data/beauty --release releases/beauty --out bench/sasrec

Research use, as the data.
"""
