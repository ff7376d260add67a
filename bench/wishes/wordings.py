"""Wordings of wishes. Somebody who had not seen the grammar wrote those of the bench.

`{topic}` is the name of a category in lower case. Strengths are chosen with `TUNING`; the grammar
was made with these and with the wordings of tests/models/test_wishes.py. It was not changed after a
run on `UNTRAINED` and `NEGATIONS`; two earlier lists of refusals became tests when they failed.
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
    "Don't show me any {topic}.",
    "Please leave {topic} out of my recommendations from now on.",
    "{topic} just aren't my thing, so skip them.",
    "I'd rather not see {topic} anymore, if that's okay.",
    "Could you stop suggesting {topic} to me?",
    "No more {topic}, thanks.",
    "When you're picking things for me, you can ignore anything to do with {topic}.",
    "I have absolutely no interest in {topic}.",
    "Honestly, I keep scrolling past all the {topic}, and it would be nice if they were gone.",
    "As far as {topic} go, I've seen more than enough and don't need any others.",
    "Would you mind filtering out {topic} before you show me the results?",
    "Everything else looks great, but I'm never going to buy {topic}.",
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
