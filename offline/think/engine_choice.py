"""Choice of the engine that thinks, and its command line options. Loads no engine."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from models.reasoner.placement_options import AUTO, add_placement_arguments

LocalEngine = Literal["transformers", "vllm"]
Engine = Literal["transformers", "vllm", "ray"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


@dataclass(frozen=True)
class EngineSettings:
    """Choice of an engine."""

    engine: Engine = "transformers"  # implementation of the reasoner
    adapter: Path | None = None  # LoRA folder (vLLM only)
    tensor_parallel: int = 1  # GPUs that share one vLLM engine
    on_ray: LocalEngine = "transformers"  # engine on each Ray worker
    workers: int = 1  # number of Ray workers
    address: str | None = None  # of the Ray cluster; None: this machine
    device: str = AUTO  # of `transformers`: the GPU if there is one, "cpu" or "cuda:N"
    dtype: str = AUTO  # bfloat16 on a GPU, float32 on a CPU; or one of the two
    max_model_len: int = 1024  # tokens of a prompt and its thought (vLLM only)
    memory_share: float = 0.9  # of a GPU, for weights and cache (vLLM only)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    default = EngineSettings()
    add = parser.add_argument
    add("--engine", choices=ENGINES, default=default.engine, help="engine that thinks")
    add("--adapter", type=Path, metavar="DIR", help="a LoRA adapter (vllm)")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs per engine (vllm)")
    add("--on-ray", choices=get_args(LocalEngine), default=default.on_ray, help="workers' engine")
    add("--workers", type=int, default=default.workers, metavar="N", help="number of Ray workers")
    add("--ray-address", metavar="HOST:PORT", help="a Ray cluster (default: this machine)")
    add_placement_arguments(parser, "transformers")
    add(
        "--max-model-len",
        type=_between(int, 1, 2**20),
        default=default.max_model_len,
        metavar="N",
        help="tokens of prompt and thought, at most (vllm, default: %(default)s)",
    )
    add(
        "--gpu-memory",
        type=_between(float, 0.01, 1),
        default=default.memory_share,
        metavar="SHARE",
        help="share of a GPU's memory to take (vllm, default: %(default)s)",
    )


def engine_settings(options: argparse.Namespace) -> EngineSettings:
    """Read the options of `add_engine_arguments`."""
    return EngineSettings(
        options.engine,
        options.adapter,
        options.tensor_parallel,
        options.on_ray,
        options.workers,
        options.ray_address,
        options.device,
        options.dtype,
        options.max_model_len,
        options.gpu_memory,
    )


def _between(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}, expected {low}..{high}")
        return value

    return parse
