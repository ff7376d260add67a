"""Wordings of wishes. Somebody who had not seen the grammar wrote those of the bench.

`{topic}` is the name of a category in lower case. Strengths are chosen with `TUNING`; the grammar
was made with these and with the wordings of tests/models/test_wishes.py, and was not changed after
its first run on `UNTRAINED` and `NEGATIONS`.
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
    "What do you have in the way of {topic}?",
    "I need help picking out {topic} for my sister's birthday.",
    "Could we take a look at {topic} next?",
    "I've been thinking about trying out some new {topic}.",
    "Do you carry any good {topic}?",
    "{topic} would be great, if you have any.",
    "My friend keeps raving about {topic}, so I want to see what's out there.",
    "Let's browse {topic} for a bit.",
    "Hi, I'm shopping for {topic} and don't know where to start.",
    "Which {topic} are popular right now?",
    "I'm in the mood to buy {topic}.",
    "Any suggestions when it comes to {topic}?",
    "Please find me something nice in {topic}.",
    "I could really use some help with {topic}.",
    "What I want today is {topic}.",
    "Can you pull up a few options for {topic}?",
)

NEGATIONS = (
    "Please don't show me any {topic}.",
    "I'm not interested in {topic}, thanks.",
    "{topic} isn't really my thing.",
    "No {topic}, please.",
    "Anything is fine as long as it's not {topic}.",
    "I'd rather skip {topic} if you don't mind.",
    "I already have more than enough {topic} at home.",
    "When it comes to {topic}, I'll pass.",
    "Could you leave out {topic} from now on?",
    "I'm tired of seeing {topic}, so let's move on to something else.",
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
