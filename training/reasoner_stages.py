"""The stages of the reasoner; each starts from the learner of the stage before.

A finished stage has its learner in `work/<stage>/` and a report, and is not run again. A killed
stage continues from its checkpoint. `work/reasoner/` has the plain bfloat16 weights to publish.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from models.errors import InvalidSettings
from models.intake.users_table import attribute_names
from models.machine import processor
from models.reasoner import prompts, rationales
from training.activation import activate
from training.align import align, integrate, language_recipe, warm_up
from training.bootstrap import bootstrap, load_rationales, questions
from training.enhance import enhance
from training.general import general_texts
from training.language import precision
from training.learner import Learner, load_learner, new_learner, plain_model
from training.material import Material, gather
from training.perception.perception_stages import corpus_stage, perceive_stage
from training.processes import processes
from training.rationale_writers import Thinker, category_text
from training.run import Run
from training.selection import Cut, select_thoughts
from training.unify_stage import unify_stage

logger = logging.getLogger(__name__)
_GROUNDING = {"warmup", "integrate", "perceive"}  # stages that learn personas
_THINKING = {"activate", "perceive"}  # stages that learn thoughts
_CHANGES_NOTHING = {"bootstrap", "select", "corpus"}
_WRITERS = {"bootstrapped": "bootstrap", "selected": "select"}  # template -> stage that writes


def reasoner_stage(run: Run) -> dict[str, Any]:
    """Run all stages of the recipe, then export `reasoner/`; return their reports.

    Raises InvalidSettings for an unknown stage.
    """
    material = gather(run)
    stages = run.recipe.reasoner.stages
    if unknown := sorted(set(stages) - set(REASONER_STAGES)):
        known = sorted(REASONER_STAGES)
        raise InvalidSettings(f"[reasoner] stages: unknown {unknown}, expected among {known}")
    made, before = {}, None
    for stage in stages:
        made[stage] = _run_stage(material, stage, before)
        before = before if stage in _CHANGES_NOTHING else stage
    learner = last_learner(material)
    parameters = sum(weight.numel() for weight in plain_model(learner.model).parameters())
    hours = sum(made[stage]["seconds"] for stage in made) / 3600
    if processes().is_first:
        shutil.rmtree(run.work / "reasoner", ignore_errors=True)
        learner.export(run.work / "reasoner")
    processes().wait()
    last = [made[stage]["validation"] for stage in made if made[stage].get("validation")]
    return {
        "parameters": parameters,
        "device": device_name(),
        "hours": round(hours, 3),
        "user_attributes": attribute_names(run.users) if _GROUNDING & set(stages) else [],
        "attributes_in_prompts": bool(run.users) and bool(_THINKING & set(stages)),
        **made,
        "validation": last[-1] if last else {},
    }


def last_learner(material: Material) -> Learner:
    """Load the learner of the last stage that changes it."""
    stages = material.run.recipe.reasoner.stages
    changing = [stage for stage in stages if stage not in _CHANGES_NOTHING]
    return _load(material, changing[-1] if changing else None)


def device_name() -> str:
    """Return the name of the GPU, or of the CPU without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def _run_stage(material: Material, stage: str, before: str | None) -> dict[str, Any]:
    """Run one stage, unless it is already done with this data and recipe; return its report."""
    run = material.run
    if run.is_done(stage):
        logger.info("%s: already done with this data and recipe", stage)
        return run.outcome(stage)
    started = time.monotonic()
    learner = _load(material, before)
    made = REASONER_STAGES[stage](material, learner)
    made.setdefault("seconds", round(time.monotonic() - started, 1))
    processes().wait()
    if processes().is_first:
        if stage not in _CHANGES_NOTHING:
            shutil.rmtree(run.work / stage, ignore_errors=True)
            learner.save(run.work / stage)
        run.finish(stage, made)
        material.checkpoint(stage).remove()
        logger.info("%s: made %s", stage, json.dumps(made))
    processes().wait()
    return run.outcome(stage)


def _load(material: Material, stage: str | None) -> Learner:
    """Load the learner of a stage; None for the untrained base."""
    recipe, space = material.run.recipe, material.catalog.space
    hardware = recipe.hardware
    if stage:
        work = material.run.work / stage
        learner = load_learner(recipe.reasoner, work, space, hardware=hardware)
    else:
        texts = base_texts(material)
        learner = new_learner(
            recipe.reasoner, recipe.nano, space, texts, seed=recipe.seed, hardware=hardware
        )
    learner.limit_thoughts(recipe.thoughts.max_tokens)
    return learner


def base_texts(material: Material) -> list[str]:
    """Return the corpus for the tokenizer of a base from scratch."""
    return [*_catalog_texts(material), *_task_texts(material)]


