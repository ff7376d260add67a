"""The baseline language model: its scores, its generated SIDs, its size."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import training.train_sid_lm
from bench.__main__ import main as bench
from bench.finish.generate import Generator
from models.baselines.sid_lm import LanguageModelScorer, SidTokens
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix
from models.errors import InvalidRelease, ReleaseMismatch
from models.online.torch_runtime import load_recommender
from models.release.release import Release
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog, toy_histories
from training.split import Split, UserSplit
from training.train_sid_lm import BaselineRecipe, Trainer, new_model, write_baseline

TINY = BaselineRecipe(
    width=32, layers=2, heads=2, mlp_width=48, epochs=3, evaluate_every=1, num_validation_users=20,
    learning_rate=1e-2, warmup_steps=2, batch_items=64,
)  # fmt: skip
BASELINE, RELEASE = Path("bench/baseline"), Path("releases/beauty")


def toy_split(catalog: Catalog) -> Split:
    users = []
    for number, rows in enumerate(toy_histories(catalog, num_users=80)):
        *train, valid = (catalog.item_ids[row] for row in rows)
        users.append(UserSplit(f"user-{number}", tuple(train), valid))
    return Split(tuple(users))


def trainer(checkpoint: Path) -> Trainer:
    catalog = toy_catalog()
    return Trainer(TINY, catalog, toy_split(catalog), checkpoint)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline directory of the toy world."""
    directory = tmp_path_factory.mktemp("baseline")
    run = trainer(directory / "checkpoint.safetensors")
    figures = run.train()
    space = f"{toy_catalog().space.fingerprint:016x}"
    facts = {
        "parameters": 1, **figures, "release": "toy@0", "sid_space": space, "data_sha256": "",
        "recipe": {"num_validation_users": 20, "epochs": 3},
    }  # fmt: skip
    write_baseline(directory / "out", run.model, facts)
    return directory / "out"


@pytest.fixture(scope="module")
def generator(trained: Path) -> Generator:
    return Generator.load(trained, toy_catalog())


def sharp_model(catalog: Catalog) -> Any:
    """Random weights, scaled up so that distributions are far from flat."""
    torch.manual_seed(0)
    model = new_model(TINY, SidTokens(catalog.space))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(8.0)
    return model.eval()


@torch.inference_mode()
def score_every_item(model: Any, catalog: Catalog, history: list[int]) -> NDArray[np.float32]:
    """One whole row an item; no trie, no cache, no mask."""
    tokens = SidTokens(catalog.space)
    prompt = tokens.prompt(catalog.sids[history])
    codes = [tokens.ids(sid) for sid in catalog.sids.tolist()]
    ids = torch.tensor([[*prompt, *item] for item in codes])
    logp = model(ids).logits.log_softmax(dim=-1)[:, len(prompt) - 1 : -1]
    scores: NDArray[np.float32] = logp.gather(2, torch.tensor(codes)[..., None]).sum((1, 2)).numpy()
    return scores


def some_prefixes(catalog: Catalog, *, seed: int, count: int = 20) -> list[Prefix]:
    table = catalog.trie.prefixes()
    chosen = np.random.default_rng(seed).choice(len(table), size=count, replace=False)
    return [tuple(codes) for codes in table[chosen].tolist()]


def test_every_code_has_a_token_of_its_own() -> None:
    tokens = SidTokens(toy_catalog(sizes=(3, 4, 5)).space)
    assert len(tokens) == 3 + 4 + 5 + 2
    assert tokens.prompt([(0, 0, 0), (2, 3, 4)]) == [tokens.bos, 0, 3, 7, 2, 6, 11]
    assert tokens.sid(tokens.ids((2, 1))) == (2, 1)
    assert tokens.prompt([]) == [tokens.bos]


