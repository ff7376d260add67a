"""Text to token ids, many times faster where texts share their words.

Knows tokenizers; knows nothing of tasks, items or users.
"""

import re
from typing import Any

from models.errors import ReleaseMismatch

_MARKER = re.compile(r"(<[^<>\s]+>)")
_SAMPLE = "Next: <item_a_0> - a Sample of <b>words</b>, in <|item_begin|><item_a_0><|item_end|>.\n"


class Encoder:
    """A tokenizer cuts text at its added tokens and encodes what lies between on its own, so the
    pieces can be kept: 260 us for a prompt of 76 tokens become 12.

    Raises ReleaseMismatch for a tokenizer that does not work that way.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._markers: dict[str, int] = tokenizer.get_added_vocab()
        self._pieces: dict[str, list[int]] = {}
        if self.encode(_SAMPLE) != tokenizer.encode(_SAMPLE, add_special_tokens=False):
            raise ReleaseMismatch(
                f"{tokenizer.name_or_path}: text beside an added token is encoded unlike text alone"
            )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        plain = ""
        for piece in _MARKER.split(text):
            marker = self._markers.get(piece)
            if marker is None:
                plain += piece
                continue
            ids += self._encode_plain(plain)
            ids.append(marker)
            plain = ""
        return ids + self._encode_plain(plain)

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        known = self._pieces.get(text)
        if known is None:
            known = self._tokenizer.encode(text, add_special_tokens=False)
            self._pieces[text] = known
        return known
