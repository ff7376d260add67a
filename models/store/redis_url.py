"""Redis URLs: one server, a cluster, or the master that sentinels name.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]              one server; unix:///PATH as well
    redis://HOST:PORT?cluster=true                        the cluster that this node belongs to
    redis+sentinel://HOST[:PORT],HOST[:PORT]/MASTER[/DB]  through sentinels (port 26379)
    rediss://, rediss+sentinel://                         over TLS, always verified:
        ?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE

If the sentinels have another password than the master: `sentinel_username=`, `sentinel_password=`.
No message repeats a password. Pure, except that it checks if the files exist.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from models.errors import InvalidSettings

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
EXPECTED = "expected redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
_SENTINEL_PORT = 26379
_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]@/]+)(?::([0-9]{1,5}))?")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = {"db", "username", "password", "cluster", "sentinel_username", "sentinel_password"}


@dataclass(frozen=True)
class RedisUrl:
    """A URL, taken apart: redis-py reads neither clusters nor sentinels from a URL."""

    plain: str  # of one server, for redis-py; of the first sentinel, but with the master's login
    place: str  # for messages: without login and options
    is_cluster: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()  # host and port of each
    sentinel_plains: tuple[str, ...] = ()  # URL of each sentinel, with its own login
    master: str | None = None  # the name by which sentinels know the master


def read_redis_url(url: str) -> RedisUrl:
    """Read a URL. Raises InvalidSettings, with a text of one line that has no password."""
    place = place_of(url)
    try:
        return _read(url, place)
    except ValueError as exc:
        raise InvalidSettings(f"Redis URL {place}: {exc}") from None  # it may hold the password


def place_of(url: str) -> str:
    """Return the URL without user, password and options."""
    scheme, _, rest = url.partition("://")
    place = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}://{'' if place.startswith(':') else place}"


def _read(url: str, place: str) -> RedisUrl:
    """Raises ValueError, with a text that has no password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it cannot be read") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(EXPECTED)
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise ValueError("special characters of a password must be percent-encoded")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check_options(options, is_tls=parts.scheme.startswith("rediss"))
    is_cluster = _read_flag(options, "cluster")
    own = {
        "username": options.pop("sentinel_username", ""),
        "password": options.pop("sentinel_password", ""),
    }
    if parts.scheme.endswith("+sentinel"):
        if is_cluster:
            raise ValueError("a cluster has no sentinels")
        return _read_sentinels(parts.scheme, parts.netloc, parts.path, options, own, place)
    if any(own.values()):
        raise ValueError("sentinel_* is for redis+sentinel://")
    if parts.scheme != "unix":
        _read_place(parts.netloc.rpartition("@")[2] or "localhost", 0)
    elif is_cluster:
        raise ValueError("a cluster is reached by host and port, not by a socket's path")
    path = "" if is_cluster else parts.path  # a cluster has one database
    plain = f"{parts.scheme}://{parts.netloc}{path}{_query(options)}"
    return RedisUrl(plain, place, is_cluster=is_cluster)


def _read_sentinels(
    scheme: str,
    netloc: str,
    path: str,
    options: Mapping[str, str],
    own: Mapping[str, str],
    place: str,
) -> RedisUrl:
    user, _, hosts = netloc.rpartition("@")
    _, master, *database = path.split("/") if path else ("", "")
    if not master or len(database) > 1 or not all(number.isdigit() for number in database):
        raise ValueError("expected /MASTER or /MASTER/DB behind the sentinels")
    sentinels = tuple(_read_place(each, _SENTINEL_PORT) for each in hosts.split(","))
    bare = scheme.removesuffix("+sentinel")
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    login = f"{quote(own['username'], safe='')}:{quote(own['password'], safe='')}@"
    plains = [
        f"{bare}://{login if own['password'] else ''}{host}:{port}{_query(tls)}"
        for host, port in sentinels
    ]
    host, port = sentinels[0]
    at = f"{user}@" if user else ""
    number = f"/{database[0]}" if database else ""
    return RedisUrl(
        plain=f"{bare}://{at}{host}:{port}{number}{_query(options)}",
        place=place,
        sentinels=tuple((host.strip("[]"), port) for host, port in sentinels),
        sentinel_plains=tuple(plains),
        master=master,
    )


def _read_place(text: str, default_port: int) -> tuple[str, int]:
    found = _PLACE.fullmatch(text)
    if found is None or int(found.group(2) or 0) > 65535:
        raise ValueError("expected HOST or HOST:PORT")
    return found.group(1), int(found.group(2) or default_port)


def _check_options(options: Mapping[str, str], *, is_tls: bool) -> None:
    for name, value in options.items():
        if name == "db" and not value.isdigit():
            raise ValueError("db is no number")
        if name in ("ssl_cert_reqs", "ssl_check_hostname"):
            raise ValueError(f"{name}: TLS is always verified here")
        if name.startswith("ssl_"):
            if not is_tls:
                raise ValueError(f"{name} is for rediss://")
            if name not in _FILES:
                raise ValueError(f"{name}: expected one of {', '.join(_FILES)}")
            if not Path(value).is_file():
                raise ValueError(f"{name}: there is no file {value}")
        elif name not in _OPTIONS:
            raise ValueError(
                f"{name} is no option; expected {', '.join(sorted(_OPTIONS))} or ssl_*"
            )


def _read_flag(options: dict[str, str], name: str) -> bool:
    value = options.pop(name, "false")
    if value not in ("true", "false"):
        raise ValueError(f"{name}={value}, expected true or false")
    return value == "true"


def _query(options: Mapping[str, str]) -> str:
    return f"?{urlencode(options)}" if options else ""
