"""Semantic ids: codes, their text as itemic tokens, their packed integers.

The only home of the text form of an itemic token. Knows nothing of items, models or users.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidSid

Sid = tuple[int, ...]
Prefix = tuple[int, ...]

ITEM_BEGIN = "<|item_begin|>"
ITEM_END = "<|item_end|>"
_LEVEL_LETTERS = "abcdefgh"
_TOKEN = re.compile(r"<item_([a-h])_(\d+)>")


@dataclass(frozen=True)
class SidSpace:
    """The address space of one release.

    sizes: codebook size per level, coarse to fine. The paper uses 3 x 8192 and 4 x 256.
    prefix_depth: how many codes the offline tier decides (Eq. 9 decodes two).
    codebook: digest of the codebooks, so that equal sizes with other meanings do not compare equal.
    """

    sizes: tuple[int, ...]
    prefix_depth: int = 2
    codebook: str = ""

    def __post_init__(self) -> None:
        if not 2 <= len(self.sizes) <= len(_LEVEL_LETTERS):
            raise InvalidSid(f"{len(self.sizes)} levels, expected 2..{len(_LEVEL_LETTERS)}")
        if any(not 1 <= size <= 65536 for size in self.sizes):
            raise InvalidSid(f"codebook sizes {self.sizes}, expected each in 1..65536")
        if not 1 <= self.prefix_depth < self.levels:
            raise InvalidSid(f"prefix depth {self.prefix_depth}, expected 1..{self.levels - 1}")
        if int(np.prod(np.array(self.sizes, dtype=object))) >= 2**63:
            raise InvalidSid(f"codebook sizes {self.sizes}: their product must stay below 2**63")

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @cached_property
    def fingerprint(self) -> int:
        """Unsigned 64-bit name of this space, carried by records and manifests."""
        text = json.dumps([self.sizes, self.prefix_depth, self.codebook])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def check(self, codes: Sequence[int]) -> None:
        """Raise InvalidSid unless `codes` is a SID or a prefix of one."""
        if len(codes) > self.levels:
            raise InvalidSid(
                f"{tuple(codes)} has {len(codes)} codes, expected at most {self.levels}"
            )
        for level, (code, size) in enumerate(zip(codes, self.sizes, strict=False)):
            if not 0 <= code < size:
                raise InvalidSid(f"code {code} at level {level}, expected 0..{size - 1}")

    def pack(self, codes_ND: NDArray[np.integer]) -> NDArray[np.int64]:
        """Codes (N, D), D <= levels, to one integer each; integer order is code order."""
        packed_N = np.zeros(len(codes_ND), dtype=np.int64)
        for level in range(codes_ND.shape[1]):
            packed_N = packed_N * self.sizes[level] + codes_ND[:, level]
        return packed_N

    def unpack(self, packed_N: NDArray[np.int64], depth: int) -> NDArray[np.int32]:
        """Inverse of `pack` for prefixes of `depth` codes: (N,) to (N, depth)."""
        codes_ND = np.empty((len(packed_N), depth), dtype=np.int32)
        rest_N = packed_N.copy()
        for level in reversed(range(depth)):
            rest_N, codes_ND[:, level] = np.divmod(rest_N, self.sizes[level])
        return codes_ND

    def token(self, level: int, code: int) -> str:
        """The itemic token as text: `<item_a_12>`."""
        return f"<item_{_LEVEL_LETTERS[level]}_{code}>"

    def tokens(self) -> tuple[str, ...]:
        """Every itemic token, level by level; a tokenizer must hold each as one id."""
        return tuple(
            self.token(level, code) for level, size in enumerate(self.sizes) for code in range(size)
        )

    def text(self, sid: Sequence[int]) -> str:
        """A whole SID between its boundary tokens."""
        inner = "".join(self.token(level, code) for level, code in enumerate(sid))
        return f"{ITEM_BEGIN}{inner}{ITEM_END}"

    def parse(self, text: str) -> tuple[Sid, ...]:
        """Every whole, well-formed SID written in `text`, in order.

        Raises InvalidSid if an itemic token lies outside its codebook.
        """
        found = []
        for inner in re.findall(f"{re.escape(ITEM_BEGIN)}(.*?){re.escape(ITEM_END)}", text):
            pairs = _TOKEN.findall(inner)
            if [letter for letter, _ in pairs] != list(_LEVEL_LETTERS[: self.levels]):
                continue
            sid = tuple(int(code) for _, code in pairs)
            self.check(sid)
            found.append(sid)
        return tuple(found)
