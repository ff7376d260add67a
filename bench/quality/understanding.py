"""`python -m bench understanding`: BERTScore of a reasoner's texts about items and users.

Greedy answers are compared with the catalog's own words (Table 4 of the paper). Guesses that ignore
the prompt are scored too, as a baseline.
"""

# U = questions

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.results import open_console, open_progress, report
from bench.quality.bertscore import ENCODER, BertScore, Likeness
from bench.quality.quality_options import describe_run, draw_cases, placed, quality_parser
from bench.quality.questions import RANDOM, Exam, make_exams
from bench.quality.ranking.rank_metrics import bootstrap_named
from bench.quality.thoughts.think_cases import CHUNK_USERS
from bench.quality.thoughts.thought_cache import ThoughtCache
from bench.quality.thoughts.thoughts import ThoughtSettings
from models.catalog.dataset import load_dataset
from models.errors import InvalidDataset
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from models.release.release import Release

REASONER = "reasoner"
GROUPS = (("name", "precision", "recall", "f1"), ("name", "f1_rescaled", "exact"))
_MAX_TOKENS = 96
_GREEDY = Sampling(top_k=1, max_tokens=_MAX_TOKENS)


class Answer(NamedTuple):
    """One answer of the reasoner."""

    text: str
    is_closed: bool  # it ended with the closing token


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = open_console()
    torch.set_num_threads(options.workers)
    release = Release.load(options.release)
    rows, histories = _draw(options, release)
    catalog = release.catalog.described(load_dataset(options.data).items)
    exams = make_exams(catalog, release.manifest.recipe, rows, histories, seed=options.seed)
    settings = placed(options, ThoughtSettings(paths=1, width=1, seed=options.seed))
    cache = ThoughtCache.open(options.cache, release, settings)
    found, closed, silent, samples = [], {}, {}, {}
    for exam in exams:
        with open_progress(console, f"asking: {exam.name}", len(exam.asked)) as on_progress:
            answers = answer_exam(cache, release, exam, on_progress)
        found += judge(exam, answers, idf=options.idf, seed=options.seed)
        closed[exam.name] = sum(answer.is_closed for answer in answers) / len(answers)
        silent[exam.name] = sum(not exam.read(one.text) for one in answers) / len(answers)
        samples[exam.name] = {"answer": answers[0].text, "reference": exam.references[0]}
    meta = {
        **describe_run("understanding", options, release, histories),
        "items": len(rows),
        "encoder": ENCODER,
        "idf": options.idf,
        "seed": options.seed,
        "closed_answers": closed,
        "wordless_answers": silent,
        "samples": samples,
    }
    title = f"BERTScore: {meta['release']}, {len(rows):,} items, {len(histories):,} users"
    report(console, options.json, title, meta, found, GROUPS)
    return 0


def _draw(options: Namespace, release: Release) -> tuple[list[int], list[tuple[int, ...]]]:
    """Draw items of the catalog and histories of the split, both seeded."""
    rng = np.random.default_rng(options.seed)
    rows = rng.permutation(len(release.catalog))[: options.items or None].tolist()
    cases = draw_cases(options, release)
    histories = [case.history.rows for case in cases if case.history.rows]
    if len(histories) < 2:
        raise InvalidDataset(f"{options.data}: {len(histories)} users with a history, expected 2")
    return rows, histories


def answer_exam(
    cache: ThoughtCache, release: Release, exam: Exam, on_progress: Callable[[int], None]
) -> list[Answer]:
    """Return greedy answers in the order of the questions; each micro-batch is cached."""
    reasoner = cache.load_reasoner(release.space, sampling=_GREEDY, closing=exam.closing)
    answers: list[Answer] = []
    for start in range(0, len(exam.asked), CHUNK_USERS):
        answers += _answer_chunk(cache, reasoner, exam.asked[start : start + CHUNK_USERS])
        on_progress(len(answers))
    return answers


def _answer_chunk(
    cache: ThoughtCache, reasoner: TransformersReasoner, asked: Sequence[str]
) -> list[Answer]:
    key = [list(asked), reasoner.think_end, _MAX_TOKENS]
    return [Answer(*one) for one in cache.kept("answers", key, lambda: answer(reasoner, asked))]


def answer(reasoner: TransformersReasoner, asked: Sequence[str]) -> list[Answer]:
    """Decode greedily until the reasoner's closing token; its sampling must have `top_k` = 1."""
    batch = reasoner.think(asked, paths=1, seeds=[0] * len(asked))
    found = []
    for tokens in batch.sampled:
        is_closed = tokens[-1] == reasoner.think_end
        text = reasoner.tokenizer.decode(tokens[:-1] if is_closed else tokens)
        found.append(Answer(text.strip(), is_closed))
    return found


def judge(
    exam: Exam, answers: Sequence[Answer], *, idf: bool, seed: int
) -> list[dict[str, str | int | float]]:
    """Return a row for the reasoner and one for each kind of guess.

    `f1_rescaled` is 0 for the random guess and 1 for the reference itself (section 3 of Zhang et
    al.). `exact` is the share of answers that equal the reference.
    """
    said = {REASONER: [exam.read(one.text) for one in answers], **exam.guesses}
    bert_score = BertScore(exam.references, idf=idf)
    scored = {name: bert_score.score(texts) for name, texts in said.items()}
    floor = float(scored[RANDOM].f1.mean())
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name, texts in said.items():
        pairs = zip(texts, exam.references, strict=True)
        columns |= {
            (name, column): values_U for column, values_U in _columns(scored[name], floor).items()
        }
        columns[name, "exact"] = np.array([text == wanted for text, wanted in pairs], dtype=float)
    rows: dict[str, dict[str, str | int | float]] = {}
    for (name, column), interval in bootstrap_named(columns, seed=seed).items():
        rows.setdefault(name, {"name": f"{exam.name}: {name}"}).update(interval.columns(column))
    return list(rows.values())


def _columns(found: Likeness, floor: float) -> dict[str, NDArray[np.float64]]:
    return {**found._asdict(), "f1_rescaled": (found.f1 - floor) / max(1.0 - floor, 1e-9)}


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = quality_parser("understanding", __doc__, num_users=500)
    add = parser.add_argument
    add(
        "--items",
        type=int,
        default=500,
        metavar="N",
        help="size of a seeded sample of items; 0: all",
    )
    add("--idf", action="store_true", help="weigh tokens less that many references share")
    return parser.parse_args(arguments)
