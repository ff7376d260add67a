"""`python -m service check [--offline] [--json] [options of the service]`.

Lists every setting with its source, then tests whether a service would start with these settings,
one line per test.

Exit codes:
    0   all tests passed
    75  only the store is unavailable
    78  settings or release are invalid
"""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from models.errors import ReleaseMismatch, StoreUnavailable, ThinkAheadError
from models.program import program
from models.store.embedded import resolve
from models.store.redis_store import RedisStore
from service.auth.api_keys import read_keys
from service.recommend.engine import Engine, self_test
from service.reload import load_arms, load_configured
from service.settings import EffectiveSettings, ServiceSettings, resolve_options, settings_parser

EX_TEMPFAIL, EX_CONFIG = 75, 78


class Finding(NamedTuple):
    """The result of one test."""

    name: str
    why: str  # the observation, or the error
    exit_code: int = 0  # 0: passed


def main(arguments: Sequence[str]) -> int:
    parser = settings_parser(
        f"{program('service')} check", "Check settings, release and store; list every setting."
    )
    parser.add_argument("--offline", action="store_true", help="do not contact the store")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    effective = resolve_options(options, os.environ)
    findings = check(effective.settings, is_offline=options.offline)
    print(_as_json(effective, findings) if options.json else _as_text(effective, findings))
    return max(finding.exit_code for finding in findings)


def check(settings: ServiceSettings, *, is_offline: bool) -> list[Finding]:
    """Test each requirement of a start. A failure does not stop the tests that follow."""
    findings = [Finding("settings", "every name is known and every value is valid")]
    engines: list[Engine] = []
    findings.append(_run_check("release", lambda: _check_release(settings, engines)))
    findings.append(_run_check("keys", lambda: _check_keys(settings)))
    if is_offline:
        findings.append(Finding("store", "not checked (--offline)"))
    else:
        engine = engines[0] if engines else None
        findings.append(_run_check("store", lambda: _check_store(settings, engine)))
        if settings.admin_redis_url is not None:
            ask = _ask_store(settings.admin_redis_url, settings, engine)
            findings.append(_run_check("admin store", lambda: asyncio.run(ask)))
    return findings


def _run_check(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look())
    except StoreUnavailable as exc:
        return Finding(name, str(exc), EX_TEMPFAIL)
    except ThinkAheadError as exc:
        return Finding(name, str(exc), EX_CONFIG)


def _check_release(settings: ServiceSettings, engines: list[Engine]) -> str:
    engine = load_configured(settings)
    self_test(engine)
    engines.append(engine)
    arms = "".join(f"; {arm.label} for arms" for arm in load_arms(settings, engine).values())
    return f"{engine.label}, {len(engine.catalog):,} items, passes the self-test{arms}"


def _check_keys(settings: ServiceSettings) -> str:
    if settings.keys_file is None:
        return "none: every caller that reaches the port is allowed"
    clients = read_keys(settings.keys_file).clients
    return f"{len(clients)} clients: {', '.join(client.client for client in clients)}"


def _check_store(settings: ServiceSettings, engine: Engine | None) -> str:
    with resolve(settings.redis_url, settings.state_dir) as server:
        return asyncio.run(_ask_store(server.url, settings, engine))


async def _ask_store(url: str, settings: ServiceSettings, engine: Engine | None) -> str:
    store = RedisStore(url, settings.redis_timeout_ms, namespace=settings.namespace)
    try:
        await store.ping()
        manifest = await store.read_manifest()
    finally:
        await store.close()
    if manifest is None:
        return "answers; no night has been activated yet"
    if engine is not None and manifest.fingerprint != engine.catalog.space.fingerprint:
        raise ReleaseMismatch(f"the live night, epoch {manifest.epoch}, has another SID space")
    return f"answers; epoch {manifest.epoch} is live, generation {manifest.layers[0].generation}"


def _as_json(effective: EffectiveSettings, findings: Sequence[Finding]) -> str:
    report: dict[str, Any] = {
        "ok": not any(finding.exit_code for finding in findings),
        "checks": [
            {"name": name, "ok": not code, "why": " ".join(why.split())}
            for name, why, code in findings
        ],
        "settings": effective.describe(),
    }
    return json.dumps(report, indent=2)


def _as_text(effective: EffectiveSettings, findings: Sequence[Finding]) -> str:
    rows = [("setting", "value", "from")]
    rows += [
        (name, _one_line(each["value"]), each["from"])
        for name, each in effective.describe().items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    table = [f"{name:{widths[0]}}  {value:{widths[1]}}  {where}" for name, value, where in rows]
    lines = [
        f"{'FAIL' if code else 'ok':4}  {name:8}  {' '.join(why.split())}"
        for name, why, code in findings
    ]
    return "\n".join([*table, "", *lines])


def _one_line(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
