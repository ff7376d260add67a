"""Settings of the service: names, units, defaults, and one-line error messages.

Reads the command line, the environment and a YAML file. Knows nothing of how the values are used.
"""

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from models.errors import InvalidSettings
from models.program import program
from models.store.namespace import PATTERN
from service.config_file import did_you_mean, read_config
from service.recommend.experiments import Experiment, Experiments
from service.sources import Mode
from service.telemetry.logs import LogFormat

ENV_PREFIX = "THINKAHEAD_"
CONFIG = "config"  # path of the file, so the only setting that the file cannot hold
_MASK = "***"
RedisUrl = Annotated[str, Field(pattern=r"^((redis|rediss)(\+sentinel)?|unix)://.+")]

Namespace = Annotated[str, Field(pattern=f"^({PATTERN})?$")]


class ServiceSettings(BaseSettings):
    """Configuration of one service process.

    Each field is also an environment variable (`THINKAHEAD_` + name in upper case) and a key of
    the YAML file. Precedence, highest first: command line, environment, file, default.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    config: Path | None = None  # YAML file of the settings below

    # Release and store
    # Live folder, whose pointer names the release to serve; None: nothing is followed.
    live_dir: Path | None = None
    # Release to serve; with a live folder, until the folder has a pointer.
    release_dir: Annotated[Path | None, Field(validate_default=True)] = None
    precision: Annotated[str, Field(min_length=1)] = "fastest"  # or a precision of the release
    redis_url: RedisUrl | None = None  # None: the embedded server
    state_dir: Path | None = None  # folder of the embedded server; unused if redis_url is set
    # Data set whose keys are meant, where a server holds several; empty: the keys without a name.
    namespace: Namespace = ""

    # Address and access
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"  # loopback: safe without API keys
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0: the system chooses a free port
    workers: Annotated[int, Field(ge=1, le=256)] = 1  # processes that answer at the port
    # Run each worker on a core of its own, where there are enough cores (Linux).
    pin_workers: bool = True
    keys_file: Path | None = None  # API keys; None: every caller that reaches the port is allowed
    open_access: bool = False  # allow a non-loopback host without keys_file

    # Admin port
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None  # None: no admin port
    admin_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"  # another address needs keys_file
    # Redis URL with a user that may write the manifest; None: redis_url.
    admin_redis_url: RedisUrl | None = None

    # The page /explore: on the admin port, and on the main port if `host` is loopback.
    explore: bool = True

    # Time
    request_budget_ms: Annotated[int, Field(ge=10, le=60_000)] = 100  # a request may only lower it
    redis_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 20  # part of request_budget_ms
    # After SIGTERM, time between "unready" and closing connections: load balancers need it to
    # notice /health/ready.
    drain_grace_ms: Annotated[int, Field(ge=0, le=5000)] = 1000
    manifest_poll_ms: Annotated[int, Field(ge=10, le=60_000)] = 1000  # period of manifest reads

    # Load
    queue_limit: Annotated[int, Field(ge=1, le=10_000)] = 128  # most requests in work at once

    # Recommendations
    mode: Mode = Mode.FUSED  # prefixes to finish for a user with a record; a request may override
    online_prefixes: Annotated[int, Field(ge=1, le=1000)] = 100  # that the online model picks
    record_max_age_hours: Annotated[float, Field(gt=0)] = 48  # an older record is `stale`
    # Share of all users that each rung below `stale` always serves, so that its value is measured.
    rung_share: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    # A wish holds for so long behind its last turn.
    wish_minutes: Annotated[float, Field(gt=0, le=1440)] = 30
    # What a wish adds to the score of an item that fits wholly, in nats; 0: it only rules out.
    wish_nats: Annotated[float, Field(ge=0, le=50)] = 20
    experiments: tuple[Experiment, ...] = ()  # shares of the users in arms
    # Key that signs cursors; None: random at each start, so that only its workers accept them.
    cursor_secret: Annotated[SecretStr, Field(min_length=16)] | None = None

    # Memory
    copies_limit: Annotated[int, Field(ge=1)] = 4096  # users; about 20 kB each at 100 prefixes
    history_cache_mb: Annotated[int, Field(ge=0)] = 256  # MiB; about 35 kB a user
    outbox_limit: Annotated[int, Field(ge=1)] = 10_000  # events held while the store is away
    # Events in the store's log, about, for a learner that was away; 0: no log, where none runs.
    event_log_limit: Annotated[int, Field(ge=0)] = 100_000

    # Telemetry
    log_format: LogFormat = LogFormat.TEXT  # `json` adds one line per request
    otel: bool = False  # export OpenTelemetry spans; needs the extra `otel`

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans for numbers: YAML reads `port: on` as true, and pydantic reads 1."""
        wants = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and wants in (int, float):
            raise ValueError(f"expected a number, got {str(value).lower()}")
        return value

    @field_validator("release_dir")
    @classmethod
    def _serves_something(cls, release_dir: Path | None, info: ValidationInfo) -> Path | None:
        if release_dir is None and info.data.get("live_dir") is None:
            raise ValueError("Field required, unless live_dir is set")
        return release_dir

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.keys_file is not None:
            return self
        if self.admin_port is not None and not is_loopback(self.admin_host):
            raise ValueError(
                f"admin_host {self.admin_host} can be reached from other machines: set keys_file, "
                "with a client of the scope admin (open_access does not apply here)"
            )
        if not self.open_access and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines and there are no API keys: "
                "set keys_file, or set open_access=true if another component restricts access"
            )
        return self

    @field_validator("otel")
    @classmethod
    def _has_the_extra(cls, otel: bool) -> bool:
        try:
            is_there = not otel or find_spec("opentelemetry.exporter.otlp.proto.http") is not None
        except ModuleNotFoundError:  # a parent package is missing
            is_there = False
        if not is_there:
            raise ValueError("needs the extra `otel`: pip install 'think-ahead[otel]'")
        return otel

    @field_validator("experiments")
    @classmethod
    def _run_together(cls, experiments: tuple[Experiment, ...]) -> tuple[Experiment, ...]:
        Experiments(experiments)
        return experiments

    def masked(self) -> dict[str, Any]:
        """Return the values as JSON types, with passwords and secrets masked."""
        values = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                values[name] = _MASK
            elif isinstance(value, str) and "://" in value:
                values[name] = mask_url(value)
        return values


