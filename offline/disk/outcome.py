"""Counts of thinking: users, paths, tokens, prefixes and failures."""

from dataclasses import dataclass, field

from models.errors import InvalidRelease
from models.reasoner.think import UserThoughts

_HOPELESS = 32  # failures before the first success


@dataclass
class Outcome:
    """Counts of a micro-batch, a shard or a night."""

    refreshed: int = 0  # users with at least one prefix
    empty: int = 0  # users without a prefix
    closed_paths: int = 0
    dropped_paths: int = 0  # paths that never closed
    tokens: int = 0
    prefixes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # (user id, reason)

    @property
    def num_users(self) -> int:
        return self.refreshed + self.empty + len(self.failed)

    def count(self, thoughts: UserThoughts) -> None:
        self.closed_paths += len(thoughts.texts)
        self.dropped_paths += thoughts.dropped_paths
        self.tokens += thoughts.tokens
        self.prefixes += len(thoughts.prefixes)
        self.refreshed += bool(thoughts.prefixes)
        self.empty += not thoughts.prefixes

    def add(self, other: "Outcome") -> None:
        self.refreshed += other.refreshed
        self.empty += other.empty
        self.closed_paths += other.closed_paths
        self.dropped_paths += other.dropped_paths
        self.tokens += other.tokens
        self.prefixes += other.prefixes
        self.failed += other.failed

    def raise_if_hopeless(self) -> None:
        """Raise InvalidRelease if many users failed and none succeeded: no user is the cause."""
        if len(self.failed) >= _HOPELESS and not self.refreshed:
            raise InvalidRelease(
                f"the first {len(self.failed)} users all failed, the last with {self.failed[-1][1]}"
            )
