"""Check that a built site fetches nothing from elsewhere: `check_site.py SITE`.

A script, style, font or picture must lie in the site; a link that a reader clicks may lead away.
"""

import re
import sys
from pathlib import Path

_TAG = re.compile(r"<(script|link|img|iframe|source|video|audio)\b[^>]*>", re.IGNORECASE)
_ADDRESS = re.compile(r"\b(?:src|href|srcset)\s*=\s*[\"']?\s*((?:https?:)?//[^\"'\s>]+)", re.I)
_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


def main() -> int:
    site = Path(sys.argv[1])
    pages = sorted(site.rglob("*.html"))
    found = [
        f"{page}: {address}"
        for page in pages
        for tag in _TAG.finditer(page.read_text())
        for address in _ADDRESS.findall(tag[0])
    ]
    found += [
        f"{style}: {address}"
        for style in sorted({*site.rglob("*.css"), *pages})
        for address in _STYLE.findall(style.read_text())
    ]
    if not (site / "search" / "search_index.js").is_file():
        found.append(f"{site}: no search index for reading offline")
    print("\n".join(found) if found else f"{len(pages)} pages, nothing from elsewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
