"""`bench refresh`: both ways of thinking do the same work, and tokens are counted."""

from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM

from bench.night.generate_loop import GenerateLoop
from bench.night.night_engines import Ours, Plain, Thinker, load_worker
from bench.night.night_speed import measure, row_of, sample_batches
from bench.night.thinking_cost import Meter, read_notes
from models.reasoner.think import UserHistory
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from tests.fakes.toy import toy_histories


def users(release: Release, count: int) -> list[UserHistory]:
    histories = toy_histories(release.catalog, num_users=count, seed=5)
    return [UserHistory(f"u{at}", tuple(rows)) for at, rows in enumerate(histories)]


def test_the_plain_way_scores_prefixes_as_one_forward_pass_does(release: Release) -> None:
    plain = GenerateLoop.load(release.reasoner_dir, release.catalog)
    model = AutoModelForCausalLM.from_pretrained(release.reasoner_dir, dtype=torch.float32)
    sequences = plain.sample(users(release, 4), paths=3, seed=1)
    found = plain.beam(sequences, width=4)
    ids_of = {codes: ids for ids, codes in plain.codes.items()}
    checked = 0
    for sequence, beams in zip(sequences, found, strict=True):
        assert len({beam.codes for beam in beams}) == len(beams)
        for codes, logprob in beams:
            context = [*sequence, plain.item_begin]
            with torch.inference_mode():
                logits = model(torch.tensor([[*context, *ids_of[codes]]])).logits[0]
            logp = logits.log_softmax(dim=-1)
            steps = range(len(context) - 1, len(context) + len(codes) - 1)
            expected = sum(
                float(logp[at, token]) for at, token in zip(steps, ids_of[codes], strict=True)
            )
            assert logprob == pytest.approx(expected, abs=1e-4)
            checked += 1
    assert checked >= 12


def test_ours_computes_what_is_needed_and_the_plain_way_more(release: Release) -> None:
    plain, plain_meter = GenerateLoop.load(release.reasoner_dir, release.catalog), Meter()
    ours, meter = TransformersReasoner.load(release.reasoner_dir, release.space), Meter()
    plain_meter.watch(plain.model)
    meter.watch(ours.model)
    thinkers: list[Thinker] = [
        Plain(plain, release, plain_meter), Ours("transformers", ours, release, meter)
    ]  # fmt: skip
    batches = sample_batches(users(release, 40), size=4, count=3, seed=0)
    with Progress(disable=True) as progress:
        measure(thinkers, batches, paths=3, width=4, progress=progress)
    theirs, own = (thinker.cost for thinker in thinkers)
    assert theirs.users == own.users == 12
    assert own.needed - 36 <= own.computed <= own.needed  # a path left open ends a token sooner
    assert theirs.computed > 2 * theirs.needed
    row = row_of("transformers", own, plain=1.0)
    assert row["users_per_s"] == row["ratio_to_plain"]
    assert all(row[f"seconds_{phase}"] for phase in ("encode", "think", "beam", "write"))


def test_a_worker_notes_what_each_micro_batch_cost(release: Release, tmp_path: Path) -> None:
    """One that is done twice, as after the death of a node, counts once."""
    think = load_worker(release.directory, 3, 4, tmp_path)
    batches = sample_batches(users(release, 40), size=4, count=3, seed=0)
    found = [think(batch) for batch in (batches[0], *batches)]
    assert found[0] == found[1]
    cost = read_notes(tmp_path)
    thoughts = [each for batch in found[1:] for each in batch]
    assert (cost.users, cost.sampled) == (12, sum(each.tokens for each in thoughts))
    assert cost.needed - 36 <= cost.computed <= cost.needed
    assert all(cost.seconds.values())


def test_batches_are_drawn_from_short_to_long(release: Release) -> None:
    batches = sample_batches(users(release, 50), size=4, count=5, seed=0)
    lengths = [len(user.rows) for batch in batches for user in batch]
    assert [len(batch) for batch in batches] == [4] * 5
    assert sorted(lengths) == lengths
