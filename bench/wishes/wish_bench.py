"""`python -m bench wishes`: share of the served items that fit a wish, end to end.

Real users of the test split, with the history before their left-out item, in a real store; a real
service; a real worker, which thinks about all users and then for the row with a thought. The other
rows are answers right behind the POST, without a new thought. Topics and wordings are held out:
none was used while the grammar was made or the strength chosen. Topics are drawn outside the
user's own history, and inside it.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.common.command_line import add_json, add_own_data, add_release, add_seed, make_parser
from bench.common.leave_one_out import Case, cut_histories
from bench.common.own_data import load_own_data
from bench.common.results import Row, open_console, print_table, write_json
from bench.wishes.judges import (
    Judges,
    draw_topics,
    judge_brand,
    judge_mood,
    judge_topic,
    topics_of,
)
from bench.wishes.strengths import choose_strength
from bench.wishes.wish_cells import (
    MODES,
    TOP,
    Asked,
    describe,
    mean_row,
    post,
    post_and_serve,
    serve,
    time_changes,
)
from bench.wishes.wished_system import WishedSystem, open_system
from bench.wishes.wordings import BRAND_TURN, MOODS, NEGATIONS, TRAINED, UNTRAINED
from models.catalog.catalog import Catalog, popular_items
from models.errors import InvalidSettings
from models.release.release import Release
from models.store.embedded import attach

_COLUMNS = ("name", *(f"{mode}{end}" for mode in MODES for end in ("", "_title")))
_RECALLS = ("name", "users", *(f"recall@10_{mode}" for mode in MODES))
_NO_WISH = ""


class Cells:
    """The users of a run, the topics that they are given, and the rows so far."""

    def __init__(self, catalog: Catalog, cases: Sequence[Case], seed: int) -> None:
        self.catalog = catalog
        self.cases = cases
        topics = draw_topics(catalog, held_out=True)
        rng = np.random.default_rng(seed)
        self.inside = [topics_of(catalog, case.seen, topics)[0] for case in cases]
        self.outside = [
            str(rng.choice([each for each in topics if each not in own]))
            for own in (set(topics_of(catalog, case.seen, topics)) for case in cases)
        ]
        self.rows: list[Row] = []
        self.delays: list[float] = []

    def asked(self, wording: str, topics: Sequence[str]) -> list[Asked]:
        """Return one wish a user; an empty wording is none, judged all the same."""
        found = []
        for case, topic in zip(self.cases, topics, strict=True):
            texts = (wording.format(topic=topic.lower()),) if wording else ()
            found.append(Asked(case, texts, judge_topic(self.catalog, topic)))
        return found

    def measure(self, system: WishedSystem, name: str, asked: Sequence[Asked]) -> Row:
        """Post the wishes, serve every user, and keep the row."""
        return self.keep(describe(name, post_and_serve(system, self.catalog, asked)))

    def keep(self, row: Row) -> Row:
        self.rows.append(row)
        print(row["name"], *(f"{mode} {row[mode]:.3f}" for mode in MODES), flush=True)
        return row


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.users < 1:
        raise InvalidSettings(f"--users {options.users}: expected 1 or more")
    release = Release.load(options.release)
    console = open_console()
    if options.choose:
        rows = choose_strength(release, load_own_data(options, release), options)
        print_table(console, "strengths on validation users", rows, list(rows[0]))
        if options.json:
            write_json(options.json, {"release": release.name, "split": "valid"}, rows)
        return 0
    cells = Cells(release.catalog, _cases(options, release), options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="wishes-") as name,
        attach(Path(name)) as server,
        open_system(
            *(Path(name), server.url, release, cells.cases),
            strength=options.strength,
            has_worker=options.worker,
        ) as system,
    ):
        _measure_all(cells, system, has_worker=options.worker)
    print_table(console, "share of served items that fit", cells.rows, _COLUMNS)
    print_table(console, "recall of the next item", cells.rows, _RECALLS)
    if options.json:
        write_json(options.json, _meta(options, release, cells), cells.rows)
    return 0


def _cases(options: argparse.Namespace, release: Release) -> list[Case]:
    """Return users whose history has a held-out topic."""
    dataset, catalog = load_own_data(options, release), release.catalog
    topics = draw_topics(catalog, held_out=True)
    found = []
    for case in cut_histories(dataset, catalog, split="test", seed=options.seed):
        if case.target is not None and topics_of(catalog, case.seen, topics):
            found.append(case)
        if len(found) == options.users:
            return found
    raise InvalidSettings(f"--users {options.users}: only {len(found)} users have a topic")


def _measure_all(cells: Cells, system: WishedSystem, *, has_worker: bool) -> None:
    outside, inside = cells.outside, cells.inside
    no_wish, trained = cells.asked(_NO_WISH, outside), cells.asked(TRAINED, outside)
    cells.keep(_popularity(cells, "popularity", outside))
    if has_worker:
        _measure_thoughts(cells, system, no_wish, trained)
    cells.measure(system, "none", no_wish)
    cells.measure(system, "trained", trained)
    untrained = [
        cells.measure(system, f"untrained_{at:02}", cells.asked(text, outside))
        for at, text in enumerate(UNTRAINED)
    ]
    cells.keep(mean_row("untrained", untrained))
    cells.measure(system, "none_inside", cells.asked(_NO_WISH, inside))
    cells.measure(system, "untrained_inside", cells.asked(UNTRAINED[0], inside))
    refused = [
        cells.measure(system, f"negation_{at}", cells.asked(text, inside))
        for at, text in enumerate(NEGATIONS)
    ]
    cells.keep(mean_row("negation", refused))
    _measure_moods(cells, system)
    _measure_brand_turn(cells, system)
    _measure_true_topic(cells, system)
    cells.delays = time_changes(system, trained)


def _measure_thoughts(
    cells: Cells, system: WishedSystem, no_wish: Sequence[Asked], trained: Sequence[Asked]
) -> None:
    """Let a worker think without a wish and with one, and leave records without one behind."""
    for asked in (no_wish, trained, no_wish):
        with system.working():
            for each in asked:
                post(system, each)
        if asked is trained:
            cells.keep(describe("trained_with_thought", serve(system, cells.catalog, asked)))


def _measure_moods(cells: Cells, system: WishedSystem) -> None:
    for name, mood in MOODS.items():
        judges = judge_mood(cells.catalog, mood)
        without = [Asked(case, (), judges) for case in cells.cases]
        cells.measure(system, f"none_{name}", without)
        wished = [Asked(case, (mood.text,), judges) for case in cells.cases]
        cells.measure(system, f"mood_{name}", wished)


def _measure_brand_turn(cells: Cells, system: WishedSystem) -> None:
    """Measure the share of the brand of the first item, before and behind the turn."""
    first: list[Judges] = []
    texts = [UNTRAINED[0].format(topic=topic.lower()) for topic in cells.inside]
    for case, text in zip(cells.cases, texts, strict=True):
        system.post(case.history.user_id, {"forget_wish": True, "instruction": text})
        top = system.recommend(case.history.user_id, "fused", TOP)
        first.append(judge_brand(cells.catalog, cells.catalog.rows(top)[0]))
    users = list(zip(cells.cases, texts, first, strict=True))
    cells.measure(system, "brand", [Asked(case, (text,), judge) for case, text, judge in users])
    turned = [Asked(case, (text, BRAND_TURN), judge) for case, text, judge in users]
    cells.measure(system, "brand_turn", turned)


def _measure_true_topic(cells: Cells, system: WishedSystem) -> None:
    """Measure recall where users ask for the kind of their next item."""
    topics = [cells.catalog.categories[case.target or 0][-1] for case in cells.cases]
    cells.measure(system, "none_true", cells.asked(_NO_WISH, topics))
    cells.measure(system, "untrained_true", cells.asked(UNTRAINED[0], topics))


def _popularity(cells: Cells, name: str, topics: Sequence[str]) -> Row:
    catalog = cells.catalog
    order = catalog.rows(popular_items(catalog, 1000))
    shares: dict[str, list[float]] = {"": [], "_title": []}
    hits = []
    for asked in cells.asked(_NO_WISH, topics):
        top = [row for row in order if row not in asked.case.seen][:TOP]
        judges: dict[str, Callable[[int], bool]] = {
            "": asked.judges.by_category,
            "_title": asked.judges.by_title,
        }
        for end, judge in judges.items():
            shares[end].append(float(np.mean([judge(row) for row in top])))
        hits.append(asked.case.target in top)
    fits = {f"{mode}{end}": float(np.mean(each)) for mode in MODES for end, each in shares.items()}
    recalls = {f"recall@10_{mode}": float(np.mean(hits)) for mode in MODES}
    return {"name": name, "users": len(cells.cases), **fits, **recalls}


def _meta(options: argparse.Namespace, release: Release, cells: Cells) -> dict[str, object]:
    delays = 1000 * np.array(cells.delays or [0.0])
    by_name = {str(row["name"]): row for row in cells.rows}
    none, untrained = float(by_name["none"]["fused"]), float(by_name["untrained"]["fused"])
    inside, refused = float(by_name["none_inside"]["fused"]), float(by_name["negation"]["fused"])
    return {
        "command": "wishes",
        "release": f"{release.name}@{release.version}",
        "users": len(cells.cases),
        "seed": options.seed,
        "worker": options.worker,
        "strength": options.strength if options.strength is not None else "default",
        "topics": len(set(cells.outside) | set(cells.inside)),
        "posts": len(cells.delays),
        "changed_p50_ms": round(float(np.percentile(delays, 50)), 2),
        "changed_p99_ms": round(float(np.percentile(delays, 99)), 2),
        "untrained_over_none": round(untrained / max(none, 1e-9), 2),
        "negation_over_none": round(refused / max(inside, 1e-9), 3),
    }


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("wishes", __doc__)
    add_release(parser)
    add_own_data(parser)
    add_seed(parser)
    add_json(parser)
    parser.add_argument(
        "--users", type=int, default=64, metavar="N", help="users (default: %(default)s)"
    )
    parser.add_argument(
        "--strength", type=float, metavar="NATS", help="default: that of the service"
    )
    parser.add_argument(
        "--no-worker",
        dest="worker",
        action="store_false",
        help="records by the online model's own prefixes, and no row with a thought",
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="compare strengths on validation users, with other wordings and topics",
    )
    return parser
