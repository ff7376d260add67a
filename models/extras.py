"""A readable error for commands that need an extra of pyproject.toml."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import InvalidSettings

_OURS = frozenset({"models", "service", "offline", "training", "bench", "thinkahead"})
_MADE = frozenset({"night", "train", "bench"})  # extras that `make dev` installs


@contextmanager
def needs_extras(*extras: str) -> Iterator[None]:
    """Wrap a command that imports packages of `extras`: name a missing one and its extra.

    A missing module of our own is a defect: its ModuleNotFoundError passes.

    Raises:
        InvalidSettings: a third-party package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").split(".")[0]
        if not package or package in _OURS:
            raise
        named = " or ".join(map(repr, extras))
        hint = " (in a clone: make dev)" if _MADE.issuperset(extras) else ""
        raise InvalidSettings(
            f"{package} is not installed, expected the extra {named} of pyproject.toml{hint}"
        ) from exc
