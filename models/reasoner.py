"""The reasoner on plain transformers: any Hugging Face causal LM directory.

Prompts are encoded once and shared by their paths; codes are scored as a tree over the cached
paths, one forward pass a level. Knows nothing of users, catalogs or Redis.
"""

# U = prompts, R = paths (U x T, then the closed ones), S = cache slots, W = beams, V = vocabulary,
# K = tokens to draw from, M = steps

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from models.beam import Frontier
from models.errors import ReleaseMismatch
from models.prompts import MAX_THOUGHT_TOKENS, THINK_END
from models.sid import ITEM_BEGIN, SidSpace


@dataclass(frozen=True)
class Sampling:
    """How thoughts are sampled: from softmax(logits / temperature), cut to the `top_k` best tokens
    and of those to the smallest set that holds `top_p`.

    Ranking the whole vocabulary instead of `top_k` took a third of the time of a thought.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = MAX_THOUGHT_TOKENS


class TransformersReasoner:
    """Implements `models.think.Reasoner`; the tokenizer must hold every itemic token."""

    def __init__(self, model: Any, tokenizer: Any, space: SidSpace, sampling: Sampling) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.code_ids = _code_ids(tokenizer, space)
        self.think_end = _token_id(tokenizer, THINK_END)
        self.item_begin = _token_id(tokenizer, ITEM_BEGIN)

    @classmethod
    def load(
        cls,
        directory: Path,
        space: SidSpace,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        sampling: Sampling | None = None,
    ) -> "TransformersReasoner":
        """Load a model directory. Raises ReleaseMismatch if its tokenizer lacks an itemic token."""
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype or torch.float32)
        return cls(model.to(device), tokenizer, space, sampling or Sampling())

    @torch.inference_mode()
    def think(
        self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]
    ) -> "TransformersThoughts":
        """Sample `paths` thoughts a prompt. The noise depends on seed, path and step alone."""
        ids_US, mask_US = self._encode(prompts)
        cache = DynamicCache()
        logits_UV = self._forward(ids_US, mask_US, _positions(mask_US), cache)[:, -1]
        cache.batch_repeat_interleave(paths)
        state = _Paths(
            cache=cache,
            mask_RS=mask_US.repeat_interleave(paths, dim=0),
            length_R=mask_US.sum(dim=1).repeat_interleave(paths),
        )
        noise_RM = _noise(seeds, paths, self.sampling.max_tokens)
        tokens, closed = self._sample(state, logits_UV.repeat_interleave(paths, dim=0), noise_RM)
        return TransformersThoughts(self, state, tokens, closed, paths)

    def _encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, padded on the left: (U, S)."""
        ids = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        width = max(len(row) for row in ids)
        ids_US = torch.zeros(len(ids), width, dtype=torch.int64)
        mask_US = torch.zeros(len(ids), width, dtype=torch.bool)
        for row, tokens in enumerate(ids):
            ids_US[row, width - len(tokens) :] = torch.tensor(tokens)
            mask_US[row, width - len(tokens) :] = True
        return ids_US.to(self.model.device), mask_US.to(self.model.device)

    def _sample(
        self, state: "_Paths", logits_RV: Tensor, noise_RM: Tensor
    ) -> tuple[list[list[int]], list[bool]]:
        """Extend every path until it closes its thought or runs out of tokens.

        Closing tokens are part of the path; the cache holds every token of a path but its last.
        """
        num = len(logits_RV)
        open_R = torch.ones(num, dtype=torch.bool, device=logits_RV.device)
        tokens: list[list[int]] = [[] for _ in range(num)]
        for step in range(self.sampling.max_tokens):
            next_R = self._draw(logits_RV, noise_RM[:, step].to(logits_RV.device))
            for row in torch.nonzero(open_R).flatten().tolist():
                tokens[row].append(int(next_R[row]))
            # A closing path still feeds `</think>`: its codes are scored after it.
            logits_RV = self._step(state, next_R, open_R)
            open_R = open_R & (next_R != self.think_end)
            if not open_R.any():
                break
        return tokens, (~open_R).tolist()

    def _draw(self, logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
        """One token a row by inverse transform sampling within the nucleus."""
        prob_RV = (logits_RV.float() / self.sampling.temperature).softmax(dim=-1)
        best_RK, order_RK = prob_RV.topk(min(self.sampling.top_k, prob_RV.shape[1]), dim=-1)
        below_RK = best_RK.cumsum(dim=-1) - best_RK
        kept_RK = best_RK.masked_fill(below_RK >= self.sampling.top_p, 0.0)
        cumulative_RK = kept_RK.cumsum(dim=-1)
        target_R1 = uniform_R.unsqueeze(1) * cumulative_RK[:, -1:]
        at_R1 = torch.searchsorted(cumulative_RK, target_R1, right=True)
        last_R1 = (kept_RK > 0).sum(dim=-1, keepdim=True) - 1
        return order_RK.gather(1, torch.minimum(at_R1, last_R1)).squeeze(1)

    def _step(self, state: "_Paths", token_R: Tensor, live_R: Tensor) -> Tensor:
        """Feed one token to the live paths; the others get a masked slot. Next logits (R, V)."""
        state.mask_RS = torch.cat([state.mask_RS, live_R.unsqueeze(1)], dim=1)
        position_R1 = state.length_R.unsqueeze(1)
        logits = self._forward(token_R.unsqueeze(1), state.mask_RS, position_R1, state.cache)
        state.length_R = state.length_R + live_R
        return logits[:, -1]

    def _forward(
        self, ids_RQ: Tensor, mask_RS: Tensor, position_RQ: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Logits (R, Q, V) of the newest Q slots, each seeing the unmasked slots up to itself."""
        num_new, num_slots = ids_RQ.shape[1], mask_RS.shape[1]
        slot_S = torch.arange(num_slots, device=mask_RS.device)
        causal_QS = slot_S <= slot_S[num_slots - num_new :].unsqueeze(1)
        own_QS = slot_S == slot_S[num_slots - num_new :].unsqueeze(1)
        # A padded slot sees itself: a row of the softmax without any entry would be NaN.
        visible_RQS = (mask_RS.unsqueeze(1) & causal_QS) | own_QS
        return self._attend(ids_RQ, visible_RQS, position_RQ, cache)

    def _attend(
        self, ids_RQ: Tensor, visible_RQS: Tensor, position_RQ: Tensor, cache: DynamicCache
    ) -> Tensor:
        output = self.model(
            input_ids=ids_RQ,
            attention_mask=visible_RQS.unsqueeze(1),
            position_ids=position_RQ,
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits


@dataclass
class _Paths:
    """R paths in progress: their cache, which of its slots count, and their lengths in tokens."""

    cache: DynamicCache
    mask_RS: Tensor
    length_R: Tensor


class TransformersThoughts:
    """Implements `models.think.ThoughtBatch`; `tokens` holds the closed paths as sampled."""

    def __init__(
        self,
        reasoner: TransformersReasoner,
        state: _Paths,
        tokens: list[list[int]],
        closed: list[bool],
        paths: int,
    ) -> None:
        self._reasoner = reasoner
        self._state = state
        self._closed = closed
        starts = range(0, len(tokens), paths)
        self.tokens = [
            [tokens[at] for at in range(start, start + paths) if closed[at]] for start in starts
        ]
        decode = reasoner.tokenizer.decode
        self.texts: list[list[str]] = [
            [decode(path[:-1]).strip() for path in of_prompt] for of_prompt in self.tokens
        ]
        self.num_dropped = [paths - sum(closed[start : start + paths]) for start in starts]
        self.num_tokens = [
            sum(len(row) for row in tokens[start : start + paths]) for start in starts
        ]

    def scorer(self) -> "_CodeScorer":
        """Scores codes after every closed path. A new one ends the last: they share the cache."""
        if surplus := self._state.cache.get_seq_length() - self._state.mask_RS.shape[1]:
            self._state.cache.crop(-surplus)
        return _CodeScorer(self._reasoner, replace(self._state), torch.tensor(self._closed))


class _CodeScorer:
    """Implements `models.beam.Scorer` by tree attention: the beams of a level are slots side by
    side, each seeing its path, its own ancestors and itself, so no cache is copied."""

    def __init__(self, reasoner: TransformersReasoner, state: _Paths, closed_R: Tensor) -> None:
        self._reasoner = reasoner
        self._state = state
        self._closed = closed_R.to(state.mask_RS.device)
        self._level = 0
        self._ancestry: Tensor | None = None  # (R, W, slots added since the path ended)

    @torch.inference_mode()
    def start(self) -> NDArray[np.float32]:
        state, closed = self._state, self._closed
        begin_R = torch.full_like(state.length_R, self._reasoner.item_begin)
        logits_RV = self._reasoner._step(state, begin_R, closed)
        return self._logprobs(logits_RV[closed], level=0)

    @torch.inference_mode()
    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        state, reasoner = self._state, self._reasoner
        device = state.mask_RS.device
        width = frontier.codes_RW.shape[1]
        codes_RW = self._spread(torch.from_numpy(frontier.codes_RW).to(device))
        parents_RW = self._spread(torch.from_numpy(frontier.parents_RW).to(device))
        ids_RW = torch.from_numpy(reasoner.code_ids[self._level]).to(device)[codes_RW]
        own_WW = torch.eye(width, dtype=torch.bool, device=device).expand(len(ids_RW), -1, -1)
        if self._ancestry is None:
            self._ancestry = own_WW
        else:
            at = parents_RW.unsqueeze(-1).expand(-1, -1, self._ancestry.shape[2])
            self._ancestry = torch.cat([self._ancestry.gather(1, at), own_WW], dim=2)
        path_RWS = state.mask_RS.unsqueeze(1).expand(-1, width, -1)
        position_RW = (state.length_R + self._level).unsqueeze(1).expand(-1, width)
        visible_RWS = torch.cat([path_RWS, self._ancestry], dim=2)
        logits_RWV = reasoner._attend(ids_RW, visible_RWS, position_RW, state.cache)
        self._level += 1
        return self._logprobs(logits_RWV[self._closed], level=self._level)

    def _spread(self, closed_RW: Tensor) -> Tensor:
        """From the closed paths to all paths, zeros for the dropped ones."""
        all_RW = closed_RW.new_zeros(len(self._closed), closed_RW.shape[1])
        all_RW[self._closed] = closed_RW
        return all_RW

    def _logprobs(self, logits: Tensor, *, level: int) -> NDArray[np.float32]:
        """log_softmax over the whole vocabulary, then the codes of one level."""
        ids = torch.from_numpy(self._reasoner.code_ids[level]).to(logits.device)
        logp = logits.float().log_softmax(dim=-1)[..., ids]
        result: NDArray[np.float32] = logp.cpu().numpy()
        return result


def _positions(mask_US: Tensor) -> Tensor:
    return (mask_US.cumsum(dim=1) - 1).clamp_min(0)


def _noise(seeds: Sequence[int], paths: int, steps: int) -> Tensor:
    """Uniform numbers keyed by seed, path and step: (U x T, steps)."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, path])).random(steps)
        for seed in seeds
        for path in range(paths)
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def _code_ids(tokenizer: Any, space: SidSpace) -> list[NDArray[np.int64]]:
    """Vocabulary ids of the codes of each level."""
    return [
        np.array([_token_id(tokenizer, space.token(level, code)) for code in range(size)])
        for level, size in enumerate(space.sizes)
    ]


def _token_id(tokenizer: Any, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise ReleaseMismatch(
            f"{tokenizer.name_or_path}: {token!r} is {len(ids)} tokens, expected one of its own"
        )
    return int(ids[0])
