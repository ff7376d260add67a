"""Baseline of the nightly thinking: `generate` of transformers, called twice per micro-batch.

The first call samples the paths. The second call continues each of them by a beam search under
`prefix_allowed_tokens_fn`. Knows nothing of our engines.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.catalog.catalog import Catalog
from models.catalog.sid import ITEM_BEGIN, Prefix
from models.reasoner.beam import Beam
from models.reasoner.prompts import PAD, THINK_END
from models.reasoner.think import UserHistory, UserThoughts, render_history, unite
from models.reasoner.transformers_engine import Sampling

_DEAD = -1e8  # beams without a continuation of their own carry scores near -1e9


class GenerateLoop:
    """Nightly thinking by `generate`, in float32; its random samples differ from our engines'."""

    def __init__(self, model: Any, tokenizer: Any, catalog: Catalog, *, max_tokens: int) -> None:
        """Prepare the tables of legal tokens; `max_tokens` limits one thought."""
        self._max_tokens = max_tokens
        self.model = model.eval()
        self._tokenizer = tokenizer
        self._catalog = catalog
        self._think_end, self.item_begin, self._pad = (
            int(token) for token in tokenizer.convert_tokens_to_ids([THINK_END, ITEM_BEGIN, PAD])
        )
        self._allowed, self.codes = self._tabulate()

    @classmethod
    def load(cls, directory: Path, catalog: Catalog) -> Self:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        return cls(model, tokenizer, catalog, max_tokens=Sampling.of(directory).max_tokens)

    @torch.inference_mode()
    def sample(self, users: Sequence[UserHistory], *, paths: int, seed: int) -> list[list[int]]:
        """Return prompt and thought of each path, `paths` per user, without padding."""
        prompts = [render_history(self._catalog, user.rows) for user in users]
        asked = self._tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False
        )
        torch.manual_seed(seed)
        made = self.model.generate(
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            do_sample=True,
            temperature=1.0,
            top_k=50,
            top_p=0.95,
            num_return_sequences=paths,
            max_new_tokens=self._max_tokens,
            eos_token_id=self._think_end,
            pad_token_id=self._pad,
        )
        return [[token for token in row if token != self._pad] for row in made.tolist()]

    @torch.inference_mode()
    def beam(self, sequences: Sequence[list[int]], *, width: int) -> list[list[Beam]]:
        """Return the best prefixes after each path; none after a path that did not close."""
        closed = [row for row in sequences if row[-1] == self._think_end]
        found = iter(self._beam(closed, width) if closed else ())
        return [next(found) if row[-1] == self._think_end else [] for row in sequences]

    def think(
        self, users: Sequence[UserHistory], *, paths: int, width: int, seed: int
    ) -> list[UserThoughts]:
        """Return thoughts and C_u as `think_users` does, apart from the random samples."""
        sequences = self.sample(users, paths=paths, seed=seed)
        return self.unite(users, sequences, self.beam(sequences, width=width), paths=paths)

    def unite(
        self,
        users: Sequence[UserHistory],
        sequences: Sequence[list[int]],
        beams: Sequence[list[Beam]],
        *,
        paths: int,
    ) -> list[UserThoughts]:
        results = []
        for index, user in enumerate(users):
            prompt = self.encode(user)
            own = range(index * paths, (index + 1) * paths)
            kept = [at for at in own if sequences[at][-1] == self._think_end]
            thoughts = {at: sequences[at][len(prompt) :] for at in own}
            texts = tuple(self._tokenizer.decode(thoughts[at][:-1]).strip() for at in kept)
            results.append(
                UserThoughts(
                    user.user_id,
                    texts,
                    tuple(unite([beams[at] for at in kept])),
                    paths - len(kept),
                    sum(len(thought) for thought in thoughts.values()),
                )
            )
        return results

    def encode(self, user: UserHistory) -> list[int]:
        prompt = render_history(self._catalog, user.rows)
        ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False)
        return ids

    def _beam(self, closed: Sequence[list[int]], width: int) -> list[list[Beam]]:
        depth = self._catalog.space.prefix_depth
        asked = self._tokenizer.pad(
            {"input_ids": [[*row, self.item_begin] for row in closed]}, return_tensors="pt"
        )
        num_asked = asked.input_ids.shape[1]

        def allowed(_: int, ids_S: Tensor) -> list[int]:
            return self._allowed[tuple(ids_S[num_asked:].tolist())]

        made = self.model.generate(
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=depth,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=self._pad,
        )
        pairs = zip(
            made.sequences[:, num_asked:].tolist(), made.sequences_scores.tolist(), strict=True
        )
        found: list[list[Beam]] = [[] for _ in closed]
        for at, (ids, score) in enumerate(pairs):
            if score > _DEAD:
                found[at // width].append(Beam(self.codes[tuple(ids)], score))
        return found

    def _tabulate(self) -> tuple[dict[tuple[int, ...], list[int]], dict[tuple[int, ...], Prefix]]:
        """Return the legal next token ids after each start of a prefix, and each prefix's codes."""
        space, ids = self._catalog.space, self._tokenizer.convert_tokens_to_ids
        allowed: dict[tuple[int, ...], list[int]] = {}
        codes: dict[tuple[int, ...], Prefix] = {}
        for prefix in self._catalog.trie.prefixes().tolist():
            tokens = tuple(ids([space.token(level, code) for level, code in enumerate(prefix)]))
            codes[tokens] = tuple(prefix)
            for depth, token in enumerate(tokens):
                following = allowed.setdefault(tokens[:depth], [])
                if token not in following:
                    following.append(token)
        return allowed, codes
