"""The reasoner on vLLM: the only file that imports vllm.

The paths of a prompt are one request. Each node of the beam is a request for one token over the
cached prefix. Knows tries, because vLLM returns few scores and must be told for which tokens.
Knows nothing of users, catalogs or Redis.
"""

# R = closed paths, W = beams a path, V = codes of a level

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from models.catalog.sid import ITEM_BEGIN
from models.catalog.trie import CatalogTrie
from models.reasoner.beam import Frontier
from models.reasoner.prompts import THINK_END
from models.reasoner.transformers_engine import Sampling, code_ids, token_id

_MOST_SCORES = 128  # vLLM's bound on `logprob_token_ids` (0.32)
_SEED_BITS = 62  # vLLM adds the path's number to the seed and keeps both in 64 signed bits
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: it dies with us and starts sooner
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes share these cores
    "VLLM_CPU_KVCACHE_SPACE": "1",  # gigabytes
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the new runner takes at most 1,024 `allowed_token_ids`
}


@dataclass(frozen=True)
class VllmSettings:
    """Start options of vLLM."""

    tensor_parallel: int = 1  # GPUs that share each layer
    adapter: Path | None = None  # LoRA folder (PEFT) over the backbone
    max_model_len: int = 1024  # tokens
    memory_share: float = 0.9  # of a GPU
    dtype: str = "auto"  # that of the weights on a GPU, float32 on a CPU; or a name of torch's
    most_scores: int = _MOST_SCORES  # a node with more children first asks for its best `width`


class VllmReasoner:
    """Implements `models.reasoner.think.Reasoner`; codes outside the trie score -inf.

    `width` is the number of children requested of a node. A wider beam would lose some.
    """

    def __init__(
        self,
        llm: LLM,
        tokenizer: Any,
        trie: CatalogTrie,
        *,
        width: int,
        settings: VllmSettings,
        sampling: Sampling,
    ) -> None:
        self.llm = llm
        self.tokenizer = tokenizer
        self.trie = trie
        self.width = width
        self.sampling = sampling
        self.most_scores = settings.most_scores
        self.code_ids = code_ids(tokenizer, trie.space)
        self.think_end = token_id(tokenizer, THINK_END)
        self.item_begin = token_id(tokenizer, ITEM_BEGIN)
        self._adapter = None
        if settings.adapter is not None:
            self._adapter = LoRARequest("night", 1, str(settings.adapter))

    @classmethod
    def load(
        cls,
        directory: Path,
        trie: CatalogTrie,
        *,
        width: int,
        settings: VllmSettings | None = None,
        sampling: Sampling | None = None,
    ) -> "VllmReasoner":
        """Start the engine. Raises ReleaseMismatch if the tokenizer lacks an itemic token."""
        settings = settings or VllmSettings()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        code_ids(tokenizer, trie.space)
        return cls(
            LLM(str(directory), **_engine_arguments(settings, width)),
            tokenizer,
            trie,
            width=width,
            settings=settings,
            sampling=sampling or Sampling.of(directory),
        )

    def think(self, prompts: Sequence[str], *, paths: int, seeds: Sequence[int]) -> "VllmThoughts":
        """Sample `paths` thoughts a prompt. The noise is vLLM's own, seeded by prompt and path."""
        asked = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        params = [
            SamplingParams(
                n=paths,
                seed=seed % 2**_SEED_BITS,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                top_k=self.sampling.top_k,
                max_tokens=self.sampling.max_tokens,
                stop_token_ids=[self.think_end],
                ignore_eos=True,
                detokenize=False,
                skip_clone=True,
            )
            for seed in seeds
        ]
        answers = self.generate(asked, params)
        tokens = [[list(path.token_ids) for path in answer.outputs] for answer in answers]
        return VllmThoughts(self, asked, tokens)

    def generate(self, asked: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Any]:
        requests: Any = [{"prompt_token_ids": ids} for ids in asked]
        answers: list[Any] = self.llm.generate(
            requests, list(params), use_tqdm=False, lora_request=self._adapter
        )
        return answers


class VllmThoughts:
    """Implements `ThoughtBatch`; `tokens` holds the closed paths as sampled."""

    def __init__(
        self, reasoner: VllmReasoner, asked: Sequence[list[int]], paths: list[list[list[int]]]
    ) -> None:
        """Keep the closed paths.

        Args:
            asked: token ids of each prompt.
            paths: per prompt, every path as sampled.
        """
        self._reasoner = reasoner
        end = reasoner.think_end
        self.tokens = [[path for path in own if path[-1] == end] for own in paths]
        decode = reasoner.tokenizer.decode
        self.texts: list[list[str]] = [
            [decode(path[:-1]).strip() for path in own] for own in self.tokens
        ]
        self.num_dropped = [
            len(own) - len(kept) for own, kept in zip(paths, self.tokens, strict=True)
        ]
        self.num_tokens = [sum(len(path) for path in own) for own in paths]
        self._contexts = [
            [*prompt, *path, reasoner.item_begin]
            for prompt, own in zip(asked, self.tokens, strict=True)
            for path in own
        ]

    def scorer(self) -> "_NodeScorer":
        """Return a scorer after every closed path."""
        return _NodeScorer(self._reasoner, self._contexts)


class _Node(NamedTuple):
    """A position at which codes are scored."""

    context: list[int]  # token ids before the codes
    at: int  # number of the beam
    codes: NDArray[np.int32]  # the legal codes here


