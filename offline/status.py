"""What is live, for people and for scripts. Reads the store, changes nothing."""

from typing import Any

from models.manifest import Layer
from models.store import UserStore


async def read_status(store: UserStore, *, now_s: int) -> dict[str, Any]:
    """Users with a history, and the live layers newest first. Raises InvalidRecord for a manifest
    that is none."""
    manifest = await store.read_manifest()
    status: dict[str, Any] = {"users": len(await store.user_ids()), "epoch": None, "layers": []}
    if manifest is not None:
        status["epoch"] = manifest.epoch
        status["release"] = manifest.release
        status["sid_space"] = f"{manifest.fingerprint:016x}"
        status["layers"] = [_describe(layer, now_s=now_s) for layer in manifest.layers]
        status["layers"][-1]["layer"] = "base"
    return status


def _describe(layer: Layer, *, now_s: int) -> dict[str, Any]:
    age_s = max(now_s - layer.created_at, 0)
    return {
        "layer": "delta",
        "generation": layer.generation,
        "users": layer.users,
        "age_s": age_s,
    }


def render_status(status: dict[str, Any]) -> str:
    lines = [f"{status['users']:,} users with a history"]
    if status["epoch"] is None:
        lines.append("no generation is live: run `python -m offline refresh --release DIR`")
    else:
        lines.append(
            f"epoch {status['epoch']}, thought by {status['release']}, "
            f"SID space {status['sid_space']}"
        )
    lines += [
        f"{layer['layer']:<6} generation {layer['generation']}  {layer['users']:>9,} users  "
        f"{_age(layer['age_s'])} old"
        for layer in status["layers"]
    ]
    return "\n".join(lines)


def _age(seconds: int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
