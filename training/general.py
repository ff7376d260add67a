"""General Language Modeling: English prose that every Python brings along.

The corpus is `pydoc_data.topics`, the chapters of the language reference that `help()` shows: 79
texts of about 465,000 characters in CPython 3.11, under the PSF License Version 2. Nothing has to
be downloaded and its licence lets anyone pass it on; it stands for the paper's unnamed corpora.
"""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics

_PARAGRAPHS = re.compile(r"\n{2,}")


def general_texts(num_characters: int = 1500) -> Iterator[str]:
    """The corpus in its own order, whole paragraphs joined to about `num_characters` each."""
    for name in sorted(topics):
        text = ""
        for paragraph in _PARAGRAPHS.split(topics[name].strip()):
            if text and len(text) + len(paragraph) > num_characters:
                yield text
                text = ""
            text = f"{text}\n\n{paragraph}" if text else paragraph
        yield text
