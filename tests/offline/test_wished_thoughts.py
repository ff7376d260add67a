"""Thoughts under a wish: the reasoner's own sentence, and nothing that the user refuses."""

import pytest

from models.reasoner.prompts import topic
from models.reasoner.think import PathPrefix, UserHistory, UserThoughts
from models.store.wish_turns import WishTurn
from offline.think.wished_thoughts import KnownWishes, obey
from tests.fakes.toy import toy_catalog

CATALOG = toy_catalog()
ANN = UserHistory("ann", (0, 1))
NAILS = [row for row in range(len(CATALOG)) if "Nails" in CATALOG.categories[row]]
OTHERS = [row for row in range(len(CATALOG)) if row not in NAILS]


def thoughts(*rows: int) -> UserThoughts:
    """One path a row: it names the row's topic, and its prefix holds the row."""
    texts = tuple(f"The user likes Bath. Next: {topic(CATALOG, row)}." for row in rows)
    codes = [tuple(CATALOG.sids[row, :2].tolist()) for row in rows]
    prefixes = tuple(PathPrefix(each, path, -1.0, 1) for path, each in enumerate(codes))
    return UserThoughts("ann", texts, prefixes, 0, 5)


@pytest.mark.parametrize("text", ["could I have some nails?", "only nails", "nails please!"])
def test_a_wish_is_put_into_the_sentence_of_the_reasoner(text: str) -> None:
    instruction = KnownWishes().read(CATALOG, ANN, text).history.instruction
    assert (instruction or "").startswith("I am looking for Nails Kind")


def test_a_refusal_is_kept_from_the_reasoner_and_its_thoughts_obey() -> None:
    wished = KnownWishes().read(CATALOG, ANN, "no nails please")
    assert wished.history.instruction is None
    first, second = OTHERS[0], OTHERS[-1]
    (found,) = obey(CATALOG, [wished], [thoughts(first, NAILS[0], second)])
    assert found.texts == (thoughts(first).texts + thoughts(second).texts)
    assert [(each.codes, each.path) for each in found.prefixes] == [
        (tuple(CATALOG.sids[row, :2].tolist()), path) for path, row in enumerate((first, second))
    ]


def test_thoughts_that_are_all_refused_stay_for_the_online_tier_to_obey() -> None:
    wished = KnownWishes().read(CATALOG, ANN, "no nails please")
    whole = thoughts(NAILS[0])
    assert obey(CATALOG, [wished], [whole]) == [whole]


def test_the_turns_of_the_store_count_before_the_last_text() -> None:
    turns = [WishTurn("no nails", 0), WishTurn("show me bath", 1)]
    wished = KnownWishes().read(CATALOG, ANN, "show me bath", turns)
    assert wished.effect is not None
    assert set(NAILS) <= set(wished.effect.unwanted.tolist())
    assert (wished.history.instruction or "").startswith("I am looking for Bath")


def test_what_is_not_understood_is_read_as_it_was_written() -> None:
    wished = KnownWishes().read(CATALOG, ANN, "zorblax")
    assert (wished.history.instruction, wished.effect) == ("zorblax", None)
    assert KnownWishes().read(CATALOG, ANN, None).history is ANN
