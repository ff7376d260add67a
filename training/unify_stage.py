"""The reasoner's stage `unify`: specialists by category, one model of their hits, and its gain."""

from collections.abc import Sequence
from typing import Any

from models.release.release import Learns
from training.learner import Learner
from training.material import Material
from training.specialise import specialise_and_unify
from training.split import UserSplit, sample_users
from training.thought_gain import measure_gain, next_items


def unify_stage(material: Material, learner: Learner) -> dict[str, Any]:
    """Specialise and unify, and measure the gain of a thought before and after."""
    run = material.run
    judged = _judged_users(material)
    before = _gain(material, learner, judged)
    made = specialise_and_unify(
        learner,
        material.catalog,
        [rows[-run.recipe.reasoner.history - 1 :] for rows in material.histories],
        run.recipe.unify,
        run.recipe.enhance,
        run.recipe.thoughts.max_tokens,
        material.checkpoint("unify"),
        seed=run.recipe.seed,
    )
    return {
        **made,
        "gain_before": before,
        "gain": _gain(material, learner, judged),
        "validation": material.probe(learner),
    }


def _judged_users(material: Material) -> list[UserSplit]:
    """Return validation users, the first ones in the seeded order; the second round has none."""
    run = material.run
    if run.learns is not Learns.HELD_OUT:
        return []
    return sample_users(run.split, run.recipe.unify.judged, run.recipe.seed)


def _gain(material: Material, learner: Learner, users: Sequence[UserSplit]) -> dict[str, Any]:
    recipe = material.run.recipe
    asked = next_items(material.catalog, users, most=recipe.reasoner.history)
    if not asked:
        return {}
    reasoner = material.reasoner(learner)
    return measure_gain(
        reasoner, material.catalog, asked, paths=recipe.unify.paths, seed=recipe.seed
    )._asdict()