@pytest.mark.parametrize(
    ("sizes", "depth"), [((8, 8, 16), 2), ((4, 4, 4, 6), 2), ((6, 30), 1)], ids=str
)
def test_scoring_the_catalog_equals_scoring_every_item(sizes: tuple[int, ...], depth: int) -> None:
    catalog = toy_catalog(sizes=sizes, prefix_depth=depth)
    model = sharp_model(catalog)
    histories = [*toy_histories(catalog, num_users=5), []]
    scores, bound = LanguageModelScorer(model, catalog).score(histories)
    assert np.isneginf(bound).all()
    for history, found in zip(histories, scores, strict=True):
        assert found == pytest.approx(score_every_item(model, catalog, history), abs=1e-4)


def test_what_is_not_scored_lies_below_the_bound() -> None:
    catalog = toy_catalog()
    model, history = sharp_model(catalog), [5, 7]
    (scores,), (bound,) = LanguageModelScorer(model, catalog).score([history], num_nodes=3)
    expected = score_every_item(model, catalog, history)
    scored = np.isfinite(scores)
    assert 0 < scored.sum() < len(catalog)
    assert scores[scored] == pytest.approx(expected[scored], abs=1e-4)
    assert (expected[~scored] <= bound + 1e-4).all()


def test_the_best_unmasked_rows_are_exact_however_flat_the_model_is() -> None:
    """An untrained model bounds nothing: the ten best lie below more prefixes than are read."""
    catalog = toy_catalog(sizes=(32, 32, 4), num_items=600)
    torch.manual_seed(0)
    model = new_model(TINY, SidTokens(catalog.space)).eval()
    histories = [*toy_histories(catalog, num_users=5), []]
    found = LanguageModelScorer(model, catalog).score_top(histories, histories, k=10)
    for history, scores in zip(histories, found, strict=True):
        expected = score_every_item(model, catalog, history)
        expected[history] = -np.inf
        assert np.sort(scores)[-10:] == pytest.approx(np.sort(expected)[-10:], abs=1e-4)
        assert np.isneginf(scores[history]).all()


def test_what_is_generated_is_legal_and_below_the_prefixes(generator: Generator) -> None:
    catalog = toy_catalog()
    sids = {tuple(sid) for sid in catalog.sids.tolist()}
    for seed, history in enumerate([*toy_histories(catalog, num_users=4), []]):
        prefixes = some_prefixes(catalog, seed=seed)
        found = generator.recommend(catalog.sids[history], prefixes, k=10, num_beams=10)
        assert len({item.sid for item in found}) == len(found) == 10
        assert {item.sid for item in found} <= sids
        assert {item.sid[:2] for item in found} <= set(prefixes)
        assert [item.logprob for item in found] == sorted(
            (item.logprob for item in found), reverse=True
        )


@pytest.mark.parametrize("reads_prompt_once", [False, True])
def test_enough_beams_equal_brute_force(generator: Generator, reads_prompt_once: bool) -> None:
    catalog = toy_catalog()
    for seed, history in enumerate([*toy_histories(catalog, num_users=4), []]):
        prefixes, sids = some_prefixes(catalog, seed=seed), catalog.sids[history]
        expected = generator.exact(sids, prefixes, k=10)
        num_beams = generator.exact_beams(prefixes, k=10)
        found = generator.recommend(
            sids, prefixes, k=10, num_beams=num_beams, reads_prompt_once=reads_prompt_once
        )
        assert num_beams == 20
        assert [item.sid for item in found] == [item.sid for item in expected]
        scores = [item.logprob for item in expected]
        assert [item.logprob for item in found] == pytest.approx(scores, abs=1e-4)


def test_brute_force_is_the_joint_probability_of_every_item(generator: Generator) -> None:
    catalog = toy_catalog()
    scores = score_every_item(generator.model, catalog, [3, 4])
    prefixes = [tuple(codes) for codes in catalog.trie.prefixes().tolist()]
    for item in generator.exact(catalog.sids[[3, 4]], prefixes, k=len(catalog)):
        (row, *_) = np.flatnonzero((catalog.sids == item.sid).all(axis=1))
        assert item.logprob == pytest.approx(float(scores[row]), abs=1e-4)


