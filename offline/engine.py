"""Which reasoner thinks. Imports torch and transformers, so it is imported late."""

import os

import torch
from transformers.utils import logging as transformers_logging

from models.errors import InvalidRelease
from models.reasoner import TransformersReasoner
from models.release import Release
from offline.settings import RefreshSettings
from offline.thinking import Think, bind_think


def load_transformers(release: Release, settings: RefreshSettings) -> Think:
    """The release's reasoner, ready for micro-batches. Raises InvalidRelease if it cannot load."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two, beside other work, were 20 times slower than one
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        reasoner = TransformersReasoner.load(release.reasoner_dir, release.space)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise InvalidRelease(f"{release.reasoner_dir}: {reason}") from exc
    return bind_think(reasoner, release.catalog, settings)
