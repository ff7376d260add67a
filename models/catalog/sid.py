"""Semantic ids (SIDs): codes, their text as itemic tokens, their packed integers.

No other module knows the text form of an itemic token. Knows nothing of items, models or users.
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
    """The address space of one release."""

    sizes: tuple[int, ...]  # of the codebooks, coarse to fine; the paper: 3 x 8192 and 4 x 256
    prefix_depth: int = 2  # number of codes that the offline tier decides; 2 in the paper (Eq. 9)
    codebook: str = ""  # digest of the codebooks: spaces of equal sizes may differ in meaning

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
        """Return the unsigned 64-bit name of this space in records and manifests."""
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
        """Pack codes (N, D), D <= levels, into one integer each, ordered as the codes are."""
        packed_N = np.zeros(len(codes_ND), dtype=np.int64)
        for level in range(codes_ND.shape[1]):
            packed_N = packed_N * self.sizes[level] + codes_ND[:, level]
        return packed_N

    def unpack(self, packed_N: NDArray[np.int64], depth: int) -> NDArray[np.int32]:
        """Unpack integers of `pack` into codes: (N,) to (N, depth)."""
        codes_ND = np.empty((len(packed_N), depth), dtype=np.int32)
        rest_N = packed_N.copy()
        for level in reversed(range(depth)):
            rest_N, codes_ND[:, level] = np.divmod(rest_N, self.sizes[level])
        return codes_ND

    def token(self, level: int, code: int) -> str:
        """Return the text of an itemic token, such as `<item_a_12>`."""
        return f"<item_{_LEVEL_LETTERS[level]}_{code}>"

    def tokens(self) -> tuple[str, ...]:
        """Return all itemic tokens, level by level; a tokenizer must have one id for each."""
        return tuple(
            self.token(level, code) for level, size in enumerate(self.sizes) for code in range(size)
        )

    def text(self, sid: Sequence[int]) -> str:
        """Return the text of a SID, between its boundary tokens."""
        return f"{ITEM_BEGIN}{self.prefix_text(sid)}{ITEM_END}"

    def prefix_text(self, codes: Sequence[int]) -> str:
        """Return the itemic tokens of the first codes of a SID, without boundary tokens."""
        return "".join(self.token(level, code) for level, code in enumerate(codes))

    def parse(self, text: str) -> tuple[Sid, ...]:
        """Return every complete, well-formed SID in `text`, in order.

        Raises InvalidSid if the code of an itemic token is outside its codebook.
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
