"""Training data, tokens with a loss, recipes, and quantization of items into SIDs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.common.leave_one_out import cut_histories
from bench.finish.one_pass import CatalogScorer
from models.catalog.dataset import Dataset, Interaction, ItemText
from models.errors import InvalidDataset, InvalidSettings
from models.online.recommender import OnlineRecommender
from models.online.shape import RecommenderConfig
from models.reasoner import prompts, rationales
from models.release.release import Learns
from tests.fakes.toy import toy_catalog, toy_histories
from training import sid_loss as sid_loss_module
from training.batching import Row, batch_rows
from training.history_batches import Batch, crop, steps
from training.language import language_loss
from training.nano import build_tokenizer, new_reasoner
from training.quantize import embed_cooccurrence, embed_items, quantize
from training.reasoner_recipes import NanoConfig
from training.recipe import Recipe, load_recipe
from training.sid_loss import SidLoss
from training.split import Split, UserSplit, sample_users, split_dataset
from training.tasks import Tasks
from training.train_online import encode_before, new_recommender, next_sid_loss

RUNS = Path("training/runs")


def dataset(lengths: dict[str, int]) -> Dataset:
    """User u's n-th item is called `u-n`, so that an item names its user and position."""
    histories = {
        user: [Interaction(f"{user}-{at}", at, at) for at in range(length)]
        for user, length in lengths.items()
    }
    items = {
        event.item_id: ItemText(None, None, ()) for events in histories.values() for event in events
    }
    return Dataset(histories, items)


def test_the_last_two_items_of_a_user_are_never_training() -> None:
    split = split_dataset(dataset({"u": 5, "v": 3, "short": 2}))
    assert split.users == (
        UserSplit("u", ("u-0", "u-1", "u-2"), "u-3"),
        UserSplit("v", ("v-0",), "v-1"),
        UserSplit("short", ("short-0", "short-1"), None),
    )
    assert set(split.popularity) == {"u-0", "u-1", "u-2", "v-0", "short-0", "short-1"}
    assert {user.user_id for user in sample_users(split, 9, seed=0)} == {"u", "v"}


def test_a_model_may_learn_the_validation_items_too_or_everything() -> None:
    data = dataset({"u": 5, "short": 2})
    split = split_dataset(data, Learns.NOT_THE_TEST)
    assert [user.train for user in split.users] == [
        ("u-0", "u-1", "u-2", "u-3"),
        ("short-0", "short-1"),
    ]
    assert len(split_dataset(data, Learns.EVERYTHING).users[0].train) == 5
    assert not sample_users(split, 9, seed=0)


def test_bench_judges_the_users_that_chose_the_model() -> None:
    """The users are neither sorted nor all of them have targets."""
    data = dataset({f"user-{number % 7}{number}": 1 + number % 5 for number in range(40)})
    items = tuple(sorted(data.items))
    catalog = replace(toy_catalog(num_items=len(items)), item_ids=items)
    chosen = sample_users(split_dataset(data), 9, seed=3)
    cases = cut_histories(data, catalog, split="valid", num_users=9, seed=3)
    assert [case.history.user_id for case in cases] == [user.user_id for user in chosen]
    assert [case.target for case in cases] == [catalog.row(user.valid or "") for user in chosen]
    assert [case.seen for case in cases] == [catalog.rows(user.train) for user in chosen]


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any, list[list[int]]]:
    catalog = toy_catalog()
    histories = toy_histories(catalog, num_users=30)
    texts = [prompts.caption(catalog, row) for row in range(len(catalog))]
    return catalog, build_tokenizer(texts, catalog.space, text_tokens=400), histories


def decoded(tokenizer: Any, row: Row) -> tuple[str, str]:
    """The context and the tokens with a loss, as text."""
    return tokenizer.decode(row.ids[: row.num_context]), tokenizer.decode(
        row.ids[row.num_context :]
    )


def test_a_rationale_row_has_its_loss_on_thought_and_target_alone(world: Any) -> None:
    catalog, tokenizer, histories = world
    rows = list(Tasks(catalog, histories, tokenizer, seed=0).rationales())
    assert len(rows) == sum(len(history) >= 2 for history in histories)
    for row in rows:
        context, answer = decoded(tokenizer, row)
        thought, target = answer.split(prompts.THINK_END)
        assert context.endswith("assistant\n<think>")
        rationale = rationales.parse_rationale(thought)
        (sid,) = catalog.space.parse(target)
        at = int(np.flatnonzero((catalog.sids == sid).all(axis=1))[0])
        history = catalog.space.parse(context)
        assert rationale is not None
        assert rationale.next_interest == prompts.topic(catalog, at)
        assert any(
            sid == tuple(catalog.sids[rows_of[len(history)]].tolist())
            for rows_of in histories
            if len(rows_of) > len(history)
        )


