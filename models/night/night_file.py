"""The night's model of items as a file, `night_items.safetensors`, beside the plan of a night.

A delta and a worker find items with the model of the night before. Knows nothing of nights.
"""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.catalog.catalog import Catalog
from models.durable import write_durably
from models.errors import InvalidRelease, ReleaseMismatch, one_line
from models.night.night_items import NightItems
from models.online.memory.memory_settings import MemorySettings
from models.online.memory.neighbours import Neighbours

NIGHT_ITEMS = "night_items.safetensors"


def save_night_items(night: NightItems, file: Path, catalog: Catalog) -> None:
    """Write the weights and the settings of their evidence."""
    neighbours = night.neighbours
    tensors: dict[str, NDArray[Any]] = {
        "first": neighbours.first,
        "neighbour": neighbours.neighbour_P,
        "weight": neighbours.weight_P,
    }
    about = {
        "settings": json.dumps(asdict(neighbours.settings), sort_keys=True),
        "catalog": _digest(catalog),
    }
    write_durably(file, save(tensors, about))


def load_night_items(file: Path, catalog: Catalog) -> NightItems:
    """Read what `save_night_items` wrote.

    Raises InvalidRelease for an unreadable file, ReleaseMismatch for one of another catalog.
    """
    try:
        with safe_open(file, "np") as stored:
            about = stored.metadata() or {}
            found = {name: stored.get_tensor(name) for name in ("first", "neighbour", "weight")}
        settings = MemorySettings(**json.loads(about["settings"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as exc:
        raise InvalidRelease(f"{file}: {one_line(exc)}") from exc
    if about.get("catalog") != _digest(catalog):
        raise ReleaseMismatch(f"{file}: of another catalog, expected the release's")
    neighbours = Neighbours(settings, found["first"], found["neighbour"], found["weight"])
    _check(file, neighbours, len(catalog))
    return NightItems(neighbours)


def _check(file: Path, neighbours: Neighbours, num_items: int) -> None:
    first, other_P, weight_P = neighbours.first, neighbours.neighbour_P, neighbours.weight_P
    dtypes = [str(array.dtype) for array in (first, other_P, weight_P)]
    has_form = (
        dtypes == ["int64", "int32", "float32"]
        and first.shape == (num_items + 1,)
        and other_P.shape == weight_P.shape == (first[-1],)
    )
    if not has_form or first[0] or (np.diff(first) < 0).any():
        raise InvalidRelease(f"{file}: expected weights of {num_items} items, one after the other")
    is_row = (other_P >= 0) & (other_P < num_items)
    if not (is_row.all() and np.isfinite(weight_P).all() and (weight_P > 0).all()):
        raise InvalidRelease(f"{file}: expected catalog rows, and finite weights above 0")


def _digest(catalog: Catalog) -> str:
    """Hash the items and their SIDs, in the order of the rows."""
    found = sha256("\0".join(catalog.item_ids).encode("utf-8", "surrogatepass"))
    found.update(catalog.sids.astype("<i4").tobytes())
    return found.hexdigest()
