"""Settings of the service: names, units, defaults; one line for whatever is wrong with them.

Knows the command line, the environment and a file. Knows nothing of what the values are used for.
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
from service.config_file import did_you_mean, read_config
from service.recommend.experiments import Experiment, Experiments
from service.sources import Mode
from service.telemetry.logs import LogFormat

ENV_PREFIX = "THINKAHEAD_"
CONFIG = "config"  # the one setting that a file cannot hold
_MASK = "***"
RedisUrl = Annotated[str, Field(pattern=r"^((redis|rediss)(\+sentinel)?|unix)://.+")]


class ServiceSettings(BaseSettings):
    """Every field is also an environment variable, `THINKAHEAD_` + its name, and a key of the file.

    The command line wins over the environment, that over the file, that over these defaults.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    config: Path | None = None  # a YAML file of the settings below
    release_dir: Path
    redis_url: RedisUrl | None = None
    precision: Annotated[str, Field(min_length=1)] = "fastest"  # or one that the release names
    state_dir: Path | None = None  # of the embedded server, used when there is no redis_url
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0 takes a free one
    keys_file: Path | None = None  # API keys; without it everybody who reaches the port may call
    open_access: bool = False  # a host that others reach, and no keys: refused unless this is on

    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None  # None: no admin port
    admin_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    admin_redis_url: RedisUrl | None = None  # by a user that may write the manifest

    request_budget_ms: Annotated[int, Field(ge=10, le=60_000)] = 100  # a request may give less
    redis_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 20  # of the budget above
    queue_limit: Annotated[int, Field(ge=1, le=10_000)] = 128  # requests in work at once, at most
    drain_grace_ms: Annotated[int, Field(ge=0, le=5000)] = 1000  # unready before connections close
    rung_share: Annotated[float, Field(ge=0, le=0.1)] = 0.005  # of all users, held at each rung
    mode: Mode = Mode.STRICT  # what a record's rungs finish; a request may say otherwise
    online_prefixes: Annotated[int, Field(ge=1, le=1000)] = 100
    record_max_age_hours: Annotated[float, Field(gt=0)] = 48
    cursor_secret: Annotated[SecretStr, Field(min_length=16)] | None = None  # None: random
    manifest_poll_ms: Annotated[int, Field(ge=10, le=60_000)] = 1000
    copies_limit: Annotated[int, Field(ge=1)] = 4096  # users; 100 prefixes take about 20 kB
    history_cache_mb: Annotated[int, Field(ge=0)] = 256  # encoded histories; about 35 kB a user
    outbox_limit: Annotated[int, Field(ge=1)] = 10_000  # events
    log_format: LogFormat = LogFormat.TEXT
    otel: bool = False  # spans to OpenTelemetry; needs the extra `otel`
    experiments: tuple[Experiment, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `on` as true, and pydantic true as 1: a port of `on` would be port 1."""
        wants = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and wants in (int, float):
            raise ValueError(f"expected a number, got {str(value).lower()}")
        return value

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.keys_file is not None:
            return self
        if self.admin_port is not None and not is_loopback(self.admin_host):
            raise ValueError(
                f"admin_host {self.admin_host} is reached from other machines: that takes a "
                "keys_file with a client of the scope admin, open_access does not open it"
            )
        if not self.open_access and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reached from other machines and there are no API keys: set "
                "keys_file, or open_access=true where something else keeps strangers out"
            )
        return self

    @field_validator("otel")
    @classmethod
    def _has_the_extra(cls, otel: bool) -> bool:
        try:
            is_there = not otel or find_spec("opentelemetry.exporter.otlp.proto.http") is not None
        except ModuleNotFoundError:  # of a package above it
            is_there = False
        if not is_there:
            raise ValueError("needs the extra `otel`: pip install 'think-ahead[otel]'")
        return otel

    @field_validator("experiments")
    @classmethod
    def _run_together(cls, experiments: tuple[Experiment, ...]) -> tuple[Experiment, ...]:
        Experiments(experiments)
        return experiments

    def shown(self) -> dict[str, Any]:
        """Values fit for eyes and JSON: passwords and secrets are masked."""
        values = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                values[name] = _MASK
            elif isinstance(value, str) and "://" in value:
                values[name] = mask_url(value)
        return values


class Effective(NamedTuple):
    """origins: where each setting's value comes from, by name."""

    settings: ServiceSettings
    origins: Mapping[str, str]

    def described(self) -> dict[str, dict[str, Any]]:
        """By name, each value as it may be shown and where it comes from."""
        shown = self.settings.shown()
        return {
            name: {"value": shown[name], "from": origin} for name, origin in self.origins.items()
        }


def load_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> ServiceSettings:
    """Command line over environment over file over defaults. Raises InvalidSettings, one line."""
    return resolve_settings(arguments, environ).settings


def resolve_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Effective:
    """The same with where each value comes from."""
    return resolve_options(settings_parser().parse_args(arguments), environ)


def resolve_options(options: argparse.Namespace, environ: Mapping[str, str]) -> Effective:
    """The same for options as parsed; those that are no settings are passed over."""
    _check_names(environ)
    given = {
        name: value
        for name, value in vars(options).items()
        if name in ServiceSettings.model_fields and value is not None
    }
    origins = {name: f"environment {key}" for name, key in _of_environment(environ).items()}
    origins |= dict.fromkeys(given, "command line")
    path = given.get(CONFIG) or environ.get(ENV_PREFIX + CONFIG.upper())
    known = [name for name in ServiceSettings.model_fields if name != CONFIG]
    of_file = read_config(Path(path), known=known) if path else {}
    below = {name: value for name, value in of_file.items() if name not in origins}
    origins |= dict.fromkeys(below, str(path))
    try:
        settings = ServiceSettings(**below, **given)
    except ValidationError as exc:
        lines = "; ".join(_explain(error, origins) for error in exc.errors())
        raise InvalidSettings(lines) from exc
    except SettingsError as exc:
        raise InvalidSettings(f"environment: {exc}") from exc
    return Effective(
        settings, {name: origins.get(name, "default") for name in ServiceSettings.model_fields}
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def mask_url(url: str) -> str:
    """The URL without a password, which may stand before the host or among the options."""
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


def _of_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of ours, by the setting that they give."""
    return {
        key.upper().removeprefix(ENV_PREFIX).lower(): key
        for key in environ
        if key.upper().startswith(ENV_PREFIX)
    }


def _check_names(environ: Mapping[str, str]) -> None:
    """`extra="forbid"` does not see a misspelt environment variable, so look for ourselves."""
    known = {ENV_PREFIX + name.upper() for name in ServiceSettings.model_fields}
    for name, key in sorted(_of_environment(environ).items()):
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
    "redis_url": "--redis",
    "host": "--host",
    "port": "--port",
    CONFIG: "--config",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(f"arguments: {message}")


def settings_parser(
    prog: str = "python -m service", description: str = "Serve recommendations over HTTP."
) -> argparse.ArgumentParser:
    """Parser of the options that are settings; what is wrong with them raises InvalidSettings."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"Everything else is set by {ENV_PREFIX}* variables or in the file of --config. "
        "`python -m service check` takes the same options, says whether a service would start "
        "with them, and shows every setting.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings in YAML; below all other sources"
    )
    parser.add_argument("--release", dest="release_dir", metavar="DIR", help="release to serve")
    parser.add_argument(
        "--redis", dest="redis_url", metavar="URL", help="store; default: the embedded server"
    )
    parser.add_argument("--host", metavar="H", help="default 127.0.0.1")
    parser.add_argument("--port", metavar="P", help="default 8000; 0 takes a free one")
    return parser
