"""Table 1: histories, masks, the judge and the choice of settings, without RecBole and RecTools."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.common.leave_one_out import cut_histories
from bench.quality.ranking.plain_rows import PopularityRow
from bench.quality.ranking.row_sets import count_trained
from bench.table1 import table1
from bench.table1.best_trial import find_standings, run_entry
from bench.table1.budgeted_fit import Budget, train
from bench.table1.contender import Contender, Loss, rank_cases
from bench.table1.padded_rows import (
    WINDOW,
    UserRows,
    World,
    draw_steps,
    lengths_of,
    number_items,
)
from bench.table1.rearec_net import LatentSteps, ReaRecNet, build_rearec, hide_others
from bench.table1.tiger_net import SidTokens, build_tiger
from bench.table1.trial_folder import TrialFolder
from bench.table1.tried_settings import ENTRIES, Entry, Setting
from bench.tables.table1_tables import TABLE1_TABLES
from models.baselines.sasrec import SasRecConfig
from models.catalog.dataset import Dataset, load_dataset
from models.release.release import Release
from tests.bench.test_quality import NUM_USERS, write_dataset
from tests.bench.test_simple_rows import assert_simple_rows
from tests.fakes.toy import toy_catalog

REAREC = {"width": 8, "dropout": 0.1, "steps": 2, "apart": 0.01}
TIGER = {"window": 5, "width": 16, "heads": 2, "inner": 16, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_dataset(tmp_path_factory.mktemp("data"), toy_catalog()))


@pytest.fixture(scope="module")
def world(dataset: Dataset) -> World:
    return World.load(dataset, toy_catalog(), num_validation=20, seed=0)


class Popular:
    """Scores by a fixed table; its one weight moves with every step."""

    def __init__(self, popularity_N: Tensor) -> None:
        self.net = nn.Linear(1, 1)
        self._popularity_N = popularity_N

    def loss(self, histories: Sequence[UserRows]) -> Loss:
        return Loss(self.net.weight.sum().square(), len(histories))

    def score(self, histories: Sequence[UserRows]) -> Tensor:
        return self._popularity_N.repeat(len(histories), 1)


def test_no_target_is_trained_on_and_every_user_is_judged(world: World, dataset: Dataset) -> None:
    """The last two items of a user are the targets of the two splits."""
    catalog, user_ids = world.catalog, list(dataset.histories)
    learnt = {user_ids[history.user]: list(history.rows) for history in world.training}
    for user_id, events in dataset.histories.items():
        items = [catalog.row(event.item_id) for event in events]
        if len(items) > 3:
            assert learnt[user_id] == items[:-2]
    assert len(world.test) == NUM_USERS - 1
    for case, history in zip(world.test, world.histories(world.test), strict=True):
        assert user_ids[history.user] == case.history.user_id
        assert case.target not in history.rows


def test_an_epoch_has_every_user_once_and_groups_of_similar_length() -> None:
    histories = [UserRows(user, range(2 + user % 90)) for user in range(300)]
    steps = list(draw_steps(histories, step_users=64, rng=np.random.default_rng(0)))
    assert [sum(map(len, groups)) for groups in steps] == [64, 64, 64, 64, 44]
    assert sorted(each.user for groups in steps for group in groups for each in group) == list(
        range(300)
    )
    lengths = [[len(each.rows) for each in group] for groups in steps for group in groups]
    assert max(map(max, lengths)) == WINDOW + 1
    assert all(max(own) <= 3 or max(own) < 3 * min(own) for own in lengths)


def test_item_numbers_leave_zero_for_padding() -> None:
    rows = [(0, 4), (7,)]
    assert number_items(rows).tolist() == [[1, 5], [8, 0]]
    assert number_items(rows, width=3, on_the_left=True).tolist() == [[0, 1, 5], [0, 0, 8]]
    assert lengths_of(number_items(rows)).tolist() == [2, 1]


def test_the_judge_ranks_as_the_quality_table_does(world: World, dataset: Dataset) -> None:
    popularity_N = count_trained(dataset, world.catalog)
    row = PopularityRow(popularity_N)
    contender = Popular(torch.from_numpy(popularity_N).double())
    found = rank_cases(contender, world, world.test)
    assert found.rank_U.tolist() == [row.rank(case) for case in world.test]


def test_the_judged_users_are_those_of_the_quality_table(world: World, dataset: Dataset) -> None:
    expected = cut_histories(dataset, world.catalog, split="test", seed=0)
    assert list(world.test) == expected


def test_a_stopped_trial_goes_on_as_if_it_had_not_been(world: World, tmp_path: Path) -> None:
    """Each epoch has its own seed, and Adam's moments are kept."""

    def run(folder: Path, stops: Sequence[int]) -> dict[str, Tensor]:
        for epochs in stops:  # a new process for each
            contender = build_rearec(world, REAREC)
            torch.manual_seed(1)
            for weight in contender.net.parameters():
                nn.init.normal_(weight, std=0.1)
            trial = TrialFolder(folder)
            progress = trial.read(REAREC)
            while progress.epoch < epochs:
                progress.is_finished, progress.seconds = False, 0.0
                budget = Budget(evaluate_every=1, step_users=16)
                train("t", contender, world, trial, progress, budget, minutes=1e-9)
                contender_state = contender.net.state_dict()
        return contender_state

    whole, stopped = run(tmp_path / "whole", [3]), run(tmp_path / "stopped", [1, 3])
    assert all(torch.equal(weight, stopped[name]) for name, weight in whole.items())


