"""The transformers engine against plain forward passes, and the night's pure core."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from models.catalog.catalog import Catalog
from models.catalog.sid import SidSpace
from models.errors import ReleaseMismatch
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import (
    PathPrefix,
    UserHistory,
    UserThoughts,
    render_history,
    think_users,
    unite,
    user_seed,
)
from models.reasoner.transformers_engine import Sampling, TransformersReasoner
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_reasoner import write_toy_reasoner


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return toy_catalog()


@pytest.fixture(scope="module")
def directory(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reasoner")
    write_toy_reasoner(catalog, path)
    return path


@pytest.fixture(scope="module")
def reasoner(catalog: Catalog, directory: Path) -> TransformersReasoner:
    return TransformersReasoner.load(directory, catalog.space)


def users(catalog: Catalog, count: int) -> list[UserHistory]:
    histories = toy_histories(catalog, num_users=count, seed=5)
    return [UserHistory(f"u{at}", tuple(rows)) for at, rows in enumerate(histories)]


def think(
    reasoner: TransformersReasoner, catalog: Catalog, who: Sequence[UserHistory]
) -> list[UserThoughts]:
    seeds = [user_seed(7, user.user_id) for user in who]
    return think_users(reasoner, catalog, who, paths=3, width=6, seeds=seeds)


def test_the_same_batch_leaves_the_same_bytes(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    """A micro-batch that is thought about again, after a kill, must not differ in one bit."""
    who = users(catalog, 6)
    assert think(reasoner, catalog, who) == think(reasoner, catalog, who)


def test_a_recited_thought_leaves_the_beams_of_the_sampled_one(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    """Only thoughts whose text encodes to the sampled tokens: random weights sample others too."""
    who = users(catalog, 24)
    prompts = [render_history(catalog, user.rows) for user in who]
    thought = reasoner.think(prompts, paths=2, seeds=range(24))
    told = [
        at
        for at, texts in enumerate(thought.texts)
        if len(texts) == 2
        and thought.tokens[at] == [[*encode(reasoner, text), reasoner.think_end] for text in texts]
    ]
    recited = reasoner.recite([prompts[at] for at in told], [thought.texts[at] for at in told])
    assert told
    assert recited.tokens == [thought.tokens[at] for at in told]
    assert recited.num_dropped == [0] * len(told)
    owners = [at for at, texts in enumerate(thought.texts) for _ in texts]
    sampled = beam_search(thought.scorer(), catalog.trie, depth=2, width=4)
    expected = [beams for at, beams in zip(owners, sampled, strict=True) if at in told]
    for found, beams in zip(
        beam_search(recited.scorer(), catalog.trie, depth=2, width=4), expected, strict=True
    ):
        assert [beam.codes for beam in found] == [beam.codes for beam in beams]
        assert [beam.logprob for beam in found] == pytest.approx(
            [beam.logprob for beam in beams], abs=1e-4
        )


def encode(reasoner: TransformersReasoner, text: str) -> list[int]:
    ids: list[int] = reasoner.tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_an_empty_thought_recommends_after_the_closing_token_alone(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    (user,) = users(catalog, 1)
    prompt = render_history(catalog, user.rows)
    recited = reasoner.recite([prompt], [[""]])
    ids = reasoner.tokenizer.encode(f"{prompt}</think><|item_begin|>", add_special_tokens=False)
    logits_V = reasoner.model(torch.tensor([ids])).logits[0, -1]
    expected = logits_V.log_softmax(dim=-1)[torch.from_numpy(reasoner.code_ids[0])]
    torch.testing.assert_close(
        torch.from_numpy(recited.scorer().start()[0]), expected, rtol=1e-4, atol=1e-4
    )


def test_a_thought_may_be_as_long_as_its_model_was_trained_on(directory: Path) -> None:
    assert Sampling.of(directory).max_tokens == 48
    assert Sampling.of(directory / "nowhere").max_tokens == 48


def test_no_token_is_read_twice_and_none_is_padding(
    reasoner: TransformersReasoner, catalog: Catalog
) -> None:
    """Prompts once, paths without their last token, then `</think>`, `<|item_begin|>`, beams."""
    prompts = [render_history(catalog, user.rows) for user in users(catalog, 5)]
    read: list[int] = []
    hook = reasoner.model.register_forward_pre_hook(
        lambda _module, _args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    thoughts = reasoner.think(prompts, paths=3, seeds=range(5))
    asked = sum(len(reasoner.tokenizer.encode(prompt)) for prompt in prompts)
    assert sum(read) == asked + sum(thoughts.num_tokens) - 15
    read.clear()
    beams = beam_search(thoughts.scorer(), catalog.trie, depth=2, width=4)
    hook.remove()
    assert sum(read) == 2 * len(beams) + 4 * len(beams)


@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
def test_a_draw_equals_ranking_every_token(directory: Path, catalog: Catalog, top_p: float) -> None:
    """Only rows in which the best few tokens do not fill the nucleus are ranked further."""
    sampling = Sampling(temperature=0.7, top_p=top_p, top_k=50)
    reasoner = TransformersReasoner.load(directory, catalog.space, sampling=sampling)
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 400, generator=made) * torch.linspace(0.1, 6, 200).unsqueeze(1)
    uniform = torch.rand(200, generator=made)
    probs, order = (logits / 0.7).softmax(dim=1).sort(dim=1, descending=True)
    expected = []
    for row in range(200):
        kept = [probs[row, 0]]
        while len(kept) < 50 and sum(kept) < top_p:
            kept.append(probs[row, len(kept)])
        edges = torch.stack(kept).cumsum(dim=0)
        at = int((edges <= uniform[row] * edges[-1]).sum())
        expected.append(int(order[row, at]))
    found = reasoner._draw(logits, uniform).tolist()
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1  # rounding


def test_a_tokenizer_without_the_itemic_tokens_is_refused(directory: Path) -> None:
    with pytest.raises(ReleaseMismatch, match=r"'<item_a_8>' is \d+ tokens, expected one"):
        TransformersReasoner.load(directory, SidSpace((64, 64, 256)))


def test_union_keeps_the_best_path_and_counts_support() -> None:
    first = [Beam((1, 1), -1.0), Beam((2, 2), -3.0)]
    second = [Beam((2, 2), -2.0), Beam((3, 3), -2.0)]
    assert unite([first, second]) == [
        PathPrefix((1, 1), 0, -1.0, 1),
        PathPrefix((2, 2), 1, -2.0, 2),
        PathPrefix((3, 3), 1, -2.0, 1),
    ]
    assert unite([]) == []


def test_seeds_depend_on_user_and_seed_alone() -> None:
    assert user_seed(0, "a") == user_seed(0, "a")
    assert len({user_seed(0, "a"), user_seed(0, "b"), user_seed(1, "a")}) == 3


def test_the_prompt_holds_every_item_that_it_is_given(catalog: Catalog) -> None:
    rows = list(range(120))
    text = render_history(catalog, rows)
    expected = [tuple(catalog.sids[row].tolist()) for row in rows]
    assert list(catalog.space.parse(text)) == expected


def test_code_ids_are_those_of_the_tokens(reasoner: TransformersReasoner, catalog: Catalog) -> None:
    assert reasoner.tokenizer.decode([int(reasoner.code_ids[2][5])]) == "<item_c_5>"
    assert [len(level) for level in reasoner.code_ids] == list(catalog.space.sizes)
