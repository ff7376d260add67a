"""Device and number format of a reasoner: the only place that resolves "auto".

Knows torch; knows nothing of models or recipes.
"""

from typing import NamedTuple

import torch

from models.errors import InvalidSettings
from models.machine import has_bfloat16
from models.reasoner.placement_options import AUTO
from models.reasoner.placement_options import DTYPES as DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


class Placement(NamedTuple):
    """Device and number format of a model's weights."""

    device: str
    dtype: torch.dtype


def place(device: str = AUTO, dtype: str = AUTO) -> Placement:
    """Resolve the options of `add_placement_arguments`.

    "auto" is the GPU if there is one, with bfloat16 if it has it. On a CPU it is float32, which
    answers the same on every machine. Raises InvalidSettings for a device that is not there.
    """
    chosen = find_device(device)
    if dtype not in (AUTO, *DTYPES):
        raise InvalidSettings(f"dtype {dtype!r}, expected {AUTO} or one of {sorted(DTYPES)}")
    if dtype != AUTO:
        return Placement(str(chosen), DTYPES[dtype])
    is_fast = chosen.type == "cuda" and multiplies_bfloat16(chosen)
    return Placement(str(chosen), torch.bfloat16 if is_fast else torch.float32)


def find_device(device: str = AUTO) -> torch.device:
    """Return a device that is there; "auto" is the GPU, or the CPU without one.

    Raises InvalidSettings.
    """
    has_gpu = torch.cuda.is_available()
    if device == AUTO:
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as exc:
        raise InvalidSettings(f"device {device!r}, expected auto, cpu, cuda or cuda:N") from exc
    num_gpus = torch.cuda.device_count() if has_gpu else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= num_gpus:
        raise InvalidSettings(f"device {device!r}: torch finds {num_gpus} GPUs on this machine")
    return chosen


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell if a device multiplies bfloat16 in hardware."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else has_bfloat16()
