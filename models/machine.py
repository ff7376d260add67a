"""What this machine calls itself: in reports, in release cards, and to choose compiled code.

Knows the operating system; knows nothing of what runs on it.
"""

import platform
from contextlib import suppress
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VECTORS = {"avx512vl": "AVX-512", "avx2": "AVX2"}


def processor() -> str:
    """The CPU's own name and its widest vectors where Linux tells them, and its architecture.

    Machines of one name differ in these, and the figures of the finish with them.
    """
    flags = processor_flags()
    vectors = next((f", {name}" for flag, name in _VECTORS.items() if flag in flags), "")
    kind = platform.machine() + vectors
    return f"{name} ({kind})" if (name := _first("model name")) else kind


def processor_flags() -> frozenset[str]:
    """The instruction sets that the CPU has; empty where Linux does not tell."""
    return frozenset((_first("flags") or _first("Features")).split())


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself: emulated it takes 6 times as long as float32
    (measured on AVX2), in hardware a third of its time."""
    return not processor_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _first(key: str) -> str:
    """What the first line of that key says; empty without one."""
    with suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
