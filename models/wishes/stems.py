"""Words of a text and their stems, which a wish and a catalog have in common."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+|[,;:.!?&+/\n]")
_APOSTROPHE = re.compile(r"(?<=\w)['’`](?=\w)")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_LEAST_STEM = 3
_ENDINGS = ("ization", "ising", "izing", "isers", "izers", "iser", "izer", "ises", "izes")
_SUFFIXES = {"ingly": 3, "ing": 3, "er": 4, "ed": 3, "y": 3, "e": 3}  # and what must be left
_VOWELS = frozenset("aeiouy")


def split_words(text: str) -> list[str]:
    """Split into lower-case words and single marks; "don't" is "dont", "e.l.f." is "elf"."""
    plain = text.lower() if text.isascii() else _without_accents(text)
    joined = _INITIALS.sub(lambda match: match[0].replace(".", ""), plain)
    return _WORD.findall(_APOSTROPHE.sub("", joined))


def _without_accents(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(each for each in plain if not unicodedata.combining(each))


def is_mark(word: str) -> bool:
    """Return True for a single mark of punctuation."""
    return not word[0].isalnum()


def stem(word: str) -> str:
    """Return the stem: one for "cleanser", "cleansers" and "cleansing"."""
    word = _singular(word)
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)] + "iz"
    for suffix, least in _SUFFIXES.items():
        left = word.removesuffix(suffix)
        if left != word and len(left) >= least and not _VOWELS.isdisjoint(left):
            return _undoubled(left) if suffix in ("ing", "er", "ed") else left
    return word


def _singular(word: str) -> str:
    if len(word) <= _LEAST_STEM or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    return word.removesuffix("s")


def _undoubled(word: str) -> str:
    """Undo the doubling in "setting" and "trimmer"."""
    doubled = len(word) > _LEAST_STEM and word[-1] == word[-2] and word[-1] not in "lsz"
    return word[:-1] if doubled else word


def stems(text: str) -> tuple[str, ...]:
    """Return the stems of all words of a text, without marks."""
    return tuple(stem(word) for word in split_words(text) if not is_mark(word))