class _NodeScorer:
    """Implements `models.reasoner.beam.Scorer`; scores legal codes only."""

    def __init__(self, reasoner: VllmReasoner, contexts: list[list[int]]) -> None:
        self._reasoner = reasoner
        self._nodes_RW: NDArray[np.int64] = np.zeros((len(contexts), 1), dtype=np.int64)
        self._beams = [[context] for context in contexts]  # per path: token ids of each beam
        self._level = 0

    def start(self) -> NDArray[np.float32]:
        scores_RWV: NDArray[np.float32] = self._score()
        return scores_RWV[:, 0]

    def extend(self, frontier: Frontier) -> NDArray[np.float32]:
        ids, trie = self._reasoner.code_ids[self._level], self._reasoner.trie
        self._level += 1
        pairs = zip(frontier.parents_RW.tolist(), frontier.codes_RW.tolist(), strict=True)
        beams, nodes = [], []
        for row, (parents, codes) in enumerate(pairs):
            beams.append(
                [
                    [*self._beams[row][parent], int(ids[code])]
                    for parent, code in zip(parents, codes, strict=True)
                ]
            )
            above = self._nodes_RW[row, parents]
            nodes.append(_child_nodes(trie, self._level - 1, above, np.array(codes)))
        self._beams = beams
        self._nodes_RW = np.array(nodes, dtype=np.int64).reshape(frontier.codes_RW.shape)
        return self._score()

    def _score(self) -> NDArray[np.float32]:
        """Return log P of every legal code of this level after every beam: (R, W, V)."""
        reasoner, ids = self._reasoner, self._reasoner.code_ids[self._level]
        scores_RWV = np.full((*self._nodes_RW.shape, len(ids)), -np.inf, dtype=np.float32)
        flat_BV = scores_RWV.reshape(-1, len(ids))
        nodes = self._open_nodes()
        wide = [node for node in nodes if len(node.codes) > reasoner.most_scores]
        narrow = [node for node in nodes if len(node.codes) <= reasoner.most_scores]
        narrow += self._best_children(wide)
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=ids[node.codes].tolist(),
                detokenize=False,
                skip_clone=True,
            )
            for node in narrow
        ]
        answers = reasoner.generate([node.context for node in narrow], params)
        for node, answer in zip(narrow, answers, strict=True):
            found = answer.outputs[0].logprobs[0]
            flat_BV[node.at, node.codes] = [found[token].logprob for token in ids[node.codes]]
        return scores_RWV

    def _best_children(self, wide: Sequence[_Node]) -> list[_Node]:
        """Cut nodes with too many children to their best `width` children.

        With `allowed_token_ids` vLLM renormalises log-probabilities over the allowed tokens. They
        order the children of one parent but do not compare across parents, so they are dropped.
        """
        reasoner, ids = self._reasoner, self._reasoner.code_ids[self._level]
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                allowed_token_ids=ids[node.codes].tolist(),
                logprobs=min(reasoner.width, len(node.codes)),
                detokenize=False,
                skip_clone=True,
            )
            for node in wide
        ]
        answers = reasoner.generate([node.context for node in wide], params)
        code_of = {int(token): code for code, token in enumerate(ids.tolist())}
        found = []
        for node, answer in zip(wide, answers, strict=True):
            best = sorted(code_of[token] for token in answer.outputs[0].logprobs[0])
            found.append(node._replace(codes=np.array(best, dtype=np.int32)))
        return found

    def _open_nodes(self) -> list[_Node]:
        """Return the nodes with children. The padding of a frontier may be no node at all."""
        flat = [beam for beams in self._beams for beam in beams]
        node_B = self._nodes_RW.reshape(-1)
        children = self._reasoner.trie.expand(self._level, np.maximum(node_B, 0))
        nodes = []
        bounds = np.searchsorted(children.parent_C, np.arange(len(flat) + 1))
        for at, node in enumerate(node_B.tolist()):
            codes = children.code_C[bounds[at] : bounds[at + 1]]
            if node >= 0 and len(codes):
                nodes.append(_Node(flat[at], at, codes))
        return nodes


def _engine_arguments(settings: VllmSettings, width: int) -> dict[str, Any]:
    """Build vLLM's arguments. On a CPU: float32, to agree with transformers, and no compilation."""
    arguments: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "max_logprobs": max(width, settings.most_scores),
        "logprobs_mode": "processed_logprobs",  # the default also returns tokens not allowed
        "enable_prefix_caching": True,
        "tensor_parallel_size": settings.tensor_parallel,
        "distributed_executor_backend": "uni" if settings.tensor_parallel == 1 else "mp",
    }
    if settings.adapter is not None:
        rank = json.loads((settings.adapter / "adapter_config.json").read_text())["r"]
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": max(rank, 8)}
    if torch.cuda.is_available():
        on_gpu = {"gpu_memory_utilization": settings.memory_share, "dtype": settings.dtype}
        return arguments | on_gpu
    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    return arguments | {"dtype": dtype, "enforce_eager": True, "block_size": 32}


def _child_nodes(
    trie: CatalogTrie, depth: int, node_N: NDArray[np.int64], code_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the child of each node by each code; -1 where the trie has none."""
    packed = trie.packed[depth][np.maximum(node_N, 0)]
    prefixes = trie.space.unpack(packed, depth)
    below = trie.nodes(np.concatenate([prefixes, code_N[:, None]], axis=1))
    return np.where(node_N < 0, -1, below)
