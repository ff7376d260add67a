"""HSTU: a contender whose blocks are RecTools'.

Without the bias of relative times: RecTools takes it from the time of the target, which no other
row of the table knows, and a target of the same day would be told by it.
"""

# B = users, H = WINDOW, P = targets, W = width, N = catalog rows

from collections.abc import Mapping, Sequence
from typing import Any

from rectools.models.nn.item_net import IdEmbeddingsItemNet, SumOfEmbeddingsConstructor
from rectools.models.nn.transformers.hstu import STULayers
from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding
from rectools.models.nn.transformers.similarity import DistanceSimilarityModule
from rectools.models.nn.transformers.torch_backbone import TransformerTorchBackbone
from torch import Tensor, nn
from torch.nn import functional

from bench.table1.contender import Loss
from bench.table1.padded_rows import WINDOW, UserRows, World, number_items


class HstuNet:
    """HSTU over the newest items of a history, padded on the left as RecTools does."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        rows = [history.rows for history in histories]
        targets_BH = self._pad([each[1:] for each in rows])
        is_real_BH = targets_BH > 0
        items, states_BHW = self._encode(self._pad([each[:-1] for each in rows]))
        targets_P = targets_BH[is_real_BH] - 1
        logits_PN = states_BHW[is_real_BH] @ items[1:].T
        return Loss(functional.cross_entropy(logits_PN, targets_P), len(targets_P))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        items, states_BHW = self._encode(
            self._pad([history.rows[-WINDOW:] for history in histories])
        )
        scores_BN: Tensor = states_BHW[:, -1] @ items[1:].T
        return scores_BN

    def _encode(self, numbers_BH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of all item numbers, and the state behind each item."""
        items = self.net.item_model.get_all_embeddings()
        return items, self.net.encode_sessions({"x": numbers_BH}, items)

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return number_items(rows, width=WINDOW, on_the_left=True)


def build_hstu(world: World, setting: Mapping[str, Any]) -> HstuNet:
    """Build HSTU; the matrices begin as RecTools begins them."""
    width, heads, dropout = setting["width"], setting["heads"], setting["dropout"]
    num_items = len(world.catalog) + 1
    items = IdEmbeddingsItemNet(n_factors=width, n_items=num_items, dropout_rate=dropout)
    net = TransformerTorchBackbone(
        n_heads=heads,
        dropout_rate=dropout,
        item_model=SumOfEmbeddingsConstructor(num_items, [items]),
        pos_encoding_layer=LearnableInversePositionalEncoding(
            True, WINDOW, width, use_scale_factor=setting["is_scaled"]
        ),
        transformer_layers=STULayers(
            n_blocks=setting["blocks"],
            n_factors=width,
            n_heads=heads,
            linear_hidden_dim=width // heads,
            attention_dim=width // heads,
            session_max_len=WINDOW,
            relative_time_attention=False,
            relative_pos_attention=True,
            attn_dropout_rate=0.0,
            dropout_rate=dropout,
        ),
        similarity_module=DistanceSimilarityModule("dot"),
    )
    for weight in net.parameters():
        if weight.dim() > 1:
            nn.init.xavier_normal_(weight)
    return HstuNet(net)
