"""Print the options with which pip finds the small build of torch: `make` runs this once.

A machine without an NVIDIA card takes the CPU build, if its index answers within two seconds. What
will be downloaded is said on stderr. Needs the standard library alone.

usage: torch_index.py INDEX VERSION
"""

import platform
import re
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urljoin
from urllib.request import Request, urlopen

TIMEOUT_S = 2.0
OTHERS = "The other packages are about 150 MB."
_CARD = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl")
_LARGEST_PAGE = 4_000_000  # bytes


def main() -> int:
    index, version = sys.argv[1:3]
    if sys.platform != "linux":
        _say(f"torch {version}, the default build for {platform.system()}. {OTHERS}")
    elif any(Path(file).exists() for file in _CARD):
        _say(f"torch {version} with CUDA, as there is an NVIDIA card: gigabytes. {OTHERS}")
    elif (wheel := _find_wheel(index, version)) is None:
        _say(
            f"torch {version}, the default build: gigabytes with its CUDA packages, as {index} "
            f"has no CPU build for this machine or cannot be reached. {OTHERS}"
        )
    else:
        size = _size(wheel)
        shown = f"{size / 1e6:.0f} MB" if size else "about 200 MB"
        _say(f"torch {version}, the CPU build: {shown}. {OTHERS}")
        print(f"--extra-index-url {index}")
    return 0


def _say(text: str) -> None:
    print(f"Downloading {text}", file=sys.stderr)


def _find_wheel(index: str, version: str) -> str | None:
    """Return the address of the CPU build for this Python and machine; None if there is none."""
    page = f"{index.rstrip('/')}/torch/"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    name = re.compile(
        rf"torch-{re.escape(version)}\+cpu-{python}-{python}-\w*linux\w*_{platform.machine()}\.whl"
    )
    links: list[str] = re.findall(r'href="([^"#]+)', _read(page))
    for link in links:
        if name.fullmatch(unquote(link.rpartition("/")[2])):
            return urljoin(page, link)
    return None


def _read(page: str) -> str:
    """Return a page; "" if it does not arrive in time."""
    deadline, parts = time.monotonic() + TIMEOUT_S, []
    try:
        with urlopen(page, timeout=TIMEOUT_S) as answer:
            while part := answer.read1(65536):
                parts.append(part)
                if time.monotonic() > deadline or sum(map(len, parts)) > _LARGEST_PAGE:
                    return ""
    except (OSError, ValueError):
        return ""
    return b"".join(parts).decode(errors="replace")


def _size(wheel: str) -> int:
    """Return the bytes of a file; 0 if the server does not say."""
    try:
        with urlopen(Request(wheel, method="HEAD"), timeout=TIMEOUT_S) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
