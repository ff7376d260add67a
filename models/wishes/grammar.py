"""One turn of a dialogue to its parts: a small grammar of wanting and refusing.

A text is cut into words. A name of the catalog, of several words if it can be, is taken first. A
cue turns the sense of the names behind it, up to the next cue or the end of a sentence. Commas and
joining words part the names. Knows names and cues. Knows nothing of earlier turns.
"""

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from models.wishes.cues import BACK_AFTER, CUES, ENDING, FILLER, HEDGES, JOINING, LONGEST_CUE, Cue
from models.wishes.names import LONGEST_NAME, Name, Names
from models.wishes.stems import is_mark, split_words
from models.wishes.wish import Part, Price

Meant = Literal["brand", "kind"]  # of "that brand", and of "this", "something else"

_OVER = re.compile(
    r"(?:please )?(?:forget|drop|cancel|clear|reset|undo|ignore|never ?mind|delete|start over|"
    r"start again|back to normal|go back to normal)(?: about)?"
    r"(?: (?:it|that|this|everything|all|all that|(?:all )?(?:my|the|this|that) (?:last )?"
    r"(?:wish|wishes|instruction|instructions|filter|filters)|what i said|please))*"
)
_CHEAPER = re.compile(
    r"\b(?:cheap(?:er|est)?|inexpensive|less expensive|not (?:so|too|as) expensive|affordable|"
    r"lower[- ]priced?|low(?:er)? price|(?:on a |low )?budget|too expensive|bargains?|less pricey|"
    r"cost(?:s|ing)? less|save money|costs? too much)\b",
    re.IGNORECASE,
)
_DEARER = re.compile(
    r"\b(?:more expensive|pricier|premium|luxur(?:y|ious)|high[- ]end|upscale)\b", re.IGNORECASE
)
_BOUND = re.compile(
    r"\b(?P<below>under|below|less than|at most|up to|cheaper than|no more than|max(?:imum)?|"
    r"not over)?(?P<above>\b(?:over|above|more than|at least))?\s*(?:[$€£]\s*"
    r"(?P<first>\d+(?:\.\d+)?)|(?P<last>\d+(?:\.\d+)?)\s*(?:dollars?|bucks|euros?|pounds?|usd|eur))",
    re.IGNORECASE,
)
_SAME = re.compile(
    r"\bmore (?:like|of) (?:this|that|these|those|it)(?: (?:one|item|product)s?)?"
    r"(?= please| but| and| or| in| from| without|$)"
)
_BRAND = re.compile(
    r"\b(?:not?|other than|another|different|except|without|hate|stop|no more|anything but)"
    r"(?: from| by| showing| with| of)?(?: (?:that|this|the same|those|these))?"
    r" (?:brand|maker|label|manufacturer|company)\b"
)
_OTHER = re.compile(
    r"\b(?:something|anything|show me|stuff|things|what) (?:completely |totally |entirely |very )?"
    r"(?:else|different|other)\b(?! than)|\bnot (?:this|that|these|those|it)(?: (?:one|kind|sort|"
    r"item|product|type))?\b(?! \w)|\b(?:a )?change of topic\b|"
    r"\bno more of (?:this|that|these|those)\b"
)


class Turn(NamedTuple):
    """Parts of one turn."""

    wanted: tuple[Part, ...] = ()
    unwanted: tuple[Part, ...] = ()
    price: Price | None = None
    unknown: tuple[str, ...] = ()
    refuses_that: Meant | None = None  # what the user looks at, or its brand
    wants_that: bool = False  # more like what the user looks at
    adds: bool = False  # to what was wanted before: "also"
    is_over: bool = False  # earlier wishes are taken back


def read_turn(text: str, names: Names) -> Turn:
    """Parse one turn; words of no meaning here are skipped, and unknown ones listed."""
    plain = " ".join(word for word in split_words(text) if not is_mark(word))
    if _OVER.fullmatch(plain):
        return Turn(is_over=True)
    price, text = _take_price(text)
    wants_that, refuses_that = bool(_SAME.search(plain)), _refused(plain)
    for pattern in (_SAME, _BRAND, _OTHER):
        text = pattern.sub(" ; ", text.lower().replace("'", "").replace("’", ""))
    reader = _Reader(names, [word for word in split_words(text) if word not in HEDGES])
    reader.run()
    return Turn(
        tuple(dict.fromkeys(part for part, is_wanted in reader.parts if is_wanted)),
        tuple(dict.fromkeys(part for part, is_wanted in reader.parts if not is_wanted)),
        price,
        tuple(dict.fromkeys(reader.unknown)),
        refuses_that,
        wants_that,
        adds=bool(re.match(r"(?:and|also|plus|add)\b|.*\b(?:too|as well|in addition)$", plain)),
    )


