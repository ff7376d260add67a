"""Wishes over the real catalog: many wordings, refusals, moods, turns, and what is not understood.

These are the wordings with which the grammar was made; `bench wishes` has others.
"""

import numpy as np
import pytest

from models.catalog.catalog import Catalog
from models.release.release import Release
from models.store.wish_turns import (
    MAX_INSTRUCTION_CHARS,
    MAX_TURNS,
    WishTurn,
    decode_turns,
    encode_turns,
    held_turns,
)
from models.wishes.dialogue import understand
from models.wishes.effect import effect_of
from models.wishes.names import Names
from models.wishes.sentence import answer, spoken
from models.wishes.stems import split_words, stem
from models.wishes.wish import Price, Wish
from tests import ROOT


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(Release.load(ROOT / "releases" / "beauty").catalog)


def wish_of(names: Names, *texts: str, item_id: str | None = None) -> Wish:
    return understand([WishTurn(text, 0, item_id) for text in texts], names)


def said(names: Names, wish: Wish) -> tuple[list[str], list[str]]:
    wanted = [spoken(part, names) for part in wish.wanted]
    return wanted, [spoken(part, names) for part in wish.unwanted]


WANTED = {
    "I am looking for Makeup Nails": "Makeup > Nails",
    "show me nail polish please": "Nail Polish",
    "could you recommend some curling irons?": "Curling Irons",
    "I'd love to do a manicure": "manicure products",
    "nothing but fragrances": "Fragrance",
    "don't stop showing hair dryers": "Hair Dryers",
    "creams & moisturizers": "Creams & Moisturizers",
    "eyeshadow": "Eye Shadow",
    "red lipstick by Revlon": "red Revlon Lipstick",
    "I feel sad today, show me something relaxing": "relaxing products",
    "a gift for my sister": "gift products",
    "something that smells good": "scented products",
    "vitamin C serum": "vitamin c Serums",
    "mascarra, please": "mascara (Mascara)",
    "enough browsing, take me to nail polish": "Nail Polish",
    "my cupboard is out of nail polish": "Nail Polish",
    "I am out of my usual nail polish": "Nail Polish",
}
UNWANTED = {
    "No perfume please": "scented products",
    "anything but hair care": "Hair Care",
    "stop showing me OPI": "OPI",
    "perfume is not for me": "scented products",
    "I don't want any more of those heavy perfumes": "scented products",
    "Could we do without soaps?": "Soaps",
    "I've had my fill of nail art": "Nail Art",
    "no Hair Care Styling Products please": "Hair Care > Styling Products",
    "nail polish? no thanks": "Nail Polish",
    "please keep nail polish out of my list": "Nail Polish",
    "nail polish is the last thing I need": "Nail Polish",
    "the last thing I need is nail polish": "Nail Polish",
    "nail polish isn't really my thing": "Nail Polish",
    "when it comes to nail polish, I'll pass": "Nail Polish",
    "I am not particularly keen on nail polish": "Nail Polish",
    "nail polish can go, I have no use for them": "Nail Polish",
    "I don't really use nail polish, so there's no point in suggesting it": "Nail Polish",
    "let's look at something other than nail polish this time": "Nail Polish",
    "as for nail polish, you can cross that off completely": "Nail Polish",
    "sorry, but nail polish just doesn't do anything for me": "Nail Polish",
    "I won't be buying nail polish, so feel free to hide those results": "Nail Polish",
    "would you mind filtering out nail polish for me?": "Nail Polish",
    "you keep bringing up nail polish, but that's not what I'm after": "Nail Polish",
}
BOTH = {
    "I'm tired of lipstick, show me mascara": ("Mascara", "Lipstick"),
    "instead of shampoo, conditioner": ("Conditioners", "Shampoos"),
    "switch from shampoo to hair sprays": ("Hair Sprays", "Shampoos"),
    "less makeup and more skin care": ("Skin Care", "Makeup"),
    "no perfume, lipstick please": ("Lipstick", "scented products"),
    "I want eyeshadow but not from Maybelline": ("Eye Shadow", "Maybelline"),
    "sulfate-free shampoo": ("Shampoos", "sulfate"),
}


@pytest.mark.parametrize("text", WANTED)
def test_a_wish_is_understood_in_many_wordings(names: Names, text: str) -> None:
    assert said(names, wish_of(names, text)) == ([WANTED[text]], [])


@pytest.mark.parametrize("text", UNWANTED)
def test_a_refusal_is_no_wish(names: Names, text: str) -> None:
    assert said(names, wish_of(names, text)) == ([], [UNWANTED[text]])


@pytest.mark.parametrize("text", BOTH)
def test_a_sentence_may_want_one_thing_and_refuse_another(names: Names, text: str) -> None:
    wanted, unwanted = BOTH[text]
    assert said(names, wish_of(names, text)) == ([wanted], [unwanted])


