"""Files of a data folder: which hold events, which hold items, and which are left alone.

Folders of well-known data sets are read by their names. In any other folder every file is asked
for its columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import InvalidDataset
from models.intake.column_names import Chosen, Role, check_wishes, choose_columns
from models.intake.file_form import FileForm, recognise
from models.intake.reading_options import ReadingOptions
from models.intake.users_table import USERS

# Names of the file of events and of the file of items, up to the first ending in the general ones.
_LAYOUTS = (
    ("interactions", "items"),
    ("u.data", "u.item"),
    ("ratings.dat", "movies.dat"),
    ("ratings.csv", "movies.csv"),
    ("feedback.csv", "items.csv"),
    ("*.inter", "*.item"),
)
_OF_PEOPLE = ("user", "customer", "member", "people")


@dataclass(frozen=True)
class DataFile:
    """A file that will be read."""

    name: str  # shown in messages and in the summary
    form: FileForm
    chosen: Chosen


@dataclass(frozen=True)
class DataFiles:
    """Files of a reading."""

    interactions: tuple[DataFile, ...]
    items: tuple[DataFile, ...]
    not_read: tuple[str, ...]  # other files of a folder


def find_data_files(paths: Sequence[Path], options: ReadingOptions) -> DataFiles:
    """Find the files of some paths. Raises InvalidDataset if none of them holds events."""
    found: list[DataFile] = []
    not_read: list[str] = []
    seen: set[Path] = set()
    names: list[str] = []
    for path, role, is_named in _candidates(paths, not_read):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            form = recognise(path, encoding=options.encoding, wishes=options.columns)
            names += form.names
            found.append(_choose(path, form, role, options))
        except InvalidDataset as exc:
            if is_named:
                raise
            not_read.append(_reason(path, exc))
    check_wishes(options.columns, names)
    files = DataFiles(
        tuple(each for each in found if each.chosen.role == "interactions"),
        tuple(each for each in found if each.chosen.role == "items"),
        tuple(not_read),
    )
    if not files.interactions:
        shown = ", ".join(map(str, paths))
        why = f" (not read: {'; '.join(not_read)})" if not_read else ""
        raise InvalidDataset(f"{shown}: no events, expected a file with a user and an item{why}")
    return files


def _candidates(
    paths: Iterable[Path], not_read: list[str]
) -> Iterable[tuple[Path, Role | None, bool]]:
    """Yield file, role if its name says it, and whether it must be readable."""
    for path in paths:
        if not path.exists():
            raise InvalidDataset(f"{path}: no such file or folder")
        if path.is_dir():
            yield from _of_folder(path, not_read)
        else:
            yield path, _role_by_name(path), True


def _of_folder(folder: Path, not_read: list[str]) -> Iterable[tuple[Path, Role | None, bool]]:
    entries = sorted(entry for entry in folder.iterdir() if _is_visible(entry))
    for of_events, of_items in _LAYOUTS:
        events, items = (_named(entries, name) for name in (of_events, of_items))
        if events:
            yield from ((file, "interactions", True) for each in events for file in _parts(each))
            yield from ((file, "items", True) for each in items for file in _parts(each))
            read = {*events, *items, folder / USERS}
            not_read += [entry.name for entry in entries if entry not in read]
            return
    for entry in entries:
        yield from ((file, _role_by_name(entry), False) for file in _parts(entry))


def _role_by_name(path: Path) -> Role | None:
    """Return the only role that a file about people can have: its ids are no items."""
    return "interactions" if path.name.lower().startswith(_OF_PEOPLE) else None


def _named(entries: Sequence[Path], name: str) -> list[Path]:
    """Return the entries of a name; a Parquet file or folder stands for its other forms."""
    found = [entry for entry in entries if _has_name(entry, name)]
    return [entry for entry in found if entry.name == f"{name}.parquet"] or found


def _has_name(entry: Path, name: str) -> bool:
    if name.startswith("*"):
        return entry.suffix == name[1:] or entry.name.endswith(f"{name[1:]}.gz")
    if "." in name:
        return entry.name in (name, f"{name}.gz")
    return entry.name.split(".")[0] == name


def _parts(entry: Path) -> list[Path]:
    """Return a file, or the files of a folder of parts."""
    if not entry.is_dir():
        return [entry]
    files = (file for file in sorted(entry.rglob("*")) if file.is_file())
    return [
        file for file in files if all(map(_is_visible, (file, *file.relative_to(entry).parents)))
    ]


def _is_visible(path: Path) -> bool:
    return path == Path() or not path.name.startswith((".", "_"))


def _choose(path: Path, form: FileForm, role: Role | None, options: ReadingOptions) -> DataFile:
    chosen = choose_columns(form.names, options.columns, role=role)
    if chosen is None:
        wanted = "an item" if role == "items" else "a user and an item"
        shown = ", ".join(form.names[:20])
        raise InvalidDataset(
            f"{path}: columns {shown}; expected {wanted}, or --map user_id=COLUMN and "
            "--map item_id=COLUMN"
        )
    if form.flags and "categories" not in options.columns:
        columns = {field: name for field, name in chosen.columns.items() if field != "categories"}
        ignored = tuple(name for name in chosen.ignored if name not in form.flags)
        chosen = chosen._replace(columns=columns, ignored=ignored)
    return DataFile(str(path), form, chosen)


def _reason(path: Path, exc: InvalidDataset) -> str:
    text = str(exc)
    if "expected a" in text and "columns" in text:
        return f"{path.name} (no user and item)"
    if text.startswith("no rows"):
        return f"{path.name} (empty)"
    return f"{path.name} (no table)"
