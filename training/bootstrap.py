"""Bootstrapping with pruned contexts: ask the aligned model for rationales (Eq. 3 and 4).

Knows catalogs, item vectors and reasoners. The checks of a rationale are in `rationale_checks.py`.
"""

# N = items in catalog order, E = width of an item vector

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.catalog.catalog import Catalog
from models.reasoner import prompts
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from training.language import precision
from training.learner import Learner, plain_model
from training.processes import processes
from training.rationale_checks import RationaleChecks
from training.rationale_writers import Bootstrapped
from training.reasoner_recipes import BootstrapRecipe
from training.steps import report_step


@dataclass(frozen=True)
class Question:
    """A question to the model: why does the target follow in this history?"""

    history: int  # index of the history
    cut: int  # position of the target in the history
    relevant: tuple[int, ...]  # catalog rows of the pruned context
    target: int  # catalog row


def most_relevant(
    vectors_NE: NDArray[np.float32], history: Sequence[int], target: int, k: int
) -> tuple[int, ...]:
    """Return the `k` items of a history with the largest cosine to the target (g of Eq. 3).

    They keep their order in the history. On ties the later item wins. An item with a zero vector
    has cosine -1.
    """
    rows = np.array(history)
    norms = np.linalg.norm(vectors_NE[rows], axis=1) * np.linalg.norm(vectors_NE[target])
    cosine = np.divide(
        vectors_NE[rows] @ vectors_NE[target], norms, out=np.full(len(rows), -1.0), where=norms > 0
    )
    best = np.lexsort((-np.arange(len(rows)), -cosine))[:k]
    return tuple(rows[np.sort(best)].tolist())


def questions(
    histories: Sequence[Sequence[int]], vectors_NE: NDArray[np.float32], recipe: BootstrapRecipe
) -> Iterator[Question]:
    """Yield one question per history of at least two items; the last item is the target."""
    for at, history in enumerate(histories[: recipe.users]):
        if len(history) < 2:
            continue
        *before, target = history
        relevant = most_relevant(vectors_NE, before, target, recipe.top_k)
        yield Question(at, len(before), relevant, target)


def bootstrap(
    learner: Learner,
    catalog: Catalog,
    asked: Sequence[Question],
    recipe: BootstrapRecipe,
    file: Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Write the answers to `file`, one JSON object per line.

    A run that was killed continues behind its last complete line. Several processes ask a part of
    the questions each, into files of their own, which the first one joins. Returns the numbers of
    questions and of kept and dropped rationales, the latter by reason.
    """
    own = processes()
    if own.num == 1:
        _answer_all(learner, catalog, asked, recipe, file, seed=seed)
    else:
        parts = [file.with_suffix(f".{at}of{own.num}.jsonl") for at in range(own.num)]
        part, share = parts[own.index], own.share(asked)
        _answer_all(learner, catalog, share, recipe, part, seed=seed)
        own.wait()
        if own.is_first:
            _join(parts, file)
        own.wait()
    answered = read_answers(file)
    faults = Counter(fault for answer in answered for fault in answer["faults"])
    return {
        "asked": len(answered),
        "kept": sum(answer["text"] is not None for answer in answered),
        "rationales": sum(faults.values()) + sum(answer["text"] is not None for answer in answered),
        "dropped": dict(sorted(faults.items())),
    }


def _join(parts: Sequence[Path], file: Path) -> None:
    """Write the answers of all parts to one file, in the order of the histories."""
    answers = sorted(
        (one for part in parts for one in read_answers(part)), key=lambda one: one["history"]
    )
    file.write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))


def _answer_all(
    learner: Learner,
    catalog: Catalog,
    asked: Sequence[Question],
    recipe: BootstrapRecipe,
    file: Path,
    *,
    seed: int,
) -> None:
    """Write the missing answers behind the answers in the file."""
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    reasoner = TransformersReasoner(
        plain_model(learner.model),
        learner.tokenizer,
        catalog.space,
        sampling,
        closing=prompts.TURN_END,
    )
    checks = RationaleChecks(catalog)
    first = len(read_answers(file))
    report_step("bootstrap", first, len(asked), first=first)
    with file.open("a") as out:
        for start in range(first, len(asked), recipe.batch_users):
            batch = asked[start : start + recipe.batch_users]
            with precision(learner.model):
                answers = _ask(reasoner, catalog, checks, batch, recipe.tries, seed)
            out.write("".join(f"{json.dumps(answer)}\n" for answer in answers))
            out.flush()
            report_step("bootstrap", start + len(batch), len(asked), first=first)


def load_rationales(file: Path) -> dict[int, Bootstrapped]:
    """Read the sound rationales of `bootstrap`, by index of the history."""
    kept = (answer for answer in read_answers(file) if answer["text"] is not None)
    return {answer["history"]: Bootstrapped(answer["cut"], answer["text"]) for answer in kept}


def _ask(
    reasoner: TransformersReasoner,
    catalog: Catalog,
    checks: RationaleChecks,
    batch: Sequence[Question],
    tries: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return, per question, the first sound rationale (or None) and the faults of earlier ones."""
    asked = [prompts.rationale_query(catalog, one.relevant, one.target) for one in batch]
    seeds = [(seed << 32) + one.history for one in batch]
    thoughts = reasoner.think(asked, paths=tries, seeds=seeds)
    answers = []
    for one, texts, num_dropped in zip(batch, thoughts.texts, thoughts.num_dropped, strict=True):
        faults: list[str] = []
        kept = None
        said = (f"{prompts.RATIONALE_OPENING} {text}" for text in texts)
        for text in (*said, *[None] * num_dropped):
            fault = checks.fault(text, one.relevant, one.target)
            if fault is None:
                kept = text
                break
            faults.append(fault.value)
        answers.append({"history": one.history, "cut": one.cut, "text": kept, "faults": faults})
    return answers


def read_answers(file: Path) -> list[dict[str, Any]]:
    """Read the complete lines. A last line that a kill has cut is removed from the file."""
    if not file.is_file():
        return []
    lines = file.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        file.write_text("".join(whole))
    return [json.loads(line) for line in whole]
