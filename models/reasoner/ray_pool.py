"""A pool of engines on Ray Data, one machine or many: the only file that imports ray.

Micro-batches go in, thoughts come out in order. The driver alone writes, so workers share no disk;
a worker that dies costs the micro-batch that it was at, which another does again. Knows nothing of
releases or engines: `load` makes one where a worker starts.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from models.reasoner.think import PathPrefix, UserHistory, UserThoughts

logger = logging.getLogger(__name__)

Think = Callable[[Sequence[UserHistory]], list[UserThoughts]]


class RayPool:
    """load: called once by each worker, so it must be importable there and small.

    address: of a cluster that runs; None starts Ray on this machine. num_gpus: of one worker.
    """

    def __init__(
        self,
        load: Callable[[], Think],
        *,
        workers: int,
        num_gpus: float = 0,
        address: str | None = None,
    ) -> None:
        self._load = load
        self._workers = workers
        self._num_gpus = num_gpus
        if not ray.is_initialized():
            cpus = {} if address else {"num_cpus": workers}
            ray.init(address=address, include_dashboard=False, log_to_driver=False, **cpus)

    def think(
        self, batches: Sequence[Sequence[UserHistory]]
    ) -> Iterator[list[UserThoughts] | None]:
        """The thoughts of each micro-batch, in order, as they come; None where thinking failed.

        One block a micro-batch: that is what a worker takes, loses and does again.
        """
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        rows = [{"users": _write_users(batch)} for batch in batches]
        thought = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker,
            fn_constructor_args=(self._load,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._workers),
            num_cpus=1,
            num_gpus=self._num_gpus or None,
        )
        for row in thought.iter_rows():
            yield _read_thoughts(row["thoughts"]) if row["thoughts"] else None

    def close(self) -> None:
        ray.shutdown()


class _Worker:
    """One engine, for as long as Ray keeps it."""

    def __init__(self, load: Callable[[], Think]) -> None:
        self._think = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            return {"thoughts": _write_thoughts(self._think(_read_users(row["users"])))}
        except Exception:
            logger.exception("a micro-batch failed")
            return {"thoughts": ""}


def _write_users(users: Sequence[UserHistory]) -> str:
    return json.dumps([[user.user_id, user.rows, user.instruction] for user in users])


def _read_users(text: str) -> list[UserHistory]:
    return [
        UserHistory(user_id, tuple(rows), instruction)
        for user_id, rows, instruction in json.loads(text)
    ]


def _write_thoughts(found: Sequence[UserThoughts]) -> str:
    """JSON keeps every bit of a float, and lone surrogates."""
    return json.dumps(
        [[one.user_id, one.texts, one.prefixes, one.dropped_paths, one.tokens] for one in found]
    )


def _read_thoughts(text: str) -> list[UserThoughts]:
    return [
        UserThoughts(
            user_id,
            tuple(texts),
            tuple(
                PathPrefix(tuple(codes), path, logprob, support)
                for codes, path, logprob, support in prefixes
            ),
            dropped_paths,
            tokens,
        )
        for user_id, texts, prefixes, dropped_paths, tokens in json.loads(text)
    ]