@dataclass
class RankedBySetting:
    """Builds contenders that rank the better, the higher the setting; notes what was trained."""

    built: list[float] = field(default_factory=list)

    def build(self, world: World, setting: Setting) -> Contender:
        self.built.append(setting["worth"])
        targets = [case.target for case in world.validation]
        scores_N = torch.rand(len(world.catalog), generator=torch.Generator().manual_seed(0))
        scores_N[torch.tensor(targets)] += setting["worth"]
        return Popular(scores_N)


def test_the_best_setting_by_validation_is_chosen_and_its_test_ranks_are_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = RankedBySetting()
    monkeypatch.setattr(Entry, "build", lambda _, world, setting: builder.build(world, setting))
    entry = Entry("none:none", "a test", ({"worth": 0.0}, {"worth": 5.0}, {"worth": 0.5}))
    budget = Budget(try_minutes=1e-9, train_minutes=1e-9)
    first = run_entry("toy", entry, world, tmp_path, budget)
    assert first.facts["chosen"] == 1
    assert [each["setting"]["worth"] for each in first.facts["tried"]] == [0.0, 5.0, 0.5]
    builder.built.clear()
    again = find_standings(["toy"], {"toy": entry}, world, tmp_path, budget)["toy"]
    assert builder.built == [5.0]  # to count its parameters; nothing was trained
    assert again.ranks.rank_U.tolist() == first.ranks.rank_U.tolist()
    longer = Budget(try_minutes=1e-9, train_minutes=9.0)
    assert find_standings(["toy"], {"toy": entry}, world, tmp_path, longer) == {}


def test_a_latent_step_sees_its_item_and_its_own_earlier_steps() -> None:
    assert (~hide_others(2, 1)).int().tolist() == [
        [1, 0, 0, 0],  # the first item
        [1, 1, 0, 0],
        [1, 0, 1, 0],  # the step behind the first item
        [1, 1, 0, 1],
    ]


def test_all_positions_in_one_pass_equal_one_history_at_a_time() -> None:
    """Wrong masks would let a step see later items, which no ranking has."""
    torch.manual_seed(0)
    net = LatentSteps(SasRecConfig(20, width=8, dropout=0.0), num_steps=2).eval()
    rows = torch.tensor([[3, 1, 4, 15, 9]])
    states = net(rows)
    for num in range(1, 6):
        alone = net(rows[:, :num])[:, 0, -1]
        torch.testing.assert_close(states[:, 0, num - 1], alone)


def test_rearec_learns_what_follows_what(world: World) -> None:
    torch.manual_seed(0)
    contender = ReaRecNet(
        LatentSteps(SasRecConfig(len(world.catalog), width=16, dropout=0.0), 1), 0.01
    )
    histories = [UserRows(0, (1, 2, 3)), UserRows(1, (7, 8, 9))]
    adam = torch.optim.Adam(contender.net.parameters(), lr=0.01)
    for _ in range(60):
        adam.zero_grad()
        contender.loss(histories).mean.backward()
        adam.step()
    contender.net.eval()
    best = contender.score([UserRows(0, (1, 2)), UserRows(1, (7,))]).argmax(dim=1)
    assert best.tolist() == [3, 8]


