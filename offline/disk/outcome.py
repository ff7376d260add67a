"""Counts of what thinking came to: users, paths, tokens, prefixes and failures."""

from dataclasses import dataclass, field

from models.errors import InvalidRelease
from models.reasoner.think import UserThoughts

_HOPELESS = 32  # failures before the first success


@dataclass
class Outcome:
    """What thinking came to: of a micro-batch, of a shard, of a night. failed: user id, reason."""

    refreshed: int = 0
    empty: int = 0
    closed_paths: int = 0
    dropped_paths: int = 0
    tokens: int = 0
    prefixes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

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

    def check_hope(self) -> None:
        """Raise InvalidRelease once many have failed and nobody succeeded: no user's fault."""
        if len(self.failed) >= _HOPELESS and not self.refreshed:
            raise InvalidRelease(
                f"the first {len(self.failed)} users all failed, lastly by {self.failed[-1][1]}"
            )
