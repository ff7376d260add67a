"""Synthetic users: the offline tier reads the files that `bench million` writes."""

import json
from pathlib import Path

from bench.common.synthetic_users import as_json, draw_record, user_id, write_generation
from offline.check.compare import Before, compare
from offline.disk.generation import find_generation
from offline.disk.visible_rows import visible_rows
from tests.fakes.night_world import toy_release


def test_a_synthetic_generation_is_read_like_a_night_and_is_legal(tmp_path: Path) -> None:
    release = toy_release()
    number = write_generation(tmp_path, release, num_users=300, num_prefixes=32, seed=1)
    generation = find_generation(tmp_path, None)
    assert (generation.number, generation.num_records, generation.is_base) == (number, 300, True)
    rows = list(visible_rows(generation.folder))
    assert [row.thoughts.user_id for row in rows] == [user_id(at) for at in range(300)]
    found = compare(rows, Before(), release.catalog, {})
    assert (found.mean_prefixes, found.num_illegal) == (32.0, 0)
    assert all(len({prefix.codes for prefix in row.thoughts.prefixes}) == 32 for row in rows)


def test_the_json_beside_it_says_the_same() -> None:
    record = draw_record(toy_release(), generation=1_700_000_000_000, num_prefixes=32, start=5)
    told = json.loads(as_json(record, "ann"))
    assert [tuple(each["codes"]) for each in told["prefixes"]] == [
        prefix.codes for prefix in record.prefixes
    ]
    assert len(record.encode("ann")) == 199