def test_a_caption_row_has_its_loss_on_the_description_alone(world: Any) -> None:
    catalog, tokenizer, histories = world
    rows = list(Tasks(catalog, histories, tokenizer, seed=0).captions())
    described = set()
    for row in rows:
        context, answer = decoded(tokenizer, row)
        (sid,) = catalog.space.parse(context)
        assert answer.endswith("<|im_end|>")
        assert catalog.space.parse(answer) == ()
        described.add((sid, answer))
    assert len(rows) == len(catalog)
    assert len(described) == len(catalog)


def test_a_sequence_row_has_its_loss_everywhere(world: Any) -> None:
    catalog, tokenizer, histories = world
    rows = list(Tasks(catalog, histories, tokenizer, seed=0).sequences())
    found = sorted(catalog.space.parse(decoded(tokenizer, row)[1]) for row in rows)
    assert all(row.num_context == 0 for row in rows)
    expected = [tuple(tuple(catalog.sids[at].tolist()) for at in history) for history in histories]
    assert found == sorted(expected)


def test_padding_and_context_carry_no_label() -> None:
    rows = [Row([5, 6, 7, 8], 2), Row([9, 10], 0)]
    (batch,) = batch_rows(rows, max_tokens=100, rng=np.random.default_rng(0))
    by_first = {
        ids[0]: labels
        for ids, labels in zip(batch.ids_RS.tolist(), batch.labels_RS.tolist(), strict=True)
    }
    assert by_first == {5: [-100, -100, 7, 8], 9: [-100, 10, -100, -100]}


def test_batches_hold_every_row_within_the_token_limit() -> None:
    rng = np.random.default_rng(0)
    rows = [Row([at] * int(rng.integers(1, 40)), 0) for at in range(100)]
    found = batch_rows(rows, max_tokens=64, rng=rng)
    assert all(batch.ids_RS.numel() <= 64 for batch in found)
    assert sorted(int(row[0]) for batch in found for row in batch.ids_RS) == list(range(100))


