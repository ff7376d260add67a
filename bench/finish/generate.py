"""What a user of `transformers` would write today: `generate` under `prefix_allowed_tokens_fn`.

A decoder-only language model over SID tokens, held to C_u by a trie. Written as well as the library
allows, because the online tier is measured beside it. Knows nothing of our recommender.
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
    """A SID and log P(its codes | history), not renormalised over what is legal."""

    sid: Sid
    logprob: float


class Generator:
    """The baseline over one catalog, in float32. Not thread-safe."""

    def __init__(self, model: Any, catalog: Catalog) -> None:
        self._model = model.float().eval()
        self._catalog = catalog
        self._tokens = SidTokens(catalog.space)
        self._below_prefixes = self._tabulate_catalog()

    @classmethod
    def load(cls, directory: Path, catalog: Catalog) -> Self:
        """Raises InvalidRelease, or ReleaseMismatch where it speaks other SIDs than the catalog."""
        transformers_logging.disable_progress_bar()
        wanted = f"{catalog.space.fingerprint:016x}"
        try:
            found = json.loads((directory / "metrics.json").read_text())["sid_space"]
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        except (SafetensorError, OSError, ValueError, KeyError) as exc:
            raise InvalidRelease(f"{directory}: no sound baseline ({exc})") from exc
        if found != wanted:
            raise ReleaseMismatch(f"{directory}: SID space {found}, expected {wanted}")
        return cls(model, catalog)

    @classmethod
    def untrained(cls, directory: Path, catalog: Catalog) -> Self:
        """The shape of the model in `directory` over another catalog, with random weights: to
        measure what other codebooks cost, nothing else."""
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
        """The language model itself, for `LanguageModelScorer`."""
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
        """The `k` best SIDs below `prefixes` that `num_beams` beams find, best first.

        k: at most `num_beams`. Prefixes that the catalog lacks are ignored. With ten beams a
        prefix of an exact top item can fall out at the second step; `exact_beams` are enough for
        none to. `generate` reads the prompt once a beam; `reads_prompt_once` hands it a cache
        that was filled once, which few callers know to do.
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
        """As many beams as make `recommend` exact.

        Beam search forgets nothing as long as every node that the prefixes span has a beam, and
        the widest depth before the last step is that of the inner nodes: for three levels the
        prefixes themselves.
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
        """The `k` best SIDs below `prefixes`: one whole row an inner node, no cache and no beam.

        Float32: Llama's norms compute in it whatever the weights are. Ties by SID.
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
        """log P(inner node, next token | history): (M, V)."""
        prompt = self._tokens.prompt(history_sids)
        node_ids = [self._tokens.ids(codes) for codes in codes_ML.tolist()]
        ids_MT = torch.tensor([[*prompt, *ids] for ids in node_ids])
        read = self._model(ids_MT, use_cache=False, logits_to_keep=codes_ML.shape[1] + 1)
        logp_MLV = read.logits.log_softmax(dim=-1)
        own_M = logp_MLV[:, :-1].gather(2, torch.tensor(node_ids).unsqueeze(2)).sum(dim=(1, 2))
        joint_MV: Tensor = own_M.unsqueeze(1) + logp_MLV[:, -1]
        return joint_MV

    def _inner_nodes(self, prefixes: Sequence[Prefix]) -> NDArray[np.int64]:
        """Trie nodes with all codes but the last, below `prefixes`."""
        space, trie = self._catalog.space, self._catalog.trie
        codes = np.array(prefixes, dtype=np.int64).reshape(-1, space.prefix_depth)
        nodes = np.unique(trie.nodes(codes))
        nodes = nodes[nodes >= 0]
        for depth in range(space.prefix_depth, space.levels - 1):
            nodes = trie.expand(depth, nodes).node_C
        return nodes

    def _tabulate_catalog(self) -> AllowedTokens:
        """What may follow each prefix of the catalog and everything below it."""
        space, trie, first = self._catalog.space, self._catalog.trie, self._tokens.first_token
        allowed: AllowedTokens = {}
        for depth in range(space.prefix_depth, space.levels):
            following = (trie.codes[depth] + first[depth]).tolist()
            bounds = trie.first_child[depth].tolist()
            for at, ids in enumerate((trie.prefixes(depth) + first[:depth]).tolist()):
                allowed[tuple(ids)] = following[bounds[at] : bounds[at + 1]]
        return allowed

    def _tabulate_user(self, prefixes: Sequence[Prefix]) -> AllowedTokens:
        """What may follow on the way to `prefixes`, from the empty prefix on."""
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
        """The cache of all but the prompt's last token, once a beam; None where none is left."""
        if prompt_1T.shape[1] == 1:
            return None
        cache = DynamicCache(config=self._model.config)
        self._model.base_model(prompt_1T[:, :-1], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(num_beams)
        return cache

    def _config(self, k: int, num_beams: int) -> GenerationConfig:
        """Beam search by the plain sum of log-probabilities, L steps, nothing sampled.

        `generate` takes log_softmax over the whole vocabulary, then masks (transformers 5.19,
        `_beam_search`), and leaves it there unless `renormalize_logits`; so without a length
        penalty its scores are joint log-probabilities.
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
