"""The night's model of items: its words, its regression against a dense one, its file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from models.catalog.catalog import Catalog, build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.errors import InvalidRelease, ReleaseMismatch
from models.night.item_words import WordSettings, item_words
from models.night.night_file import load_night_items, save_night_items
from models.night.night_items import EVIDENCE, MAX_BONUS, NightItems
from models.night.ridge import RidgeSettings, fit_night_items, fit_ridge
from tests.fakes.toy import toy_catalog, toy_histories


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog(num_items=80)


@pytest.fixture(scope="module")
def histories(catalog: Catalog) -> list[list[int]]:
    return toy_histories(catalog, num_users=150, seed=3)


@pytest.fixture(scope="module")
def night(catalog: Catalog, histories: list[list[int]]) -> NightItems:
    return fit_night_items(histories, catalog)


def test_words_are_weighted_by_how_few_items_have_them() -> None:
    names = [f"i{number}" for number in range(40)]
    items = {name: ItemText("Common", None, ("All",)) for name in names}
    items |= {name: ItemText("Common lavender soap", None, ("All",)) for name in names[:3]}
    items |= {name: ItemText("Common soap", "Acme", ("All", "Bath")) for name in names[3:6]}
    sids = {name: (number % 8, number // 8) for number, name in enumerate(names)}
    catalog = build_catalog(SidSpace((8, 8), 1), sids, items, {})
    words_NV = item_words(catalog, WordSettings(min_items=3, max_share=0.2)).toarray()
    rows = [catalog.row(name) for name in ("i0", "i3", "i9")]
    lavender, acme, plain = words_NV[rows]
    assert words_NV.shape[1] == 4, "lavender, soap, the brand, the category; not the common word"
    assert np.linalg.norm(lavender) == pytest.approx(1) == pytest.approx(np.linalg.norm(acme))
    assert not plain.any()
    weight = {"rare": np.log(40 / 3), "soap": np.log(40 / 6)}
    shared = weight["soap"] ** 2 / np.hypot(weight["rare"], weight["soap"])
    assert lavender @ acme == pytest.approx(
        shared / np.sqrt(weight["soap"] ** 2 + 2 * weight["rare"] ** 2)
    )


def test_with_all_items_as_candidates_it_is_the_dense_regression(
    catalog: Catalog, histories: list[list[int]]
) -> None:
    words_NV = item_words(catalog)
    settings = RidgeSettings(num_candidates=80, ridge=2.0, word_weight=3.0)
    found = fit_ridge(histories, words_NV, settings, replace(EVIDENCE, num_neighbours=80))
    users_UN = np.zeros((len(histories), len(catalog)))
    for user, history in enumerate(histories):
        users_UN[user, history] = 1
    gram_NN = users_UN.T @ users_UN + 3.0 * (words_NV @ words_NV.T).toarray()
    for other in (0, 17, 79):
        kept = np.arange(len(catalog)) != other
        weight_N = np.zeros(len(catalog))
        is_candidate = kept & (gram_NN[other] > 0)
        chosen = np.ix_(is_candidate, is_candidate)
        dense = gram_NN[chosen] + 2.0 * np.eye(is_candidate.sum())
        weight_N[is_candidate] = np.linalg.solve(dense, gram_NN[other][is_candidate])
        for item in range(len(catalog)):
            places = slice(found.first[item], found.first[item + 1])
            given = dict(
                zip(found.neighbour_P[places].tolist(), found.weight_P[places], strict=True)
            )
            assert given.get(other, 0.0) == pytest.approx(max(weight_N[item], 0), abs=1e-5)


def test_items_are_ranked_by_evidence_and_none_is_of_the_history(
    night: NightItems, catalog: Catalog, histories: list[list[int]]
) -> None:
    history = histories[0]
    found = night.find(history, num=7, exclude=history)
    row_R, evidence_R = night.neighbours.evidence(np.array(history[::-1]))
    evidence_N = np.zeros(len(catalog))
    evidence_N[row_R] = evidence_R
    evidence_N[history] = 0
    expected = np.argsort(-evidence_N, kind="stable")[:7]
    assert found.row_R.tolist() == expected.tolist()
    bonus_R = EVIDENCE.scale * np.log1p(evidence_N[expected] / EVIDENCE.floor)
    assert found.bonus_R.tolist() == pytest.approx(np.minimum(bonus_R, MAX_BONUS).tolist())


def test_a_shared_sid_is_recorded_once_and_an_empty_history_finds_nothing(
    night: NightItems, catalog: Catalog, histories: list[list[int]]
) -> None:
    assert night.find_sids([], catalog) == ()
    for history in histories[:20]:
        items = night.find_sids(history, catalog)
        assert len({item.codes for item in items}) == len(items)
        bonuses = [item.bonus for item in items]
        assert bonuses == sorted(bonuses, reverse=True)


def test_users_without_words_and_items_without_users_are_fitted(catalog: Catalog) -> None:
    no_words = sparse.csr_matrix((len(catalog), 0))
    found = fit_ridge([[1, 2], [1, 2], [2, 3]], no_words, RidgeSettings(), EVIDENCE)
    night = NightItems(found)
    assert set(night.find([1]).row_R.tolist()) == {2}
    assert not len(night.find([50]).row_R)


def test_the_file_gives_the_same_items(
    night: NightItems, catalog: Catalog, histories: list[list[int]], tmp_path: Path
) -> None:
    file = tmp_path / "night_items.safetensors"
    save_night_items(night, file, catalog)
    again = load_night_items(file, catalog)
    assert again.find_sids(histories[0], catalog) == night.find_sids(histories[0], catalog)
    with pytest.raises(ReleaseMismatch, match="another catalog"):
        load_night_items(file, toy_catalog(num_items=81))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InvalidRelease, match="night_items"):
        load_night_items(file, catalog)
