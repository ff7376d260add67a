"""Reasoning Activation: texts of templates, items of questions, checks of answers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.catalog.catalog import Catalog, build_catalog
from models.catalog.dataset import ItemText
from models.catalog.sid import SidSpace
from models.errors import InvalidSettings
from models.reasoner import prompts, rationales
from tests.fakes.toy import toy_catalog, toy_histories
from training.activation import activate
from training.batching import Row, batch_rows
from training.bootstrap import bootstrap, load_rationales, most_relevant, questions
from training.language import LanguageRecipe, language_loss, train_language
from training.learner import Learner, new_learner
from training.rationale_checks import Fault, RationaleChecks
from training.rationale_writers import Bootstrapped, Thinker
from training.reasoner_recipes import (
    ActivateRecipe,
    BootstrapRecipe,
    NanoConfig,
    ReasonerRecipe,
    ThoughtRecipe,
)
from training.tasks import Tasks

NANO = NanoConfig(text_tokens=400, width=32, layers=1, heads=2, mlp_width=64)
SPACE = SidSpace((8, 8, 16))


@pytest.fixture(scope="module")
def shop() -> Catalog:
    """Five items of which an item's row is its place in the alphabet."""
    paths = {
        "a": ("Beauty", "Hair Care", "Shampoo"),
        "b": ("Beauty", "Makeup", "Nails"),
        "c": ("Beauty", "Makeup", "Face"),
        "d": ("Beauty", "Hair Care", "Shampoo"),
        "e": ("Beauty", "Bath", "Oils"),
    }
    titles = {"e": "Rose Bath Oil with Five Scents", "a": "Gel"}
    items = {name: ItemText(titles.get(name), None, path) for name, path in paths.items()}
    return build_catalog(SPACE, {name: (at, 0, 0) for at, name in enumerate(items)}, items, {})


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture
def learner(catalog: Catalog) -> Learner:
    texts = [prompts.caption(catalog, row) for row in range(len(catalog))]
    return new_learner(ReasonerRecipe(), NANO, catalog.space, texts, seed=0)


def test_the_three_stages_name_persona_candidates_and_a_reason(shop: Catalog) -> None:
    hair, nails = "Hair Care > Shampoo", "Makeup > Nails"
    assert rationales.three_stage_text(shop, [0, 1, 0], 4) == (
        f"Persona: mostly {hair}. Interests: {hair}; {nails}; Bath > Oils. "
        f"Transition: something new after {hair}. Next: Bath > Oils."
    )
    assert rationales.three_stage_text(shop, [0, 3, 1], 0) == (
        f"Persona: mostly {hair}; {nails}. Interests: {hair}; {nails}. "
        f"Transition: back to an interest of 2 in 3 purchases. Next: {hair}."
    )
    assert "Transition: the latest purchase goes on. Next" in rationales.three_stage_text(
        shop, [0], 3
    )


def test_three_stages_have_at_most_three_candidates_and_the_target_among_them(
    catalog: Catalog,
) -> None:
    for history in toy_histories(catalog, num_users=40):
        for target in (0, 50, 199):
            text = rationales.three_stage_text(catalog, history, target)
            candidates = text.split("Interests: ")[1].split(". Transition")[0].split("; ")
            assert len(set(candidates)) == len(candidates) <= 3
            assert prompts.topic(catalog, target) in candidates
            assert rationales.next_topic(text) == prompts.topic(catalog, target)
            grounding = rationales.ground(catalog, history, text)
            assert grounding.named == grounding.found > 0


def test_a_wish_asks_for_the_target_and_the_thought_follows_it(shop: Catalog) -> None:
    assert prompts.wish(shop, 4, is_exact=True) == "I am looking for Oils"
    assert prompts.wish(shop, 4, is_exact=False) == "I am looking for Bath Oils"
    text = rationales.wish_text(shop, [0, 1, 0], 4)
    assert text == (
        "The user likes Hair Care > Shampoo; Makeup > Nails. The wish decides. Next: Bath > Oils."
    )
    assert rationales.next_topic(text) == "Bath > Oils"
    assert rationales.ground(shop, [0, 1], text) == (2, 2)
    assert rationales.next_topic("They like oils") is None


