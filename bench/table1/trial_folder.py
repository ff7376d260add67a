"""Folder of one trial: a contender with one setting, its weights, and how far it has come.

A trial that was stopped goes on from its last evaluation. Weights are safetensors, the rest JSON.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_ADAM = "adam"


@dataclass
class Progress:
    """Epochs, seconds and best figures of a trial so far."""

    setting: dict[str, Any]
    epoch: int = 0
    seconds: float = 0.0  # of CPU time, evaluations included
    best_epoch: int = 0
    recall: float = 0.0  # at 10, of validation users after the best epoch
    ndcg: float = -1.0
    is_finished: bool = False  # NDCG@10 has stopped rising


@dataclass(frozen=True)
class TrialFolder:
    """Files of a trial."""

    path: Path

    def read(self, setting: Mapping[str, Any]) -> Progress:
        """Return the progress so far; a fresh one without any, or after another setting."""
        file = self.path / "progress.json"
        if file.is_file():
            found = Progress(**json.loads(file.read_text()))
            if found.setting == dict(setting):
                return found
        return Progress(dict(setting))

    def save(self, progress: Progress, net: nn.Module, adam: torch.optim.Adam) -> None:
        """Keep the state after an epoch; if it is the best one, its weights as the best."""
        self.path.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.clone() for name, weight in net.state_dict().items()
        }  # tied ones too
        save_file(weights | dict(_flatten(adam)), self.path / "state.safetensors")
        if progress.best_epoch == progress.epoch:
            save_file(weights, self.path / "best.safetensors")
        (self.path / "progress.json").write_text(json.dumps(asdict(progress), indent=1) + "\n")

    def load_state(self, net: nn.Module, adam: torch.optim.Adam) -> None:
        """Load the weights and the optimizer after the last evaluation."""
        tensors = load_file(self.path / "state.safetensors")
        moments: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith(f"{_ADAM}.")]:
            _, at, key = name.split(".")
            moments.setdefault(int(at), {})[key] = tensors.pop(name)
        net.load_state_dict(tensors)
        adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})

    def load_best(self, net: nn.Module) -> None:
        """Load the weights of the best epoch."""
        net.load_state_dict(load_file(self.path / "best.safetensors"))


def _flatten(adam: torch.optim.Adam) -> Iterator[tuple[str, Tensor]]:
    for at, moments in adam.state_dict()["state"].items():
        for key, value in moments.items():
            yield f"{_ADAM}.{at}.{key}", value.contiguous()
