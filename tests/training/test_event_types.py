"""Weights of event types: read from a table, in splits and losses, and kept by a release."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from models.baselines.sasrec import SasRec, SasRecConfig
from models.catalog.dataset import Dataset, Interaction, ItemText
from models.errors import InvalidDataset, InvalidSettings
from models.online.recommender import pack_sids
from models.online.shape import RecommenderConfig
from models.release.live import LiveFolder
from models.release.release import Learns, Release
from tests.fakes.toy import toy_catalog
from tests.fakes.toy_learner import toy_dataset, write_toy_data
from training.event_types import types_of
from training.history_batches import Step, pad
from training.learn.cli import make_follower
from training.learn.publisher import Publisher
from training.recipe import Recipe, load_recipe
from training.sid_loss import SidLoss
from training.split import check_enough, sample_users, split_dataset
from training.target_ranks import cut_cases
from training.teacher import TeacherLoss
from training.train_online import encode_before, new_recommender, next_sid_loss
from training.train_sasrec import next_item_loss

TYPES = {"view": 0.5, "skip": 0.0}
KINDS = ("view", "", "skip", "purchase")  # of the events of a history, in turn


def typed(num_users: int, *, length: int) -> Dataset:
    """User n's events begin with type n of KINDS."""
    histories = {
        f"user-{user}": [
            Interaction(f"item-{at}", at, at, type=KINDS[(user + at) % 4]) for at in range(length)
        ]
        for user in range(num_users)
    }
    items = {f"item-{at}": ItemText(None, None, ()) for at in range(length)}
    return Dataset(histories, items)


