"""Segments: a torn entry is cut off, whole entries stay."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.durable import write_durably
from models.errors import InvalidInput, LeaseTaken
from models.reasoner.think import PathPrefix, UserThoughts
from offline.disk.outcome import Outcome
from offline.disk.segment import Batch, Segment
from offline.disk.shards import ShardRow, part_file, read_outcome, read_part, read_rows, write_part


def open_segment(
    file: Path, *, run_id: str = "a-run", shard: int = 3, guard: Callable[[], None] | None = None
) -> Segment:
    return Segment(file, run_id=run_id, shard=shard, guard=guard)


def batch(number: int, *, num_users: int = 2) -> Batch:
    rows = tuple(
        ShardRow(
            1_700_000_000,
            UserThoughts(
                f"user-{number}-{user}é",
                ("a thought", f"{number}"),
                (PathPrefix((1, 2), 0, -0.1, 2), PathPrefix((3, 4), 1, -1 / 3, 1)),
                1,
                17,
            ),
            f"digest-{number}",
        )
        for user in range(num_users)
    )
    outcome = Outcome(num_users, 1, 2 * num_users, 1, 17 * num_users, 2 * num_users)
    outcome.failed.append((f"dead-{number}", "RuntimeError: bad luck"))
    return Batch(rows, outcome)


BATCHES = [batch(0), batch(1, num_users=0), batch(2, num_users=1)]


def write(file: Path, batches: list[Batch]) -> None:
    with open_segment(file) as segment:
        for each in batches:
            segment.append(each)


def test_what_was_appended_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    write(tmp_path / "s", BATCHES[:2])
    with open_segment(tmp_path / "s") as segment:
        assert segment.batches == BATCHES[:2]
        segment.append(BATCHES[2])
        assert segment.batches == BATCHES
    write(tmp_path / "at once", BATCHES)
    assert (tmp_path / "s").read_bytes() == (tmp_path / "at once").read_bytes()


def test_torn_at_any_byte_of_the_last_batch_the_others_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "two", BATCHES[:2])
    write(tmp_path / "three", BATCHES)
    two, three = (tmp_path / "two").read_bytes(), (tmp_path / "three").read_bytes()
    file = tmp_path / "torn"
    for end in range(len(two), len(three)):
        file.write_bytes(three[:end])
        with open_segment(file) as segment:
            assert segment.batches == BATCHES[:2], end
            assert file.read_bytes() == two
            segment.append(BATCHES[2])
        assert file.read_bytes() == three


def test_torn_in_its_head_a_segment_starts_from_nothing(tmp_path: Path) -> None:
    write(tmp_path / "empty", [])
    head = (tmp_path / "empty").read_bytes()
    for end in range(len(head)):
        (tmp_path / "torn").write_bytes(head[:end])
        with open_segment(tmp_path / "torn") as segment:
            assert segment.batches == []
        assert (tmp_path / "torn").read_bytes() == head


def test_any_flipped_byte_costs_its_batch_and_those_behind_it_alone(tmp_path: Path) -> None:
    write(tmp_path / "one", BATCHES[:1])
    write(tmp_path / "three", BATCHES)
    one, three = (tmp_path / "one").read_bytes(), (tmp_path / "three").read_bytes()
    for at in range(len(one), len(three), 5):
        flipped = bytearray(three)
        flipped[at] ^= 0x41
        (tmp_path / "flipped").write_bytes(flipped)
        with open_segment(tmp_path / "flipped") as segment:
            assert segment.batches in (BATCHES[:1], BATCHES[:2]), at


@pytest.mark.parametrize(("run_id", "shard"), [("another", 3), ("a-run", 4)])
def test_a_segment_of_another_plan_or_shard_is_not_gone_on_with(
    tmp_path: Path, run_id: str, shard: int
) -> None:
    write(tmp_path / "s", BATCHES)
    with open_segment(tmp_path / "s", run_id=run_id, shard=shard) as segment:
        assert segment.batches == []


def test_nothing_is_written_without_the_guards_leave(tmp_path: Path) -> None:
    def guard() -> None:
        if is_overtaken:
            raise LeaseTaken("gone")

    is_overtaken = False
    with open_segment(tmp_path / "s", guard=guard) as segment:
        segment.append(BATCHES[0])
        before, is_overtaken = segment.file.read_bytes(), True
        with pytest.raises(LeaseTaken):
            segment.append(BATCHES[1])
        assert segment.file.read_bytes() == before
    with pytest.raises(LeaseTaken):
        write_durably(tmp_path / "part", b"content", guard=guard)
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """The disk is full for every file beyond that size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_whole_batches_and_no_half_renamed_part(tmp_path: Path) -> None:
    file = tmp_path / "s"
    write(tmp_path / "two", BATCHES[:2])
    limit = (tmp_path / "two").stat().st_size + 100
    with file_size_limit(limit), open_segment(file) as segment:
        segment.append(BATCHES[0])
        segment.append(BATCHES[1])
        with pytest.raises(OSError, match=str(file)):
            segment.append(BATCHES[2])
    assert file.stat().st_size == limit  # torn
    with open_segment(file) as segment:
        assert segment.batches == BATCHES[:2]
    part = tmp_path / "part-00000.parquet"
    with file_size_limit(100), pytest.raises(OSError, match=str(part)):
        write_part(part, BATCHES[0].rows, Outcome())
    assert not list(tmp_path.glob("part*"))


# --- parts


def test_a_part_holds_its_rows_and_what_thinking_came_to(tmp_path: Path) -> None:
    part = part_file(tmp_path, 7)
    write_part(part, BATCHES[0].rows, BATCHES[0].outcome)
    found, expected = list(read_part(part)), BATCHES[0].rows
    assert [row.digest for row in found] == [row.digest for row in expected]
    assert [row.thoughts.texts for row in found] == [row.thoughts.texts for row in expected]
    codes = [[prefix.codes for prefix in row.thoughts.prefixes] for row in found]
    assert codes == [[(1, 2), (3, 4)]] * 2
    assert read_outcome(part) == BATCHES[0].outcome
    first = part.read_bytes()
    write_part(part, found, BATCHES[0].outcome)
    assert part.read_bytes() == first  # float32 by now


def test_a_part_without_rows_is_one_nevertheless(tmp_path: Path) -> None:
    write_part(part_file(tmp_path, 0), [], BATCHES[1].outcome)
    assert list(read_rows(tmp_path)) == []
    assert read_outcome(part_file(tmp_path, 0)) == BATCHES[1].outcome


def test_a_part_from_before_digests_is_read(tmp_path: Path) -> None:
    write_part(part_file(tmp_path, 0), BATCHES[0].rows)
    table = pq.read_table(part_file(tmp_path, 0)).drop_columns(["digest"])
    pq.write_table(table, part_file(tmp_path, 0))
    assert [row.digest for row in read_rows(tmp_path)] == ["", ""]


def test_a_flipped_byte_in_a_part_is_noticed(tmp_path: Path) -> None:
    part = part_file(tmp_path, 0)
    write_part(part, BATCHES[0].rows)
    content = bytearray(part.read_bytes())
    content[60] ^= 1  # in the first column's page
    part.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"part-00000\.parquet: not a readable shard"):
        list(read_part(part))
