"""Golden texts: training and the night must speak the same words."""

import re

from models.catalog.catalog import build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.reasoner import prompts, rationales
from tests.fakes.toy import toy_catalog

SPACE = SidSpace((8, 8, 16))
FIRST, SECOND = (1, 2, 3), (4, 5, 6)


def test_think_prompt_is_golden() -> None:
    assert prompts.think_prompt(SPACE, [FIRST, SECOND]) == (
        "<|im_start|>user\n"
        "History: <|item_begin|><item_a_1><item_b_2><item_c_3><|item_end|>"
        "<|item_begin|><item_a_4><item_b_5><item_c_6><|item_end|>\n"
        "Think, then recommend the next item.<|im_end|>\n"
        "<|im_start|>assistant\n<think>"
    )


def test_think_completion_is_golden() -> None:
    rationale = rationales.Rationale(("Nails > Polish", "Hair"), "Nails > Art")
    assert prompts.think_completion(SPACE, rationales.rationale_text(rationale), FIRST) == (
        "The user likes Nails > Polish; Hair. Next: Nails > Art.</think>"
        "<|item_begin|><item_a_1><item_b_2><item_c_3><|item_end|><|im_end|>"
    )


def test_a_rationale_parses_back() -> None:
    rationale = rationales.Rationale(("Nails > Polish", "Hair Care"), "Men's")
    assert rationales.parse_rationale(rationales.rationale_text(rationale)) == rationale
    assert rationales.parse_rationale("Something else.") is None


def test_rationale_ranks_topics_by_count_then_recency_and_hides_the_title() -> None:
    sids = {name: (at, 0, 0) for at, name in enumerate("abcd")}
    items = {
        "a": ItemText("Title a", None, ("Beauty", "Hair", "Shampoo")),
        "b": ItemText("Title b", None, ("Beauty", "Nails", "Polish")),
        "c": ItemText("Title c", None, ("Beauty", "Face")),
        "d": ItemText("Secret title", None, ("Beauty", "Bath", "Oils", "Rose")),
    }
    catalog = build_catalog(SPACE, sids, items, {})
    row = {name: catalog.row(name) or 0 for name in "abcd"}
    history = [row["a"], row["b"], row["c"], row["a"], row["b"]]
    rationale = rationales.category_rationale(catalog, history, row["d"])
    assert rationale.interests == ("Nails > Polish", "Hair > Shampoo", "Face")
    assert rationale.next_interest == "Bath > Oils"
    assert "Secret" not in rationales.rationale_text(rationale)


def test_topics_fall_back_to_brand_then_to_the_itemic_token() -> None:
    items = {"a": ItemText(None, "OPI", ()), "b": ItemText(None, None, ())}
    catalog = build_catalog(SPACE, {"a": (0, 0, 0), "b": (7, 0, 0)}, items, {})
    assert prompts.topic(catalog, 0) == "OPI"
    assert prompts.topic(catalog, 1) == "<item_a_7>"
    assert prompts.caption(catalog, 1) == "in <item_a_7>"


def test_a_caption_ends_with_the_first_words_of_a_description() -> None:
    """Its markup cannot end a turn. A release's catalog has no descriptions."""
    long = " ".join(["word"] * 40)
    items = {
        "a": ItemText("Polish", "OPI", ("Beauty", "Nails"), f"Red <|im_end|> {long}"),
        "b": ItemText(None, None, ("Beauty", "Nails")),
    }
    catalog = build_catalog(SPACE, {"a": (0, 0, 0), "b": (7, 0, 0)}, items, {})
    assert prompts.caption(catalog, 0) == "Polish, by OPI, in Nails"
    described = catalog.described(items)
    words = "Red im_end " + " ".join(["word"] * 22)
    assert prompts.caption(described, 0) == f"Polish, by OPI, in Nails: {words}"
    assert prompts.caption(described, 1) == "in Nails"


def test_a_thought_is_grounded_by_the_topics_of_its_history() -> None:
    items = {name: ItemText(None, None, ("Beauty", name)) for name in ("Hair", "Nails", "Face")}
    sids = {name: (at, 0, 0) for at, name in enumerate(items)}
    catalog = build_catalog(SPACE, sids, items, {})
    history = [catalog.row("Hair") or 0, catalog.row("Nails") or 0]
    thought = rationales.rationale_text(rationales.Rationale(("Nails", "Face", "Nails"), "Hair"))
    assert rationales.ground(catalog, history, thought) == (2, 1)
    assert rationales.ground(catalog, history, "Buy something.") == (0, 0)


def test_an_interleaved_history_stands_beside_its_topics() -> None:
    items = {"a": ItemText("Title", "OPI", ("Beauty", "Makeup", "Nails", "Polish"))}
    catalog = build_catalog(SPACE, {"a": FIRST}, items, {})
    assert prompts.interleaved_text(SPACE, catalog, [0, 0]) == (
        "The user bought\n"
        "<|item_begin|><item_a_1><item_b_2><item_c_3><|item_end|> Makeup > Nails\n"
        "<|item_begin|><item_a_1><item_b_2><item_c_3><|item_end|> Makeup > Nails<|im_end|>"
    )


def test_every_special_token_that_a_prompt_writes_is_declared() -> None:
    catalog = toy_catalog()
    texts = [
        prompts.think_prompt(SPACE, [FIRST]),
        prompts.interleaved_text(SPACE, catalog, [0, 1]),
        prompts.sequence_text(SPACE, [FIRST]),
        "".join(prompts.caption_example(SPACE, catalog, 0)),
    ]
    written = set(re.findall(r"<\|.*?\|>|</?think>", "".join(texts)))
    assert written <= set(prompts.SPECIAL_TOKENS)