class EffectiveSettings(NamedTuple):
    """Settings with the source of each value."""

    settings: ServiceSettings  # values after all sources
    origins: Mapping[str, str]  # by name: "default", "command line", a variable or a file

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return `{"value": masked value, "from": source}` by name."""
        shown = self.settings.masked()
        return {
            name: {"value": shown[name], "from": origin} for name, origin in self.origins.items()
        }


def load_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> ServiceSettings:
    """Read the settings. Raises InvalidSettings with one line."""
    return resolve_settings(arguments, environ).settings


def resolve_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> EffectiveSettings:
    """Read the settings and the source of each value. Raises InvalidSettings with one line."""
    return resolve_options(settings_parser().parse_args(arguments), environ)


def resolve_options(options: argparse.Namespace, environ: Mapping[str, str]) -> EffectiveSettings:
    """Read the settings from parsed options, ignoring options that are not settings.

    Raises InvalidSettings with one line.
    """
    _check_names(environ)
    given = {
        name: value
        for name, value in vars(options).items()
        if name in ServiceSettings.model_fields and value is not None
    }
    origins = {name: f"environment {key}" for name, key in _own_variables(environ).items()}
    origins |= dict.fromkeys(given, "command line")
    path = given.get(CONFIG) or environ.get(ENV_PREFIX + CONFIG.upper())
    known = [name for name in ServiceSettings.model_fields if name != CONFIG]
    from_file = read_config(Path(path), known=known) if path else {}
    used = {name: value for name, value in from_file.items() if name not in origins}
    origins |= dict.fromkeys(used, str(path))
    try:
        settings = ServiceSettings(**used, **given)
    except ValidationError as exc:
        lines = "; ".join(_explain(error, origins) for error in exc.errors())
        raise InvalidSettings(lines) from exc
    except SettingsError as exc:
        raise InvalidSettings(f"environment: {exc}") from exc
    return EffectiveSettings(
        settings, {name: origins.get(name, "default") for name in ServiceSettings.model_fields}
    )


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def mask_url(url: str) -> str:
    """Return the URL with masked passwords, before the host and in the query."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        user = f"{user.partition(':')[0]}:{_MASK}"
    options = [
        f"{name}={_MASK}" if "password" in name else option
        for option in parts.query.split("&")
        for name in [option.partition("=")[0]]
    ]
    return urlunsplit(parts._replace(netloc=user + at + host, query="&".join(options)))


def _own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the names of our environment variables, by setting."""
    return {
        key.upper().removeprefix(ENV_PREFIX).lower(): key
        for key in environ
        if key.upper().startswith(ENV_PREFIX)
    }


def _check_names(environ: Mapping[str, str]) -> None:
    """Reject unknown THINKAHEAD_* variables: `extra="forbid"` does not see them."""
    known = {ENV_PREFIX + name.upper() for name in ServiceSettings.model_fields}
    for name, key in sorted(_own_variables(environ).items()):
        variable = ENV_PREFIX + name.upper()
        if variable not in known:
            raise InvalidSettings(
                f"environment: {key} is not a setting{did_you_mean(variable, known)}"
            )


def _explain(error: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    location = [str(part) for part in error["loc"]] or ["settings"]
    name, flag = location[0], _FLAGS.get(location[0])
    where = ENV_PREFIX + name.upper()
    if origins.get(name) == "command line" and flag:
        where = flag
    elif name in origins and not origins[name].startswith("environment "):
        where = f"{origins[name]}: {name}"
    elif name not in origins and flag:
        where = f"{flag} or {where}"
    return f"{'.'.join([where, *location[1:]])}: {error['msg'].removeprefix('Value error, ')}"


_FLAGS = {
    "release_dir": "--release",
    "live_dir": "--live",
    "redis_url": "--redis",
    "namespace": "--namespace",
    "host": "--host",
    "port": "--port",
    "workers": "--workers",
    CONFIG: "--config",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(f"arguments: {message}")


def settings_parser(
    prog: str | None = None, description: str = "Serve recommendations over HTTP."
) -> argparse.ArgumentParser:
    """Return a parser of the options that are settings. Its errors raise InvalidSettings."""
    parser = _Parser(
        prog=prog or program("service"),
        description=description,
        epilog=f"All other settings are {ENV_PREFIX}* variables, or keys in the file of --config. "
        f"`{program('service')} check` takes the same options, tests whether the service would "
        "start with them, and lists every setting.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file of settings; options and variables override it"
    )
    parser.add_argument("--release", dest="release_dir", metavar="DIR", help="release to serve")
    parser.add_argument("--live", dest="live_dir", metavar="DIR", help="live folder to follow")
    parser.add_argument(
        "--redis", dest="redis_url", metavar="URL", help="store; default: the embedded server"
    )
    parser.add_argument("--namespace", metavar="NAME", help="data set in the store; default: none")
    parser.add_argument("--host", metavar="H", help="default 127.0.0.1")
    parser.add_argument("--port", metavar="P", help="default 8000; 0: any free port")
    parser.add_argument("--workers", metavar="N", help="processes, one a core; default 1")
    return parser
