"""One contract for every engine that thinks. vLLM runs on the bundled release (`-m vllm`)."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from models.catalog.catalog import Catalog
from models.errors import InvalidSettings
from models.reasoner.beam import Beam, beam_search
from models.reasoner.think import UserHistory, UserThoughts, render_history, think_users, user_seed
from models.reasoner.transformers_engine import TransformersReasoner
from models.release.release import Release
from offline.settings import RefreshSettings
from offline.think.engine_choice import (
    EngineSettings,
    LocalEngine,
    add_engine_arguments,
    engine_settings,
)
from offline.think.engines import load_engine
from tests import ROOT
from tests.fakes.tiny_base import lora_learner
from tests.fakes.toy import toy_catalog, toy_histories
from tests.fakes.toy_reasoner import write_toy_reasoner

TOLERANCE = 1e-4  # of a log-probability, in float32; measured: 2e-5
VLLM = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


@dataclass
class World:
    """An engine, the catalog that it speaks of, and the same weights in plain transformers."""

    engine: Any
    catalog: Catalog
    plain: Any

    def users(self, count: int) -> list[UserHistory]:
        histories = toy_histories(self.catalog, num_users=count, seed=5)
        return [UserHistory(f"u{at}", tuple(rows)) for at, rows in enumerate(histories)]

    def prompts(self, count: int) -> list[str]:
        return [render_history(self.catalog, user.rows) for user in self.users(count)]

    def think(self, who: Sequence[UserHistory], **options: Any) -> list[UserThoughts]:
        seeds = [user_seed(7, user.user_id) for user in who]
        return think_users(self.engine, self.catalog, who, paths=3, width=6, seeds=seeds, **options)

    def logprob(self, prompt: str, thought: list[int], beam: Beam) -> float:
        """One unbatched forward pass over prompt, thought as sampled, and codes."""
        asked = self.engine.tokenizer.encode(prompt, add_special_tokens=False)
        context = [*asked, *thought, self.engine.item_begin]
        codes = [int(self.engine.code_ids[level][code]) for level, code in enumerate(beam.codes)]
        with torch.inference_mode():
            logits = self.plain(torch.tensor([context + codes])).logits[0]
        logp = logits.log_softmax(dim=-1)
        return sum(float(logp[len(context) - 1 + at, code]) for at, code in enumerate(codes))


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=VLLM)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    if request.param == "vllm":
        return vllm_world(ROOT / "releases" / "beauty")
    catalog, directory = toy_catalog(), tmp_path_factory.mktemp("reasoner")
    write_toy_reasoner(catalog, directory)
    engine = TransformersReasoner.load(directory, catalog.space)
    return World(engine, catalog, plain_model(directory))


def vllm_world(release_dir: Path) -> World:
    from models.reasoner.vllm_engine import VllmReasoner

    release = Release.load(release_dir)
    engine = VllmReasoner.load(release.reasoner_dir, release.catalog.trie, width=10)
    return World(engine, release.catalog, plain_model(release.reasoner_dir))


def plain_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture
def sampling(world: World) -> Iterator[Any]:
    """The engine's own, restored afterwards."""
    before = world.engine.sampling
    yield before
    world.engine.sampling = before


def test_scores_equal_one_plain_forward_pass_a_beam(world: World) -> None:
    prompts = world.prompts(5)
    thoughts = world.engine.think(prompts, paths=3, seeds=range(5))
    beams = iter(beam_search(thoughts.scorer(), world.catalog.trie, depth=3, width=4))
    checked = 0
    for prompt, paths in zip(prompts, thoughts.tokens, strict=True):
        for path, found in zip(paths, beams, strict=False):
            for beam in found:
                expected = world.logprob(prompt, path, beam)
                assert beam.logprob == pytest.approx(expected, abs=TOLERANCE)
                checked += 1
    assert checked >= 20


def test_the_best_first_codes_are_found(world: World) -> None:
    """Against every legal first code, one plain forward pass each."""
    prompts = world.prompts(2)
    thoughts = world.engine.think(prompts, paths=3, seeds=range(2))
    beams = iter(beam_search(thoughts.scorer(), world.catalog.trie, depth=1, width=3))
    legal = world.catalog.trie.children(()).tolist()
    for prompt, paths in zip(prompts, thoughts.tokens, strict=True):
        for path, found in zip(paths, beams, strict=False):
            every = [Beam((code,), world.logprob(prompt, path, Beam((code,), 0))) for code in legal]
            best = sorted(every, key=lambda beam: -beam.logprob)[:3]
            assert [beam.codes for beam in found] == [beam.codes for beam in best]


