"""ReaRec: SASRec that takes a few latent steps before it answers (Tang et al., 2025).

A step feeds the state of a position back as one more input, with an embedding of the step. All
positions of a history take their steps in one pass: a mask lets a step see the items up to its
position and its own earlier steps. As in the paper's ensemble variant, each step learns the target
and the ranking is by the mean state. Its term that keeps the steps apart is included.
"""

# B = users, H = items of the longest history, K = steps, P = targets, W = width, N = catalog rows

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.table1.contender import Loss
from bench.table1.padded_rows import WINDOW, UserRows, World, lengths_of, number_items
from models.baselines.sasrec import SasRec, SasRecConfig


class LatentSteps(nn.Module):
    """The encoder of SASRec, and an embedding of each step."""

    def __init__(self, config: SasRecConfig, num_steps: int) -> None:
        super().__init__()
        self.encoder = SasRec(config)
        self.steps = nn.Embedding(num_steps, config.width)
        nn.init.normal_(self.steps.weight, std=0.02)

    def forward(self, rows_BH: Tensor) -> Tensor:
        """Return the state behind each item before the first step and after each, (K + 1, B, H, W).

        Histories are padded on the right.
        """
        encoder, num = self.encoder, rows_BH.shape[1]
        positions_HW = encoder.positions.weight[:num]
        scaled_BHW = encoder.items(rows_BH) * encoder.config.width**0.5
        inputs = [encoder.dropout(scaled_BHW + positions_HW)]
        states = [self._last_block(inputs, num)]
        for step in range(self.steps.num_embeddings):
            inputs.append(states[-1] + self.steps.weight[step])
            states.append(self._last_block(inputs, num))
        return torch.stack(states)

    def _last_block(self, inputs: Sequence[Tensor], num: int) -> Tensor:
        """Encode items and steps so far; return the states of the last `num` inputs."""
        x = torch.cat(list(inputs), dim=1)
        is_hidden = hide_others(num, len(inputs) - 1)
        for block in self.encoder.blocks:
            x = block(x, is_hidden)
        last_BHW: Tensor = self.encoder.norm(x[:, -num:])
        return last_BHW


def hide_others(num: int, num_steps: int) -> Tensor:
    """Return which inputs an input must not see: `num` items, then the steps of each position.

    An item sees the items up to itself. A step sees what its item sees, and the steps of the same
    position up to itself.
    """
    ahead = torch.ones(num, num, dtype=torch.bool).triu(1)
    other = ~torch.eye(num, dtype=torch.bool)
    all_hidden = torch.ones(num, num, dtype=torch.bool)
    rows = []
    for at in range(num_steps + 1):
        own = [other] * at + [all_hidden] * (num_steps - at)
        rows.append(torch.cat([ahead, *own], dim=1))
    return torch.cat(rows)


class ReaRecNet:
    """ReaRec's ensemble of steps."""

    def __init__(self, net: LatentSteps, apart: float) -> None:
        self.net, self._apart = net, apart

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        numbers_BH = number_items([history.rows for history in histories])
        rows_BH, is_real_BH = (numbers_BH - 1).clamp(min=0), numbers_BH[:, 1:] > 0
        targets_P = rows_BH[:, 1:][is_real_BH]
        states_KPW = self.net(rows_BH[:, :-1])[:, is_real_BH]
        logps = [self.net.encoder.logits(states_PW).log_softmax(-1) for states_PW in states_KPW]
        learnt = torch.stack([functional.nll_loss(logp_PN, targets_P) for logp_PN in logps]).sum()
        return Loss(learnt - self._apart * _divergence(logps), len(targets_P))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        numbers_BH = number_items([history.rows[-WINDOW:] for history in histories])
        states = self.net((numbers_BH - 1).clamp(min=0))
        last_BW = states.mean(dim=0)[torch.arange(len(histories)), lengths_of(numbers_BH) - 1]
        return self.net.encoder.logits(last_BW)


def _divergence(logps: Sequence[Tensor]) -> Tensor:
    """Return the mean divergence between the answers of neighbouring steps."""
    found = [
        functional.kl_div(one, other, log_target=True, reduction="batchmean")
        for one, other in pairwise(logps)
    ]
    return torch.stack(found).mean()


def build_rearec(world: World, setting: Mapping[str, Any]) -> ReaRecNet:
    config = SasRecConfig(len(world.catalog), setting["width"], dropout=setting["dropout"])
    return ReaRecNet(LatentSteps(config, setting["steps"]), setting["apart"])
