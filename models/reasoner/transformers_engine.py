"""The reasoner on plain transformers: any Hugging Face causal LM directory.

A prompt is read once for all of its paths. A closed path takes part in no further pass. Codes are
scored by one forward pass a level. Knows nothing of users, catalogs or Redis.
"""

# U = prompts, R = paths (U x T, then the closed ones), L = paths not closed yet, S = slots of a
# tree, W = beams a path, B = R x W, V = vocabulary, K = tokens to draw from, M = steps

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.catalog.sid import ITEM_BEGIN, SidSpace
from models.errors import ReleaseMismatch
from models.reasoner.beam import Frontier
from models.reasoner.prompts import MAX_THOUGHT_TOKENS, THINK_END
from models.reasoner.token_tree import ATTENTION, Tokens, TokenTrees, widen

_FEW = 16  # tokens that usually hold the whole nucleus
_MORE = 512  # tokens that usually hold a draw from the whole vocabulary
_LOGITS_AT_ONCE = 2**25  # numbers in float32


@dataclass(frozen=True)
class Sampling:
    """Sampling of thoughts from softmax(logits / temperature).

    The candidates are the `top_k` best tokens, cut to the smallest set that holds `top_p`.
    Ranking the whole vocabulary instead of `top_k` took a third of the time of a thought.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = MAX_THOUGHT_TOKENS

    @classmethod
    def of(cls, directory: Path) -> "Sampling":
        """Read the longest thought from `max_new_tokens` of `generation_config.json`, if it is set.

        Training writes there the length of the thoughts that the model learnt.
        """
        file = directory / "generation_config.json"
        said = json.loads(file.read_text()) if file.is_file() else {}
        return cls(max_tokens=said.get("max_new_tokens") or MAX_THOUGHT_TOKENS)


class TransformersReasoner:
    """Implements `models.reasoner.think.Reasoner`; the tokenizer must hold every itemic token.

    `closing` is the token that ends a thought.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        space: SidSpace,
        sampling: Sampling,
        *,
        closing: str = THINK_END,
    ) -> None:
        self.model = model.eval()
        self.model.set_attn_implementation(ATTENTION)
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.code_ids = code_ids(tokenizer, space)
        self.think_end = token_id(tokenizer, closing)
        self.item_begin = token_id(tokenizer, ITEM_BEGIN)

    @classmethod
    def load(
        cls,
        directory: Path,
        space: SidSpace,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        sampling: Sampling | None = None,
        closing: str = THINK_END,
    ) -> "TransformersReasoner":
        """Load a model directory. Raises ReleaseMismatch if its tokenizer lacks an itemic token."""
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype or torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        sampling = sampling or Sampling.of(directory)
        return cls(model.to(device), tokenizer, space, sampling, closing=closing)

    @torch.inference_mode()
    def think(
        self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]
    ) -> "TransformersThoughts":
        """Sample `paths` thoughts a prompt. The noise depends on seed, path and step alone."""
        state, logits_UV = self._plant(prompts, paths)
        noise_RM = _noise(seeds, paths, self.sampling.max_tokens).to(self.model.device)
        tokens = self._sample(state, logits_UV.repeat_interleave(paths, dim=0), noise_RM)
        return TransformersThoughts(self, state, tokens, paths)

    @torch.inference_mode()
    def recite(
        self, prompts: Sequence[str], thoughts: Sequence[Sequence[str]]
    ) -> "TransformersThoughts":
        """Use the given thoughts instead of sampled ones; every prompt has the same number.

        An empty thought makes the model recommend at once.
        """
        paths = len(thoughts[0]) if thoughts else 0
        state, _ = self._plant(prompts, paths)
        tokens = [
            [*self.tokenizer.encode(text, add_special_tokens=False), self.think_end]
            for texts in thoughts
            for text in texts
        ]
        for step in range(max(map(len, tokens), default=1) - 1):
            live = [row for row, path in enumerate(tokens) if len(path) - 1 > step]
            next_L = torch.tensor([tokens[row][step] for row in live], device=self.model.device)
            self._grow(state, torch.tensor(live, device=self.model.device), next_L)
        return TransformersThoughts(self, state, tokens, paths)

    def _plant(self, prompts: Sequence[str], paths: int) -> tuple["_Paths", Tensor]:
        """Read each prompt once. Returns the starts of its paths, and the next logits (U, V)."""
        ids = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        device = self.model.device
        length_U = torch.tensor([len(row) for row in ids], device=device)
        trees = TokenTrees(len(ids), device)
        trunks = trees.add_prompts(length_U)
        last_U = length_U.cumsum(dim=0) - 1
        ids_N = torch.tensor([token for row in ids for token in row], device=device)
        logits_UV = self._forward(trees, ids_N, trunks, keep=last_U)
        return _Paths(trees, _take(trunks, last_U.repeat_interleave(paths))), logits_UV

    def _sample(self, state: "_Paths", logits_LV: Tensor, noise_RM: Tensor) -> list[list[int]]:
        """Extend every path until it closes its thought or runs out of tokens: (R, ragged).

        Closing tokens are part of the path, but the trees hold every token of a path but its last.
        """
        tokens: list[list[int]] = [[] for _ in noise_RM]
        live_L = torch.arange(len(tokens), device=logits_LV.device)
        next_L = live_L[:0]
        for step in range(noise_RM.shape[1]):
            if step:
                logits_LV = self._grow(state, live_L, next_L)
            next_L = self._draw(logits_LV, noise_RM[live_L, step])
            for row, token in zip(live_L.tolist(), next_L.tolist(), strict=True):
                tokens[row].append(token)
            is_open_L = next_L != self.think_end
            live_L, next_L = live_L[is_open_L], next_L[is_open_L]
            if not len(live_L):
                break
        return tokens

    def _grow(self, state: "_Paths", live_L: Tensor, token_L: Tensor) -> Tensor:
        """Feed one token to each live path. Returns the next logits (L, V)."""
        grown = state.trees.add(_take(state.ends, live_L))
        sees_RS = widen(state.ends.sees_NS, grown.sees_NS.shape[1])
        sees_RS[live_L] = grown.sees_NS
        state.ends = Tokens(state.ends.tree_N, sees_RS)
        return self._forward(state.trees, token_L, grown)

    def _draw(self, logits_LV: Tensor, uniform_L: Tensor) -> Tensor:
        """Draw one token a row by inverse transform sampling within the nucleus."""
        prob_LV = (logits_LV.float() / self.sampling.temperature).softmax(dim=-1)
        if self.sampling.top_p >= 1 and self.sampling.top_k >= prob_LV.shape[1]:
            return draw_from_all(prob_LV, uniform_L)
        best_LK, order_LK = self._best(prob_LV)
        below_LK = best_LK.cumsum(dim=-1) - best_LK
        kept_LK = best_LK.masked_fill(below_LK >= self.sampling.top_p, 0.0)
        cumulative_LK = kept_LK.cumsum(dim=-1)
        target_L1 = uniform_L.unsqueeze(1) * cumulative_LK[:, -1:]
        at_L1 = torch.searchsorted(cumulative_LK, target_L1, right=True)
        last_L1 = (kept_LK > 0).sum(dim=-1, keepdim=True) - 1
        return order_LK.gather(1, torch.minimum(at_L1, last_L1)).squeeze(1)

    def _best(self, prob_LV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities and ids of each row's most likely tokens, best first.

        If the best 16 hold `top_p`, no more are ranked. For 80 rows of 2,439 tokens, ranking 16
        takes 0.38 ms and ranking 50 takes 1.7 ms.
        """
        most = min(self.sampling.top_k, prob_LV.shape[1])
        best_LK, order_LK = prob_LV.topk(min(_FEW, most), dim=-1)
        wide_L = best_LK.sum(dim=-1) < self.sampling.top_p
        if most <= _FEW or not wide_L.any():
            return best_LK, order_LK
        best_LK, order_LK = (pad(few_LK, (0, most - _FEW)) for few_LK in (best_LK, order_LK))
        best_LK[wide_L], order_LK[wide_L] = prob_LV[wide_L].topk(most, dim=-1)
        return best_LK, order_LK

    def _forward(
        self, trees: TokenTrees, ids_N: Tensor, tokens: Tokens, *, keep: Tensor | None = None
    ) -> Tensor:
        """Return logits (N, V) of the tokens last added to `trees`, or of the `keep` among them."""
        output = self.model(
            input_ids=ids_N.unsqueeze(0),
            attention_mask=trees.mask,
            position_ids=tokens.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=0 if keep is None else keep,
            trees=trees,
        )
        logits_NV: Tensor = output.logits[0]
        return logits_NV


@dataclass
class _Paths:
    """R paths in progress."""

    trees: TokenTrees
    ends: Tokens  # last token of each path


class TransformersThoughts:
    """Implements `ThoughtBatch`.

    `tokens` holds the closed paths as sampled. `sampled` holds all paths.
    """

    def __init__(
        self,
        reasoner: TransformersReasoner,
        state: _Paths,
        tokens: list[list[int]],
        paths: int,
    ) -> None:
        self._reasoner = reasoner
        self._state = state
        self._size_U = state.trees.size_U
        self.sampled = tokens
        closed = [path[-1] == reasoner.think_end for path in tokens]
        self._closed = torch.tensor(closed).nonzero().flatten().to(state.ends.tree_N.device)
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
        """Return a scorer after every closed path. It ends the last one: they share trees."""
        self._state.trees.cut(self._size_U)
        return _CodeScorer(self._reasoner, self._state.trees, _take(self._state.ends, self._closed))


class _CodeScorer:
    """Implements `models.reasoner.beam.Scorer`: the beams of a level are one forward pass."""

    def __init__(self, reasoner: TransformersReasoner, trees: TokenTrees, ends: Tokens) -> None:
        self._reasoner = reasoner
        self._trees = trees
        self._beams = ends  # newest token of each beam, R x W
        self._level = 0

    @torch.inference_mode()
    def start(self) -> NDArray[np.float32]:
        """Feed the closing token and `<|item_begin|>`, then score first codes."""
        reasoner = self._reasoner
        if not len(self._beams.tree_N):
            return np.empty((0, len(reasoner.code_ids[0])), dtype=np.float32)
        nothing = torch.empty(0, dtype=torch.int64, device=self._beams.tree_N.device)
        self._feed(torch.full_like(self._beams.tree_N, reasoner.think_end), keep=nothing)
        logits_RV = self._feed(torch.full_like(self._beams.tree_N, reasoner.item_begin))
        return self._logprobs(logits_RV)

    @torch.inference_mode()
    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        num, width = frontier.codes_RW.shape
        ids = self._reasoner.code_ids[self._level]
        self._level += 1
        if not num:
            size = len(self._reasoner.code_ids[self._level])
            return np.empty((0, width, size), dtype=np.float32)
        device = self._beams.tree_N.device
        first_R1 = np.arange(num)[:, None] * (len(self._beams.tree_N) // num)
        parent_B = torch.from_numpy((first_R1 + frontier.parents_RW).reshape(-1)).to(device)
        self._beams = _take(self._beams, parent_B)
        ids_B = torch.from_numpy(ids[frontier.codes_RW].reshape(-1)).to(device)
        return self._logprobs(self._feed(ids_B)).reshape(num, width, -1)

    def _feed(self, ids_B: Tensor, *, keep: Tensor | None = None) -> Tensor:
        self._beams = self._trees.add(self._beams)
        return self._reasoner._forward(self._trees, ids_B, self._beams, keep=keep)

    def _logprobs(self, logits_BV: Tensor) -> NDArray[np.float32]:
        """Compute log_softmax over the whole vocabulary; return the codes of one level."""
        ids = torch.from_numpy(self._reasoner.code_ids[self._level]).to(logits_BV.device)
        parts = []
        for part_BV in logits_BV.split(max(1, _LOGITS_AT_ONCE // logits_BV.shape[1])):
            exact_BV = part_BV.float()
            parts.append(exact_BV[:, ids] - exact_BV.logsumexp(dim=-1, keepdim=True))
        result: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return result


def draw_from_all(prob_LV: Tensor, uniform_L: Tensor) -> Tensor:
    """Draw one token a row by inverse transform sampling, the most likely tokens first.

    Only rows whose draw is not among the best 16 or 512 tokens have their vocabulary sorted.
    """
    size = prob_LV.shape[1]
    target_L1 = uniform_L.unsqueeze(1) * prob_LV.sum(dim=-1, keepdim=True)
    token_L = torch.zeros(len(prob_LV), dtype=torch.int64, device=prob_LV.device)
    open_L = torch.arange(len(prob_LV), device=prob_LV.device)
    for most in sorted({min(num, size) for num in (_FEW, _MORE, size)}):
        best_OK, order_OK = prob_LV[open_L].topk(most, dim=-1)
        at_O1 = torch.searchsorted(best_OK.cumsum(dim=-1), target_L1[open_L], right=True)
        last_O1 = (best_OK > 0).sum(dim=-1, keepdim=True) - 1
        drawn_O = order_OK.gather(1, torch.minimum(at_O1, last_O1)).squeeze(1)
        is_in_O = at_O1.squeeze(1) < (most if most < size else size + 1)
        token_L[open_L[is_in_O]] = drawn_O[is_in_O]
        open_L = open_L[~is_in_O]
        if not len(open_L):
            break
    return token_L


def _take(tokens: Tokens, at: Tensor) -> Tokens:
    return Tokens(tokens.tree_N[at], tokens.sees_NS[at])


def _noise(seeds: Sequence[int], paths: int, steps: int) -> Tensor:
    """Draw uniform numbers keyed by seed, path and step: (U x T, steps)."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, path])).random(steps)
        for seed in seeds
        for path in range(paths)
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def code_ids(tokenizer: Any, space: SidSpace) -> list[NDArray[np.int64]]:
    """Return the vocabulary ids of the codes, by level."""
    return [
        np.array([token_id(tokenizer, space.token(level, code)) for code in range(size)])
        for level, size in enumerate(space.sizes)
    ]


def token_id(tokenizer: Any, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise ReleaseMismatch(
            f"{tokenizer.name_or_path}: {token!r} is {len(ids)} tokens, expected one of its own"
        )
    return int(ids[0])
