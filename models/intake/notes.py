"""Notes taken while reading: files, dropped rows, guessed values."""

from collections.abc import Iterable
from itertools import islice

from models.errors import InvalidDataset
from models.intake.file_groups import FileGroup
from models.intake.summary import FilesRead, Note

_NUM_EXAMPLES = 3


class Notes:
    """Notes of one reading."""

    def __init__(self) -> None:
        self.read: list[FilesRead] = []
        self.dropped: list[Note] = []
        self.guessed: list[Note] = []

    def drop(self, num_rows: int, text: str, examples: Iterable[str] = ()) -> None:
        """Note rows that are left out; none are no note."""
        if num_rows:
            shown = tuple(islice(examples, _NUM_EXAMPLES))
            self.dropped.append(Note(text=text, rows=num_rows, examples=shown))

    def guess(self, text: str, num_rows: int | None = None, examples: Iterable[str] = ()) -> None:
        """Note a guess about a file, or about some rows."""
        shown = tuple(islice(examples, _NUM_EXAMPLES))
        note = Note(text=text, rows=num_rows, examples=shown)
        if note not in self.guessed:
            self.guessed.append(note)

    def refuse_any(self) -> None:
        """Raise InvalidDataset if a row was dropped or a value guessed."""
        notes = [*self.dropped, *self.guessed]
        if notes:
            said = "; ".join(note.render() for note in notes)
            raise InvalidDataset(f"--strict refuses rows to drop and values to guess: {said}")


def note_files(group: FileGroup, notes: Notes, *, times: str | None = None) -> None:
    """Note files, their columns, and what their names and columns leave open."""
    file = group.first_file
    shown = dict(file.chosen.columns)
    if file.form.flags:
        shown["categories"] = f"{len(file.form.flags)} columns of genres"
    notes.read.append(
        FilesRead(
            files=tuple(each.name for each in group.files),
            form=file.form.label,
            role=file.chosen.role,
            rows=group.table.num_rows,
            columns=shown,
            ignored=(*file.chosen.ignored, *group.late_columns),
            times=times,
        )
    )
    for text in (file.form.guess, *file.chosen.rivals):
        if text:
            notes.guess(f"{file.name}: {text}")
