"""General Language Modeling: English prose that is part of every Python installation.

The corpus is `pydoc_data.topics`, the chapters of the language reference that `help()` shows. In
CPython 3.11 these are 79 texts with about 465,000 characters, under the PSF License Version 2. It
needs no download, may be redistributed, and stands in for the paper's unnamed corpora.
"""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics

_PARAGRAPHS = re.compile(r"\n{2,}")


def general_texts(num_characters: int = 1500) -> Iterator[str]:
    """Yield the corpus in order, complete paragraphs joined to about `num_characters` each."""
    for name in sorted(topics):
        text = ""
        for paragraph in _PARAGRAPHS.split(topics[name].strip()):
            if text and len(text) + len(paragraph) > num_characters:
                yield text
                text = ""
            text = f"{text}\n\n{paragraph}" if text else paragraph
        yield text