def test_a_list_behind_a_refusal_is_refused_as_a_whole(names: Names) -> None:
    wish = wish_of(names, "no perfume, lipstick or mascara")
    assert said(names, wish) == ([], ["scented products", "Lipstick", "Mascara"])


def test_what_a_catalog_does_not_know_is_said(names: Names) -> None:
    wish = wish_of(names, "zorblax")
    assert (wish.is_empty, wish.is_understood, wish.unknown) == (True, False, ("zorblax",))
    assert answer(wish, names, minutes=30) == "Not understood: zorblax."
    assert answer(wish_of(names, "hm?"), names, minutes=30).startswith("Not understood")


def test_a_wish_about_prices_is_answered_for_a_catalog_without_any(names: Names) -> None:
    wish = wish_of(names, "something cheaper than $10 for my nails")
    assert wish.price == Price("lower", 10.0)
    assert answer(wish, names, minutes=30) == (
        "Showing more Nails, for 30 minutes. "
        "No prices in this catalog, so nothing is sorted by price."
    )


def test_later_turns_refine_replace_and_take_back(names: Names) -> None:
    turns = ["lipstick", "in red", "not Revlon"]
    assert said(names, wish_of(names, *turns)) == (["red Lipstick"], ["Revlon"])
    assert said(names, wish_of(names, *turns, "mascara")) == (["Mascara"], ["Revlon"])
    assert said(names, wish_of(names, *turns, "also mascara"))[0] == ["red Lipstick", "Mascara"]
    assert said(names, wish_of(names, *turns, "something else")) == (
        ([], ["Revlon", "red Lipstick"])
    )
    assert said(names, wish_of(names, *turns, "actually, Revlon please"))[1] == []
    assert wish_of(names, *turns, "never mind").is_over


def test_that_brand_is_the_brand_of_the_item_that_is_looked_at(names: Names) -> None:
    catalog = names.catalog
    known = zip(catalog.item_ids, catalog.brands, catalog.categories, strict=True)
    wanted = ("OPI", "Nail Polish")
    item_id = next(each for each, brand, path in known if (brand, path[-1]) == wanted)
    assert said(names, wish_of(names, "not that brand", item_id=item_id)) == ([], ["OPI"])
    assert said(names, wish_of(names, "more like this", item_id=item_id))[0] == ["Nail Polish"]
    assert "send item_id" in answer(wish_of(names, "not that brand"), names, minutes=30)


def test_the_effect_is_on_the_items_of_the_category(names: Names) -> None:
    catalog: Catalog = names.catalog
    effect = effect_of(wish_of(names, "nail polish, no OPI"), names)
    expected = [
        row
        for row in range(len(catalog))
        if "Nail Polish" in catalog.categories[row] and catalog.brands[row] != "OPI"
    ]
    assert effect.row_R.tolist() == expected
    assert effect.fit_R.tolist() == [1.0] * len(expected)
    assert {catalog.brands[row] for row in effect.unwanted.tolist()} == {"OPI"}
    red = effect_of(wish_of(names, "red lipstick"), names)
    best = catalog.titles[int(red.row_R[np.argmax(red.fit_R)])]
    assert "red" in (best or "").lower()


def test_words_of_one_stem_are_one_word() -> None:
    assert len({stem(word) for word in ("cleanser", "cleansers", "cleansing", "cleanse")}) == 1
    assert len({stem(word) for word in ("moisturizer", "moisturizing", "moisturize")}) == 1
    assert split_words("I don't want e.l.f. or L'Oréal") == [
        "i",
        "dont",
        "want",
        "elf",
        "or",
        "loreal",
    ]


def test_turns_of_the_store_are_read_back_and_other_bytes_are_none() -> None:
    turns = tuple(WishTurn(f"turn {at} \ud800", at, "item" if at % 2 else None) for at in range(12))
    assert decode_turns(encode_turns(turns)) == turns[-MAX_TURNS:]
    for blob in (
        None,
        b"",
        b"{}",
        b"[[1,2,3]]",
        b'[["a",-1,null]]',
        b'[["",1,null]]',
        b'[["a",9007199254740992,null]]',
        b'[["a",1,null]' + b" " * 200_000 + b"]",
        b"\xff",
        b"[" * 9999,
    ):
        assert decode_turns(blob) == ()


def test_the_longest_turns_are_read_back() -> None:
    turns = (WishTurn("😀" * MAX_INSTRUCTION_CHARS, 2**53 - 1, "😀" * 64),) * MAX_TURNS
    assert decode_turns(encode_turns(turns)) == turns


def test_a_wish_holds_for_a_while_behind_its_last_turn() -> None:
    turns = (WishTurn("a", 100), WishTurn("b", 200))
    assert held_turns(turns, now_s=259.9, lasts_s=60) == turns
    assert held_turns(turns, now_s=260.0, lasts_s=60) == ()
    assert held_turns((), now_s=0.0, lasts_s=60) == ()
