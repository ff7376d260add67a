"""Baseline of the finish: `generate` of transformers under `prefix_allowed_tokens_fn`.

A decoder-only language model over SID tokens, constrained to C_u by a trie. The code is as fast as
the library allows, so that the comparison with the online tier is fair. Knows nothing of our
recommender.
"""

# M = inner nodes (all codes but the last), T = tokens, L = levels, V = vocabulary

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig
from transformers.utils import logging as transformers_logging

from models.baselines.sid_lm import SidTokens
from models.catalog.catalog import Catalog
from models.catalog.sid import Prefix, Sid
from models.errors import InvalidRelease, ReleaseMismatch

_DEAD = -1e8  # beams without a continuation of their own carry scores near -1e9
_CHUNK_NODES = 128

AllowedTokens = dict[tuple[int, ...], list[int]]


class Generated(NamedTuple):
    """One generated SID."""

    sid: Sid
    logprob: float  # log P(codes | history), not renormalised over the legal codes


class Generator:
    """The baseline over one catalog, in float32. Not thread-safe."""

    def __init__(self, model: Any, catalog: Catalog) -> None:
        self._model = model.float().eval()
        self._catalog = catalog
        self._tokens = SidTokens(catalog.space)
        self._below_prefixes = self._tabulate_catalog()

    @classmethod
    def load(cls, directory: Path, catalog: Catalog) -> Self:
        """Load the baseline.

        Raises InvalidRelease for broken files, and ReleaseMismatch if the SID space of the model is
        not the catalog's.
        """
        transformers_logging.disable_progress_bar()
        wanted = f"{catalog.space.fingerprint:016x}"
        try:
            found = json.loads((directory / "metrics.json").read_text())["sid_space"]
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        except (SafetensorError, OSError, ValueError, KeyError) as exc:
            raise InvalidRelease(f"{directory}: not a valid baseline ({exc})") from exc
        if found != wanted:
            raise ReleaseMismatch(f"{directory}: SID space {found}, expected {wanted}")
        return cls(model, catalog)

    @classmethod
    def untrained(cls, directory: Path, catalog: Catalog) -> Self:
        """Build a model with random weights and the shape of the one in `directory`.

        It serves only to measure the cost of other codebooks.
        """
        tokens = SidTokens(catalog.space)
        config = AutoConfig.from_pretrained(
            directory, vocab_size=len(tokens), bos_token_id=tokens.bos, pad_token_id=tokens.pad
        )
        return cls(AutoModelForCausalLM.from_config(config), catalog)

    @property
    def num_parameters(self) -> int:
        return int(self._model.num_parameters())

    @property
    def model(self) -> Any:
        """Return the language model, for `LanguageModelScorer`."""
        return self._model

    @torch.inference_mode()
    def recommend(
        self,
        history_sids: Sequence[Sequence[int]] | NDArray[np.integer],
        prefixes: Sequence[Prefix],
        *,
        k: int,
        num_beams: int,
        reads_prompt_once: bool = False,
    ) -> list[Generated]:
        """Return the `k` best SIDs below `prefixes` that `num_beams` beams find, best first.

        With ten beams, the prefix of an exact top item can be lost at the second step;
        `exact_beams` returns enough beams to lose none.

        Args:
            prefixes: those missing in the catalog are ignored.
            k: at most `num_beams`.
            reads_prompt_once: pass a cache with the encoded prompt. By default `generate` encodes
                the prompt once per beam, and few callers know how to avoid it.
        """
        own = self._tabulate_user(prefixes)
        if not own[()]:
            return []
        prompt_1T = torch.tensor([self._tokens.prompt(history_sids)])
        num_prompt = prompt_1T.shape[1]

        def allowed(_: int, ids_T: Tensor) -> list[int]:
            after = tuple(ids_T[num_prompt:].tolist())
            return own.get(after) or self._below_prefixes[after]

        made = self._model.generate(
            prompt_1T,
            attention_mask=torch.ones_like(prompt_1T),
            generation_config=self._config(k, num_beams),
            prefix_allowed_tokens_fn=allowed,
            past_key_values=self._read(prompt_1T, num_beams) if reads_prompt_once else None,
        )
        found = zip(
            made.sequences[:, num_prompt:].tolist(), made.sequences_scores.tolist(), strict=True
        )
        return [Generated(self._tokens.sid(ids), score) for ids, score in found if score > _DEAD]

    def exact_beams(self, prefixes: Sequence[Prefix], *, k: int) -> int:
        """Return the number of beams that makes `recommend` exact.

        Beam search loses nothing if every node below the prefixes has a beam at every step before
        the last one. The widest of these steps is at the inner nodes. With three levels, the inner
        nodes are the prefixes themselves.
        """
        return max(k, len(self._inner_nodes(prefixes)))

    @torch.inference_mode()
    def exact(
        self,
        history_sids: Sequence[Sequence[int]] | NDArray[np.integer],
        prefixes: Sequence[Prefix],
        *,
        k: int,
    ) -> list[Generated]:
        """Return the `k` best SIDs below `prefixes`, ties by SID.

        Every inner node is one full row of the model, without cache and without beams. Computed in
        float32, in which Llama's norms compute for weights of any precision.
        """
        nodes_M = self._inner_nodes(prefixes)
        depth, trie = self._catalog.space.levels - 1, self._catalog.trie
        found = []
        for chunk_M in np.split(nodes_M, range(_CHUNK_NODES, len(nodes_M), _CHUNK_NODES)):
            codes_ML = trie.space.unpack(trie.packed[depth][chunk_M], depth)
            logp_MV = self._joint_logprobs(history_sids, codes_ML)
            parent_C, _, code_C = trie.expand(depth, chunk_M)
            for parent, code in zip(parent_C.tolist(), code_C.tolist(), strict=True):
                sid = (*codes_ML[parent].tolist(), code)
                found.append(Generated(sid, float(logp_MV[parent, self._tokens.ids(sid)[-1]])))
        return sorted(found, key=lambda item: (-item.logprob, item.sid))[:k]

    def _joint_logprobs(
        self,
        history_sids: Sequence[Sequence[int]] | NDArray[np.integer],
        codes_ML: NDArray[np.integer],
    ) -> Tensor:
        """Return log P(inner node, next token | history), (M, V)."""
        prompt = self._tokens.prompt(history_sids)
        node_ids = [self._tokens.ids(codes) for codes in codes_ML.tolist()]
        ids_MT = torch.tensor([[*prompt, *ids] for ids in node_ids])
        read = self._model(ids_MT, use_cache=False, logits_to_keep=codes_ML.shape[1] + 1)
        logp_MLV = read.logits.log_softmax(dim=-1)
        own_M = logp_MLV[:, :-1].gather(2, torch.tensor(node_ids).unsqueeze(2)).sum(dim=(1, 2))
        joint_MV: Tensor = own_M.unsqueeze(1) + logp_MLV[:, -1]
        return joint_MV

    def _inner_nodes(self, prefixes: Sequence[Prefix]) -> NDArray[np.int64]:
        """Return the trie nodes below `prefixes` that have all codes but the last."""
        space, trie = self._catalog.space, self._catalog.trie
        codes = np.array(prefixes, dtype=np.int64).reshape(-1, space.prefix_depth)
        nodes = np.unique(trie.nodes(codes))
        nodes = nodes[nodes >= 0]
        for depth in range(space.prefix_depth, space.levels - 1):
            nodes = trie.expand(depth, nodes).node_C
        return nodes

    def _tabulate_catalog(self) -> AllowedTokens:
        """Return the legal next tokens after each prefix of the catalog and each node below it."""
        space, trie, first = self._catalog.space, self._catalog.trie, self._tokens.first_token
        allowed: AllowedTokens = {}
        for depth in range(space.prefix_depth, space.levels):
            following = (trie.codes[depth] + first[depth]).tolist()
            bounds = trie.first_child[depth].tolist()
            for at, ids in enumerate((trie.prefixes(depth) + first[:depth]).tolist()):
                allowed[tuple(ids)] = following[bounds[at] : bounds[at + 1]]
        return allowed

    def _tabulate_user(self, prefixes: Sequence[Prefix]) -> AllowedTokens:
        """Return the legal next tokens on the way to `prefixes`, from the empty prefix on."""
        allowed: AllowedTokens = {(): []}
        for ids in dict.fromkeys(self._tokens.ids(prefix) for prefix in prefixes):
            if ids not in self._below_prefixes:
                continue
            for depth, token in enumerate(ids):
                following = allowed.setdefault(ids[:depth], [])
                if token not in following:
                    following.append(token)
        return allowed

    def _read(self, prompt_1T: Tensor, num_beams: int) -> DynamicCache | None:
        """Encode all but the prompt's last token into a cache, repeated for each beam.

        Return None if the prompt has only one token.
        """
        if prompt_1T.shape[1] == 1:
            return None
        cache = DynamicCache(config=self._model.config)
        self._model.base_model(prompt_1T[:, :-1], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(num_beams)
        return cache

    def _config(self, k: int, num_beams: int) -> GenerationConfig:
        """Return settings of a beam search over L steps, by the sum of log-probabilities.

        `generate` applies log_softmax over the whole vocabulary and then the mask (transformers
        5.19, `_beam_search`); it renormalises only with `renormalize_logits`. Without a length
        penalty its scores are therefore joint log-probabilities.
        """
        return GenerationConfig(
            num_beams=num_beams,
            num_return_sequences=k,
            max_new_tokens=self._catalog.space.levels,
            do_sample=False,
            length_penalty=0.0,
            renormalize_logits=False,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=True,
            bos_token_id=self._tokens.bos,
            pad_token_id=self._tokens.pad,
        )
