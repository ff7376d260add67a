"""A release with another reasoner: whole, or as a base of a live folder.

The online part, the catalog and the SIDs are those of the release before. Knows nothing of how a
reasoner learns.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.durable import open_to_readers, sync_folder
from models.errors import InvalidInput, InvalidRelease, ManifestConflict
from models.release.live import LiveFolder, carried_delta
from models.release.release import Learns, Release
from models.release.release_files import digest
from models.store.model_pointer import LiveVersion, ModelPointer
from training.learn.one_learner import one_publication
from training.reasoner_day.reasoner_learner import DAY_TABLE, reasoner_files
from training.run import HELD_OUT

Day = Mapping[str, Any]  # facts and results of a reasoner's day

_CARD, _HEADING = "README.md", "\n## The reasoner's day\n"
_TRIES = 5
_TO_GO_BACK = 2  # bases that a rollback needs


def publish_release(directory: Path, parent: Release, reasoner_dir: Path, day: Day) -> Release:
    """Write a whole release that appears by renaming.

    Raises InvalidInput if there is one, unless this day was published there before a kill.
    """
    if directory.exists():
        with suppress(InvalidRelease):
            found = Release.load(directory)
            if found.manifest.recipe.get(DAY_TABLE) == _split(day)[0]:
                return found
        raise InvalidInput(f"{directory}: exists already, expected a new folder")
    draft = directory.with_name(directory.name + ".draft")
    write_release(draft, parent, reasoner_dir, day, name=directory.name)
    Release.load(draft)
    draft.replace(directory)
    sync_folder(directory.parent)
    return Release.load(directory)


def publish_base(
    folder: LiveFolder,
    start: Release,
    reasoner_dir: Path,
    day: Day,
    draft: Path,
    *,
    keep_bases: int,
    now_ms: int,
) -> LiveVersion:
    """Publish a base with the reasoner and all that a learner has published since; point to it.

    A learner may go on publishing: it follows the pointer, and its next delta stands on this base.

    Args:
        start: release whose reasoner has learnt on.
        draft: folder to write the base into, before it is published.

    Raises ManifestConflict if another reasoner was published, or if the learner publishes a new
    base again and again.
    """
    for _ in range(_TRIES):
        pointer, base = _base_with(folder, start)
        unique = {"base": base.version, "epoch": pointer.epoch + 1}  # no two bases are alike
        write_release(draft, base, reasoner_dir, {**day, **unique}, name=base.name)
        release = folder.publish_base(draft)
        with one_publication(folder.path):
            held = folder.pointer()
            if held is None or held.base != base.version:
                continue
            delta = carried_delta(folder, held.version, release, made_ms=now_ms)
            version = (
                LiveVersion(release.version, 0, "") if delta is None else folder.add_delta(delta)
            )
            moved = {"epoch": held.epoch + 1, **version._asdict(), "written_ms": now_ms}
            folder.move(held.model_copy(update=moved))
            folder.keep(max(keep_bases, _TO_GO_BACK))
        shutil.rmtree(draft)
        return version
    raise ManifestConflict(f"{folder.path}: the learner publishes a new base again and again")


def _base_with(folder: LiveFolder, start: Release) -> tuple[ModelPointer, Release]:
    """Return the pointer and the base that serves.

    Raises ManifestConflict if its reasoner is not that of `start`.
    """
    pointer = folder.pointer()
    if pointer is None:
        raise InvalidRelease(f"{folder.path}: no pointer, expected a live folder with a base")
    base = Release.load(folder.base_dir(pointer.base))
    if reasoner_files(base) != reasoner_files(start):
        raise ManifestConflict(
            f"{folder.path}: {base.version} has another reasoner than {start.version}, which has "
            "learnt on: begin again"
        )
    return pointer, base


def write_release(
    directory: Path, parent: Release, reasoner_dir: Path, day: Day, *, name: str
) -> None:
    """Write a release with the reasoner of a folder into `directory`; all else is the parent's.

    day: facts of the learning, for the manifest.
    """
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(reasoner_dir, directory / "reasoner")
    for file in parent.manifest.files:
        if not file.startswith("reasoner/"):
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent.directory / file, directory / file)
    _write_card(directory / _CARD, parent, day)
    recipe, metrics = dict(parent.manifest.recipe), dict(parent.manifest.metrics)
    updates = {"parent": parent.version, **recipe.get("updates", {})}
    facts, results = _split(day)
    recipe |= {"reasoner_learnt": Learns.EVERYTHING.value, DAY_TABLE: facts, "updates": updates}
    metrics.pop(HELD_OUT, None)  # the table is of another reasoner
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    manifest = parent.manifest.model_copy(
        update={
            "name": name,
            "files": {str(file.relative_to(directory)): digest(file) for file in files},
            "recipe": recipe,
            "metrics": metrics | {DAY_TABLE: results},
        }
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    (directory / "manifest.json").write_text(text + "\n")
    open_to_readers(directory)


def _split(day: Day) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the facts of a day into those that the next day needs, and results."""
    needed = ("since", "until", "began", "old_logprob", "base", "epoch", "parent", "events")
    return (
        {name: value for name, value in day.items() if name in needed},
        {name: value for name, value in day.items() if name not in needed},
    )


def _write_card(file: Path, parent: Release, day: Day) -> None:
    """Add the last day to the card, in place of an earlier one."""
    card = file.read_text() if file.is_file() else f"# Release `{parent.name}`\n"
    before, _, _ = card.partition(_HEADING)
    file.write_text(
        f"{before.rstrip()}\n{_HEADING}\nThe reasoner has learnt on since it was trained, to entry "
        f"`{day['until']}` of the log; the last day had {day['events']:,} new events.\n"
    )
