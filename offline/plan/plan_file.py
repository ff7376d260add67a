"""The plan of a night, fixed before thinking starts: `plan.json` and the users of each shard.

    OUT/<generation>/plan.json            canonical JSON; its digest is the run id
    OUT/<generation>/plan-00000.parquet   the users of a shard: micro-batch, history, digest

The plan holds everything that the night's files depend on, including times. So a night that was
killed and resumed writes the same files as an uninterrupted one. Knows nothing of reasoners or
stores.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from models.durable import PRIVATE, write_durably, write_text
from models.errors import InvalidInput
from models.reasoner.think import UserHistory, items_read
from models.release.release import Release
from models.store.events import Event
from models.store.manifest import MAX_DELTAS, Layer, Manifest
from offline.settings import RefreshSettings

_USERS = pa.schema(
    {
        "user_id": pa.string(),
        "group": pa.int32(),
        "digest": pa.string(),
        "rows": pa.list_(pa.int32()),
    }
)


_ATTRIBUTES = pa.field(
    "attributes", pa.list_(pa.struct({"name": pa.string(), "text": pa.string()}))
)  # only in files with a user that has some


class Shard(BaseModel):
    """Users of one part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int
    sha256: str  # of the file with the users
    # Parts of live generations, relative to OUT, from which the rows are carried over. Empty: the
    # night thinks about these users.
    sources: tuple[str, ...] = ()


class PlannedUser(NamedTuple):
    """One user of a shard."""

    user_id: str
    group: int  # number of the micro-batch within the shard, or of the source of a carried row
    digest: str
    # Catalog rows of the history, oldest first, at most as many as the reasoner reads; empty for a
    # carried user.
    rows: tuple[int, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()  # of the user, if the reasoner reads them


class Plan(BaseModel):
    """The content of plan.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    generation: int
    created_at: int  # unix seconds
    release: str  # name@version
    paths: int
    width: int
    seed: int
    is_base: bool  # the new layer replaces all layers
    # The delta that the new layer replaces, and whose other users it carries over.
    replaced: Layer | None
    # The manifest that this night builds on. Activation expects to find it live.
    held: Manifest | None
    users_chosen: int
    unreadable: int  # chosen users without a single item in the catalog
    unknown: tuple[str, ...]  # requested user ids without a history
    shards: tuple[Shard, ...]
    # Thinking keys of the rows that the generation may hold, its own first; see `due`. Empty in
    # plans of before.
    keys: tuple[str, ...] = ()
    num_prefixes: int = 0  # of a record; 0: those of its thoughts, as in plans of before

    @property
    def num_thought(self) -> int:
        """Number of users that this night thinks about."""
        return sum(shard.users for shard in self.shards if not shard.sources)

    @property
    def num_carried(self) -> int:
        return sum(shard.users for shard in self.shards if shard.sources)

    def encode(self) -> str:
        absent = {name for name in ("keys", "num_prefixes") if not getattr(self, name)}
        content = self.model_dump(mode="json", exclude=absent)
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def run_id(self) -> str:
        return hashlib.sha256(self.encode().encode()).hexdigest()[:16]


class NextLayer(NamedTuple):
    """The layer that a night makes."""

    generation: int
    is_base: bool  # it replaces all layers
    replaced: Layer | None  # the delta that it replaces


def next_layer(
    settings: RefreshSettings, *, held: Manifest | None, fingerprint: int, now_ms: int
) -> NextLayer:
    """Decide which layer a night makes.

    A night for some users makes a delta over the live base. It makes a base if none is live, or if
    the live layers belong to another SID space, since no reader could use both.
    """
    is_base = settings.is_whole or held is None or held.fingerprint != fingerprint
    replaced = None
    if held is not None and not is_base and len(held.deltas) == MAX_DELTAS:
        replaced = held.deltas[0]
    newest = max((layer.generation for layer in held.layers), default=0) if held else 0
    return NextLayer(max(now_ms, newest + 1), is_base, replaced)


def to_history(release: Release, user_id: str, events: Sequence[Event]) -> UserHistory | None:
    """Build the history that the reasoner reads; None if the catalog knows none of the items."""
    known = release.catalog.rows([event.item_id for event in events])
    most = items_read(release.manifest.recipe)
    return UserHistory(user_id, known[-most:]) if known else None


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json, as the last file of a plan: a folder without it has no plan."""
    write_text(folder / "plan.json", plan.encode())


def read_plan(folder: Path) -> Plan:
    """Read plan.json. Raises InvalidInput if it is missing or in another format."""
    file = folder / "plan.json"
    try:
        return Plan.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise InvalidInput(f"{file}: no such plan; run `python -m offline plan` first") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidInput(f"{file}: {where}: {first['msg']}") from exc


def newest_plan(out_dir: Path) -> Path | None:
    """Return the folder of the newest plan, or None."""
    folders = [file.parent for file in out_dir.glob("*/plan.json") if file.parent.name.isdigit()]
    return max(folders, key=lambda folder: int(folder.name), default=None)


def write_users(
    folder: Path, shard: int, users: Sequence[PlannedUser], *, sources: tuple[str, ...] = ()
) -> Shard:
    schema = _USERS.append(_ATTRIBUTES) if any(user.attributes for user in users) else _USERS
    rows = [user._asdict() | {"attributes": _to_structs(user)} for user in users]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    content = sink.getvalue()
    write_durably(_users_file(folder, shard), content, mode=PRIVATE)
    sha256 = hashlib.sha256(content).hexdigest()
    return Shard(users=len(users), sha256=sha256, sources=sources)


def read_users(folder: Path, plan: Plan, shard: int) -> list[PlannedUser]:
    """Read the users of a shard. Raises InvalidInput if the file is not the one of the plan."""
    file = _users_file(folder, shard)
    try:
        content = file.read_bytes()
    except FileNotFoundError as exc:
        raise InvalidInput(f"{file}: missing, expected the users of a shard of the plan") from exc
    if (actual := hashlib.sha256(content).hexdigest()) != plan.shards[shard].sha256:
        raise InvalidInput(f"{file}: SHA-256 {actual[:12]}..., expected the one in the plan")
    table = pq.read_table(pa.BufferReader(content), schema=_USERS.append(_ATTRIBUTES))
    return [
        PlannedUser(
            row["user_id"],
            row["group"],
            row["digest"],
            tuple(row["rows"] or ()),
            tuple((each["name"], each["text"]) for each in row["attributes"] or ()),
        )
        for row in table.to_pylist()
    ]


def _to_structs(user: PlannedUser) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in user.attributes]


def _users_file(folder: Path, shard: int) -> Path:
    return folder / f"plan-{shard:05d}.parquet"
