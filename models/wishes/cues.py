"""English of wishes, from `english.toml`: cues, words that name nothing, and moods."""

import tomllib
from importlib.resources import files
from typing import Literal

Cue = Literal["wants", "may_want", "refuses", "instead", "refused"]

_TABLES = tomllib.loads(files(__package__).joinpath("english.toml").read_text("utf-8"))

CUES: dict[tuple[str, ...], Cue] = {
    tuple(phrase.split()): cue for cue, phrases in _TABLES["cues"].items() for phrase in phrases
}
LONGEST_CUE = max(map(len, CUES))
BACK_AFTER: dict[str, str] = _TABLES["turns_back"]  # cue -> word that ends its refusal
HEDGES: frozenset[str] = frozenset(_TABLES["hedges"]["words"])
FILLER: frozenset[str] = frozenset(_TABLES["filler"]["words"])
MOOD_OF: dict[str, str] = {
    word: mood for mood, table in _TABLES["moods"].items() for word in table["said"]
}
WORDS_OF: dict[str, list[str]] = {
    mood: table["asks_for"] for mood, table in _TABLES["moods"].items()
}
JOINING = frozenset(["and", "or", "nor", "plus", "&", "+", "/", ",", "then"])
ENDING = frozenset([".", "!", "?", ";", ":", "\n"])
