"""An existing release with a fresh online recommender: same catalog, same SIDs, same reasoner.

Records of past nights stay valid, so a service reloads the result without a new night. With the
old weights it is published again as it is, which brings a release of an older format up to date.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from models.dataset import load_dataset
from models.publish import publish
from models.release import Release
from models.shape import RecommenderConfig
from models.torch_runtime import load_recommender
from training.card import model_card
from training.data import data_digest, split_dataset, training_histories
from training.online import OnlineResult, train_online
from training.recipe import Recipe


def renew(directory: Path, data: Path, recipe: Recipe, *, keep_weights: bool) -> Release:
    """Publish the release at `directory` again, from the interactions of `data`."""
    release = Release.load(directory)
    dataset = load_dataset(data)
    split = split_dataset(dataset)
    described, metrics = dict(release.manifest.recipe), dict(release.manifest.metrics)
    if keep_weights:
        made = OnlineResult(load_recommender(release), metrics["online"])
    else:
        config = RecommenderConfig(sizes=release.space.sizes, **asdict(recipe.recommender))
        online = replace(recipe.online, seed=recipe.seed)
        made = train_online(config, online, release.catalog, split)
        described |= {"recommender": asdict(recipe.recommender), "online": asdict(online)}
        described |= {"data_sha256": data_digest(data), "torch": torch.__version__}
    parameters = sum(weight.numel() for weight in made.recommender.parameters())
    metrics["online"] = {"parameters": parameters, **made.metrics}
    return publish(
        directory,
        name=release.name,
        catalog=release.catalog,
        recommender=made.recommender,
        reasoner_dir=release.reasoner_dir,
        histories=training_histories(release.catalog, split),
        recipe=described,
        metrics=metrics,
        card=model_card(release.name, dataset, described, metrics),
    )