def test_a_user_gets_the_same_thoughts_in_any_batch(world: World) -> None:
    who = world.users(6)
    together = world.think(who)
    alone = [world.think([user])[0] for user in who]
    for one, other in zip(together, alone, strict=True):
        assert one.texts == other.texts
        assert {p.codes for p in one.prefixes} == {p.codes for p in other.prefixes}


def test_another_seed_brings_other_thoughts(world: World) -> None:
    prompts = world.prompts(6)
    first, second = (
        world.engine.think(prompts, paths=3, seeds=range(at, at + 6)).texts for at in (0, 50)
    )
    assert first != second


def test_two_scorers_of_one_batch_agree(world: World) -> None:
    thoughts = world.engine.think(world.prompts(5), paths=3, seeds=range(5))
    first, second = (
        beam_search(thoughts.scorer(), world.catalog.trie, depth=2, width=4) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert [beam.codes for beam in one] == [beam.codes for beam in other]
        scores = [[beam.logprob for beam in beams] for beams in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=TOLERANCE)


def test_paths_of_one_user_differ(world: World) -> None:
    thoughts = world.think(world.users(6))
    assert sum(len(set(user.texts)) for user in thoughts) > len(thoughts)


def test_prefixes_are_legal_and_capped(world: World) -> None:
    who = world.users(4)
    capped, whole = world.think(who, max_prefixes=2), world.think(who)
    for few, all_of_them in zip(capped, whole, strict=True):
        assert [p.codes for p in few.prefixes] == [p.codes for p in all_of_them.prefixes[:2]]
        assert all(world.catalog.trie.contains(prefix.codes) for prefix in all_of_them.prefixes)


def test_a_path_that_never_closes_is_dropped_and_counted(world: World, sampling: Any) -> None:
    world.engine.sampling = replace(sampling, max_tokens=2)
    for user in world.think(world.users(3)):
        assert (user.texts, user.prefixes, user.dropped_paths, user.tokens) == ((), (), 3, 6)


def test_top_p_of_nothing_is_greedy(world: World, sampling: Any) -> None:
    world.engine.sampling = replace(sampling, top_p=1e-9)
    for user in world.think(world.users(3)):
        assert len(set(user.texts)) <= 1


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [("transformers", "torch", "night"), ("vllm", "vllm", "vllm")],
)
def test_an_engine_that_is_not_installed_is_named(
    engine: LocalEngine, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Release.load(ROOT / "releases" / "beauty")
    settings = RefreshSettings(release.directory, tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    named = f"^{package} is not installed, expected the extra '{extra}' of pyproject.toml"
    with pytest.raises(InvalidSettings, match=named):
        load_engine(release, settings, EngineSettings(engine))


def test_the_command_line_chooses_an_engine() -> None:
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser)
    assert engine_settings(parser.parse_args([])) == EngineSettings()
    words = "--engine ray --on-ray vllm --workers 4 --adapter lora --tensor-parallel 2"
    asked = engine_settings(parser.parse_args([*words.split(), "--ray-address", "head:6379"]))
    assert asked == EngineSettings("ray", Path("lora"), 2, "vllm", 4, "head:6379")
    words = "--device cpu --dtype bfloat16 --max-model-len 2048 --gpu-memory 0.5"
    asked = engine_settings(parser.parse_args(words.split()))
    assert asked == EngineSettings(
        device="cpu", dtype="bfloat16", max_model_len=2048, memory_share=0.5
    )
    for wrong in ("--max-model-len 0", "--gpu-memory 1.5", "--gpu-memory much", "--dtype int8"):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong.split())