def test_language_loss_is_the_plain_cross_entropy_of_the_labelled_tokens(world: Any) -> None:
    catalog, tokenizer, histories = world
    torch.manual_seed(0)
    model = new_reasoner(NanoConfig(width=32, layers=1, heads=2, mlp_width=64), tokenizer)
    rows = list(Tasks(catalog, histories, tokenizer, seed=0).rationales())[:4]
    (batch,) = batch_rows(rows, max_tokens=10_000, rng=np.random.default_rng(0))
    expected = model(input_ids=batch.ids_RS, labels=batch.labels_RS).loss
    assert language_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_online_loss_is_minus_the_mean_joint_logprob_of_each_next_item() -> None:
    catalog = toy_catalog()
    torch.manual_seed(0)
    config = RecommenderConfig(
        sizes=catalog.space.sizes, width=32, heads=2, dropout=0.0, item_dropout=0.0
    )
    recommender = new_recommender(config, catalog)
    histories = [[3, 9, 4], [7]]
    sids = torch.from_numpy(catalog.sids.astype(np.int64))
    rows = torch.tensor([[3, 9, 4], [7, 0, 0]])
    padded = sids[rows]
    sid_loss = SidLoss(recommender, catalog.trie)
    step = (
        Batch(padded[:1], torch.tensor([3]), rows[:1]),
        Batch(padded[1:], torch.tensor([1]), rows[1:]),
    )
    states = encode_before(recommender, step)
    loss = next_sid_loss(sid_loss, step, states, config.sizes)
    expected = [
        -one_logprob(recommender, sids, history[:at], history[at])
        for history in histories
        for at in range(len(history))
    ]
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("few_nodes", [0, 1 << 20])
def test_the_loss_is_the_same_with_and_without_the_product_over_all_nodes(
    few_nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, rows = toy_catalog(), torch.arange(40).reshape(8, 5)
    torch.manual_seed(0)
    recommender = new_recommender(
        RecommenderConfig(catalog.space.sizes, width=16, heads=2), catalog
    )
    sids = torch.from_numpy(catalog.sids.astype(np.int64))[rows]
    step = (Batch(sids, torch.full((8,), 5), rows),)
    loss = SidLoss(recommender.eval(), catalog.trie)
    states, sizes = encode_before(recommender, step), catalog.space.sizes
    expected = next_sid_loss(loss, step, states, sizes).item()
    monkeypatch.setattr(sid_loss_module, "_FEW_NODES", few_nodes)
    found = next_sid_loss(loss, step, states, sizes).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_an_epoch_has_every_history_once_in_groups_of_similar_length() -> None:
    catalog, rng = toy_catalog(), np.random.default_rng(0)
    histories = [[user] * (1 + user % 9) for user in range(50)]
    made = list(steps(histories, catalog, window=6, batch_users=16, rng=rng))
    assert [sum(len(batch.lengths_B) for batch in step) for step in made] == [16, 16, 16, 2]
    seen = []
    for batch in (batch for step in made for batch in step):
        assert batch.rows_BH.shape[1] == batch.lengths_B.max()
        assert torch.equal(batch.is_real().sum(dim=1), batch.lengths_B)
        seen += batch.rows_BH[:, 0].tolist()
        for row, length in zip(batch.rows_BH[:, 0].tolist(), batch.lengths_B.tolist(), strict=True):
            assert length == min(len(histories[row]), 6)
    assert sorted(seen) == list(range(50))


def test_a_crop_is_a_window_of_neighbouring_items() -> None:
    rng = np.random.default_rng(0)
    starts = {crop(list(range(10)), 4, rng)[0] for _ in range(200)}
    assert starts == set(range(7))
    assert crop([1, 2], 4, rng) == [1, 2]


def one_logprob(
    recommender: OnlineRecommender, sids: torch.Tensor, history: list[int], target: int
) -> float:
    """Through the catalog's tree, which is another way to the same number."""
    return float(CatalogScorer(recommender, toy_catalog()).score([history])[0, target])


def test_every_bundled_recipe_loads() -> None:
    recipes = {file.stem: load_recipe(file, seed=3) for file in RUNS.glob("*.toml")}
    assert {"nano", "tiny"} <= set(recipes)
    assert all(isinstance(recipe, Recipe) and recipe.seed == 3 for recipe in recipes.values())
    assert recipes["nano"].quantize.sizes == (64, 64, 256)
    assert recipes["nano"].digest(["online"]) != recipes["tiny"].digest(["online"])


def test_a_stage_depends_on_its_own_tables_and_the_seed() -> None:
    recipe = Recipe()
    other = replace(recipe, align=replace(recipe.align, sequence_epochs=9))
    assert other.digest(["quantize", "online"]) == recipe.digest(["quantize", "online"])
    assert other.digest(["align"]) != recipe.digest(["align"])
    assert replace(recipe, seed=1).digest(["online"]) != recipe.digest(["online"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[onlin]\nepochs = 1", r"unknown tables \['onlin'\]"),
        ("[online]\nepoch = 1", r"\[online\] has unknown keys \['epoch'\]"),
        ("[online]\nepochs = 'many'", r"\[online\] epochs = 'many', expected int"),
        ("[online", "not a readable TOML file"),
        ("online = 3", "online = 3, expected a table"),
        ("[memory]\nfloor = 0", r"\[memory\] floor 0, expected 1e-09\.\.1e\+06"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InvalidSettings, match=r"run\.toml: .*" + message):
        load_recipe(tmp_path / "run.toml")


@pytest.mark.parametrize("sizes", [(4, 4, 64), (3, 3, 3, 64)])
def test_every_item_has_its_own_sid_where_codes_allow(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 8)), 5, axis=0).astype(np.float32)
    made = quantize(vectors, sizes=sizes)
    largest = np.unique(made.sids[:, :-1], axis=0, return_counts=True)[1].max()
    assert largest <= 64
    assert len(np.unique(made.sids, axis=0)) == len(vectors)
    assert made.space.sizes == sizes
    again = quantize(vectors, sizes=sizes)
    assert (again.sids == made.sids).all()
    assert again.space.fingerprint == made.space.fingerprint


def test_items_share_sids_evenly_where_codes_do_not_allow() -> None:
    vectors = np.zeros((25, 4), dtype=np.float32) + np.arange(25, dtype=np.float32)[:, None] * 1e-3
    made = quantize(vectors, sizes=(1, 1, 10))
    counts = np.bincount(made.sids[:, 2], minlength=10)
    assert (counts.min(), counts.max()) == (2, 3)


def test_cooccurrence_pulls_items_with_like_neighbours_together() -> None:
    groups = (("a", "b", "hub"), ("c", "d", "centre"))
    users = tuple(
        UserSplit(f"u{n}", (groups[n % 2][n // 2 % 2], groups[n % 2][2]), None) for n in range(40)
    )
    items = ["a", "b", "c", "d", "hub", "centre", "cold"]
    vectors = embed_cooccurrence(items, Split(users), seed=0)
    assert vectors[0] @ vectors[1] > 0.9
    assert abs(vectors[0] @ vectors[2]) < 0.1
    assert np.abs(vectors[6]).max() == 0


@pytest.mark.parametrize("text_weight", [0.7, 1.0])
def test_items_without_any_text_are_embedded_by_cooccurrence_alone(text_weight: float) -> None:
    items, no_text = ["a", "b", "c"], np.zeros((3, 4), dtype=np.float32)
    split = Split((UserSplit("u", ("a", "b", "c"), None),))
    found = embed_items(items, no_text, split, text_weight=text_weight, seed=0)
    expected = embed_cooccurrence(items, split, seed=0)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(found / norms, expected, atol=1e-6)


def test_items_without_text_or_history_cannot_be_embedded() -> None:
    with pytest.raises(InvalidDataset, match="nothing to embed"):
        embed_items(["a"], np.zeros((1, 4), dtype=np.float32), Split(()), text_weight=0.5, seed=0)
