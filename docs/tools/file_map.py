"""Write docs/files.md: one line for each file, from the first sentence of its docstring.

.venv/bin/python docs/tools/file_map.py            # write the page
.venv/bin/python docs/tools/file_map.py --check    # exit 1 if the page is old
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "files.md"
_CLIENT = "clients/python/thinkahead_client"
PACKAGES = ("models", "offline", "service", "training", "bench", "thinkahead", _CLIENT)
_HEAD = """# Files

One line for each file: the first sentence of its docstring. `make map` writes this page again.
The order of reading is that of the [walks](architecture.md#walk-1-one-request).
"""


def main() -> int:
    page = "\n".join([_HEAD, *_sections()])
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        print(f"{PAGE.relative_to(ROOT)} is old: run `make map`")
        return 1
    return 0


def _sections() -> Iterator[str]:
    for package in PACKAGES:
        for folder in _folders(ROOT / package):
            name = folder.relative_to(ROOT).as_posix()
            level = "##" if folder == ROOT / package else "###"
            yield f"{level} {name}\n\n{_purpose(folder / '__init__.py')}\n"
            files = sorted({*folder.glob("*.py"), *folder.glob("*.[ch]")})
            shown = [file for file in files if file.name != "__init__.py"]
            if shown:
                rows = "\n".join(f"| `{file.name}` | {_purpose(file)} |" for file in shown)
                yield f"| file | contents |\n|---|---|\n{rows}\n"


def _folders(package: Path) -> Iterator[Path]:
    """Yield the package and its folders that hold code, parents first."""
    yield package
    for folder in sorted(path for path in package.rglob("*") if path.is_dir()):
        if any(folder.glob("*.py")) or any(folder.glob("*.[ch]")):
            yield folder


def _purpose(file: Path) -> str:
    """Return the first sentence of a file's docstring or first comment, as one table cell."""
    if not file.exists():
        return ""
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
    else:
        found = re.match(r"\s*(?:/\*(.*?)\*/|((?://[^\n]*\n)+))", file.read_text(), re.DOTALL)
        text = re.sub(r"^\s*(?://|\*)", "", (found[1] or found[2]), flags=re.M) if found else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z`])", paragraph)[0]
    return sentence.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