def answers(learner: Learner, row: Row) -> tuple[str, str]:
    parts = (row.ids[: row.num_context], row.ids[row.num_context :])
    context, answer = (str(learner.tokenizer.decode(part)) for part in parts)
    return context, answer


def test_rows_of_every_template_have_their_loss_on_thought_and_target(
    catalog: Catalog, learner: Learner
) -> None:
    histories = toy_histories(catalog, num_users=300)
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0)
    kept = {3: Bootstrapped(1, "The user's history shows it.")}
    histories[3] = [5, 6, 7]
    recipe = ThoughtRecipe("three-stage", wish_share=0.3, silent_share=0.2)
    kinds: Counter[str] = Counter()
    for row in tasks.rationales(Thinker(recipe, kept)):
        context, answer = answers(learner, row)
        thought, target = answer.split("</think>")
        assert context.endswith("assistant\n<think>")
        assert len(catalog.space.parse(target)) == 1
        assert target.endswith("<|im_end|>")
        is_wish = "\nWish: I am looking for " in context
        assert is_wish == ("The wish decides" in thought)
        kinds["wish" if is_wish else "silent" if not thought else thought[:7]] += 1
        if row.history == 3 and thought == kept[3].text:
            assert len(catalog.space.parse(context)) == 1
    assert kinds["wish"] == pytest.approx(0.3 * kinds.total(), rel=0.3)
    assert kinds["silent"] == pytest.approx(0.2 * kinds.total(), rel=0.4)
    assert kinds["Persona"] > 0.35 * kinds.total()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ThoughtRecipe("rhyme"), "template = 'rhyme', expected among"),
        (ThoughtRecipe(wish_share=0.7, silent_share=0.4), "expected a sum of 0 to 1"),
    ],
)
def test_an_unknown_template_or_share_is_named(recipe: ThoughtRecipe, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        Thinker(recipe)


def test_thought_and_target_weigh_the_same_token_by_token(
    catalog: Catalog, learner: Learner
) -> None:
    """Eq. 5: one sum over M rationale tokens and L codes."""
    rows = list(Tasks(catalog, toy_histories(catalog), learner.tokenizer, seed=0).rationales())
    (batch,) = batch_rows(rows[:1], 1000, np.random.default_rng(0))
    (row,) = rows[:1]
    log_probs = learner.model(input_ids=batch.ids_RS).logits[0].log_softmax(dim=-1).tolist()
    at = range(row.num_context, len(row.ids))
    expected = -sum(log_probs[place - 1][row.ids[place]] for place in at) / len(at)
    assert language_loss(learner.model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_most_relevant_items_are_those_of_largest_cosine_in_their_order() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    vectors[7] = 0
    history, target = rng.permutation(30).tolist(), 35

    def cosine(row: int) -> float:
        norms = np.linalg.norm(vectors[row]) * np.linalg.norm(vectors[target])
        return float(vectors[row] @ vectors[target] / norms) if norms else -1.0

    best = sorted(history, key=cosine, reverse=True)[:10]
    expected = tuple(row for row in history if row in best)
    assert most_relevant(vectors, history, target, 10) == expected
    assert most_relevant(vectors, [1, 2], target, 10) == (1, 2)
    assert most_relevant(np.ones((9, 2), np.float32), [3, 4, 5], 8, 2) == (4, 5)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a shampoo buyer, Hair Care, wants Oils", None),
        (f"Oils, as {SPACE.text((0, 0, 0))} and {SPACE.text((4, 0, 0))} show", None),
        (None, Fault.UNCLOSED),
        ("Oils <|im_start|>", Fault.MARKER),
        (f"Oils {SPACE.text((1, 0, 0))}", Fault.FOREIGN_ITEM),
        (f"Oils {SPACE.text((99, 0, 0))}", Fault.FOREIGN_ITEM),
        ("Oils <item_a_0>", Fault.FOREIGN_ITEM),
        ("the user likes oils and Beauty", Fault.NO_CATEGORY),
        ("from Hair Care to Nails", Fault.FOREIGN_CATEGORY),
        ("Oils: a rose bath OIL, with five scents", Fault.COPIED_TITLE),
        ("Oils: Rose Bath Oil", None),
    ],
)
def test_a_rationale_is_turned_away_by_the_first_check_it_fails(
    shop: Catalog, text: str | None, fault: Fault | None
) -> None:
    assert RationaleChecks(shop).fault(text, [0, 3], 4) == fault


