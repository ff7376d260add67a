"""Thinking about one micro-batch: illegal thoughts, failing users, seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray

from models.catalog.sid import SidSpace
from models.errors import (
    InvalidRecord,
    InvalidRelease,
)
from models.night.evidence import Evidence
from models.reasoner.beam import Frontier
from models.reasoner.think import (
    PathPrefix,
    UserHistory,
    UserThoughts,
    render_history,
    user_seed,
)
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from offline.disk.outcome import Outcome
from offline.plan.due import micro_batches
from offline.refresh import load_think
from offline.settings import RefreshSettings
from offline.think.micro_batch import (
    bind_think,
    check_thoughts,
    think_about,
)
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_evidence import reading_release


@pytest.mark.parametrize(
    "prefix",
    [
        PathPrefix((7, 99), 0, -1.0, 1),
        PathPrefix((0,), 0, -1.0, 1),
        PathPrefix((0, 0), 300, -1.0, 1),
        PathPrefix((0, 0), 0, float("nan"), 1),
    ],
)
def test_thoughts_that_make_no_legal_record_are_refused(prefix: PathPrefix) -> None:
    thoughts = UserThoughts("ann", ("text",), (prefix,), 0, 1)
    with pytest.raises(InvalidRecord):
        check_thoughts(toy_catalog(), thoughts)


@dataclass
class FlatReasoner:
    """Thinks the same of everybody, with every code as likely. Its own batch and scorer."""

    space: SidSpace
    logprob: float
    texts: list[list[str]] = field(default_factory=list)
    num_dropped: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> Self:
        self.texts = [["a thought"] * paths for _ in prompts]
        self.num_dropped = [0 for _ in seeds]
        self.num_tokens = [paths for _ in seeds]
        return self

    def scorer(self) -> Self:
        return self

    def start(self) -> NDArray[np.float32]:
        num_paths = sum(len(texts) for texts in self.texts)
        return np.full((num_paths, self.space.sizes[0]), self.logprob, dtype=np.float32)

    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        shape = (*frontier.codes_RW.shape, self.space.sizes[1])
        return np.full(shape, self.logprob, dtype=np.float32)


@pytest.mark.parametrize(("logprob", "num_failed"), [(-1.0, 0), (math.nan, 2), (-math.inf, 2)])
def test_scores_that_are_no_numbers_fail_the_user_and_not_the_night(
    logprob: float, num_failed: int
) -> None:
    catalog = toy_catalog()
    settings = RefreshSettings(Path("r"), Path("o"))
    think = bind_think(FlatReasoner(catalog.space, logprob), catalog, settings)
    outcome = Outcome()
    found = think_about([UserHistory("ann", (1,)), UserHistory("bob", (2,))], think, outcome)
    assert (len(found), len(outcome.failed)) == (2 - num_failed, num_failed)


def test_a_reasoner_that_fails_on_everybody_stops_the_night_early() -> None:
    def broken(_users: Sequence[UserHistory]) -> list[UserThoughts]:
        raise ValueError("no weights")

    outcome = Outcome()
    first, second, *_ = micro_batches([UserHistory(f"user-{n}", (n,)) for n in range(100)], 16)
    assert think_about(first, broken, outcome) == []
    outcome.raise_if_hopeless()
    assert think_about(second, broken, outcome) == []
    with pytest.raises(InvalidRelease, match="all failed, the last with ValueError: no weights"):
        outcome.raise_if_hopeless()


def test_the_same_seed_thinks_the_same_and_another_does_not(
    release: Release, tmp_path: Path
) -> None:
    users = [
        UserHistory(f"user-{n}", tuple(rows))
        for n, rows in enumerate(toy_histories(release.catalog, num_users=8))
    ]
    settings = RefreshSettings(release.directory, tmp_path, width=4)
    think = load_think(release, settings)
    again = load_think(release, settings)(users)
    other = load_think(release, replace(settings, seed=1))(users)
    first = think(users)
    assert [each.texts for each in first] == [each.texts for each in again]
    assert [each.texts for each in first] != [each.texts for each in other]
    assert any(each.prefixes for each in first)


def test_a_reasoner_that_does_not_load_is_an_invalid_release(
    release: Release, tmp_path: Path
) -> None:
    empty = replace(release, directory=tmp_path)
    with pytest.raises(InvalidRelease, match="reasoner"):
        load_think(empty, RefreshSettings(tmp_path, tmp_path))


def test_a_night_cites_evidence_for_a_reasoner_that_reads_it(
    release: Release, tmp_path: Path
) -> None:
    reader = reading_release(release, tmp_path / "reader")
    evidence = Evidence.of(reader.catalog, reader.load_memory())
    assert evidence is not None
    users = [
        UserHistory(f"user-{n}", tuple(rows))
        for n, rows in enumerate(toy_histories(reader.catalog, num_users=8))
    ]
    assert any(evidence.cite(user.rows) for user in users)
    settings = RefreshSettings(reader.directory, tmp_path, paths=2, width=4)
    found = load_think(reader, settings)(users)
    reasoner = TransformersReasoner.load(reader.reasoner_dir, reader.space)
    asked = [render_history(reader.catalog, u.rows, None, evidence.cite(u.rows)) for u in users]
    seeds = [user_seed(settings.seed, user.user_id) for user in users]
    expected = reasoner.think(asked, paths=2, seeds=seeds)
    assert [list(one.texts) for one in found] == expected.texts
