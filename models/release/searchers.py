"""The engine that serves a release: native, ONNX Runtime or torch, chosen by precision.

A precision is served only where the release was validated with it. Only the torch precisions
import torch. Knows nothing of Redis or HTTP.
"""

from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.errors import InvalidRelease, one_line
from models.online.best_first import NumpySearch
from models.online.build_kernel import built_library
from models.online.finish import Finisher, Searcher
from models.online.native_runtime import NATIVE, NativeRuntime
from models.online.onnx_runtime import ONNX, OnnxRuntime
from models.release.release import FORMAT, Release

FASTEST = "fastest"  # the fastest precision that this machine and the release allow
MIN_OVERLAP = 0.99  # least share of float64's top ten that a served precision must keep


def load_finisher(release: Release, precision: str = FASTEST) -> Finisher:
    """Load what serves a release: its online recommender and its memory, over its catalog.

    Raises InvalidRelease, as `load_searcher` does, and for a memory that does not load.
    """
    searcher = load_searcher(release, precision)
    return Finisher(searcher, release.catalog, release.load_neighbours())


def load_searcher(release: Release, precision: str = FASTEST) -> Searcher:
    """Load the online recommender of a release, ready to serve.

    FASTEST is native if this machine has a compiled kernel and the release was validated with it,
    otherwise ONNX Runtime.

    Raises:
        InvalidRelease: the release is of an older format, was not validated at this precision, or
            its weights or graphs do not load.
    """
    if precision == FASTEST:
        is_native = built_library() is not None and NATIVE in release.manifest.precisions
        precision = NATIVE if is_native else ONNX
    _check_format(release)
    _check_precision(release, precision)
    if precision not in (NATIVE, ONNX):
        from models.online.torch_runtime import load_torch_runtime

        runtime = load_torch_runtime(release.directory, release.recommender_config, precision)
        return NumpySearch(runtime)
    file = release.directory / "online.safetensors"
    try:
        config = release.recommender_config
        if precision == NATIVE:
            return NativeRuntime(config, load_file(file))
        return NumpySearch(OnnxRuntime(release.directory, config, load_file(file)))
    except (SafetensorError, TypeError, KeyError, OSError) as exc:
        raise InvalidRelease(f"{file}: {type(exc).__name__}: {one_line(exc)}") from exc


def _check_format(release: Release) -> None:
    if release.manifest.format < FORMAT:
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
