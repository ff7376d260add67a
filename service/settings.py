"""Settings of the service: names, units, defaults; one line for whatever is wrong with them.

Knows the environment and the command line. Knows nothing of what the values are used for.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import InvalidSettings
from service.reasons import Mode

ENV_PREFIX = "THINKAHEAD_"


class ServiceSettings(BaseSettings):
    """Every field is also an environment variable, `THINKAHEAD_` + its name; arguments win."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    release_dir: Path
    redis_url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.+")] | None = None
    precision: Annotated[str, Field(min_length=1)] = "fastest"  # or one that the release names
    state_dir: Path | None = None  # of the embedded server, used when there is no redis_url
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0 takes a free one

    request_budget_ms: Annotated[int, Field(ge=10, le=60_000)] = 100  # a request may give less
    redis_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 20  # of the budget above
    queue_limit: Annotated[int, Field(ge=1, le=10_000)] = 16
    mode: Mode = Mode.STRICT  # what a record's rungs finish; a request may say otherwise
    online_prefixes: Annotated[int, Field(ge=1, le=1000)] = 100
    record_max_age_hours: Annotated[float, Field(gt=0)] = 48
    manifest_poll_ms: Annotated[int, Field(ge=10, le=60_000)] = 1000
    copies_limit: Annotated[int, Field(ge=1)] = 4096  # users; 100 prefixes take about 20 kB
    history_cache_mb: Annotated[int, Field(ge=0)] = 256  # encoded histories; about 35 kB a user
    outbox_limit: Annotated[int, Field(ge=1)] = 10_000  # events


def load_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> ServiceSettings:
    """Command line over environment over defaults. Raises InvalidSettings with one line."""
    _check_names(environ)
    given = {k: v for k, v in vars(_parser().parse_args(arguments)).items() if v is not None}
    try:
        return ServiceSettings(**given)
    except ValidationError as exc:
        raise InvalidSettings("; ".join(_explain(error) for error in exc.errors())) from exc


def _check_names(environ: Mapping[str, str]) -> None:
    """`extra="forbid"` does not see a misspelt environment variable, so look for ourselves."""
    known = {ENV_PREFIX + name.upper() for name in ServiceSettings.model_fields}
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidSettings(f"environment: {name} is not a setting{hint}")


def _explain(error: Mapping[str, object]) -> str:
    location = error["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else "settings"
    flag = _FLAGS.get(name)
    where = f"{flag} or {ENV_PREFIX}{name.upper()}" if flag else f"{ENV_PREFIX}{name.upper()}"
    return f"{where}: {error['msg']}"


_FLAGS = {"release_dir": "--release", "redis_url": "--redis", "host": "--host", "port": "--port"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(f"arguments: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m service",
        description="Serve recommendations over HTTP.",
        epilog=f"Everything else is set by {ENV_PREFIX}* variables.",
        allow_abbrev=False,
    )
    parser.add_argument("--release", dest="release_dir", metavar="DIR", help="release to serve")
    parser.add_argument(
        "--redis", dest="redis_url", metavar="URL", help="store; default: the embedded server"
    )
    parser.add_argument("--host", metavar="H", help="default 127.0.0.1")
    parser.add_argument("--port", metavar="P", help="default 8000; 0 takes a free one")
    return parser
