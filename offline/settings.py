"""Settings of one run of the offline tier. Knows nothing of the command line."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PATHS = 5
DEFAULT_WIDTH = 10
DEFAULT_PREFIXES = 32  # of a record
MAX_PREFIXES = 100  # per user
MICRO_BATCH = 32  # users; 16 gave 27.6 users/s where this gives 30.8
PREFIX_TTL_S = 3 * 24 * 3600  # three refresh periods
NIGHT_LEASE = "night.lease"  # in the folder of generations, held by the night that runs
TTL_JITTER_S = 6 * 3600  # spread over the users, so that a generation does not expire at once


@dataclass(frozen=True)
class RefreshSettings:
    """Settings of one night."""

    release_dir: Path  # with the catalog and the reasoner
    out_dir: Path  # generations are kept here
    # True: all users with a history, as a new base. False: a delta of the users below.
    is_whole: bool = True
    num_users: int = 0  # this many users with a history, the first by id
    user_ids: tuple[str, ...] = ()  # these users, in addition
    paths: int = DEFAULT_PATHS  # thoughts per user (T)
    width: int = DEFAULT_WIDTH  # prefixes per path (m)
    # Prefixes per user, chosen from all that the night knows; 0: those of the thoughts alone.
    num_prefixes: int = DEFAULT_PREFIXES
    seed: int = 0  # of the sampled thoughts
    data_dir: Path | None = None  # read histories from this folder instead of the store
    attributes_dir: Path | None = None  # data folder with `users.parquet`, for prompts
    rethink: bool = False  # think again about users without any change too
    keep_thoughts: bool = False  # carry unchanged histories over though the reasoner has changed
    is_resumed: bool = False  # continue the newest unfinished night, if there is one
    price_per_hour: float | None = None  # price of the device, in any currency
    micro_batch: int = MICRO_BATCH  # users per micro-batch
    shard_batches: int = 64  # micro-batches per shard, which is one Parquet file
