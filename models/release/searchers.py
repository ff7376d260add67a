"""The engine that serves a release: native, ONNX Runtime or torch, chosen by precision.

A precision is served only where the release was validated with it. Only the torch precisions
import torch. Knows nothing of Redis or HTTP.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from models.errors import InvalidRelease, one_line
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher, Searcher
from models.online.native_runtime import NATIVE, NativeRuntime
from models.online.online_weights import read_online_weights
from models.online.onnx_runtime import ONNX, OnnxRuntime
from models.release.live import LiveRelease
from models.release.release import FORMAT, OLDEST_SERVED, ONLINE, Release

FASTEST = "fastest"  # the fastest precision that this machine and the release allow
MIN_OVERLAP = 0.99  # least share of float64's top ten that a served precision must keep


def load_finisher(release: Release, precision: str = FASTEST) -> Finisher:
    """Load what serves a release: its online recommender and its memory, over its catalog.

    Raises InvalidRelease, as `load_searcher` does, and for a memory that does not load.
    """
    searcher = load_searcher(release, precision)
    return Finisher(searcher, release.catalog, release.load_neighbours())


def load_live_finisher(live: LiveRelease, precision: str = FASTEST) -> Finisher:
    """Load what serves a live release: its base, with the weights and the memory of its deltas."""
    searcher = load_searcher(live.release, precision, live.weights)
    return Finisher(searcher, live.release.catalog, live.neighbours)


def load_searcher(
    release: Release,
    precision: str = FASTEST,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> Searcher:
    """Load the online recommender of a release, ready to serve.

    FASTEST is native if this machine has a compiled kernel and the release was validated with it,
    otherwise ONNX Runtime.

    Args:
        weights: to serve instead of those in the file, with equal names, shapes and dtypes. The
            searcher may keep the arrays, so they must not change.

    Raises:
        InvalidRelease: the release is of an older format, was not validated at this precision, or
            its weights or graphs do not load.
    """
    if precision == FASTEST:
        is_native = built_library() is not None and NATIVE in release.manifest.precisions
        precision = NATIVE if is_native else ONNX
    _check_format(release)
    _check_precision(release, precision)
    file = release.directory / ONLINE
    config = release.recommender_config
    try:
        held = read_online_weights(file, config) if weights is None else weights
        if precision == NATIVE:
            return NativeRuntime(config, held)
        if precision != ONNX:
            from models.online.torch_runtime import load_torch_runtime

            return NumpySearch(load_torch_runtime(file, held, config, precision))
        if weights is None:
            return NumpySearch(OnnxRuntime(release.directory, config, held))
        with TemporaryDirectory(prefix="online-") as name:
            _write_beside_graph(release.directory, held, Path(name))
            return NumpySearch(OnnxRuntime(Path(name), config, held))
    except (SafetensorError, TypeError, KeyError, OSError) as exc:
        raise InvalidRelease(f"{file}: {type(exc).__name__}: {one_line(exc)}") from exc


def _write_beside_graph(directory: Path, weights: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Write a release's graph and other weights to a folder.

    The graph refers to byte ranges, so the file has the layout of the release's own.
    """
    shutil.copyfile(directory / "extend.onnx", folder / "extend.onnx")
    with (directory / ONLINE).open("rb") as stream:
        size = stream.read(8)
        header = stream.read(int.from_bytes(size, "little"))
    with (folder / ONLINE).open("wb") as stream:
        stream.write(size + header)
        for name, entry in json.loads(header).items():
            if name != "__metadata__":
                stream.seek(len(size) + len(header) + entry["data_offsets"][0])
                stream.write(np.ascontiguousarray(weights[name]).tobytes())


def _check_format(release: Release) -> None:
    if release.manifest.format < OLDEST_SERVED:
        raise InvalidRelease(
            f"{release.directory}: format {release.manifest.format} has an older online "
            f"recommender, expected {FORMAT}; `python -m training renew` trains it again"
        )


def _check_precision(release: Release, precision: str) -> None:
    known = release.manifest.precisions
    if precision not in known:
        raise InvalidRelease(
            f"{release.directory}: not validated at {precision}, expected one of {sorted(known)}; "
            "`python -m training renew --keep-weights` validates"
        )
    if (overlap := known[precision].overlap) < MIN_OVERLAP:
        raise InvalidRelease(
            f"{release.directory}: {precision} keeps {overlap:.1%} of the top ten of float64, "
            f"expected at least {MIN_OVERLAP:.0%}"
        )