def test_four_levels_need_a_beam_for_every_inner_node() -> None:
    catalog = toy_catalog(sizes=(4, 4, 4, 6))
    generator = Generator(sharp_model(catalog), catalog)
    prefixes, sids = some_prefixes(catalog, seed=0, count=6), catalog.sids[[1, 2, 3]]
    num_beams = generator.exact_beams(prefixes, k=10)
    assert num_beams > 10
    expected = generator.exact(sids, prefixes, k=10)
    found = generator.recommend(sids, prefixes, k=10, num_beams=num_beams)
    assert [item.sid for item in found] == [item.sid for item in expected]


def test_the_same_shape_over_other_codebooks_still_equals_brute_force(trained: Path) -> None:
    catalog = toy_catalog(sizes=(8, 8, 300))
    generator = Generator.untrained(trained, catalog)
    prefixes = some_prefixes(catalog, seed=0)
    expected = generator.exact(catalog.sids[[1, 2]], prefixes, k=10)
    found = generator.recommend(catalog.sids[[1, 2]], prefixes, k=10, num_beams=20)
    assert [item.sid for item in found] == [item.sid for item in expected]
    shape = Generator.load(trained, toy_catalog()).model.config
    assert generator.model.config.num_hidden_layers == shape.num_hidden_layers


def test_a_prefix_that_the_catalog_lacks_is_ignored(generator: Generator) -> None:
    unknown = (63, 63)
    (prefix,) = some_prefixes(toy_catalog(), seed=0, count=1)
    with_it = generator.recommend([], [prefix, unknown], k=10, num_beams=10)
    assert with_it == generator.recommend([], [prefix], k=10, num_beams=10)
    assert 0 < len(with_it) < 10
    assert generator.recommend([], [unknown], k=10, num_beams=10) == []


def test_a_broken_off_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(tmp_path / "whole.safetensors")
    figures = whole.train()
    monkeypatch.setattr(training.train_sid_lm, "validate", break_at_the_second_call())
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken.safetensors").train()
    monkeypatch.undo()
    resumed = trainer(tmp_path / "broken.safetensors")
    assert resumed.train() | {"seconds": 0} == figures | {"seconds": 0}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def break_at_the_second_call() -> Callable[..., tuple[float, float]]:
    validate, calls = training.train_sid_lm.validate, []

    def breaking(*arguments: Any) -> tuple[float, float]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    return breaking


def test_a_model_of_other_sids_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseMismatch, match="SID space"):
        Generator.load(trained, toy_catalog(sizes=(8, 8, 8)))
    with pytest.raises(InvalidRelease, match="not a valid baseline"):
        Generator.load(tmp_path, toy_catalog())
    shutil.copytree(trained, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InvalidRelease, match="not a valid baseline"):
        Generator.load(tmp_path / "cut", toy_catalog())


def test_the_bundled_baseline_is_as_deep_and_as_large_as_ours() -> None:
    release = Release.load(RELEASE)
    config = json.loads((BASELINE / "config.json").read_text())
    ours = sum(
        weight.numel()
        for weight in load_recommender(release.directory, release.recommender_config).parameters()
    )
    generator = Generator.load(BASELINE, release.catalog)
    assert generator.num_parameters == pytest.approx(ours, rel=0.1)
    assert config["num_hidden_layers"] >= release.recommender_config.layers
    assert sum(file.stat().st_size for file in BASELINE.iterdir()) < 7e6


def test_the_command_writes_a_row_of_the_agreed_shape_below_simple_ones(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert bench(["baseline", "--users", "16", "--split", "valid", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert_simple_rows("baseline", report["rows"])
    assert [each["name"] for each in report["rows"]][2:] == ["baseline_generate_exact"]
    row = report["rows"][-1]
    assert row["users"] == 16
    assert 0 <= row["recall@5_low"] <= row["recall@5"] <= row["recall@10"] <= 1
    assert report["meta"]["split"] == "valid"


def test_a_missing_baseline_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["baseline", "--baseline", str(tmp_path)]) == 78
    assert capsys.readouterr().err.count("\n") == 1
