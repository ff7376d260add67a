"""Growing: SIDs of new items, rows of old ones, grown tables, a moved memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.catalog.candidates import Candidates
from models.catalog.catalog import Catalog, load_catalog
from models.catalog.codebooks import Codebooks
from models.catalog.fed_items import FedItem
from models.catalog.growth import (
    Grown,
    assign_sids,
    describe,
    grow,
    item_vectors,
    withdraw,
)
from models.errors import InvalidCatalog, InvalidRelease
from models.online.finish import Finisher
from models.online.grown_recommender import grow_recommender, rows_of_old
from models.online.memory.memory import Memory
from models.online.memory.remap import add_similar, remap
from models.online.memory.similar_items import SimilarItems
from tests.fakes.toy import (
    toy_catalog,
    toy_codebooks,
    toy_histories,
    toy_memory,
    toy_recommender,
    toy_searcher,
    toy_vectors,
)

NOTHING = np.empty(0, dtype=np.int64)


def new_items(count: int) -> list[FedItem]:
    return [FedItem(item_id=f"new-{number}", title=f"New {number}") for number in range(count)]


def grown_by(count: int, catalog: Catalog) -> Grown:
    vectors = toy_vectors(catalog)[:: max(len(catalog) // count, 1)][:count]
    return grow(catalog, new_items(count), assign_sids(vectors, toy_codebooks(catalog), catalog))


def test_codebooks_are_the_mean_residuals_and_survive_a_file(tmp_path: Path) -> None:
    catalog = toy_catalog()
    vectors, books = toy_vectors(catalog), toy_codebooks(catalog)
    first = catalog.sids[:, 0]
    for code in range(8):
        np.testing.assert_allclose(
            books.levels[0][code], vectors[first == code].mean(axis=0), atol=1e-6
        )
    books.write(tmp_path / "codebooks.safetensors")
    read = Codebooks.read(tmp_path / "codebooks.safetensors", catalog.space)
    for book, again in zip(books.levels, read.levels, strict=True):
        np.testing.assert_array_equal(book, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda books: books[:2], "tensors"),
        (lambda books: [books[0][:, :9], *books[1:]], r"codebook_1: .* expected float32"),
        (lambda books: [books[0].astype(np.float64), *books[1:]], "codebook_0: float64"),
        (lambda books: [books[0] * np.float32(np.inf), *books[1:]], "codebook_0: expected finite"),
    ],
)
def test_codebooks_of_another_form_are_refused(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    catalog = toy_catalog()
    Codebooks(tuple(change(toy_codebooks(catalog).levels))).write(tmp_path / "books")
    with pytest.raises(InvalidRelease, match=message):
        Codebooks.read(tmp_path / "books", catalog.space)


def test_a_code_that_no_item_has_is_never_given() -> None:
    catalog = toy_catalog()
    kept = catalog.sids[:, 0] != 3
    books = Codebooks.of_items(toy_vectors(catalog)[kept], catalog.sids[kept], catalog.space.sizes)
    assert np.isnan(books.levels[0][3]).all()
    sids = assign_sids(toy_vectors(catalog), books, catalog)
    assert 3 not in sids[:, 0]
    assert set(sids[:, 0].tolist()) == {0, 1, 2, 4, 5, 6, 7}


def test_a_new_item_gets_the_codes_of_its_nearest_centroids_and_a_free_last_one() -> None:
    catalog = toy_catalog()
    vectors = toy_vectors(catalog)
    sids = assign_sids(vectors, toy_codebooks(catalog), catalog)
    assert (sids[:, :2] == catalog.sids[:, :2]).all(axis=1).mean() > 0.95
    taken = set(map(tuple, catalog.sids.tolist()))
    for sid in sids.tolist():
        below = [(*sid[:2], code) for code in range(16)]
        if tuple(sid) in taken:
            assert all(each in taken for each in below)  # shared only where none is free
        taken.add(tuple(sid))


def test_the_same_items_one_by_one_get_the_same_sids() -> None:
    """A learner may see new items in batches of any size."""
    catalog = toy_catalog()
    books, vectors = toy_codebooks(catalog), toy_vectors(catalog)[:12]
    at_once = assign_sids(vectors, books, catalog)
    for number in range(12):
        sids = assign_sids(vectors[number : number + 1], books, catalog)
        assert sids[0].tolist() == at_once[number].tolist()
        item = FedItem(item_id=f"new-{number}")
        catalog = grow(catalog, [item], sids).catalog


def test_a_full_prefix_shares_its_sids_evenly() -> None:
    catalog = toy_catalog(sizes=(2, 2, 4), num_items=8)
    books = toy_codebooks(catalog)
    vector = toy_vectors(catalog)[:1]
    sids = assign_sids(np.repeat(vector, 12, axis=0), books, catalog)
    below = (sids[0, 0], sids[0, 1])
    before = [tuple(sid) for sid in catalog.sids.tolist() if tuple(sid[:2]) == below]
    held = np.bincount([sid[2] for sid in before], minlength=4)
    total = held + np.bincount(sids[:, 2], minlength=4)
    usable = ~np.isnan(books.levels[2]).all(axis=1)
    assert total[usable].max() - total[usable].min() <= 1 or held.max() > total[usable].min()
    assert total[usable].min() >= 12 // 4


def test_no_old_item_changes_its_sid_or_its_texts() -> None:
    catalog = toy_catalog()
    grown, row_of_old = grown_by(30, catalog)
    assert len(grown) == len(catalog) + 30
    assert grown.space.fingerprint == catalog.space.fingerprint
    for row, item_id in enumerate(catalog.item_ids):
        new = int(row_of_old[row])
        assert grown.item_ids[new] == item_id
        assert grown.sids[new].tolist() == catalog.sids[row].tolist()
        assert grown.titles[new] == catalog.titles[row]
        assert grown.popularity[new] == catalog.popularity[row]
    new_rows = grown.rows(f"new-{number}" for number in range(30))
    assert not set(new_rows) & set(row_of_old.tolist())


def test_a_grown_catalog_is_in_serving_order_on_disk(tmp_path: Path) -> None:
    catalog = toy_catalog(sizes=(3, 3, 3))  # shared SIDs
    grown = grown_by(20, catalog).catalog
    keys = [
        (*sid, -count, item)
        for sid, count, item in zip(
            grown.sids.tolist(), grown.popularity.tolist(), grown.item_ids, strict=True
        )
    ]
    assert keys == sorted(keys)
    grown.save(tmp_path / "catalog.parquet")
    assert load_catalog(tmp_path / "catalog.parquet", grown.space).item_ids == grown.item_ids


def test_an_item_is_added_once() -> None:
    catalog = toy_catalog()
    sid = catalog.sids[:1]
    with pytest.raises(InvalidCatalog, match="item 'item-3' again"):
        grow(catalog, [FedItem(item_id="item-3")], sid)
    with pytest.raises(InvalidCatalog, match="item 'twice' again"):
        grow(catalog, [FedItem(item_id="twice")] * 2, np.repeat(sid, 2, axis=0))


def test_withdrawn_items_leave_and_the_others_keep_their_order() -> None:
    catalog = toy_catalog()
    left, row_of_old = withdraw(catalog, ["item-3", "item-77", "nobody"])
    assert len(left) == len(catalog) - 2
    assert left.row("item-3") is None
    assert [left.item_ids[row] for row in row_of_old.tolist() if row >= 0] == [
        item for item in catalog.item_ids if item not in {"item-3", "item-77"}
    ]
    assert row_of_old[catalog.row("item-77")] == -1


def test_new_texts_of_an_item_leave_its_row_and_sid() -> None:
    catalog = toy_catalog()
    item = FedItem(item_id="item-3", title="Fresh", categories=("Beauty", "New"))
    told = describe(catalog, [item, FedItem(item_id="nobody")])
    row = catalog.row("item-3")
    assert row is not None
    assert (told.titles[row], told.categories[row]) == ("Fresh", ("Beauty", "New"))
    assert told.item_ids == catalog.item_ids
    assert told.row("item-3") == row


def test_what_a_new_item_lacks_is_guessed_from_items_like_it() -> None:
    """By zeros in its place, and not by a guess, far fewer items get the prefix of their like."""
    catalog = toy_catalog()
    books, vectors = toy_codebooks(catalog), toy_vectors(catalog)
    part = vectors[:, :20]
    zeros = np.concatenate([part, np.zeros((len(part), 380), dtype=np.float32)], axis=1)
    same = [
        float((assign_sids(given, books, catalog)[:, :2] == catalog.sids[:, :2]).all(axis=1).mean())
        for given in (vectors, part, zeros)
    ]
    assert same[0] > 0.95
    assert same[1] > same[2] + 0.2


def test_vectors_of_new_items_are_their_weighted_texts() -> None:
    books = toy_codebooks(toy_catalog())
    texts = np.ones((2, 384), dtype=np.float32)
    vectors = item_vectors(texts, books, text_weight=0.25)
    assert vectors.shape == (2, 384)
    assert (vectors == 0.5).all()
    too_wide = np.ones((2, 401), dtype=np.float32)  # these codebooks were made without texts
    assert not item_vectors(too_wide, books, text_weight=0.25).any()


@pytest.mark.parametrize("precision", ["torch-float64", "onnx-float32", "native-float32"])
def test_grown_tables_leave_every_score_equal_bit_by_bit(precision: str, tmp_path: Path) -> None:
    catalog = toy_catalog()
    grown = grown_by(30, catalog).catalog
    recommender = toy_recommender(catalog)
    larger = grow_recommender(recommender, grown.trie.packed[2:])
    assert larger.config.known_nodes > recommender.config.known_nodes
    everything = Candidates(grown.trie)
    found = []
    for model in (recommender, larger):
        finisher = Finisher(toy_searcher(model, precision, tmp_path), grown)
        for history in toy_histories(grown, num_users=5):
            scored = finisher.finish(finisher.encode(history), everything, k=len(grown))
            found.append([(item.row, item.logprob) for item in scored])
    assert found[:5] == found[5:]


def test_growing_moves_the_rows_of_known_nodes_and_adds_zeros() -> None:
    catalog = toy_catalog()
    recommender = toy_recommender(catalog)
    before = torch.get_rng_state()
    larger = grow_recommender(recommender, grown_by(30, catalog).catalog.trie.packed[2:])
    assert torch.equal(before, torch.get_rng_state())
    assert not larger.training
    for at, row_of_old in enumerate(rows_of_old(recommender, larger)):
        old = recommender.state_dict()[f"node_embeddings.{at}.own.weight"]
        new = larger.state_dict()[f"node_embeddings.{at}.own.weight"]
        assert torch.equal(new[torch.from_numpy(row_of_old)], old)
        others = np.setdiff1d(np.arange(len(new)), row_of_old)
        assert len(others)
        assert not new[torch.from_numpy(others)].any()


def test_rows_of_withdrawn_items_are_dropped_so_that_a_heir_of_their_sid_begins_at_zero() -> None:
    catalog = toy_catalog()
    recommender = toy_recommender(catalog)
    known = set(recommender.state_dict()["node_embeddings.1.known"].tolist())
    packed = catalog.space.pack(catalog.sids)
    row = next(row for row, node in enumerate(packed.tolist()) if node in known)
    holders = [catalog.item_ids[at] for at in np.flatnonzero(packed == packed[row])]
    left = withdraw(catalog, holders).catalog
    smaller = grow_recommender(recommender, [NOTHING, NOTHING], trie=left.trie)
    kept = set(smaller.state_dict()["node_embeddings.1.known"].tolist())
    assert kept == known - {int(packed[row])}
    assert (rows_of_old(recommender, smaller)[1] == -1).sum() == 1
    again = grow_recommender(smaller, [NOTHING, packed[row : row + 1]])
    at = again.state_dict()["node_embeddings.1.known"].tolist().index(int(packed[row]))
    assert not again.state_dict()["node_embeddings.1.own.weight"][at].any()


def lists(memory: Memory, names: tuple[str, ...]) -> dict[str, list[tuple[str, float]]]:
    neighbours = memory.neighbours()
    found = {}
    for row, name in enumerate(names):
        near = slice(neighbours.first[row], neighbours.first[row + 1])
        pairs = zip(neighbours.neighbour_P[near], neighbours.weight_P[near], strict=True)
        found[name] = sorted((names[other], float(weight)) for other, weight in pairs)
    return found


def test_a_moved_memory_has_the_neighbours_of_before() -> None:
    catalog = toy_catalog()
    grown, row_of_old = grown_by(30, catalog)
    memory = toy_memory(catalog)
    moved = remap(memory, row_of_old, len(grown))
    expected = lists(memory, catalog.item_ids)
    found = lists(moved, grown.item_ids)
    assert {name: found[name] for name in expected} == expected
    assert all(not found[name] for name in found.keys() - expected.keys())


def test_withdrawn_items_leave_the_memory(tmp_path: Path) -> None:
    catalog = toy_catalog()
    left, row_of_old = withdraw(catalog, ["item-3", "item-77"])
    moved = remap(toy_memory(catalog), row_of_old, len(left))
    assert {name for pairs in lists(moved, left.item_ids).values() for name, _ in pairs} <= set(
        left.item_ids
    )
    file = tmp_path / "neighbours.safetensors"
    moved.write(file)
    again = Memory.read(file, moved.settings, len(left))
    assert lists(again, left.item_ids).keys() == set(left.item_ids)


def unit_vectors(count: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(4).normal(size=(count, 4)).astype(np.float32)
    units: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def test_similar_items_found_later_are_those_found_at_once() -> None:
    vectors = unit_vectors(60)
    expected = SimilarItems.of(vectors, 7)
    new = np.array([0, 13, 14, 59])
    old = np.setdiff1d(np.arange(60), new)
    part = SimilarItems.of(vectors[old], 7)
    memory = Memory(
        toy_memory(toy_catalog(num_items=56)).counts, part, toy_memory(toy_catalog()).settings
    )
    found = add_similar(remap(memory, old, 60).similar, vectors, new)
    np.testing.assert_allclose(found.cosine_NS, expected.cosine_NS, atol=1e-6)
    has_any = expected.cosine_NS > 0
    assert (found.row_NS == expected.row_NS)[has_any].all()
