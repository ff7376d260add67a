"""Checkpoint of a run: one safetensors file, replaced atomically, so that a kill loses minutes.

Knows weights and optimizers; knows nothing of batches or tasks.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Progress of a run, over all its processes."""

    step: int = 0  # steps done
    num_tokens: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)  # losses of the last steps
    # Name -> one value per step, of other measurements.
    series: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append(round(value, 6))


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint file of one run."""

    file: Path
    of: str  # digest of the run's inputs; a checkpoint with another one is ignored

    def save(
        self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        tensors = {f"weight/{name}": value.detach() for name, value in weights.items()}
        for at, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{at}/{name}": value for name, value in state.items()}
        draft = self.file.with_suffix(".draft")
        metadata = {"of": self.of, "progress": json.dumps(asdict(progress))}
        save_file({name: value.contiguous() for name, value in tensors.items()}, draft, metadata)
        draft.replace(self.file)

    def resume(
        self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Progress | None:
        """Restore weights and optimizer and return the progress; None without a checkpoint."""
        if not self.file.is_file():
            return None
        state: dict[int, dict[str, Tensor]] = {}
        with safe_open(self.file, "pt") as file:
            metadata = file.metadata()
            keys = list(file.keys())
            held = {
                name for part, _, name in (key.partition("/") for key in keys) if part == "weight"
            }
            if metadata["of"] != self.of or held != set(weights):
                logger.info("%s belongs to another run, starting from the beginning", self.file)
                return None
            for key in keys:
                part, _, name = key.partition("/")
                if part == "weight":
                    weights[name].data.copy_(file.get_tensor(key))
                else:
                    at, _, name = name.partition("/")
                    state.setdefault(int(at), {})[name] = file.get_tensor(key)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return Progress(**json.loads(metadata["progress"]))

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
