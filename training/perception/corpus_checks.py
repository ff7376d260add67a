"""Checks of a text that a language model wrote about items, in a fixed order.

Knows words and brands; knows nothing of models or SIDs.
"""

import re
from collections import Counter
from enum import StrEnum

from models.catalog.catalog import Catalog
from training.perception.corpus_questions import CorpusQuestion

_MARKER = re.compile(r"<[^<>\s]+>")
_WORD = re.compile(r"[\w'&-]+")
_LEAST_WORDS, _MOST_WORDS = 5, 80
_RUN, _MOST_RUNS = 3, 2  # words of a run, and how often it may occur
_ECHO = 6  # words in a row that belong to the question's task
_LEAST_BRAND = 4  # letters of a brand that is looked for
_BRAND_WORDS = 3


class StoryFault(StrEnum):
    """Reason to reject a text: the first check that fails, in this order."""

    UNCLOSED = "never ends"
    MARKER = "writes a marker"
    LENGTH = "has too few or too many words"
    ECHO = "repeats the question"
    REPEATS = "repeats itself"
    UNNAMED = "names no word of the input"
    FOREIGN_BRAND = "names a brand outside the input"


class StoryChecks:
    """Checks texts against the facts of their questions."""

    def __init__(self, catalog: Catalog) -> None:
        self._brands = {brand for brand in catalog.brands if brand and len(brand) >= _LEAST_BRAND}

    def fault(self, text: str | None, question: CorpusQuestion) -> StoryFault | None:
        """Return the first check that fails; None for a sound text.

        text: None if it never ended.
        """
        if text is None:
            return StoryFault.UNCLOSED
        if _MARKER.search(text):
            return StoryFault.MARKER
        words = _WORD.findall(text)
        if not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
            return StoryFault.LENGTH
        said = [word.lower() for word in words]
        if not _runs(said, _ECHO).keys().isdisjoint(_runs(_task_words(question), _ECHO).keys()):
            return StoryFault.ECHO
        if max(_runs(said, _RUN).values()) > _MOST_RUNS:
            return StoryFault.REPEATS
        if question.words.isdisjoint(said):
            return StoryFault.UNNAMED
        return StoryFault.FOREIGN_BRAND if self._foreign(words, question) else None

    def _foreign(self, words: list[str], question: CorpusQuestion) -> set[str]:
        """Return the brands in a text that stand neither in the question's brands nor its facts."""
        named = {
            " ".join(words[at : at + size])
            for size in range(1, _BRAND_WORDS + 1)
            for at in range(len(words) - size + 1)
        }
        found = (named & self._brands) - question.brands
        return {brand for brand in found if brand.lower() not in question.facts.lower()}


def _task_words(question: CorpusQuestion) -> list[str]:
    return [word.lower() for word in _WORD.findall(question.task)]


def _runs(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + size]) for at in range(max(0, len(words) - size + 1)))
