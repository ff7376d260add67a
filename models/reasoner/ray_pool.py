"""A pool of engines on Ray Data, one machine or many: the only file that imports ray.

Micro-batches go in, thoughts come out in order. Only the driver writes, so workers share no disk.
A worker that dies loses one micro-batch, and another worker does it again. Knows nothing of
releases or engines: `load` makes an engine when a worker starts.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from models.reasoner.think import NightItem, PathPrefix, UserHistory, UserThoughts

logger = logging.getLogger(__name__)

Think = Callable[[Sequence[UserHistory]], list[UserThoughts]]


class RayPool:
    """Engines on the workers of Ray Data."""

    def __init__(
        self,
        load: Callable[[], Think],
        *,
        workers: int,
        num_gpus: float = 0,
        address: str | None = None,
    ) -> None:
        """Connect to Ray.

        Args:
            load: makes an engine. Each worker calls it once, so it must be small and importable
                there.
            num_gpus: GPUs of one worker.
            address: of a running cluster; None starts Ray on this machine.
        """
        self._load = load
        self._workers = workers
        self._num_gpus = num_gpus
        if not ray.is_initialized():
            cpus = {} if address else {"num_cpus": workers}
            ray.init(address=address, include_dashboard=False, log_to_driver=False, **cpus)

    def think(
        self, batches: Sequence[Sequence[UserHistory]]
    ) -> Iterator[list[UserThoughts] | None]:
        """Yield the thoughts of each micro-batch, in order; None where thinking failed.

        A micro-batch is one block, the unit that a worker takes, loses or repeats.
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
    """One engine, alive as long as Ray keeps it."""

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
    """Write thoughts as JSON, which keeps every bit of a float, and lone surrogates."""
    return json.dumps(
        [
            [one.user_id, one.texts, one.prefixes, one.dropped_paths, one.tokens, one.items]
            for one in found
        ]
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
            tuple(NightItem(tuple(codes), bonus) for codes, bonus in items),
        )
        for user_id, texts, prefixes, dropped_paths, tokens, items in json.loads(text)
    ]
