"""Hooks of MkDocs: add the pages and pictures that lie outside docs/, and mend links to them.

A link to a file that is not part of the site becomes the path of the file.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {  # path in the repository -> path in the site
    "README.md": "index.md",
    "deploy/README.md": "deployment.md",
    "deploy/METRICS.md": "metrics.md",
    "data/beauty/README.md": "data-beauty.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
    "bench/results/frontier.png": "assets/frontier.png",
    "bench/results/staleness.png": "assets/staleness.png",
}
_SOURCES = {site: source for source, site in OUTSIDE.items() if source != "README.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for site, source in _SOURCES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    site_path = page.file.src_uri
    source = _SOURCES.get(site_path, f"docs/{site_path}")

    def mend(found: re.Match[str]) -> str:
        mark, text, link, anchor = found[1], found[2], found[3], found[4] or ""
        if "://" in link:
            return found[0]
        target = os.path.normpath(Path(source).parent / link)
        if target in OUTSIDE:
            target = OUTSIDE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return text if target in text else f"{text} (`{target}`)"
        relative = os.path.relpath(target, Path(site_path).parent)
        return f"{mark}[{text}]({relative}{anchor})"

    return _LINK.sub(mend, markdown)
