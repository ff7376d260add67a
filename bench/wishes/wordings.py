"""Wordings of wishes. The grammar was made without a look at the wordings of the bench.

`{topic}` is the name of a category in lower case. Strengths are chosen with `TUNING`; the grammar
was made with these and with the wordings of tests/models/test_wishes.py.
"""

from typing import NamedTuple

TRAINED = "I am looking for {topic}"

TUNING = (
    "show me {topic}",
    "I would love some {topic} today",
    "can you recommend {topic} please?",
    "nothing but {topic}",
    "more {topic}",
)

UNTRAINED = (
    "could I see a few {topic}",
    "I'm in the market for {topic}",
    "got any {topic} worth trying?",
    "my cupboard is out of {topic}",
    "today it has to be {topic}",
    "surprise me with {topic}",
    "{topic}, and plenty of it",
    "would you kindly put {topic} on top",
    "thinking about treating myself to {topic}",
    "I promised a friend some {topic}",
    "what do you have in the way of {topic}?",
    "enough browsing, take me to {topic}",
    "{topic} would make my day",
    "run me through your {topic}",
)

NEGATIONS = (
    "please keep {topic} out of my list",
    "I could not care less for {topic}",
    "whatever you do, no {topic}",
    "{topic} is the last thing I need",
    "please stop suggesting {topic}",
    "I never want to see {topic} again",
)

BRAND_TURN = "a different maker please, not that brand"


class Mood(NamedTuple):
    """A mood, and how its items are known."""

    text: str
    categories: frozenset[str]  # the first judge: any level of the path
    words: tuple[str, ...]  # the second judge: beginnings of words of the title


_CALM = frozenset(
    ["Bath", "Bath & Body", "Body Butter", "Essential Oils", "Bubble Bath", "Minerals & Salts"]
)
_CALM_WORDS = ("bath", "relax", "lavender", "sooth", "calm", "massage", "spa")
MOODS = {
    "unwind": Mood("after a stressful week I need to unwind", _CALM, _CALM_WORDS),
    "rough_day": Mood("rough day, cheer me up", _CALM, _CALM_WORDS),
    "beach": Mood(
        "we are flying to the beach next month",
        frozenset(["Sun", "Sunscreens", "After Sun"]),
        ("sun", "spf", "tan", "bronz"),
    ),
    "party": Mood(
        "there is a big party on Saturday",
        frozenset(["Glitter & Shimmer", "Eye Shadow", "Nail Art", "Fake Eyelashes & Adhesives"]),
        ("glitter", "shimmer", "sparkl", "lash", "metallic"),
    ),
}