def _catalog_texts(material: Material) -> list[str]:
    """Return captions of all items and a category chain of every user."""
    catalog = material.catalog
    texts = [prompts.caption(catalog, row) for row in range(len(catalog))]
    texts += [category_text(catalog, rows, rows[-1]) for rows in material.histories]
    return texts


def _task_texts(material: Material) -> list[str]:
    """Return texts of the alignment tasks; without them the BPE would split their prompts more."""
    catalog, space = material.catalog, material.catalog.space
    texts = list(general_texts())
    for rows, attributes in zip(material.histories[:1000], material.attributes, strict=False):
        *before, target = [tuple(sid) for sid in catalog.sids[list(rows)].tolist()]
        texts.append(prompts.persona_text(catalog, rows[-16:], attributes))
        texts.append(prompts.preference_example(space, before, target).prompt)
        texts.append(prompts.description_example(space, catalog, rows[0]).prompt)
        texts.append(prompts.rationale_query(catalog, rows[-10:], rows[-1]))
        texts.append(rationales.three_stage_text(catalog, rows, rows[-1]))
    return texts


def _align(material: Material, learner: Learner) -> dict[str, Any]:
    recipe = material.run.recipe
    return align(
        learner.model,
        material.tasks(learner),
        replace(recipe.align, seed=recipe.seed),
        micro_tokens=learner.hardware.micro_tokens,
    )


def _warm_up(material: Material, learner: Learner) -> dict[str, Any]:
    recipe, tasks = material.run.recipe, material.tasks(learner)
    return warm_up(learner, tasks, recipe.warmup, material.checkpoint("warmup"))


def _integrate(material: Material, learner: Learner) -> dict[str, Any]:
    recipe, tasks = material.run.recipe, material.tasks(learner)
    checkpoint = material.checkpoint("integrate")
    return integrate(learner, tasks, recipe.integrate, recipe.mixture, checkpoint)


def _bootstrap(material: Material, learner: Learner) -> dict[str, Any]:
    """Write the rationales; the learner does not change."""
    run = material.run
    at = {item: row for row, item in enumerate(run.dataset.items)}
    vectors = run.item_vectors()[np.array([at[item] for item in material.catalog.item_ids])]
    recipe, seed = run.recipe.bootstrap, run.recipe.seed
    asked = list(questions(material.histories, vectors, recipe))
    return bootstrap(
        learner, material.catalog, asked, recipe, material.rationales("bootstrap"), seed=seed
    )


def _select(material: Material, learner: Learner) -> dict[str, Any]:
    """Write the selected thoughts; the learner does not change. The first process does it."""
    if not processes().is_first:
        return {}
    recipe = material.run.recipe
    cuts = [
        Cut(at, tuple(rows))
        for at, rows in enumerate(material.histories[: recipe.select.users])
        if len(rows) > 1
    ]
    with precision(learner.model):
        return select_thoughts(
            material.reasoner(learner),
            material.catalog,
            cuts,
            recipe.select,
            material.rationales("select"),
            most=recipe.reasoner.history,
            seed=recipe.seed,
        )


def _activate(material: Material, learner: Learner) -> dict[str, Any]:
    recipe = material.run.recipe
    kept = {}
    if writer := _WRITERS.get(template := recipe.thoughts.template):
        if writer not in recipe.reasoner.stages:
            raise InvalidSettings(f'[thoughts] template "{template}" needs the stage {writer}')
        kept = load_rationales(material.rationales(writer))
    made = activate(
        learner.model,
        material.tasks(learner),
        replace(recipe.activate, seed=recipe.seed),
        thinker=Thinker(recipe.thoughts, kept, seed=recipe.seed),
        schedule=language_recipe(learner, recipe.activate.learning_rate),
        checkpoint=material.checkpoint("activate"),
    )
    return {**made, "validation": material.probe(learner)}


def _enhance(material: Material, learner: Learner) -> dict[str, Any]:
    recipe = material.run.recipe
    most = recipe.reasoner.history + 1  # the last one is the target
    made = enhance(
        learner,
        material.catalog,
        [rows[-most:] for rows in material.histories],
        recipe.enhance,
        recipe.thoughts.max_tokens,
        material.checkpoint("enhance"),
        seed=recipe.seed,
    )
    return {**made, "validation": material.probe(learner)}


REASONER_STAGES: dict[str, Callable[[Material, Learner], dict[str, Any]]] = {
    "align": _align,
    "warmup": _warm_up,
    "integrate": _integrate,
    "corpus": corpus_stage,
    "perceive": perceive_stage,
    "bootstrap": _bootstrap,
    "select": _select,
    "activate": _activate,
    "enhance": _enhance,
    "unify": unify_stage,
}
