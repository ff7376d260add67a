"""Status of the store and of the generations on disk, for people and scripts. Read-only."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from models.errors import InvalidInput
from models.program import program
from models.store.contract import NightStore
from models.store.manifest import Layer, Manifest
from offline.disk.generation import folders, open_generation
from offline.disk.visible_rows import visible_rows

_SAMPLE = 100  # users whose record size is read from the store


async def read_status(
    store: NightStore, *, now_s: int, out_dir: Path | None = None
) -> dict[str, Any]:
    """Read the number of users with a history, the live layers (newest first), the gates of the
    night that went live last, and the generations in `out_dir`, if given.

    Raises InvalidRecord for a manifest in another format.
    """
    manifest = await store.read_manifest()
    status: dict[str, Any] = {"users": len(await store.user_ids()), "epoch": None, "layers": []}
    if manifest is not None:
        status["epoch"] = manifest.epoch
        status["release"] = manifest.release
        status["sid_space"] = f"{manifest.fingerprint:016x}"
        status["layers"] = [_describe(layer, now_s=now_s) for layer in manifest.layers]
        status["layers"][-1]["layer"] = "base"
        if manifest.canary is not None:
            status["canary"] = {
                "percent": manifest.canary.percent,
                "layers": [layer.generation for layer in manifest.canary.layers],
            }
    if (report := await store.read_gates()) is not None:
        status["gates"] = report.model_dump()
    if out_dir is not None:
        status["generations"] = [
            await _describe_folder(folder, manifest, store, now_s=now_s)
            for folder in folders(out_dir)
        ]
    return status


def _describe(layer: Layer, *, now_s: int) -> dict[str, Any]:
    age_s = max(now_s - layer.created_at, 0)
    return {
        "layer": "delta",
        "generation": layer.generation,
        "users": layer.users,
        "age_s": age_s,
    }


async def _describe_folder(
    folder: Path, manifest: Manifest | None, store: NightStore, *, now_s: int
) -> dict[str, Any]:
    number = int(folder.name)
    found = {"generation": number, "state": _state(number, manifest), "disk_bytes": _size(folder)}
    try:
        generation = open_generation(folder)
    except InvalidInput:
        return found | {"state": "unfinished", "age_s": max(now_s - number // 1000, 0)}
    rows = islice(visible_rows(folder), _SAMPLE)
    sample = [row.thoughts.user_id for row in rows]
    records, due = generation.num_records, generation.num_due
    layer = "base" if generation.is_base else "delta"
    return found | {
        "layer": "on demand" if generation.is_on_demand else layer,
        "age_s": max(now_s - generation.created_at, 0),
        "records": None if generation.is_on_demand else records,
        "coverage": round(records / due, 4) if due else None,
        "record_bytes": round(await store.record_bytes(number, sample), 1),
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _state(number: int, manifest: Manifest | None) -> str:
    if manifest is None or number not in manifest.generations:
        return "kept"
    return "live" if number in {layer.generation for layer in manifest.layers} else "canary"


def render_status(status: dict[str, Any]) -> str:
    lines = [f"{status['users']:,} users with a history"]
    if status["epoch"] is None:
        lines.append(f"no generation is live: run `{program('offline')} refresh --release DIR`")
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
    if canary := status.get("canary"):
        lines.append(f"canary generation {canary['layers'][0]}  {canary['percent']:g}% of users")
    if gates := status.get("gates"):
        lines += _gate_lines(gates)
    return "\n".join([*lines, *_table(status.get("generations", []))])


def _gate_lines(report: dict[str, Any]) -> list[str]:
    """Return one line on all gates of a night, and one for each that did not pass."""
    gates = report["gates"]
    failed = [gate for gate in gates if not gate["has_passed"]]
    said = f"{len(gates) - len(failed)} of {len(gates)} passed"
    forced = f", overruled: {report['forced']}" if report["forced"] else ""
    return [f"gates  generation {report['generation']}  {said}{forced}"] + [
        f"       {gate['name']} {_number(gate['value'])}, expected {gate['expected']}"
        for gate in failed
    ]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _table(generations: Sequence[dict[str, Any]]) -> list[str]:
    if not generations:
        return []
    head = ("generation", "layer", "state", "age", "records", "coverage", "redis", "disk")
    rows = [head, *(_cells(each) for each in generations)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return ["", *lines]


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    records, coverage = each.get("records"), each.get("coverage")
    in_redis = (records or 0) * each.get("record_bytes", 0)
    return (
        str(each["generation"]),
        each.get("layer", "-"),
        each["state"],
        _age(each["age_s"]),
        "-" if records is None else f"{records:,}",
        "-" if coverage is None else f"{coverage:.1%}",
        _bytes(in_redis) if in_redis else "-",
        _bytes(each["disk_bytes"]),
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(seconds: int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
