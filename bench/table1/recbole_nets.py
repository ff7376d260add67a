"""Contenders whose network is RecBole's: GRU4Rec, SASRec, HGN and BERT4Rec.

RecBole trains the first two on the last position of every beginning of a history. Here one pass
over a history gives all its positions, which is the same loss for less time.
"""

# B = users, H = items of the longest history, P = targets, W = width, N = catalog rows

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.hgn import HGN
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor, nn

from bench.table1.contender import Loss
from bench.table1.padded_rows import WINDOW, UserRows, World, lengths_of, number_items

_FIELDS = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MASK_ITEM_SEQ": "masked_list",
    "POS_ITEMS": "masked_items",
    "NEG_ITEMS": "neg_masked_items",
    "MASK_INDEX": "masked_at",
    "device": "cpu",
    "loss_type": "CE",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


class _Sizes:
    """The part of RecBole's data set that its networks ask for."""

    def __init__(self, world: World) -> None:
        self._nums = {"item": len(world.catalog) + 1, "user": world.num_users}

    def num(self, field: str) -> int:
        return self._nums[field]


class _EveryPosition:
    """Makes a causal network of RecBole predict at every position while it trains."""

    training: bool

    def gather_indexes(self, output_BHW: Tensor, last_B: Tensor) -> Tensor:
        """Return the states of all positions, (P, W); of the last ones after training."""
        if not self.training:
            return output_BHW[torch.arange(len(last_B)), last_B]
        return output_BHW[torch.arange(output_BHW.shape[1]) <= last_B.unsqueeze(1)]


class _EveryGru4Rec(_EveryPosition, GRU4Rec):
    pass


class _EverySasRec(_EveryPosition, SASRec):
    pass


class CausalNet:
    """GRU4Rec or SASRec."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        numbers_BH = number_items([history.rows for history in histories])
        seen_BH = numbers_BH[:, :-1]
        length_B = lengths_of(numbers_BH) - 1
        is_real_BH = torch.arange(seen_BH.shape[1]) < length_B.unsqueeze(1)
        targets_P = numbers_BH[:, 1:][is_real_BH]
        batch = {"item_list": seen_BH * is_real_BH, "length": length_B, "item": targets_P}
        return Loss(self.net.calculate_loss(batch), len(targets_P))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        numbers_BH = number_items([history.rows[-WINDOW:] for history in histories])
        batch = {"item_list": numbers_BH, "length": lengths_of(numbers_BH)}
        scores_BN: Tensor = self.net.full_sort_predict(batch)[:, 1:]
        return scores_BN


class HgnNet:
    """HGN: gates over the user's newest items, trained on every beginning of a history."""

    def __init__(self, net: Any, window: int) -> None:
        self.net, self._window = net, window

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        cuts = [(each, at) for each in histories for at in range(1, len(each.rows))]
        batch = self._batch([UserRows(each.user, each.rows[:at]) for each, at in cuts])
        batch["item"] = torch.tensor([each.rows[at] + 1 for each, at in cuts])
        return Loss(self.net.calculate_loss(batch), len(cuts))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        scores_BN: Tensor = self.net.full_sort_predict(self._batch(histories))[:, 1:]
        return scores_BN

    def _batch(self, histories: Sequence[UserRows]) -> dict[str, Tensor]:
        recent = [history.rows[-self._window :] for history in histories]
        users = torch.tensor([history.user for history in histories])
        return {"item_list": number_items(recent, width=self._window), "user": users}


class Bert4RecNet:
    """BERT4Rec: hidden items of a history from both sides; the next item is one more of them."""

    def __init__(self, net: Any, mask_share: float, last_share: float) -> None:
        self.net, self._mask_share, self._last_share = net, mask_share, last_share

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        """Hide a share of the items at random, or the last one alone."""
        numbers_BH = number_items([history.rows[-WINDOW:] for history in histories])
        is_hidden_BH = self._choose(numbers_BH)
        states_PW = self.net(numbers_BH.masked_fill(is_hidden_BH, self.net.mask_token))[
            is_hidden_BH
        ]
        targets_P = numbers_BH[is_hidden_BH] - 1
        return Loss(nn.functional.cross_entropy(self._logits(states_PW), targets_P), len(targets_P))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        """Score by a hidden item behind the history.

        RecBole's own method drops the oldest item of every history, however short it is.
        """
        rows = [history.rows[1 - WINDOW :] for history in histories]
        numbers_BH = number_items(rows, width=max(map(len, rows)) + 1)
        at_B, last_B = torch.arange(len(rows)), lengths_of(numbers_BH)
        numbers_BH[at_B, last_B] = self.net.mask_token
        return self._logits(self.net(numbers_BH)[at_B, last_B])

    def _choose(self, numbers_BH: Tensor) -> Tensor:
        """Return which items are hidden, one or more of each history: (B, H)."""
        is_real_BH, length_B = numbers_BH > 0, lengths_of(numbers_BH)
        draw_BH = torch.rand(numbers_BH.shape).masked_fill(~is_real_BH, 2.0)
        first_BH = draw_BH == draw_BH.amin(dim=1, keepdim=True)
        is_last_BH = torch.arange(numbers_BH.shape[1]) == (length_B - 1).unsqueeze(1)
        is_cut_B1 = torch.rand(len(numbers_BH), 1) < self._last_share
        return torch.where(is_cut_B1, is_last_BH, first_BH | (draw_BH < self._mask_share))

    def _logits(self, states: Tensor) -> Tensor:
        """Score all items but padding and the mask: (..., W) to (..., N)."""
        items = self.net.item_embedding.weight[1:-1]
        logits: Tensor = states @ items.T + self.net.output_bias[1:]
        return logits


def build_gru4rec(world: World, setting: Mapping[str, Any]) -> CausalNet:
    return CausalNet(_EveryGru4Rec(_config(setting), _Sizes(world)))


def build_sasrec(world: World, setting: Mapping[str, Any]) -> CausalNet:
    return CausalNet(_EverySasRec(_config(_transformer(setting)), _Sizes(world)))


def build_hgn(world: World, setting: Mapping[str, Any]) -> HgnNet:
    config = _config({"pooling_type": "average", **setting})
    return HgnNet(HGN(config, _Sizes(world)), setting["MAX_ITEM_LIST_LENGTH"])


def build_bert4rec(world: World, setting: Mapping[str, Any]) -> Bert4RecNet:
    net = BERT4Rec(_config(_transformer(setting)), _Sizes(world))
    return Bert4RecNet(net, setting["mask_ratio"], setting["last_share"])


def _transformer(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of RecBole's transformer: one dropout for both of its places."""
    dropout = {f"{place}_dropout_prob": setting["dropout"] for place in ("hidden", "attn")}
    return {"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, **setting, **dropout}


def _config(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {**_FIELDS, "MAX_ITEM_LIST_LENGTH": WINDOW, **setting}
