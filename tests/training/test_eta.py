"""Time left of a run: none before a step is measured, then in proportion to the work left."""

import logging
from pathlib import Path

import pytest

from training.eta import Progress, describe_seconds, expected_work, seconds_left
from training.recipe import load_recipe
from training.recipe_choice import Size
from training.steps import Steps, StepsFile, read_steps, report_step


def test_there_is_no_estimate_before_the_first_step() -> None:
    assert seconds_left([[Progress(100), Progress(50)], [Progress(100), Progress(50)]]) is None


def test_a_stage_without_steps_takes_the_mean_rate() -> None:
    """10 of 100 units took 20 s: 90 and 50 are left in the first round, 150 in the second."""
    rounds = [[Progress(100, 0.1, 20, 0.1), Progress(50)], [Progress(100), Progress(50)]]
    assert seconds_left(rounds) == pytest.approx([280, 300])


def test_the_second_round_takes_the_rates_of_the_first() -> None:
    first = [Progress(100, 1, 100, 1), Progress(50, 1, 500, 1)]
    second = [Progress(120, 0.5, 90, 0.5), Progress(60)]
    assert seconds_left([first, second]) == pytest.approx([0, 60 * 1.5 + 60 * 10])


def test_steps_of_an_earlier_process_have_no_time() -> None:
    """80 of 100 steps are done, and the last 20 took 10 s: the other 20 take 10 s."""
    assert seconds_left([[Progress(100, 0.8, 10, 0.2)]]) == pytest.approx([10])


def test_a_run_of_finished_stages_has_no_time_left() -> None:
    assert seconds_left([[Progress(10, 1.0)], [Progress(12, 1.0)]]) == [0, 0]


def test_the_expected_work_of_the_bundled_run_is_near_its_tokens() -> None:
    recipe = load_recipe(Path("training/runs/nano.toml"))
    work = expected_work(recipe, Size(12_101, 22_363, 153_776))
    assert list(work) == list(recipe.reasoner.stages)
    trained = {"align": 11_335_741, "warmup": 1_038_336, "activate": 7_166_132}
    assert {stage: work[stage] for stage in trained} == pytest.approx(trained, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3000, "50 min"), (12_345, "3 h 30 min")],
)
def test_a_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_the_steps_of_a_process_are_read_by_another(tmp_path: Path) -> None:
    file = tmp_path / "reasoner.steps"
    steps = StepsFile(file)
    steps.follow()
    try:
        assert read_steps(file) is None
        report_step("align", 30, 40, first=30)
        report_step("align", 40, 40, first=30)
        found = read_steps(file)
    finally:
        logging.getLogger("training.steps").removeHandler(steps)
    assert found is not None
    assert found == Steps("align", 40, 40, 30, found.seconds)
    assert found.seconds >= 0
