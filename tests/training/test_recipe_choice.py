"""The recipe of a data set by its size: Beauty gets the bundled one, no size gets none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.catalog.dataset import load_dataset
from models.errors import InvalidDataset, InvalidSettings
from training.recipe import Recipe, load_recipe
from training.recipe_choice import (
    Size,
    check_items,
    check_seen,
    choose_recipe,
    fast_recipe_for,
    recipe_for,
)
from training.run import Run
from training.split import split_dataset

BEAUTY = Size(items=12_101, users=22_363, events=198_502)


def test_beauty_gets_the_recipe_of_the_bundled_release(tmp_path: Path) -> None:
    dataset = load_dataset(Path("data/beauty"))
    assert Size.of(split_dataset(dataset), len(dataset.items)) == BEAUTY
    assert recipe_for(BEAUTY) == load_recipe(Path("training/runs/nano.toml"))
    run = Run.open(Path("data/beauty"), tmp_path, "auto", seed=3)
    assert run.recipe == load_recipe(Path("training/runs/nano.toml"), seed=3)


@pytest.mark.parametrize("choose", [recipe_for, fast_recipe_for])
def test_more_data_never_mean_fewer_codes_or_more_passes(choose: Callable[[Size], Recipe]) -> None:
    recipes = [choose(Size(2 * num, num, 9 * num)) for num in (10, 10**3, 10**5, 10**7)]
    addresses = [[*recipe.quantize.sizes] for recipe in recipes]
    assert addresses == sorted(addresses)
    passes = [recipe.online.epochs for recipe in recipes]
    assert passes == sorted(passes, reverse=True)
    epochs = [recipe.align.sequence_epochs for recipe in recipes]
    assert epochs == sorted(epochs, reverse=True)
    assert all(
        recipe.align.interleaved_epochs <= least
        for recipe, least in zip(recipes, epochs, strict=True)
    )


def test_an_item_has_an_address_of_its_own_at_every_size() -> None:
    for num_items in (499, 1_999, 7_999, 49_999, 399_999):
        first, second, last = recipe_for(Size(num_items, 1000, 9000)).quantize.sizes
        assert first * second * last > 4 * num_items


def test_any_other_config_is_a_file(tmp_path: Path) -> None:
    tiny = "training/runs/tiny.toml"
    assert choose_recipe(tiny, BEAUTY, seed=0) == load_recipe(Path(tiny))
    with pytest.raises(InvalidSettings, match=r"quick: not a readable TOML file"):
        choose_recipe("quick", BEAUTY, seed=0)


def test_fewer_items_than_codes_are_refused(tmp_path: Path) -> None:
    tiny = load_recipe(Path("training/runs/tiny.toml"))
    check_items(tiny, Size(20, 300, 900), tmp_path)
    with pytest.raises(InvalidDataset, match="19 items, expected at least 20 for codebooks of 16"):
        check_items(tiny, Size(19, 300, 900), tmp_path)
    with pytest.raises(InvalidDataset, match="60 items, expected at least 64"):
        check_items(recipe_for(BEAUTY), Size(60, 300, 900), tmp_path)


def test_no_release_comes_from_a_recipe_that_learns_what_judges_it() -> None:
    recipe = load_recipe(Path("training/runs/evidence.toml"))
    with pytest.raises(InvalidSettings, match=r"unseen = 0\.5, expected 0 in a release"):
        check_seen(recipe)
    check_seen(recipe_for(BEAUTY))
