"""Answers after recited thoughts, against plain forward passes and against the samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quality.thought_words import VARIANTS, main
from bench.quality.thoughts.forced_thoughts import (
    EMPTY,
    STEPS,
    WHOLE,
    continue_thoughts,
    sid_logprobs,
)
from models.catalog.catalog import Catalog
from models.reasoner.beam import beam_search
from models.reasoner.think import UserHistory, render_history, think_users
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from tests.bench.test_quality import NUM_USERS, write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_reasoner import write_toy_reasoner


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def reasoner(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> TransformersReasoner:
    path = tmp_path_factory.mktemp("reasoner")
    write_toy_reasoner(catalog, path)
    return TransformersReasoner.load(path, catalog.space)


def users(catalog: Catalog, count: int) -> list[UserHistory]:
    histories = toy_histories(catalog, num_users=count, seed=5)
    return [UserHistory(f"u{at}", tuple(rows)) for at, rows in enumerate(histories)]


def test_the_likelihood_of_a_sid_is_that_of_its_tokens(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    (user,) = users(catalog, 1)
    sid = tuple(catalog.sids[3].tolist())
    prompt = render_history(catalog, user.rows)
    batch = reasoner.recite([prompt], [["The user likes"]])
    (found,) = sid_logprobs(batch.scorer(), np.array([sid]))
    whole = f"{prompt}The user likes</think>{catalog.space.text(sid)}"
    ids = torch.tensor([reasoner.tokenizer.encode(whole, add_special_tokens=False)])
    logp = reasoner.model(ids).logits[0].log_softmax(dim=-1).detach()
    at = ids.shape[1] - len(sid) - 1  # the last token closes the item
    expected = sum(float(logp[at + n - 1, ids[0, at + n]]) for n in range(len(sid)))
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_whole_thought_is_followed_by_what_the_night_left(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    who = users(catalog, 3)
    night = think_users(reasoner, catalog, who, paths=2, width=4, seeds=[1, 2, 3])
    closed = [at for at, user in enumerate(night) if len(user.texts) == 2]
    recitals = continue_thoughts(
        reasoner,
        catalog,
        [who[at] for at in closed],
        [night[at].texts for at in closed],
        [None] * len(closed),
        width=4,
    )
    assert closed
    for at, recital in zip(closed, recitals, strict=True):
        found = {beam.codes for path in recital.prefixes for beam in path}
        assert found == {prefix.codes for prefix in night[at].prefixes}
        assert recital.target_logprobs is None


def test_a_beam_search_over_one_code_agrees_with_the_likelihood(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    (user,) = users(catalog, 1)
    batch = reasoner.recite([render_history(catalog, user.rows)], [[""]])
    (best, *_), *_ = beam_search(batch.scorer(), catalog.trie, depth=3, width=5)
    (found,) = sid_logprobs(batch.scorer(), np.array([best.codes]))
    assert found == pytest.approx(best.logprob, abs=1e-4)


def test_steps_go_from_nothing_to_the_whole_thought() -> None:
    text = "The user likes tea and salt. Next: tea."
    said = [shorten(text) for shorten in STEPS.values()]
    assert said[0] == ""
    assert said[-1] == text
    assert [len(words.split()) for words in said] == [0, 2, 4, 6, 8]


def test_every_variant_is_a_row_and_nothing_is_recited_twice(
    release: Release,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--workers", "1"]
    arguments += ["--paths", "2", "--width", "3", "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--json", str(tmp_path / "first.json")]) == 0
    assert f"{WHOLE} minus {EMPTY}" in capsys.readouterr().out
    monkeypatch.setattr("bench.quality.thought_words.continue_thoughts", None)
    assert main([*arguments, "--json", str(tmp_path / "second.json")]) == 0
    first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second")
    )
    assert first["rows"] == second["rows"]
    assert [row["name"] for row in first["rows"]] == list(VARIANTS)
    assert_simple_rows("thought-words", first["rows"])
    assert 2 <= first["meta"]["users"] < NUM_USERS
    by_name = {row["name"]: row for row in first["rows"]}
    gain = first["meta"]["gain_over_empty"][f"{WHOLE} minus {EMPTY}"]["log_p_target"]
    difference = by_name[WHOLE]["log_p_target"] - by_name[EMPTY]["log_p_target"]
    assert gain["mean"] == pytest.approx(difference)
    assert by_name[EMPTY]["prefixes"] == 3  # both paths find the same
    assert by_name[WHOLE]["prefixes"] >= 3
    assert (tmp_path / "first.md").read_text().startswith("# Worth of a thought")