def _refused(plain: str) -> Meant | None:
    if _BRAND.search(plain):
        return "brand"
    return "kind" if _OTHER.search(plain) else None


def _take_price(text: str) -> tuple[Price | None, str]:
    """Return a wish about prices, and the text without it."""
    bound = _BOUND.search(text)
    amount = float(bound["first"] or bound["last"]) if bound else None
    if _CHEAPER.search(text) or (bound and not bound["above"]):
        price = Price("lower", amount)
    elif _DEARER.search(text) or bound:
        price = Price("higher", amount)
    else:
        return None, text
    for pattern in (_BOUND, _CHEAPER, _DEARER):
        text = pattern.sub(" ", text)
    return price, text


@dataclass
class _Reader:
    """Reads the words of one turn from left to right."""

    names: Names
    words: list[str]
    parts: list[tuple[Part, bool]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _held: list[Name] = field(default_factory=list)  # names of the part that is being read
    _wants: bool = True
    _is_fresh: bool = False  # a refusal has begun, and nothing is named behind it yet
    _cue: tuple[str, ...] = ()  # the refusal
    _at: int = 0

    def run(self) -> None:
        while self._at < len(self.words):
            self._at += self._step()
        self._end_part()

    def _step(self) -> int:
        """Read at least one word; return how many."""
        word = self.words[self._at]
        if word in ENDING:
            self._end_part()
            self._wants, self._is_fresh = True, False
            return 1
        long_name, num = self._name(least=2)
        cue = self._cue_here()
        if long_name is not None and num >= len(cue):
            return self._hold(long_name, num)
        if cue:
            self._turn(cue, CUES[cue])
            return len(cue)
        if word in JOINING:
            self._end_part()
            if word == ",":
                self._pass_comma()
            return 1
        if self._turns_back(word):
            self._end_part()
            self._wants = True
            return 1
        return self._read_word(word)

    def _read_word(self, word: str) -> int:
        if word not in FILLER and self.words[self._at + 1 : self._at + 2] == ["free"]:
            name = self.names.plain_word(word)
            if name is not None:
                self.parts.append((Part((name,)), False))
                return 2
        name, num = self._name(least=1)
        if name is not None:
            return self._hold(name, num)
        if word in FILLER or word.isdigit():
            return 1
        found = self.names.word(word)
        if found is not None:
            return self._hold(found, 1)
        if len(word) > 1:
            self.unknown.append(word)
        return 1

    def _hold(self, name: Name, num: int) -> int:
        if name not in self._held:
            self._held.append(name)
        self._is_fresh = False
        return num

    def _end_part(self) -> None:
        if self._held:
            self.parts.append((Part(tuple(self._held)), self._wants))
            self._held = []

    def _turn(self, phrase: tuple[str, ...], cue: Cue) -> None:
        if cue == "may_want" and self._is_fresh:
            return
        if cue == "may_want" and self._wants:
            return
        self._end_part()
        if cue == "refused":
            self.parts = [(part, False) for part, _ in self.parts]
        self._wants = cue in ("wants", "may_want", "refused")
        self._is_fresh = not self._wants
        self._cue = phrase

    def _turns_back(self, word: str) -> bool:
        """Tell if the word ends an exchange: "replace X with Y"."""
        return not self._wants and BACK_AFTER.get(" ".join(self._cue)) == word

    def _pass_comma(self) -> None:
        """Let a comma end a refusal, unless a list of refused things goes on."""
        if self._wants:
            return
        if CUES.get(self._cue) == "instead" or not self._lists_on():
            self._wants = True

    def _lists_on(self) -> bool:
        """Tell if "or" or "and" comes before the next cue or the end of the sentence."""
        for at in range(self._at + 1, len(self.words)):
            if self.words[at] in ENDING or self._cue_at(at):
                return False
            if self.words[at] in ("or", "and", "nor", "&"):
                return True
        return False

    def _cue_here(self) -> tuple[str, ...]:
        return self._cue_at(self._at)

    def _cue_at(self, at: int) -> tuple[str, ...]:
        """Return the longest cue that begins at a word; () if none does."""
        for num in range(LONGEST_CUE, 0, -1):
            phrase = tuple(self.words[at : at + num])
            if len(phrase) == num and phrase in CUES:
                return phrase
        return ()

    def _name(self, least: int) -> tuple[Name | None, int]:
        """Return the longest category or brand here of `least` words or more, and its length."""
        for num in range(LONGEST_NAME, least - 1, -1):
            words = self.words[self._at : self._at + num]
            named = [word for word in words if word not in JOINING]
            if len(words) < num or words[0] in JOINING or words[-1] in JOINING:
                continue
            if len(named) < least or any(word in ENDING for word in words):
                continue
            name = self.names.find(named)
            if name is not None and not (len(named) == 1 and named[0] in FILLER):
                return name, num
        return None, 0
