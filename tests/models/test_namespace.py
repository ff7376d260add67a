"""Two data sets in one server: keys, patterns and slots of a namespace."""

import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from models.catalog.fed_items import FedItem
from models.errors import InvalidSettings
from models.store.contract import BEGINNING
from models.store.embedded import attach
from models.store.keys import DEFAULT_KEYS, Keys, UserRow
from models.store.model_pointer import ModelPointer
from models.store.namespace import PATTERN, namespace_of
from models.store.records import PrefixRecord, RecordedPrefix
from models.store.redis_store import RedisStore
from tests.models.test_store import SPACE, make_events, make_manifest

USERS = ("ann", "a/b", "{x}", "mine", "é:h")


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[str, list[RedisStore]]]:
    """Stores of no namespace and of two, all over one server."""
    with attach(tmp_path) as server:
        stores = [RedisStore(server.url, 5000, namespace=name) for name in ("", "mine", "m")]
        yield server.url, stores
        for store in stores:
            await store.close()


def row(user_id: str) -> UserRow:
    record = PrefixRecord(5, SPACE.fingerprint, 1000, (RecordedPrefix((1, 2), 0, -0.5),))
    return UserRow(user_id, record, ("a thought",))


async def fill(store: RedisStore, users: tuple[str, ...]) -> None:
    await store.append_histories({user: make_events(2) for user in users})
    await store.write_layer(5, [row(user) for user in users], 60)
    await store.swap_manifest(None, make_manifest(1, 5))
    await store.swap_manifest(make_manifest(1, 5), make_manifest(2, 5))
    await store.swap_model(None, ModelPointer(epoch=1, base="0123456789ab", written_ms=1))
    await store.mark_import("digest", "note")
    await store.request_thinking(users[0])
    await store.request_erasure(users[0])
    await store.offer_items([FedItem(item_id="new")])


async def test_nothing_of_one_namespace_is_seen_in_another(
    stores: tuple[str, list[RedisStore]],
) -> None:
    """After `make demo` the first night of own data planned 22,363 users of Beauty."""
    url, (today, mine, m) = stores
    await fill(today, USERS)
    for store in (mine, m):
        assert await store.user_ids() == []
        assert (await store.read_manifest(), await store.read_model()) == (None, None)
        assert (await store.past_manifests(), await store.imports()) == ([], {})
        assert (await store.read_log(BEGINNING, 9)).events == ()
        assert (await store.read_items(BEGINNING, 9)).items == ()
        assert await store.take_requests("w", count=9, wait_ms=1, idle_ms=1) == []
        assert (await store.read_erasures(None)).waiting == frozenset()
    await fill(mine, ("ann", "bob"))
    await fill(m, ("cid",))
    assert await today.user_ids() == sorted(USERS)
    assert await mine.user_ids() == ["ann", "bob"]
    assert await mine.delete_generations(lambda _: True) == {5: 4}
    assert await mine.erase_user("ann") == 1
    assert (await today.count_records(5, USERS), await m.count_records(5, ["cid"])) == (5, 1)
    assert len((await today.read_histories(["ann"]))["ann"]) == 2
    with redis.Redis.from_url(url) as client:
        names = sorted(key.decode() for key in client.keys("ta:m*"))
    assert {name.split(":")[1] for name in names} == {"manifest", "model", "mine", "m"}


def test_keys_without_a_namespace_are_those_of_before() -> None:
    assert DEFAULT_KEYS.history("a/b") == "ta:{a%2Fb}:h"
    assert DEFAULT_KEYS.record("ann", 7) == "ta:{ann}:p:7"
    assert DEFAULT_KEYS.thoughts("ann", 7) == "ta:{ann}:why:7"
    assert DEFAULT_KEYS.past_manifests == "ta:{ta:manifest}:past"
    assert Keys("mine").history("a/b") == "ta:mine:{a%2Fb}:h"


@pytest.mark.parametrize("name", ["", "mine", "a-b_c9"])
def test_keys_of_a_user_share_a_slot_and_name_their_owner(name: str) -> None:
    keys = Keys(name)
    assert key_slot(keys.manifest.encode()) == key_slot(keys.past_manifests.encode())
    others = [Keys(other) for other in ("", "mine", "a-b_c9", "a-b") if other != name]
    for user in USERS:
        of_user = (keys.history(user), keys.record(user, 5), keys.thoughts(user, 5))
        assert len({key_slot(key.encode()) for key in of_user}) == 1
        history, record, _ = (key.encode() for key in of_user)
        assert (keys.user_of_history(history), keys.generation_of(record)) == (user, 5)
        for other in others:
            assert (other.user_of_history(history), other.generation_of(record)) == (None, None)
    singles = (
        "manifest",
        "imports",
        "requests",
        "erasures",
        "erased",
        "log",
        "items",
        "model",
        "workers",
    )
    every = [vars(each)[single] for each in (keys, *others) for single in singles]
    assert all(one != other for one, other in itertools.combinations(every, 2))


@pytest.mark.parametrize("name", ["Mine", "a b", "{a}", "*", "a:b", "-a", "é", "x" * 33])
def test_a_namespace_that_a_pattern_could_match_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettings, match="expected up to 32 characters"):
        RedisStore("redis://localhost", 1000, namespace=name)


@pytest.mark.parametrize(
    ("data", "namespace"),
    [
        ("data/beauty", ""),
        ("/srv/clone/data/beauty/", ""),
        ("beauty", "beauty"),
        ("mine", "mine"),
        ("/srv/-My Shop.2026/", "my-shop-2026"),
        ("movies/u.data", "u-data"),
        ("x" * 40, "x" * 32),
        ("дата", "data-83fcb17c"),
    ],
)
def test_data_have_a_namespace_by_their_name(data: str, namespace: str) -> None:
    assert namespace_of(data) == namespace
    assert re.fullmatch(f"({PATTERN})?", namespace)