def test_a_short_title_is_copied_as_a_whole(shop: Catalog) -> None:
    assert RationaleChecks(shop).fault("Oils, then gel", [4], 0) == Fault.COPIED_TITLE
    assert RationaleChecks(shop).fault("Oils, then gels", [4], 0) is None


def test_bootstrapping_asks_everybody_once_and_says_what_it_dropped(
    catalog: Catalog, learner: Learner, tmp_path: Path
) -> None:
    """An untrained model says nothing sound; killed in the middle of a line, it goes on."""
    histories = [*toy_histories(catalog, num_users=9), [4]]
    vectors = np.random.default_rng(0).normal(size=(len(catalog), 8)).astype(np.float32)
    recipe = BootstrapRecipe(tries=2, max_tokens=8, batch_users=2)
    asked = list(questions(histories, vectors, recipe))
    long = [at for at, history in enumerate(histories) if len(history) > 1]
    assert [one.history for one in asked] == long
    assert all(histories[one.history][one.cut] == one.target for one in asked)
    file = tmp_path / "rationales.jsonl"
    made = bootstrap(learner, catalog, asked, recipe, file, seed=1)
    whole = file.read_text()
    assert made["asked"] == len(asked)
    assert made["kept"] == 0
    assert made["rationales"] == sum(made["dropped"].values()) == 2 * len(asked)
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:9])
    assert bootstrap(learner, catalog, asked, recipe, file, seed=1) == made
    assert file.read_text() == whole
    assert load_rationales(file) == {}


def test_a_sound_rationale_is_found_and_learnt_from(
    catalog: Catalog, learner: Learner, tmp_path: Path
) -> None:
    """A model that learnt one answer gives it. The checks let it pass only if the input has the
    category that the answer names."""
    histories = toy_histories(catalog, num_users=12)
    vectors = np.random.default_rng(0).normal(size=(len(catalog), 8)).astype(np.float32)
    recipe = BootstrapRecipe(tries=1, max_tokens=24, temperature=0.1)
    asked = list(questions(histories, vectors, recipe))
    encode = learner.tokenizer.encode
    rows = []
    for one in asked:
        query = prompts.rationale_query(catalog, one.relevant, one.target)
        context, answer = encode(query), encode(" Nails<|im_end|>")
        rows.append(Row(context + answer, len(context)))
    batches = batch_rows(rows * 16, 4096, np.random.default_rng(0))
    train_language(learner.model, batches, LanguageRecipe(2e-2, warmup_steps=5), stage="t")
    file = tmp_path / "rationales.jsonl"
    made = bootstrap(learner, catalog, asked, recipe, file, seed=1)
    sound = {
        one.history
        for one in asked
        if any("Nails" in catalog.categories[row] for row in (*one.relevant, one.target))
    }
    kept = load_rationales(file)
    assert set(kept) == sound
    assert made["kept"] == len(sound)
    assert {one.text for one in kept.values()} == {"The user's history shows Nails"}
    assert made["dropped"] == {Fault.FOREIGN_CATEGORY.value: len(asked) - len(sound)}
    tasks = Tasks(catalog, histories, learner.tokenizer, seed=0)
    thinker = Thinker(ThoughtRecipe("bootstrapped"), kept)
    texts = {row.history: answers(learner, row)[1] for row in tasks.rationales(thinker)}
    assert {at for at, text in texts.items() if text.startswith("The user's")} == sound
    told = activate(learner.model, tasks, ActivateRecipe(rationale_epochs=1), thinker=thinker)
    assert told["tokens"] > 0
