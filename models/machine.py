"""Name and features of this machine's CPU, for reports, release cards and compiled code.

Knows the operating system, and nothing of the programs that run on it.
"""

import platform
from contextlib import suppress
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VECTORS = {"avx512vl": "AVX-512", "avx2": "AVX2"}


def processor() -> str:
    """Return model, architecture and widest vector instructions of the CPU.

    Model and vectors need Linux. Machines of one name differ in them, and so in the figures of the
    finish.
    """
    flags = processor_flags()
    vectors = next((f", {name}" for flag, name in _VECTORS.items() if flag in flags), "")
    kind = platform.machine() + vectors
    return f"{name} ({kind})" if (name := _first("model name")) else kind


def processor_flags() -> frozenset[str]:
    """Return the instruction sets of the CPU; empty unless Linux lists them."""
    return frozenset((_first("flags") or _first("Features")).split())


def has_bfloat16() -> bool:
    """Tell if the CPU multiplies bfloat16 in hardware.

    There it takes a third of the time of float32; emulated, 6 times as long (measured on AVX2).
    """
    return not processor_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _first(key: str) -> str:
    """Return the value in the first line with this key; empty without one."""
    with suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
