"""A wish as data: wanted and unwanted parts, each of names of a catalog."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from models.wishes.names import Name


class Part(NamedTuple):
    """One thing that is wanted or not, by all of its names together: a colour, a brand, a kind."""

    names: tuple[Name, ...]
    strength: float = 1.0  # below 1 for a word that is only nearly known

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(name.kind for name in self.names)


class Price(NamedTuple):
    """A wish about prices."""

    direction: Literal["lower", "higher"]
    bound: float | None = None  # in the currency of the catalog


@dataclass(frozen=True)
class Wish:
    """Wanted and unwanted parts, as far as the turns are understood."""

    wanted: tuple[Part, ...] = ()  # any of them
    unwanted: tuple[Part, ...] = ()  # none of them
    price: Price | None = None
    unknown: tuple[str, ...] = ()  # words that the catalog does not know
    unnamed: tuple[str, ...] = ()  # "that brand" and the like, without an item that they mean
    is_understood: bool = False  # the last turn said something about the ranking
    is_over: bool = False  # the user takes earlier wishes back

    @property
    def is_empty(self) -> bool:
        """Return True if the wish changes no ranking."""
        return not self.wanted and not self.unwanted
