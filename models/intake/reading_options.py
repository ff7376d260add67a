"""Options of one reading: columns, encoding, unit and format of times, and how strict it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TimeUnit = Literal["s", "ms", "us", "ns"]


@dataclass(frozen=True)
class ReadingOptions:
    """Choices that a person makes; the defaults recognise all of it."""

    columns: Mapping[str, str] = field(default_factory=dict)  # field -> column; "" reads none
    encoding: str | None = None  # of text files; UTF-8 by default
    time_unit: TimeUnit | None = None  # of times that are numbers
    time_format: str | None = None  # of times that are text, as of strptime; ISO 8601 by default
    is_strict: bool = False  # refuse data of which a row would be dropped or guessed
    skips_wrong: bool = False  # leave wrong rows out and count them
