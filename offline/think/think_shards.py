"""The second stage: think about each shard of a plan and write its part.

Any number of processes may share the shards of one plan; a lease keeps two of them off one shard.
After a stop, thinking continues behind the last micro-batch on disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from models.lease import Lease
from models.reasoner.think import UserHistory
from offline.disk.outcome import Outcome
from offline.disk.segment import Batch, Segment, count_batches
from offline.disk.shards import ShardRow, part_file, read_outcome, write_part
from offline.plan.carried_rows import carry_rows
from offline.plan.plan_file import Plan, PlannedUser, read_users
from offline.progress import Stopwatch, Timing, note_timing
from offline.think.micro_batch import Think, think_about
from offline.think.night_model import Night, add_findings

GetThink = Callable[[], Think]  # loads the model at the first call that needs it
Report = Callable[[Outcome, bool], None]


@dataclass(frozen=True)
class ThinkJob:
    """Inputs of thinking about shards."""

    folder: Path  # of the generation
    plan: Plan
    think: GetThink
    watch: Stopwatch
    report: Report  # called with the counts of each batch, and True if an earlier process made it
    night: Night | None = None  # adds what it finds for the same users; None: nothing


def think_shards(job: ThinkJob, shards: Sequence[int]) -> Outcome:
    """Think about shards; return their counts, including shards that were already done.

    Raises:
        LeaseTaken: another process works on one of the shards.
        InvalidRelease: thinking fails for all users.
        InvalidInput: the plan or a source of carried rows has changed.
        MemoryError, OSError: finished micro-batches stay on disk.
    """
    total = Outcome()
    for shard in shards:
        _finish_shard(job, shard, total)
    return total


def shards_of_process(plan: Plan, *, index: int, of: int) -> list[int]:
    """Return the shards of process `index` of `of`, as in a Kubernetes Indexed Job."""
    return [shard for shard in range(len(plan.shards)) if shard % of == index]


def pending_batches(folder: Path, plan: Plan, shards: Sequence[int]) -> list[list[UserHistory]]:
    """Return the micro-batches of these shards that are not on disk, in the order of thinking."""
    pending: list[list[UserHistory]] = []
    for shard in shards:
        part = part_file(folder, shard)
        if plan.shards[shard].sources or part.exists():
            continue
        num_done = count_batches(part.with_suffix(".segment"), run_id=plan.run_id, shard=shard)
        batches = _batches(read_users(folder, plan, shard))
        pending += [list(map(_to_history, batch)) for batch in batches[num_done:]]
    return pending


def _batches(users: Sequence[PlannedUser]) -> list[list[PlannedUser]]:
    return [list(batch) for _, batch in groupby(users, key=lambda user: user.group)]


def _to_history(user: PlannedUser) -> UserHistory:
    return UserHistory(user.user_id, user.rows, attributes=user.attributes)


def _finish_shard(job: ThinkJob, shard: int, total: Outcome) -> None:
    part = part_file(job.folder, shard)
    lease_file = part.with_suffix(".lease")
    if part.exists() and not lease_file.exists():
        _count(job, total, read_outcome(part), is_earlier=True)
        return
    with Lease.take(lease_file) as lease:
        if part.exists():  # its process was stopped between naming the part and cleaning up
            _count(job, total, read_outcome(part), is_earlier=True)
        elif job.plan.shards[shard].sources:
            _carry_shard(job, shard, lease)
        else:
            _think_shard(job, shard, lease, total)
        part.with_suffix(".segment").unlink(missing_ok=True)


def _carry_shard(job: ThinkJob, shard: int, lease: Lease) -> None:
    with job.watch("write"):
        users = read_users(job.folder, job.plan, shard)
        rows = carry_rows(job.folder.parent, job.plan, shard, users)
        write_part(part_file(job.folder, shard), rows, Outcome(), guard=lease.check)


def _think_shard(job: ThinkJob, shard: int, lease: Lease, total: Outcome) -> None:
    batches = _batches(read_users(job.folder, job.plan, shard))
    file = part_file(job.folder, shard)
    run_id = job.plan.run_id
    with Segment(
        file.with_suffix(".segment"), run_id=run_id, shard=shard, guard=lease.check
    ) as segment:
        for done in segment.batches:
            _count(job, total, done.outcome, is_earlier=True)
        for number in range(len(segment.batches), len(batches)):
            found = _think_batch(job, shard, number, batches[number])
            with job.watch("write"):
                segment.append(found.batch)
                note_timing(job.folder, found.timing)
            _count(job, total, found.batch.outcome, is_earlier=False)
            total.raise_if_hopeless()
        with job.watch("write"):
            shard_outcome = Outcome()
            for done in segment.batches:
                shard_outcome.add(done.outcome)
            rows = [row for done in segment.batches for row in done.rows]
            write_part(file, rows, shard_outcome, guard=lease.check)


class _ThoughtBatch(NamedTuple):
    batch: Batch
    timing: Timing


def _think_batch(
    job: ThinkJob, shard: int, number: int, users: Sequence[PlannedUser]
) -> _ThoughtBatch:
    think = job.think()
    outcome = Outcome()
    started_s = time.monotonic()
    histories = list(map(_to_history, users))
    with job.watch("think"):
        found = think_about(histories, think, outcome)
    with job.watch("items"):
        found = add_findings(job.night, histories, found)
    seconds = round(time.monotonic() - started_s, 4)
    digests = {user.user_id: user.digest for user in users}
    rows = tuple(
        ShardRow(job.plan.created_at, thoughts, digests[thoughts.user_id])
        for thoughts in found
        if thoughts.prefixes
    )
    timing = Timing(seconds, shard, number, outcome.num_users, outcome.tokens)
    return _ThoughtBatch(Batch(rows, outcome), timing)


def _count(job: ThinkJob, total: Outcome, outcome: Outcome, *, is_earlier: bool) -> None:
    total.add(outcome)
    job.report(outcome, is_earlier)
