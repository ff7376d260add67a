"""Make a finished generation on disk live: gates, load, verify, activate, report, gc.

Every step can be run again. If a step fails, the generation before stays live.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from models.errors import GatesFailed, InvalidInput, StoreFull, StoreUnavailable
from models.release.release import Release
from models.store.contract import NightStore
from models.store.gate_report import GateReport, Verdict
from models.store.manifest import Manifest
from offline.check.compare import Before, Comparison, compare, summarise_before
from offline.check.gates import Gate, GateLimits, Night, describe_failures, judge, may_force
from offline.check.report import describe, write_reports
from offline.disk.archive import drain, read_archive
from offline.disk.generation import Generation
from offline.disk.visible_rows import visible_rows
from offline.live.activate import activate
from offline.live.compact import live_rows
from offline.live.erasure import carry_out_erasures
from offline.live.gc import KEEP, collect
from offline.live.load import Loaded, expected_load, load, verify
from offline.live.write_rate import WriteRate
from offline.progress import Stopwatch, describe_timings
from offline.settings import PREFIX_TTL_S

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveSettings:
    """Settings of `go_live`."""

    limits: GateLimits = field(default_factory=GateLimits)  # of the gates before going live
    force: str | None = None  # reason for overruling failed gates
    canary_percent: float | None = None  # None: for all users
    ttl_s: int = PREFIX_TTL_S  # of the records
    keep: int = KEEP  # earlier manifests whose generations gc keeps
    target_ms: float = 5.0  # longest ping of the store at which loading does not slow down
    # Verify first: a generation that is already in the store is not written again.
    is_loaded: bool = False
    textfile: Path | None = None  # metrics for node exporter; None: beside the generation
    price_per_hour: float | None = None  # of the device that thought, for the summary


@dataclass(frozen=True)
class Launch:
    """Inputs of every step."""

    generation: Generation
    release: Release
    store: NightStore
    runner: asyncio.Runner
    progress: Progress
    settings: LiveSettings
    watch: Stopwatch
    rates: Mapping[str, Any] = field(default_factory=dict)  # of this run, for the summary

    @property
    def out_dir(self) -> Path:
        return self.generation.folder.parent


def go_live(launch: Launch) -> dict[str, Any]:
    """Make a generation live; return the summary, which is also written to summary.json.

    Raises:
        GatesFailed: a gate failed and is not overruled; the report shows which.
        StoreFull, StoreUnavailable: loading failed; the manifest is unchanged.
        ManifestConflict: a newer night is live.
        InvalidInput: damaged shards, or a delta without its base.
    """
    with launch.watch("gates"):
        launch.runner.run(carry_out_erasures(launch.store, launch.out_dir, worker="night"))
        launch.runner.run(drain(launch.store, launch.out_dir))
        found, gates = run_gates(launch)
    summary = {**_facts(launch), **describe(found, gates, launch.settings.force)}
    failures = describe_failures(gates)
    if failures and (not launch.settings.force or not may_force(gates)):
        write_reports(launch.generation.folder, summary, launch.settings.textfile, is_live=False)
        raise GatesFailed(
            f"generation {launch.generation.number} does not go live: {failures}; the live one is "
            f"unchanged (see {launch.generation.folder / 'report.html'}; "
            f"`activate --generation {launch.generation.number} --force REASON` overrules gates)"
        )
    if failures:
        logger.warning("gates overruled (%s): %s", launch.settings.force, failures)
    write_rate = WriteRate(target_ms=launch.settings.target_ms)
    loaded = load_completely(launch, write_rate)
    launch.runner.run(launch.store.write_gates(_gate_report(launch, gates)))
    manifest = activate_loaded(launch, loaded)
    summary |= _describe_load(launch, loaded, write_rate, manifest)
    write_reports(launch.generation.folder, summary, launch.settings.textfile)
    launch.runner.run(collect(launch.store, launch.out_dir, keep=launch.settings.keep))
    return summary


def _gate_report(launch: Launch, gates: Sequence[Gate]) -> GateReport:
    verdicts = tuple(Verdict(**gate._asdict()) for gate in gates)
    forced = launch.settings.force if describe_failures(gates) else None
    return GateReport(generation=launch.generation.number, forced=forced, gates=verdicts)


def _facts(launch: Launch) -> dict[str, Any]:
    """Return the facts known before the gates, without the digests of all parts."""
    known = {name: fact for name, fact in launch.generation.summary.items() if name != "parts"}
    price = launch.settings.price_per_hour
    return {
        **known,
        **launch.rates,
        **describe_timings(launch.generation.folder, price_per_hour=price),
        "seconds": {**known.get("seconds", {}), **launch.watch.report()},
        "shards": str(launch.generation.folder),
    }


def run_gates(launch: Launch) -> tuple[Comparison, list[Gate]]:
    """Compare the generation with the live one; return the comparison and the verdicts."""
    held = launch.runner.run(launch.store.read_manifest())
    before = _summarise_live(launch, held)
    arrivals: dict[str, list[str]] = {}
    since_ms = launch.generation.created_at * 1000
    for user_id, arrival in read_archive(launch.out_dir, since_ms=since_ms):
        arrivals.setdefault(user_id, []).append(arrival.event.item_id)
    rows = visible_rows(launch.generation.folder)
    found = compare(rows, before, launch.release.catalog, arrivals)
    found.gone = found.gone if launch.generation.is_base else 0  # a delta leaves others alone
    dead = int(launch.generation.summary.get("failed", 0))
    night = Night(launch.generation.num_due or found.num_users, dead)
    return found, judge(night, found, launch.settings.limits)


def _summarise_live(launch: Launch, held: Manifest | None) -> Before:
    """Summarise the live generation for comparison.

    Empty if nothing is live, if it has another SID space, if it is this generation itself, or if
    its shards are not on disk.
    """
    if held is None or held.fingerprint != launch.release.space.fingerprint:
        return Before()
    if launch.generation.number in held.generations:
        return Before()
    try:
        num_rows = sum(layer.users for layer in held.layers)
        return summarise_before(live_rows(launch.out_dir, held), num_rows=num_rows)
    except InvalidInput as exc:
        logger.warning("no comparison with the live generation: %s", exc)
        return Before()


def load_completely(launch: Launch, write_rate: WriteRate) -> Loaded:
    """Load and verify; once more if that fails, since a restarted store may have lost records."""
    if launch.settings.is_loaded and (found := _find_loaded(launch)) is not None:
        return found
    try:
        return _load_once(launch, write_rate)
    except StoreFull:
        raise
    except StoreUnavailable as exc:
        logger.warning("loading again: %s", exc)
        return _load_once(launch, write_rate)


def _find_loaded(launch: Launch) -> Loaded | None:
    """Return the load that the store already holds completely; None if it does not."""
    space = launch.release.space
    with launch.watch("verify"):
        loaded = expected_load(launch.generation, space.fingerprint)
        try:
            launch.runner.run(verify(launch.generation, launch.store, space=space, loaded=loaded))
        except StoreUnavailable as exc:
            logger.info("not loaded yet, loading: %s", exc)
            return None
    return loaded


def _load_once(launch: Launch, write_rate: WriteRate) -> Loaded:
    space = launch.release.space
    with launch.watch("load"):
        loaded = launch.runner.run(
            load(
                *(launch.generation, launch.store),
                fingerprint=space.fingerprint,
                progress=launch.progress,
                ttl_s=launch.settings.ttl_s,
                write_rate=write_rate,
            )
        )
    with launch.watch("verify"):
        launch.runner.run(verify(launch.generation, launch.store, space=space, loaded=loaded))
    return loaded


def activate_loaded(launch: Launch, loaded: Loaded) -> Manifest:
    with launch.watch("activate"):
        return launch.runner.run(
            activate(
                *(launch.generation, launch.store),
                fingerprint=launch.release.space.fingerprint,
                user_ids=loaded.user_ids,
                canary_percent=launch.settings.canary_percent,
            )
        )


def _describe_load(
    launch: Launch, loaded: Loaded, write_rate: WriteRate, manifest: Manifest
) -> dict[str, Any]:
    sample: Sequence[str] = list(loaded.sample)
    record_bytes = launch.runner.run(
        launch.store.record_bytes(launch.generation.number, sample[:100])
    )
    return {
        "epoch": manifest.epoch,
        "canary_percent": manifest.canary.percent if manifest.canary else None,
        "activated_at": int(time.time()),
        "loaded": len(loaded.user_ids),
        "load_retries": loaded.num_retries,
        "load_cuts": write_rate.num_cuts,
        "slowest_ping_ms": round(write_rate.slowest_ms, 2),
        "record_bytes": round(record_bytes, 1),
        "seconds": {**launch.generation.summary.get("seconds", {}), **launch.watch.report()},
    }
