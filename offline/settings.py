"""What one run was asked to do. Knows nothing of how the command line spells it."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PATHS = 5
DEFAULT_WIDTH = 10
MAX_PREFIXES = 100  # a user
MICRO_BATCH = 32  # users; 16 gave 27.6 users/s where this gives 30.8
PREFIX_TTL_S = 3 * 24 * 3600  # three refresh periods
TTL_JITTER_S = 6 * 3600  # spread over the users, so that a generation does not expire at once


@dataclass(frozen=True)
class RefreshSettings:
    """One night.

    is_whole: everybody with a history, as a new base; otherwise the first `num_users` of them in
    order of id, and `user_ids`. paths: thoughts a user (T); width: prefixes a path (m).
    out_dir: where generations are kept. data_dir: histories from there, not from the store.
    rethink: also about users of whom nothing has changed. is_resumed: go on with the newest night
    that is not over, if there is one. price_per_hour: of the device, in whatever money.
    shard_batches: micro-batches of `micro_batch` users that make a shard, one Parquet file.
    """

    release_dir: Path
    out_dir: Path
    is_whole: bool = True
    num_users: int = 0
    user_ids: tuple[str, ...] = ()
    paths: int = DEFAULT_PATHS
    width: int = DEFAULT_WIDTH
    seed: int = 0
    data_dir: Path | None = None
    rethink: bool = False
    is_resumed: bool = False
    price_per_hour: float | None = None
    micro_batch: int = MICRO_BATCH
    shard_batches: int = 64
