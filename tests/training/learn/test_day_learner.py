"""A replay of a data folder by days, also into a live folder that has served already."""

from pathlib import Path

from models.catalog.dataset import Dataset, Interaction, ItemText
from models.release.live import LiveFolder, load_live
from models.release.release import Release
from tests.fakes.toy_learner import SETTINGS, toy_dataset, toy_vectors
from training.learn.cli import make_grower
from training.learn.day_learner import DayLearner
from training.learn.publisher import Publisher
from training.learn.replay_days import SplitByDay

DAY_S = 24 * 3600
NEW = "new on the second day"


def days_of(release: Release) -> Dataset:
    """Events of three days behind the base's; a new item comes on the second."""
    dataset = toy_dataset(release.catalog)
    for at, (user_id, history) in enumerate(sorted(dataset.histories.items())):
        for day in (1, 2, 3):
            item_id = NEW if day > 1 and at < 8 else release.catalog.item_ids[(7 * at + day) % 200]
            history.append(Interaction(item_id, DAY_S * day + at, len(history)))
        dataset.histories[user_id] = history
    dataset.items[NEW] = ItemText("Title of item-3", None, ("Beauty",))
    return dataset


def run(release: Release, dataset: Dataset, folder: Path, work: Path) -> list[str]:
    """Replay, and return the labels that served."""
    work.mkdir()
    labels: list[str] = []
    DayLearner(
        release,
        dataset,
        SplitByDay.of(dataset, 0),
        SETTINGS,
        make_grower(release, work, toy_vectors),
        Publisher(LiveFolder(folder), keep_bases=9),
        work,
    ).run(lambda line: labels.append(line.get("published", "")))
    return list(dict.fromkeys(filter(None, labels)))


def test_every_label_of_two_replays_is_another_version(release: Release, tmp_path: Path) -> None:
    dataset, folder = days_of(release), LiveFolder(tmp_path / "live")
    first = run(release, dataset, folder.path, tmp_path / "one")
    pointer = folder.pointer()
    assert pointer is not None
    back = folder.version(pointer.base, 0)
    folder.move(pointer.model_copy(update={"epoch": pointer.epoch + 1, **back._asdict()}))
    second = run(release, dataset, folder.path, tmp_path / "two")
    assert len(first) > 1
    assert not set(first) & set(second)
    pointer = folder.pointer()
    assert pointer is not None
    assert load_live(folder, pointer.version).release.catalog.row(NEW) is not None
