"""Writer of texts: any causal LM in a local directory, by `generate` of transformers.

It needs no itemic tokens. Knows prompts and weights; knows nothing of items.
"""

# B = prompts of a batch, S = tokens

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import InvalidSettings

_PIECE = 1 << 20  # bytes of a large file that its digest reads, at both ends


class LocalWriter:
    """Writes one line of text after a prompt."""

    def __init__(self, directory: Path, *, max_tokens: int, temperature: float) -> None:
        """Load the model, on the GPU if there is one. Raises InvalidSettings if there is none."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory, dtype="auto", local_files_only=True
            )
        except (OSError, ValueError) as exc:
            raise InvalidSettings(
                f"[corpus] base = {str(directory)!r}: not the directory of a causal LM "
                f"({type(exc).__name__}: {exc})"
            ) from exc
        self._model = model.to(self._device, _dtype(self._device)).eval()
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._max_tokens, self._temperature = max_tokens, temperature
        self.digest = directory_digest(directory)

    @torch.inference_mode()
    def write(self, asked: Sequence[str], *, tries: int, seed: int) -> list[list[str | None]]:
        """Return `tries` texts a prompt; None for one that did not end in time."""
        torch.manual_seed(seed)
        batch = self._tokenizer(
            [self._prompt(text) for text in asked],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        ).to(self._device)
        written_BS = self._model.generate(
            **batch,
            do_sample=True,
            temperature=self._temperature,
            max_new_tokens=self._max_tokens,
            num_return_sequences=tries,
            pad_token_id=self._tokenizer.pad_token_id,
        )[:, batch["input_ids"].shape[1] :]
        texts = [self._line(tokens) for tokens in written_BS.tolist()]
        return [texts[at : at + tries] for at in range(0, len(texts), tries)]

    def _prompt(self, text: str) -> str:
        """Wrap a question in the chat template of the model, or ask for an answer in a line."""
        if self._tokenizer.chat_template is None:
            return f"{text}\nAnswer:"
        prompt: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for Qwen3; other templates do not read it
        )
        return prompt

    def _line(self, tokens: Sequence[int]) -> str | None:
        """Return the first line that was written, if its end was written too."""
        end = self._tokenizer.eos_token_id
        is_closed = end in tokens
        text = self._tokenizer.decode(
            tokens[: tokens.index(end)] if is_closed else tokens, skip_special_tokens=False
        )
        line, *others = text.strip().split("\n", 1)
        return line.strip() if is_closed or others else None


def directory_digest(directory: Path) -> str:
    """Hash the files of a model directory; of large ones, size, beginning and end."""
    found = hashlib.sha256()
    for file in sorted(path for path in directory.iterdir() if path.is_file()):
        size = file.stat().st_size
        found.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            found.update(opened.read(_PIECE))
            opened.seek(max(0, size - _PIECE))
            found.update(opened.read(_PIECE))
    return found.hexdigest()


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32
