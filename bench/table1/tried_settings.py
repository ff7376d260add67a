"""Contenders of Table 1 by name, and the settings that are tried for each.

Three settings a contender at most; the first is the library's or the paper's own.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from bench.table1.contender import Contender
from bench.table1.padded_rows import World

Setting = Mapping[str, Any]


class Entry(NamedTuple):
    """One contender."""

    builder: str  # module and function below `bench.table1`
    source: str  # of the network
    settings: tuple[Setting, ...]

    def build(self, world: World, setting: Setting) -> Contender:
        """Build the untrained contender; imports its library."""
        module, function = self.builder.split(":")
        build: Callable[[World, Setting], Contender] = getattr(
            import_module(f"bench.table1.{module}"), function
        )
        return build(world, setting)


_GRU = {"embedding_size": 64, "hidden_size": 128, "num_layers": 1}
_HGN = {"embedding_size": 64, "reg_weight": [0.0, 0.0]}
_HSTU = {"heads": 1, "blocks": 2, "is_scaled": True}
_TIGER = {"window": 20}  # items; three tokens each

ENTRIES = {
    "gru4rec": Entry(
        "recbole_nets:build_gru4rec",
        "RecBole",
        (
            {**_GRU, "dropout_prob": 0.3},
            {**_GRU, "dropout_prob": 0.5},
            {**_GRU, "embedding_size": 128, "dropout_prob": 0.5},
        ),
    ),
    "hgn": Entry(
        "recbole_nets:build_hgn",
        "RecBole",
        (
            {**_HGN, "MAX_ITEM_LIST_LENGTH": 5},
            {**_HGN, "MAX_ITEM_LIST_LENGTH": 10},
            {**_HGN, "MAX_ITEM_LIST_LENGTH": 10, "reg_weight": [1e-4, 1e-4]},
        ),
    ),
    "sasrec_recbole": Entry(
        "recbole_nets:build_sasrec",
        "RecBole",
        ({"dropout": 0.5}, {"dropout": 0.3}, {"dropout": 0.5, "hidden_size": 128}),
    ),
    "bert4rec": Entry(
        "recbole_nets:build_bert4rec",
        "RecBole",
        (
            {"dropout": 0.2, "mask_ratio": 0.2, "last_share": 0.5},
            {"dropout": 0.3, "mask_ratio": 0.4, "last_share": 0.1},
            {"dropout": 0.3, "mask_ratio": 0.2, "last_share": 0.5, "hidden_size": 128},
        ),
    ),
    "hstu": Entry(
        "hstu_net:build_hstu",
        "RecTools",
        (
            {**_HSTU, "width": 64, "dropout": 0.2},
            {**_HSTU, "width": 64, "dropout": 0.5},
            {**_HSTU, "width": 128, "dropout": 0.5},
        ),
    ),
    "rearec": Entry(
        "rearec_net:build_rearec",
        "own code",
        (
            {"width": 64, "dropout": 0.5, "steps": 1, "apart": 0.01},
            {"width": 64, "dropout": 0.5, "steps": 2, "apart": 0.01},
            {"width": 64, "dropout": 0.3, "steps": 1, "apart": 0.01},
        ),
    ),
    "tiger": Entry(
        "tiger_net:build_tiger",
        "transformers",
        (
            {**_TIGER, "layers": 4, "width": 128, "heads": 4, "inner": 512, "dropout": 0.1},
            {**_TIGER, "layers": 2, "width": 128, "heads": 4, "inner": 512, "dropout": 0.1},
            {**_TIGER, "layers": 2, "width": 128, "heads": 4, "inner": 512, "dropout": 0.3},
        ),
    ),
}
