"""What this machine calls itself: in reports, in release cards, and to choose compiled code.

Knows the operating system; knows nothing of what runs on it.
"""

import platform
from contextlib import suppress
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The CPU's own name where Linux tells it, else its architecture."""
    name = _first("model name")
    return f"{name} ({platform.machine()})" if name else platform.machine()


def processor_flags() -> frozenset[str]:
    """The instruction sets that the CPU has; empty where Linux does not tell."""
    return frozenset(_first("flags").split())


def _first(key: str) -> str:
    """What the first line of that key says; empty without one."""
    with suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
