"""Corpus: texts of a local language model about items, pairs and histories, checked and kept.

Each answer is kept under the digest of its question, the model and the sampling. So a killed run
goes on, and a changed recipe asks only new questions. Templates stand in for rejected texts.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.bootstrap import read_answers
from training.perception.corpus_checks import StoryChecks
from training.perception.corpus_questions import CorpusQuestion
from training.perception.local_writer import LocalWriter
from training.perception.perception_recipes import CorpusRecipe
from training.perception.stories import Stories
from training.steps import report_step

Answers = dict[str, dict[str, Any]]  # by digest


def write_corpus(
    writer: LocalWriter,
    checks: StoryChecks,
    questions: Sequence[CorpusQuestion],
    recipe: CorpusRecipe,
    file: Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Ask all questions that have no answer in `file`, and append the answers to it.

    Returns the numbers of questions, of new answers, of kept texts and of templates in
    their place, and of dropped texts by reason.
    """
    keys = [_key(writer, recipe, question, seed) for question in questions]
    known = _by_key(file)
    asked = [pair for pair in zip(keys, questions, strict=True) if pair[0] not in known]
    with file.open("a") as out:
        for start in range(0, len(asked), recipe.batch):
            batch = asked[start : start + recipe.batch]
            answers = _ask(writer, checks, batch, recipe)
            out.write("".join(f"{json.dumps(answer)}\n" for answer in answers))
            out.flush()
            known |= {answer["key"]: answer for answer in answers}
            report_step("corpus", start + len(batch), len(asked))
    answers = [known[key] for key in keys]
    kept = sum(answer["text"] is not None for answer in answers)
    faults = Counter(fault for answer in answers for fault in answer["faults"])
    return {
        "asked": len(answers),
        "asked_now": len(asked),
        "kept": kept,
        "templates": len(answers) - kept,
        "dropped": dict(sorted(faults.items())),
    }


def load_stories(file: Path, questions: Sequence[CorpusQuestion]) -> Stories:
    """Read the sound texts for questions, of any model; the newest one counts."""
    texts = {
        answer["question"]: answer["text"]
        for answer in read_answers(file)
        if answer["text"] is not None
    }
    items: dict[int, str] = {}
    pairs: dict[tuple[int, int], str] = {}
    histories: dict[int, str] = {}
    for question in questions:
        text = texts.get(_digest(question.text))
        if text is None:
            continue
        if question.kind == "pair":
            first, second = question.at
            pairs[first, second] = text
        else:
            (items if question.kind == "item" else histories)[question.at[0]] = text
    return Stories(items, pairs, histories)


def _ask(
    writer: LocalWriter,
    checks: StoryChecks,
    batch: Sequence[tuple[str, CorpusQuestion]],
    recipe: CorpusRecipe,
) -> list[dict[str, Any]]:
    """Return, per question, the first sound text (or None) and the faults of earlier ones."""
    seed = int(_digest(" ".join(key for key, _ in batch))[:15], 16)
    written = writer.write([one.text for _, one in batch], tries=recipe.tries, seed=seed)
    answers = []
    for (key, question), texts in zip(batch, written, strict=True):
        kept, faults = None, []
        for text in texts:
            fault = checks.fault(text, question)
            if fault is None:
                kept = text
                break
            faults.append(fault.value)
        answers.append(
            {"key": key, "question": _digest(question.text), "text": kept, "faults": faults}
        )
    return answers


def _key(writer: LocalWriter, recipe: CorpusRecipe, question: CorpusQuestion, seed: int) -> str:
    sampling = [recipe.tries, recipe.max_tokens, recipe.temperature, seed]
    return _digest(json.dumps([writer.digest, sampling, question.text]))


def _by_key(file: Path) -> Answers:
    return {answer["key"]: answer for answer in read_answers(file)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
