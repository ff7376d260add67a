"""The third stage: check that every planned user is there once and every row is sound.

If not, the generation is not marked as finished and is never loaded.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.catalog.catalog import Catalog
from models.errors import InvalidInput
from models.release.release_files import digest
from offline.disk.outcome import Outcome
from offline.disk.shards import (
    part_file,
    read_outcome,
    read_part,
    write_failed,
    write_summary,
)
from offline.plan.plan_file import Plan, read_users
from offline.think.micro_batch import check_thoughts


def validate(
    folder: Path, plan: Plan, catalog: Catalog, *, guard: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Check every part, mark the generation as finished, return the content of `_SUCCESS.json`.

    Can be run again. guard: called before the first file is written. Raises InvalidInput for a
    missing or damaged shard, a lost or doubled user, an illegal prefix, or no row at all.
    """
    _check_complete(folder, plan)
    total = Outcome()
    seen: set[str] = set()
    for shard in range(len(plan.shards)):
        total.add(_check_shard(folder, plan, shard, catalog, seen))
    if not seen:
        raise InvalidInput(
            f"no records to make live: of {plan.users_chosen} users "
            f"{total.empty + plan.unreadable} are empty and {len(total.failed)} failed "
            f"(see {folder})"
        )
    if guard is not None:
        guard()
    write_failed(folder, total.failed)
    success = _describe(folder, plan, total, catalog, num_users=len(seen))
    write_summary(folder, success)
    return success


def _check_complete(folder: Path, plan: Plan) -> None:
    shards = range(len(plan.shards))
    missing = [shard for shard in shards if not part_file(folder, shard).exists()]
    if missing:
        raise InvalidInput(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing (the first: "
            f"{missing[0]}): run `python -m offline think` first"
        )


def _check_shard(folder: Path, plan: Plan, shard: int, catalog: Catalog, seen: set[str]) -> Outcome:
    """Check one part, add its users to `seen` and return its counts. Raises InvalidInput."""
    part = part_file(folder, shard)
    planned = {user.user_id: user.digest for user in read_users(folder, plan, shard)}
    outcome = read_outcome(part)
    found: list[str] = []
    for row in read_part(part):
        user_id = row.thoughts.user_id
        if user_id in seen or planned.get(user_id) != row.digest:
            raise InvalidInput(f"{part}: row {len(found)} is a duplicate, or not in the plan")
        check_thoughts(catalog, row.thoughts)
        seen.add(user_id)
        found.append(user_id)
    lost = set(planned) - set(found) - {user_id for user_id, _ in outcome.failed}
    if len(lost) != outcome.empty or (plan.shards[shard].sources and lost):
        raise InvalidInput(f"{part}: {len(lost)} users are lost, expected {outcome.empty} empty")
    return outcome


def _describe(
    folder: Path, plan: Plan, total: Outcome, catalog: Catalog, *, num_users: int
) -> dict[str, Any]:
    """Describe the generation, independently of when the night ran or how often it stopped."""
    parts = [part_file(folder, shard) for shard in range(len(plan.shards))]
    return {
        "run": plan.run_id,
        "generation": plan.generation,
        "created_at": plan.created_at,
        "layer": "base" if plan.is_base else "delta",
        "replaced": plan.replaced.generation if plan.replaced else None,
        "fingerprint": f"{catalog.space.fingerprint:016x}",
        "release": plan.release,
        "users": num_users,
        "users_chosen": plan.users_chosen,
        "users_due": plan.num_thought,
        "refreshed": total.refreshed,
        "carried": plan.num_carried,
        "empty": total.empty,
        "unreadable": plan.unreadable,
        "failed": len(total.failed),
        "unknown": len(plan.unknown),
        "closed_paths": total.closed_paths,
        "dropped_paths": total.dropped_paths,
        "tokens": total.tokens,
        "prefixes_per_user": round(total.prefixes / max(total.refreshed, 1), 2),
        "parts": {part.name: digest(part) for part in parts},
    }
