"""TIGER: a small T5 of transformers that writes the semantic id of the next item.

The SIDs are those of the release. The ranking is that of a beam over the catalog's tree, so that it
holds existing items only. Items that share a SID share its place.
"""

# B = users, T = tokens, L = levels, K = beams, N = catalog rows

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bench.table1.contender import Loss
from bench.table1.padded_rows import UserRows, World
from models.catalog.catalog import Catalog

_PAD = 0
_BEAMS = 50


class SidTokens:
    """Tokens of SIDs: a number of its own for each code of each level; 0 is padding."""

    def __init__(self, catalog: Catalog) -> None:
        first_L = 1 + np.cumsum([0, *catalog.space.sizes[:-1]])
        self.tokens_NL = torch.from_numpy(catalog.sids.astype(np.int64) + first_L)
        self.num = 1 + sum(catalog.space.sizes)
        self.num_levels = self.tokens_NL.shape[1]
        self._after: dict[tuple[int, ...], list[int]] = {}  # beginning of a SID -> next tokens
        for tokens in self.tokens_NL.tolist():
            for level, token in enumerate(tokens):
                self._after.setdefault(tuple(tokens[:level]), []).append(token)
        self.rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, tokens in enumerate(self.tokens_NL.tolist()):
            self.rows_of.setdefault(tuple(tokens), []).append(row)

    def allowed_after(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return which tokens may follow each prefix, (prefixes, num)."""
        mask = torch.zeros(len(prefixes), self.num, dtype=torch.bool)
        for at, prefix in enumerate(prefixes):
            mask[at, self._after[prefix]] = True
        return mask


class TigerNet:
    """Encoder over the SIDs of a history, decoder over the SID of the next item."""

    def __init__(self, net: T5ForConditionalGeneration, tokens: SidTokens, window: int) -> None:
        self.net, self._tokens, self._window = net, tokens, window

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        """Return the loss of one random target of each history."""
        cuts = [1 + int(torch.randint(len(each.rows) - 1, ())) for each in histories]
        pairs = list(zip(histories, cuts, strict=True))
        inputs_BT = self._read([each.rows[:at] for each, at in pairs])
        labels_BL = self._tokens.tokens_NL[[each.rows[at] for each, at in pairs]]
        found = self.net(input_ids=inputs_BT, attention_mask=inputs_BT != _PAD, labels=labels_BL)
        return Loss(found.loss, len(pairs))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        """Score the items that a beam finds by their log-probability; all others are -inf."""
        inputs_BT = self._read([history.rows for history in histories])
        encoded = self.net.encoder(input_ids=inputs_BT, attention_mask=inputs_BT != _PAD)[0]
        scores_BN = torch.full((len(histories), len(self._tokens.tokens_NL)), -torch.inf)
        for user in range(len(histories)):
            num = int((inputs_BT[user] != _PAD).sum())
            for tokens, logp in self._search(encoded[user : user + 1, :num]):
                scores_BN[user, self._tokens.rows_of[tokens]] = logp
        return scores_BN

    def _search(self, encoded_1TW: Tensor) -> list[tuple[tuple[int, ...], float]]:
        """Return the SIDs of the best beams of one user, with their log-probabilities."""
        prefixes: list[tuple[int, ...]] = [()]
        logp_K = torch.zeros(1)
        for _ in range(self._tokens.num_levels):
            next_KV = self._next_logps(encoded_1TW, prefixes)
            total_KV = logp_K.unsqueeze(1) + next_KV
            total_KV.masked_fill_(~self._tokens.allowed_after(prefixes), -torch.inf)
            best = total_KV.flatten().topk(min(_BEAMS, int(total_KV.isfinite().sum())))
            beams = [divmod(at, self._tokens.num) for at in best.indices.tolist()]
            prefixes = [(*prefixes[beam], token) for beam, token in beams]
            logp_K = best.values
        return list(zip(prefixes, logp_K.tolist(), strict=True))

    def _next_logps(self, encoded_1TW: Tensor, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return log P of the token behind each prefix, (K, V)."""
        decoded = torch.tensor([[_PAD, *prefix] for prefix in prefixes])
        states_KTW = cast("torch.FloatTensor", encoded_1TW.expand(len(prefixes), -1, -1))
        shared = BaseModelOutput(states_KTW)
        logits: Tensor = self.net(encoder_outputs=shared, decoder_input_ids=decoded).logits
        return logits[:, -1].log_softmax(dim=-1)

    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the tokens of the newest items, padded on the right: (B, T)."""
        texts = [self._tokens.tokens_NL[list(each[-self._window :])].flatten() for each in rows]
        return nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=_PAD)


def build_tiger(world: World, setting: Mapping[str, Any]) -> TigerNet:
    tokens = SidTokens(world.catalog)
    config = T5Config(
        vocab_size=tokens.num,
        d_model=setting["width"],
        d_kv=setting["width"] // setting["heads"],
        d_ff=setting["inner"],
        num_layers=setting["layers"],
        num_decoder_layers=setting["layers"],
        num_heads=setting["heads"],
        dropout_rate=setting["dropout"],
        feed_forward_proj="relu",
        pad_token_id=_PAD,
        decoder_start_token_id=_PAD,  # type: ignore[call-arg]  # of the base class
        eos_token_id=None,
    )
    return TigerNet(T5ForConditionalGeneration(config), tokens, setting["window"])
