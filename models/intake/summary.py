"""Summary of a reading, for a person and for a machine: read, ignored, dropped, guessed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap

from pydantic import BaseModel, ConfigDict

_WIDTH = 79
_LABEL = 10
_MOST_FILES, _MOST_NOT_READ = 5, 12
_DAY_S = 86_400


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True)


class FilesRead(_Line):
    """Files of one form, read together."""

    files: tuple[str, ...]  # as given, or inside the given folder
    form: str  # such as "CSV" or "MovieLens u.data"
    role: str  # "interactions" or "items"
    rows: int
    columns: dict[str, str]  # field -> column of the file
    ignored: tuple[str, ...]  # columns that were not read
    times: str | None = None  # unit of the times


class Note(_Line):
    """Rows that were dropped, or values that were guessed."""

    text: str  # a sentence without its end
    rows: int | None = None  # rows concerned; None for all of a file
    examples: tuple[str, ...] = ()  # at most three

    def render(self) -> str:
        """Return the note as one line."""
        text = self.text if self.rows is None else f"{self.rows:,} {self.text}"
        return f"{text}: {'; '.join(self.examples)}" if self.examples else text


class Summary(_Line):
    """All that a person should know of a reading."""

    read: tuple[FilesRead, ...]
    not_read: tuple[str, ...]  # files of a folder that hold no events or items, with a reason
    order: str  # how the events of a user were ordered
    users: int
    items: int
    items_with_text: int  # items with a title, a brand or categories
    events: int
    repeats: int  # events of an item that the user had before
    first_time: int | None  # unix seconds of the oldest event
    last_time: int | None  # unix seconds of the newest event
    dropped: tuple[Note, ...]
    guessed: tuple[Note, ...]

    @property
    def is_plain(self) -> bool:
        """Return True if every row and column was taken as it stands."""
        return not (self.dropped or self.guessed or any(each.ignored for each in self.read))

    def render(self) -> str:
        """Return the summary as lines of at most 79 characters."""
        lines = [line for files in self.read for line in _files_lines(files)]
        if self.not_read:
            lines += _entry("not read", _some(self.not_read, _MOST_NOT_READ))
        lines += _entry("data", self._counts())
        lines += _entry("times", self._span()) if self.first_time is not None else []
        lines += _entry("order", self.order)
        if self.repeats:
            share = self.repeats / self.events
            lines += _entry(
                "repeats",
                f"{share:.1%} of the events are of an item that the user had before"
                + ("; recommend them with exclude_seen=false" if share > 0.2 else ""),
            )
        for label, notes in (("dropped", self.dropped), ("guessed", self.guessed)):
            for note in notes or (Note(text="nothing"),):
                lines += _entry(label, note.render())
                label = ""
        return "\n".join(lines)

    def _counts(self) -> str:
        a_user = self.events / max(self.users, 1)
        return (
            f"{self.users:,} users, {self.items:,} items ({self.items_with_text:,} with text), "
            f"{self.events:,} events, {a_user:.1f} a user"
        )

    def _span(self) -> str:
        span = f"{_day(self.first_time)} to {_day(self.last_time)}, UTC"
        if (self.last_time or 0) < _DAY_S:
            span += "; they may be positions: --map timestamp= reads none"
        return span


def _files_lines(files: FilesRead) -> list[str]:
    shown = _some(["/".join(Path(file).parts[-2:]) for file in files.files], _MOST_FILES)
    lines = _entry("read", f"{shown}: {files.rows:,} rows of {files.role}, {files.form}")
    columns = [
        field if field == column else f"{field} = {column}"
        for field, column in files.columns.items()
    ]
    lines += _entry("", f"columns: {', '.join(columns)}")
    if files.times:
        lines += _entry("", f"times: {files.times}")
    if files.ignored:
        lines += _entry("", f"{len(files.ignored)} ignored: {', '.join(files.ignored)}")
    return lines


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _entry(label: str, text: str) -> list[str]:
    lines = wrap(text, _WIDTH - _LABEL, break_on_hyphens=False) or [""]
    heads = [label, *[""] * (len(lines) - 1)]
    return [f"{head:<{_LABEL}}{line}" for head, line in zip(heads, lines, strict=True)]


def _day(seconds: int | None) -> str:
    try:
        return datetime.fromtimestamp(seconds or 0, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"
