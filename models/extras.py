"""What a command imports that only an extra of pyproject.toml brings."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import InvalidSettings

_OURS = frozenset({"models", "service", "offline", "training", "bench"})
_MADE = frozenset({"night", "train", "bench"})  # what `make dev` installs


@contextmanager
def needs_extras(*extras: str) -> Iterator[None]:
    """Around a command that may import them: says which package is missing and what brings it.

    A missing module of ours is a defect, and passes as the ModuleNotFoundError that it is.

    Raises:
        InvalidSettings: somebody else's package is not installed.
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
