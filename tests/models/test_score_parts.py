"""The parts of a score, beside a recommender that scores every item, and brute-force bonuses."""

import pytest

from bench.finish.one_pass import CatalogScorer
from models.online.score_parts import score_parts
from models.online.torch_runtime import load_recommender
from tests.fakes.service_harness import toy_engine
from tests.fakes.toy_memory import bonuses


@pytest.mark.parametrize("history", [(), (3, 50, 199), (7,)])
def test_the_parts_are_those_of_scoring_every_item(history: tuple[int, ...]) -> None:
    engine = toy_engine()
    model = load_recommender(engine.release.directory, engine.release.recommender_config)
    logp_N = CatalogScorer(model, engine.catalog).score([history])[0]
    neighbours = engine.finisher.neighbours
    assert neighbours is not None
    bonus_N = bonuses(neighbours, history)
    rows = range(0, 200, 3)
    parts = score_parts(engine.finisher, engine.encode(history), rows)
    assert sorted(parts) == list(rows)
    for row, part in parts.items():
        assert part.logprob == pytest.approx(float(logp_N[row]), abs=1e-3)
        assert part.bonus == pytest.approx(bonus_N[row], abs=1e-3)
