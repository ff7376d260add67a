"""Figures that Table 1 of the OneRec-Think paper gives for the same models.

Its baselines were trained by others, with other settings. They stand beside ours for comparison.
"""

from collections.abc import Mapping

_METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
OURS = "online"  # our row in the place of OneRec-Think

_BEAUTY = {
    "bert4rec": (0.0232, 0.0396, 0.0146, 0.0199),
    "hgn": (0.0319, 0.0536, 0.0196, 0.0266),
    "gru4rec": (0.0395, 0.0584, 0.0265, 0.0326),
    "sasrec": (0.0402, 0.0607, 0.0254, 0.0320),
    "tiger": (0.0405, 0.0623, 0.0267, 0.0337),
    "hstu": (0.0424, 0.0652, 0.0280, 0.0353),
    "rearec": (0.0450, 0.0704, 0.0262, 0.0344),
    OURS: (0.0563, 0.0791, 0.0398, 0.0471),
}
_SPORTS = {
    "bert4rec": (0.0102, 0.0175, 0.0065, 0.0088),
    "hgn": (0.0183, 0.0313, 0.0109, 0.0150),
    "gru4rec": (0.0190, 0.0312, 0.0122, 0.0161),
    "sasrec": (0.0199, 0.0301, 0.0106, 0.0141),
    "tiger": (0.0215, 0.0347, 0.0137, 0.0179),
    "hstu": (0.0268, 0.0343, 0.0173, 0.0226),
    "rearec": (0.0214, 0.0332, 0.0116, 0.0154),
    OURS: (0.0288, 0.0412, 0.0199, 0.0239),
}
_PAPER = {"beauty": _BEAUTY, "sports": _SPORTS}


def paper_columns(data: str, row: str) -> Mapping[str, float]:
    """Return the paper's columns for a row of ours, by the data folder's name; none if unknown."""
    figures = _PAPER.get(data, {}).get(row, ())
    return {f"paper_{metric}": value for metric, value in zip(_METRICS, figures, strict=False)}