def test_tigers_beam_equals_scoring_every_sid(world: World) -> None:
    """A beam as wide as the tree loses nothing."""
    torch.manual_seed(0)
    contender = build_tiger(world, TIGER)
    contender.net.eval()
    tokens, rows = SidTokens(world.catalog), (5, 6, 7)
    scores_N = contender.score([UserRows(0, rows)])[0]
    history = tokens.tokens_NL[list(rows)].flatten().unsqueeze(0)
    ranked = scores_N.isfinite().nonzero().flatten().tolist()
    assert len({tuple(tokens.tokens_NL[row].tolist()) for row in ranked}) == 50
    for row in ranked[:5]:
        labels = tokens.tokens_NL[row].unsqueeze(0)
        logits = contender.net(input_ids=history, labels=labels).logits.log_softmax(-1)
        expected = logits[0].gather(1, labels.T).sum()
        torch.testing.assert_close(scores_N[row], expected)


def test_tiger_gives_each_code_of_each_level_its_own_token(world: World) -> None:
    tokens = SidTokens(world.catalog)
    assert tokens.num == 1 + 8 + 8 + 16
    for row in (0, 17, 199):
        expected = world.catalog.sids[row] + np.array([1, 9, 17])
        assert tokens.tokens_NL[row].tolist() == expected.tolist()
        assert row in tokens.rows_of[tuple(expected.tolist())]


def test_the_command_judges_what_is_trained_beside_ours(
    tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names what is missing, so that a short table is not taken for a whole one."""
    data = write_dataset(tmp_path / "beauty", release.catalog)
    monkeypatch.setitem(ENTRIES, "rearec", Entry("rearec_net:build_rearec", "own", (REAREC,)))
    arguments = ["--release", str(release.directory), "--data", str(data), "--try-minutes", "1e-9"]
    arguments += ["--train-minutes", "1e-9", "--work", str(tmp_path / "work")]
    file = tmp_path / "table1.json"
    assert table1.main([*arguments, "--models", "rearec", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert_simple_rows("table1", report["rows"])
    ours = {"popularity", "counts", "memory", "online", "online_no_memory"}
    assert set(rows) == {*ours, "rearec"}
    assert rows["rearec"]["paper_recall@10"] == 0.0704
    assert "online minus rearec" in report["meta"]["differences"]
    assert set(report["meta"]["not_trained"]) == set(ENTRIES) - {"rearec"}
    assert report["meta"]["contenders"]["rearec"]["parameters"] > 0
    pages = {name: table.render(tmp_path) for name, table in TABLE1_TABLES.items()}
    assert "| ReaRec | " in pages["table1"]
    assert "TIGER" not in pages["table1"]
    assert "| online tier - ReaRec | " in pages["table1-differences"]
    assert "| ReaRec | own | " in pages["table1-budget"]


@pytest.mark.parametrize("name", ["gru4rec", "sasrec_recbole", "hgn", "bert4rec", "hstu"])
@pytest.mark.filterwarnings("ignore")  # of the libraries, at import
def test_a_library_net_trains_and_ranks(name: str, world: World, tmp_path: Path) -> None:
    """Run in .venv-baselines; a causal net must not see the targets that it learns."""
    pytest.importorskip({"hstu": "rectools"}.get(name, "recbole"))
    contender = ENTRIES[name].build(world, ENTRIES[name].settings[0])
    histories = [UserRows(0, (1, 2, 3)), UserRows(1, (7, 8, 9))]
    adam = torch.optim.Adam(contender.net.parameters(), lr=0.003)
    contender.net.train()
    for _ in range(200):
        adam.zero_grad()
        contender.loss(histories).mean.backward()
        adam.step()
    contender.net.eval()
    with torch.no_grad():
        scores_BN = contender.score([UserRows(0, (1, 2)), UserRows(1, (7, 8))])
    assert scores_BN.shape == (2, len(world.catalog))
    assert scores_BN.argmax(dim=1).tolist() == [3, 9]
    shorter = contender.score([UserRows(0, (1, 2))])[0]
    torch.testing.assert_close(scores_BN[0], shorter)