def test_a_table_is_read_by_recipes_and_a_wrong_weight_is_named(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[types]\nview = 0.5\nskip = 0\n")
    recipe = load_recipe(file)
    assert recipe.types == TYPES
    assert recipe.to_json()["types"] == TYPES
    assert recipe.digest(["online", "types"]) != Recipe().digest(["online", "types"])
    assert Recipe().digest(["online", "types"]) == Recipe().digest(["online"])
    for text in ("[types]\nview = -1\n", '[types]\nview = "much"\n', "types = 1\n"):
        file.write_text(text)
        with pytest.raises(InvalidSettings, match=r"types.* = .*, expected a"):
            load_recipe(file)


def test_popularity_is_the_sum_of_weights_and_a_target_of_weight_0_is_not_asked_for() -> None:
    data = typed(4, length=6)
    split = split_dataset(data, types=TYPES)
    assert split.weights is not None
    assert split.weights[0] == (0.5, 1.0, 0.0, 1.0)
    assert split.popularity["item-0"] == 0.5 + 1.0 + 0.0 + 1.0
    assert [user.valid_weight for user in split.users] == [0.5, 1.0, 0.0, 1.0]
    assert {user.user_id for user in sample_users(split, 9, seed=0)} == {
        "user-0", "user-1", "user-3",
    }  # fmt: skip
    items = tuple(sorted(data.items))
    catalog = replace(toy_catalog(num_items=len(items)), item_ids=items)
    assert len(cut_cases(data, catalog, seed=0, types=TYPES)) == 3
    with pytest.raises(InvalidDataset, match="of a type above weight 0"):
        check_enough(split, Path("folder"))
    everything = split_dataset(data, Learns.EVERYTHING, TYPES)
    assert everything.weights is not None
    assert everything.weights[1] == (1.0, 0.0, 1.0, 0.5, 1.0, 0.0)
    assert split_dataset(data).weights is None


def test_an_item_with_any_weighted_event_keeps_a_popularity() -> None:
    catalog = toy_catalog(num_items=20)
    first, second, third = catalog.item_ids[:3]
    counted = catalog.with_popularity({first: 0.1 + 0.1 + 0.1, second: 0.1 * 3 + 2.7, third: 0.0})
    assert counted.popularity[:4].tolist() == [1, 3, 0, 0]


def weighted_step() -> tuple[Step, list[tuple[list[int], float]]]:
    """Two batches, and their positions with a weight: the items up to the target, and the weight.

    The second batch has one item a user.
    """
    catalog = toy_catalog()
    histories, weights = [[3, 9, 4], [7, 5]], [[0.5, 2.0, 0.0], [0.0, 1.0]]
    step = (pad(histories, catalog, weights), pad([[6]], catalog, [[3.0]]))
    positions = [([3], 0.5), ([3, 9], 2.0), ([7, 5], 1.0), ([6], 3.0)]
    return step, positions


def test_losses_are_means_by_weight() -> None:
    catalog, (step, positions) = toy_catalog(), weighted_step()
    torch.manual_seed(0)
    config = RecommenderConfig(
        sizes=catalog.space.sizes, width=32, heads=2, dropout=0.0, item_dropout=0.0
    )
    recommender = new_recommender(config, catalog)
    teacher = SasRec(SasRecConfig(len(catalog), width=8, heads=1, layers=1)).eval()
    one_loss, states = SidLoss(recommender, catalog.trie), encode_before(recommender, step)
    sids = torch.from_numpy(catalog.sids).long()
    packed_N = pack_sids(sids, config.sizes)
    online, by_items, taught = 0.0, 0.0, 0.0
    for rows, weight in positions:
        state_W = recommender.encode(recommender.embed_items(sids[rows[:-1]][None]))[:, -1]
        online += weight * one_loss(state_W, packed_N[rows[-1:]]).item()
        if len(rows) > 1:
            scores_N = teacher.score([rows[:-1]])
            by_items += weight * functional.cross_entropy(scores_N, torch.tensor(rows[-1:])).item()
            probability_N = functional.softmax(scores_N[0], dim=0)
            losses_N = torch.stack([one_loss(state_W, packed[None]) for packed in packed_N])
            taught += weight * (probability_N * losses_N).sum().item()
    found = next_sid_loss(one_loss, step, states, config.sizes)
    assert found.item() == pytest.approx(online / 6.5, rel=1e-5)
    assert next_item_loss(teacher, step).item() == pytest.approx(by_items / 3, rel=1e-5)
    learnt = TeacherLoss(teacher, recommender, catalog, positions=100)(step, states)
    assert learnt.item() == pytest.approx(taught / 3, rel=1e-5)


def test_a_step_of_unweighted_events_teaches_nothing() -> None:
    catalog = toy_catalog()
    step = (pad([[3, 9, 4]], catalog, [[0.0] * 3]),)
    config = RecommenderConfig(sizes=catalog.space.sizes, width=16, heads=2)
    recommender = new_recommender(config, catalog)
    states = encode_before(recommender, step)
    loss = next_sid_loss(SidLoss(recommender, catalog.trie), step, states, config.sizes)
    torch.autograd.backward(loss)
    grads = [weight.grad for weight in recommender.parameters() if weight.grad is not None]
    assert loss.item() == 0
    assert not any(grad.any() for grad in grads)
    teacher = SasRec(SasRecConfig(len(catalog), width=8, heads=1, layers=1)).eval()
    assert next_item_loss(teacher, step).item() == 0
    assert TeacherLoss(teacher, recommender, catalog, positions=9)(step, states).item() == 0


def test_a_learner_takes_the_weights_of_its_release(release: Release, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release.directory, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["recipe"]["types"] = TYPES
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert types_of(Release.load(copy)) == TYPES
    write_toy_data(toy_dataset(release.catalog), tmp_path / "data")
    settings = tmp_path / "settings.toml"
    settings.write_text("[types]\nview = 1\n")
    publisher = Publisher(LiveFolder(tmp_path / "live"), keep_bases=1)
    for file, expected in ((None, TYPES), (settings, {"view": 1.0})):
        options = argparse.Namespace(
            release=copy, data=tmp_path / "data", work=tmp_path / "work", settings=file, seed=0,
            erased=None, items=None, slice_s=10.0, states_every=6, items_every_s=10.0,
            most_deltas=1000,
        )  # fmt: skip
        follower, _, _ = make_follower(options, publisher)
        assert follower.learner.settings.types == expected
