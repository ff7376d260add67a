"""Evidence of a prompt: counted as if the user had never been there, and written in few tokens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from models.catalog.catalog import Catalog
from models.night.evidence import MOST_CITED, Evidence
from models.online.memory.pair_counts import PairCounts
from models.reasoner.prompts import Cited, evidence_line
from models.reasoner.think import UserHistory, reads_evidence, render_history, think_users
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from tests import ROOT
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_memory import SETTINGS

WIDE = replace(SETTINGS, num_neighbours=1000)


def evidence_of(catalog: Catalog, histories: Sequence[Sequence[int]]) -> Evidence:
    return Evidence(catalog, PairCounts.of_histories(histories, len(catalog), WIDE), WIDE)


def counted_by_hand(
    catalog: Catalog, others: Sequence[Sequence[int]], history: Sequence[int]
) -> dict[tuple[int, ...], float]:
    """Counts of unseen items near the newest items of a history, pair by pair, by prefix."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for newest in history[-WIDE.recent :]:
        for other in others:
            for at, item in enumerate(other):
                for place, later in enumerate(other):
                    away = place - at
                    if item == newest and later not in history and 0 < abs(away) <= WIDE.window:
                        prefix = tuple(catalog.sids[later, :2].tolist())
                        found[prefix] += (1 if away > 0 else WIDE.backward) / abs(away)
    return dict(found)


def test_the_counts_are_those_of_all_others() -> None:
    catalog = toy_catalog()
    histories = toy_histories(catalog, num_users=60, seed=5)
    evidence = evidence_of(catalog, histories)
    num_cited = 0
    for at, history in enumerate(histories):
        others = [*histories[:at], *histories[at + 1 :]]
        expected = counted_by_hand(catalog, others, history)
        cited = evidence.cite(history, most=1000)
        rounded = {codes: int(np.ceil(count - 1e-3)) for codes, count in expected.items()}
        assert {one.codes: one.times for one in cited} == rounded
        assert evidence.cite(history) == cited[:MOST_CITED]
        num_cited += len(cited)
    assert num_cited > 100


def test_an_item_to_predict_gives_no_evidence_of_itself() -> None:
    """The pair of a history's last items is counted, but a training prompt must not show it."""
    catalog = toy_catalog()
    evidence = evidence_of(catalog, [[3, 7, 11], [40, 41]])
    assert evidence.cite([3, 7], counted=[3, 7, 11]) == []
    leaked = evidence.cite([3, 7], counted=[3, 7])
    assert [one.codes for one in leaked] == [tuple(catalog.sids[11, :2].tolist())]


def test_more_and_newer_pairs_come_first_and_without_any_the_prompt_stays() -> None:
    catalog = toy_catalog()
    first, second = (tuple(catalog.sids[row, :2].tolist()) for row in (20, 30))
    evidence = evidence_of(catalog, [[5, 20], [5, 20], [5, 30]])
    assert evidence.cite([5]) == [Cited(first, 2), Cited(second, 1)]
    newer = evidence_of(catalog, [[5, 20], [6, 30]])
    assert [one.codes for one in newer.cite([6, 5])] == [first, second]
    assert newer.cite([50]) == []
    plain = render_history(catalog, [50])
    assert render_history(catalog, [50], evidence=newer.cite([50])) == plain


def test_the_line_stands_before_the_wish_and_takes_few_tokens() -> None:
    catalog = toy_catalog()
    cited = [Cited((1, 2), 14), Cited((3, 4), 9), Cited((5, 6), 87), Cited((7, 0), 1)]
    line = evidence_line(catalog.space, cited)
    assert line == (
        "Others bought: <item_a_1><item_b_2> 14 <item_a_3><item_b_4> 9 "
        "<item_a_5><item_b_6> 87 <item_a_7><item_b_0> 1\n"
    )
    prompt = render_history(catalog, [5], "something calm", cited)
    assert f"\n{line}Wish: something calm\nThink" in prompt
    assert prompt.replace(line, "") == render_history(catalog, [5], "something calm")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "releases/beauty/reasoner")
    assert len(tokenizer.encode(line, add_special_tokens=False)) <= 24


def test_a_night_with_evidence_reads_the_line(release: Release) -> None:
    catalog = release.catalog
    reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    evidence = evidence_of(catalog, toy_histories(catalog, num_users=60, seed=5))
    user = UserHistory("ann", (3, 12, 40))
    prompt = render_history(catalog, user.rows, evidence=evidence.cite(user.rows))
    assert "Others bought" in prompt
    expected = reasoner.think([prompt], paths=2, seeds=[5])
    think = partial(think_users, reasoner, catalog, [user], paths=2, width=3, seeds=[5])
    (found,) = think(evidence=evidence)
    assert list(found.texts) == expected.texts[0]
    (plain,) = think()
    assert plain.prefixes != found.prefixes


def test_only_a_recipe_with_evidence_asks_for_it(release: Release) -> None:
    assert not reads_evidence(release.manifest.recipe)
    assert not reads_evidence({"thoughts": {"evidence": 0.0}})
    assert reads_evidence({"thoughts": {"evidence": 0.5}})
    bundled = Release.load(Path(ROOT / "releases/beauty"))
    assert not reads_evidence(bundled.manifest.recipe)
