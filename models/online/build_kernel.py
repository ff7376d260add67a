"""Compile `kernel/` with the machine's C compiler: `python -m models.online.build_kernel`.

It builds one library for each level of the processor family, so that a build also runs on an
older machine. `built_library` picks the highest level that this processor can run. The kernel is
optional: without it ONNX Runtime does the finish.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from models.machine import processor_flags

_SOURCE = Path(__file__).parent / "kernel" / "kernel.c"
_BUILT = Path(__file__).parent / "kernel" / "built"

# Microarchitecture levels of the x86-64 ABI, highest first, each with a processor flag that only
# machines of that level have.
_LEVELS = {"x86-64-v4": "avx512vl", "x86-64-v3": "avx2"}
_OPTIONS = ("-O3", "-std=gnu17", "-fno-math-errno", "-Wall", "-Wno-psabi", "-shared", "-fPIC")


def main() -> int:
    """Build the kernel and return 0. A missing compiler is reported, but is no failure."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("no C compiler: the finish stays with ONNX Runtime", file=sys.stderr)
        return 0
    for name, options in _targets().items():
        if not _compile(compiler, options, _BUILT / name):
            print(f"{name} was not built: the finish stays with ONNX Runtime", file=sys.stderr)
    return 0


def built_library() -> Path | None:
    """Return the best built library that this processor can run, or None."""
    flags = processor_flags()
    for level, flag in _LEVELS.items():
        if flag in flags and (file := _BUILT / f"{level}.so").is_file():
            return file
    file = _BUILT / f"{platform.machine()}.so"
    return file if file.is_file() else None


def _targets() -> dict[str, tuple[str, ...]]:
    """Map each file name to its compiler options."""
    if platform.machine() == "x86_64":
        return {f"{level}.so": (f"-march={level}",) for level in _LEVELS}
    return {f"{platform.machine()}.so": ()}


def _compile(compiler: str, options: tuple[str, ...], out: Path) -> bool:
    out.parent.mkdir(exist_ok=True)
    draft = out.with_name(f"{out.name}.{os.getpid()}")
    command = [compiler, *_OPTIONS, *options, "-o", str(draft), str(_SOURCE), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(" ".join(command), done.stderr, sep="\n", file=sys.stderr)
        return False
    draft.replace(out)
    return True


if __name__ == "__main__":
    sys.exit(main())
