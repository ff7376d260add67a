"""Model cards: description, data, recipe and figures of a model, in Markdown."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.catalog.dataset import Dataset
from models.catalog.held_out import has_targets
from models.release.release import Learns
from training.held_out_table import Table, to_markdown

_LEARNT = {
    Learns.HELD_OUT: "all events but the last two items of each user: the last one is the test "
    "target, the one before it the validation target",
    Learns.NOT_THE_TEST: "all events but the last item of each user, the test target",
    Learns.EVERYTHING: "all events; no held-out item is left to judge them by",
}


_MEMORY = "its memory: counts of item pairs in the histories, items with similar texts"


def model_card(
    name: str,
    data: Path,
    dataset: Dataset,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    learnt: Learns,
) -> str:
    """Write the card of a release. All facts are those of the data folder and of the run."""
    table = metrics.get("held_out")
    return f"""# Release `{name}`
{_warning(table)}
A two-tier reasoning recommender: a reasoner that writes prefixes of semantic ids at night, and an
online recommender that finishes them. Made by `python -m training`, without manual steps.

## Data

{_lines(_facts(data, dataset, recipe, metrics))}

{_parts_learnt(recipe, learnt)}
The events of a user of fewer than three items are all learnt.
{_terms(data)}
{_results(table, learnt)}
## Parts

| file | content |
|---|---|
| `catalog.parquet` | items, semantic ids, popularity |
| `online.safetensors` | online recommender, {metrics["online"]["parameters"]:,} parameters |
| `neighbours.safetensors` | {_MEMORY} |
| `codebooks.safetensors` | centroids that give new items their semantic ids |
| `extend.onnx` | its graph, without weights |
| `reasoner/` | {_reasoner(recipe)}, {metrics["reasoner"]["parameters"]:,} parameters, bfloat16 |
| `manifest.json` | SHA-256 of every file, SID space, recipe, metrics |

Limits: {_thoughts(recipe)}.

## Recipe

```json
{json.dumps(recipe, indent=1, sort_keys=True)}
```

## Results of each stage (validation figures on a fixed sample of users)

```json
{json.dumps(metrics, indent=1, sort_keys=True)}
```
"""


def _warning(table: Table | None) -> str:
    """Return a paragraph for a release that was published despite its table."""
    if table is None or not table.get("forced"):
        return ""
    return f"\n**Published by force, below a simple row: {'; '.join(table['forced'])}.**\n"


def _facts(
    data: Path, dataset: Dataset, recipe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what the card says about the data, name and value."""
    histories, texts = dataset.histories.values(), dataset.items.values()
    titled = sum(text.title is not None for text in texts) / max(len(texts), 1)
    judged = sum(map(has_targets, histories))
    yield "folder", f"`{data.resolve().name}`"
    yield "items", f"{len(texts):,}, {titled:.0%} with a title"
    if "quantize" in metrics:
        made = metrics["quantize"]
        source = "" if made.get("has_texts", True) else ", from co-occurrence alone, without texts"
        yield "semantic ids", f"{made['sids']:,}{source}; other items share one"
    yield "users", f"{len(histories):,}, {judged:,} of three items or more"
    yield "events", f"{sum(map(len, histories)):,}"
    if span := _time_span(dataset):
        yield "time", span
    yield "SHA-256", f"`{recipe['data_sha256']}`"


def _time_span(dataset: Dataset) -> str | None:
    """Return the first and the last day, in UTC; None without times that are dates."""
    times = [event.timestamp for history in dataset.histories.values() for event in history]
    if not dataset.has_times or not times:
        return None
    with suppress(ValueError, OverflowError, OSError):
        first, last = (datetime.fromtimestamp(at, UTC).date() for at in (min(times), max(times)))
        return f"{first} to {last}"
    return None


def _lines(facts: Iterator[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts)])


def _terms(data: Path) -> str:
    if not (data / "README.md").is_file():
        return ""
    return "Source and terms of the data: the README in their folder.\n"


def _parts_learnt(recipe: Mapping[str, Any], learnt: Learns) -> str:
    by_reasoner = Learns(recipe.get("reasoner_learnt", Learns.HELD_OUT))
    if by_reasoner is learnt:
        return f"Both models, the memory and popularity learnt {_LEARNT[learnt]}."
    return (
        f"Online recommender, its memory and popularity learnt {_LEARNT[learnt]}.\n"
        f"The reasoner learnt {_LEARNT[by_reasoner]}."
    )


def _results(table: Table | None, learnt: Learns) -> str:
    if table is None:
        return ""
    models = "these models" if learnt is Learns.HELD_OUT else "the models of the first round"
    return f"""
## Held-out test items

Mean ± standard error, for {models}: same recipe, without the last two items of each user.
The whole catalog is ranked, without items of the history.

{to_markdown(table)}
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
It teaches the online recommender, and is a row of `bench quality`. Training histories, crops and
validation users are those of the online recommender: recall@10 {facts["recall@10"]:.4f}, NDCG@10
{facts["ndcg@10"]:.4f}, epoch {facts["epoch"]}. `metrics.json` has every number of the recipe. To
make it again:

    python -m training sasrec --data data/beauty --release releases/beauty --out bench/sasrec

Research use, as the data.
"""