def test_an_engine_thinks_on_the_chosen_device_with_the_chosen_numbers(
    release: Release, tmp_path: Path
) -> None:
    settings = RefreshSettings(release.directory, tmp_path)
    user = UserHistory("u", (1, 2, 3))
    exact, rounded = (
        load_engine(release, settings, EngineSettings(device="cpu", dtype=dtype))([user])
        for dtype in ("auto", "bfloat16")
    )
    assert exact != rounded
    with pytest.raises(InvalidSettings, match="device 'cuda:99': torch finds"):
        load_engine(release, settings, EngineSettings(device="cuda:99"))
    with pytest.raises(InvalidSettings, match="device 'gpu', expected auto, cpu, cuda"):
        load_engine(release, settings, EngineSettings(device="gpu"))


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", ["vllm"], indirect=True)
class TestVllm:
    """Faults that only the vLLM engine can have."""

    @pytest.mark.parametrize("most_scores", [128, 8])
    def test_the_same_paths_lead_to_the_same_prefixes_as_with_transformers(
        self, world: World, most_scores: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where a node has too many children to score them all at once."""
        from models.reasoner.vllm_engine import VllmThoughts

        monkeypatch.setattr(world.engine, "most_scores", most_scores)
        release = ROOT / "releases" / "beauty" / "reasoner"
        ours = TransformersReasoner.load(release, world.catalog.space)
        prompts = world.prompts(16)
        thoughts = ours.think(prompts, paths=5, seeds=range(16))
        asked = [ours.tokenizer.encode(prompt) for prompt in prompts]
        theirs = VllmThoughts(world.engine, asked, thoughts.tokens)
        expected = beam_search(thoughts.scorer(), world.catalog.trie, depth=2, width=8)
        found = beam_search(theirs.scorer(), world.catalog.trie, depth=2, width=8)
        assert theirs.texts == thoughts.texts
        assert len(found) >= 70
        for one, other in zip(found, expected, strict=True):
            assert dict(one) == pytest.approx(dict(other), abs=TOLERANCE)
            for (codes, logprob), beam in zip(one, other, strict=True):
                assert codes == beam.codes or logprob == pytest.approx(beam.logprob, abs=2e-5)

    def test_a_lora_adapter_changes_the_scores_as_its_product_does(
        self, world: World, tmp_path: Path
    ) -> None:
        """Against the transformers engine on weights into which the adapter was merged."""
        from models.reasoner.vllm_engine import VllmReasoner, VllmSettings, VllmThoughts

        release = ROOT / "releases" / "beauty" / "reasoner"
        adapter, merged = tmp_path / "adapter", tmp_path / "merged"
        write_adapter(release, adapter, merged)
        ours = TransformersReasoner.load(merged, world.catalog.space)
        engine = VllmReasoner.load(
            release, world.catalog.trie, width=8, settings=VllmSettings(adapter=adapter)
        )
        prompts = world.prompts(4)
        thoughts = ours.think(prompts, paths=3, seeds=range(4))
        asked = [ours.tokenizer.encode(prompt) for prompt in prompts]
        expected = thoughts.scorer().start()
        found = VllmThoughts(engine, asked, thoughts.tokens).scorer().start()
        without = VllmThoughts(world.engine, asked, thoughts.tokens).scorer().start()
        legal = np.isfinite(found)
        assert legal.any()
        assert found[legal] == pytest.approx(expected[legal], abs=1e-3)
        assert np.abs(without[legal] - expected[legal]).max() > 0.05

    def test_a_trained_adapter_beside_its_base_is_the_merged_reasoner(
        self, world: World, tmp_path: Path
    ) -> None:
        """Written by `training.remote adapter`: token rows in the base, LoRA apart."""
        pytest.importorskip("peft")
        from models.reasoner.vllm_engine import VllmReasoner, VllmSettings, VllmThoughts

        catalog = world.catalog
        lora_learner(ROOT / "releases" / "beauty" / "reasoner", catalog, rows="itemic").export(
            tmp_path / "merged"
        )
        apart = lora_learner(ROOT / "releases" / "beauty" / "reasoner", catalog, rows="itemic")
        apart.export_apart(tmp_path / "base", tmp_path / "adapter")
        ours = TransformersReasoner.load(tmp_path / "merged", catalog.space)
        settings = VllmSettings(adapter=tmp_path / "adapter")
        engine = VllmReasoner.load(tmp_path / "base", catalog.trie, width=8, settings=settings)
        prompts = world.prompts(4)
        thoughts = ours.think(prompts, paths=3, seeds=range(4))
        asked = [ours.tokenizer.encode(prompt) for prompt in prompts]
        expected = thoughts.scorer().start()
        found = VllmThoughts(engine, asked, thoughts.tokens).scorer().start()
        legal = np.isfinite(found)
        assert legal.any()
        assert found[legal] == pytest.approx(expected[legal], abs=0.05)  # bfloat16 on disk


def write_adapter(base: Path, adapter: Path, merged: Path) -> None:
    """A random LoRA over the query projections, as PEFT writes it; and its product, merged."""
    generator = torch.Generator().manual_seed(0)
    model = plain_model(base)
    weights: dict[str, torch.Tensor] = {}
    for layer, block in enumerate(model.model.layers):
        rows, columns = block.self_attn.q_proj.weight.shape
        down = torch.randn(8, columns, generator=generator) * 0.1
        up = torch.randn(rows, 8, generator=generator) * 0.1
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        with torch.no_grad():
            block.self_attn.q_proj.weight += 2.0 * (up @ down)
    adapter.mkdir()
    save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16,'
        ' "target_modules": ["q_proj"], "bias": "none"}'
    )
    model.save_pretrained(merged)
    for file in base.glob("tokenizer*"):
        (merged / file.name).write_bytes(file.read_bytes())
