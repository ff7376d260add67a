"""Times of a column: seconds, milliseconds, micro- or nanoseconds, dates, ISO 8601, Arrow types.

The unit is recognised for a column as a whole; a value of another unit is a wrong row. Times are
microseconds since 1970 here, so that events of one second keep their order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import InvalidDataset
from models.intake.reading_options import ReadingOptions, TimeUnit
from models.intake.value_types import blank_to_null, combine, is_text, uncastable
from models.intake.wrong_rows import WrongRows

MICROS = 1_000_000  # in a second
_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# A number below the first bound is read as seconds, below the second one as milliseconds: each
# unit so has the years 1973 to 5138, and the years up to 2100 are taken.
_BOUNDS = (1e11, 1e14, 1e17)
_LATEST = 4_102_444_800 * MICROS  # 2100-01-01
_SAMPLE = 1000
_WITH_ZONE = r":\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d|[+-]\d\d)$"
_UTC = pa.timestamp("us", "UTC")
_LOCAL = pa.timestamp("us")


@dataclass(frozen=True)
class Times:
    """Times of a column, a row each."""

    micros: "pa.Array"  # int64; null where the time is missing
    form: str  # shown in the summary, such as "milliseconds"
    guess: str | None = None  # a fact that the column does not say itself


def read_times(
    column: "pa.ChunkedArray", wrong: WrongRows, options: ReadingOptions, *, first: int
) -> Times:
    """Read a column of times. Raises InvalidDataset for a type that is no time.

    first: the row of all files at which the column begins.
    """
    array = combine(column)
    if pa.types.is_dictionary(array.type):
        array = combine(pa.chunked_array([pc.cast(array, array.type.value_type)]))
    kind = array.type
    if pa.types.is_null(kind):
        times = Times(pa.nulls(len(array), pa.int64()), "none")
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = _of_arrow(array)
    elif is_text(kind):
        times = _of_texts(blank_to_null(array), wrong, options, first)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        times = _of_numbers(array, wrong, options, first)
    else:
        raise InvalidDataset(
            f"column 'timestamp' is {kind}, expected seconds, milliseconds or ISO 8601; "
            "a number that only orders events is read with --map pos=COLUMN"
        )
    _check_year(times, wrong, first)
    return times


def _of_arrow(array: "pa.Array") -> Times:
    if pa.types.is_date(array.type):
        micros = pc.cast(pc.cast(array, _LOCAL), pa.int64())
        return Times(micros, "dates", "dates without a zone are read as UTC")
    micros = pc.cast(pc.cast(array, pa.timestamp("us", array.type.tz), safe=False), pa.int64())
    if array.type.tz is None:
        return Times(micros, "timestamps", "times without a zone are read as UTC")
    return Times(micros, f"timestamps, {array.type.tz}")


def _of_texts(texts: "pa.Array", wrong: WrongRows, options: ReadingOptions, first: int) -> Times:
    if options.time_format is not None:
        return _of_format(texts, options.time_format, wrong, first)
    filled = texts.drop_null()[:_SAMPLE]
    if not len(filled):
        return Times(pa.nulls(len(texts), pa.int64()), "none")
    num_texts = int(uncastable(filled, pa.float64()).sum())
    if num_texts * 2 >= len(filled):
        return _of_iso(texts, wrong, first)
    target = pa.float64() if uncastable(texts, pa.int64()).any() else pa.int64()
    bad = uncastable(texts, target)
    wrong.check(
        bad,
        lambda row: f"time {texts[row].as_py()!r}, expected a number as in most rows",
        first=first,
    )
    return _of_numbers(
        pc.cast(pc.if_else(pa.array(bad), None, texts), target), wrong, options, first
    )


def _of_format(texts: "pa.Array", form: str, wrong: WrongRows, first: int) -> Times:
    found = pc.strptime(texts, format=form, unit="us", error_is_null=True)
    bad = pc.and_(pc.is_null(found), pc.is_valid(texts)).to_numpy(zero_copy_only=False)
    wrong.check(
        bad, lambda row: f"time {texts[row].as_py()!r}, expected the form {form}", first=first
    )
    return Times(pc.cast(pc.cast(found, _LOCAL), pa.int64()), f"text as {form}")


def _of_iso(texts: "pa.Array", wrong: WrongRows, first: int) -> Times:
    """Read ISO 8601, with a zone or without one; ` UTC` at the end is a zone too."""
    texts = pc.replace_substring_regex(texts, r"\s*(\+0000 )?(UTC|GMT|z)$", "Z")
    texts = pc.replace_substring_regex(texts, r"\s+([+-]\d\d:?\d\d)$", r"\1")
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    has_zone = pc.match_substring_regex(texts, _WITH_ZONE)
    micros = pa.nulls(len(texts), pa.int64())
    bad = np.zeros(len(texts), bool)
    for target, chosen in ((_UTC, has_zone), (_LOCAL, pc.invert(has_zone))):
        some = pc.if_else(chosen, texts, None)
        if some.null_count == len(some):
            continue
        wrong_here = uncastable(some, target)
        bad |= wrong_here
        some = pc.if_else(pa.array(wrong_here), None, some)
        micros = pc.coalesce(micros, pc.cast(pc.cast(some, target), pa.int64()))
    wrong.check(bad, lambda row: _say_iso(texts[row].as_py()), first=first)
    num_local = pc.sum(pc.invert(has_zone)).as_py() or 0
    guess = f"{num_local:,} times without a zone are read as UTC" if num_local else None
    return Times(micros, "ISO 8601", guess)


def _say_iso(text: str) -> str:
    return (
        f"time {text!r}, expected seconds, milliseconds or ISO 8601 such as 2024-05-01T10:00:00Z; "
        "--time-format '%d/%m/%Y %H:%M' reads another form"
    )


def _of_numbers(array: "pa.Array", wrong: WrongRows, options: ReadingOptions, first: int) -> Times:
    numbers = pc.cast(array, pa.float64()) if not pa.types.is_integer(array.type) else array
    missing = _missing(numbers)
    values = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    values = np.where(missing, 0, values)
    if options.time_unit is None and (written := _written_dates(values, missing)) is not None:
        guess = "numbers such as 20240501 are read as dates"
        return Times(pa.array(written, mask=missing), "dates written as numbers", guess)
    units = np.searchsorted(_BOUNDS, np.abs(values), side="right")
    is_told = (values != 0) & ~missing
    unit = options.time_unit or _most_frequent(units[is_told])
    if options.time_unit is None:
        wrong.check(
            is_told & (units != _UNITS.index(unit)),
            lambda row: (
                f"time {values[row]:.0f} is in {_NAMES[_UNITS[units[row]]]}, "
                f"expected {_NAMES[unit]} as in most rows"
            ),
            first=first,
        )
    micros = _to_micros(values, unit)
    kind = "" if pa.types.is_integer(array.type) else ", as fractions"
    return Times(pa.array(micros, mask=missing), f"{_NAMES[unit]}{kind}")


def _missing(numbers: "pa.Array") -> NDArray[np.bool_]:
    missing = pc.is_null(numbers, nan_is_null=pa.types.is_floating(numbers.type))
    found: NDArray[np.bool_] = missing.to_numpy(zero_copy_only=False)
    return found


def _most_frequent(units: NDArray[np.int64]) -> TimeUnit:
    return _UNITS[int(np.bincount(units, minlength=1).argmax())] if len(units) else "s"


def _to_micros(values: NDArray[Any], unit: TimeUnit) -> NDArray[np.int64]:
    micros: NDArray[np.int64]
    if values.dtype.kind == "f":
        scale = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}[unit]
        micros = np.round(np.clip(values * scale, -9e18, 9e18)).astype(np.int64)
    elif unit == "ns":
        micros = values.astype(np.int64) // 1000
    else:
        micros = values.astype(np.int64) * {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    return micros


def _written_dates(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Read numbers such as 20240501, or 20240501093000; None if one of them is no date."""
    filled = values[~missing]
    if not len(filled) or filled.dtype.kind not in "iu":
        return None
    days, clock = values.astype(np.int64), np.zeros(len(values), np.int64)
    if filled.min() > 19_000_101_000_000 and filled.max() < 21_000_101_000_000:
        days, clock = days // 1_000_000, days % 1_000_000
    elif not (filled.min() >= 19_000_101 and filled.max() < 21_000_101):
        return None
    year, month, day = days // 10_000, days // 100 % 100, days % 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    sound = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    sound &= (hour < 24) & (minute < 60) & (second < 60)
    if not sound[~missing].all():
        return None
    months = np.where(missing, 0, (year - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates = months.astype("datetime64[D]").astype(np.int64) + np.where(missing, 0, day - 1)
    seconds: NDArray[np.int64] = dates * 86_400 + hour * 3600 + minute * 60 + second
    return seconds * MICROS


def _check_year(times: Times, wrong: WrongRows, first: int) -> None:
    late = pc.fill_null(pc.greater_equal(times.micros, _LATEST), False)
    wrong.check(
        late.to_numpy(zero_copy_only=False),
        lambda row: (
            f"time {times.micros[row].as_py() // MICROS} s ({times.form}) is after the year 2100, "
            "expected an earlier one; --time-unit names the unit, and a number that only orders "
            "events is read with --map pos=COLUMN"
        ),
        first=first,
    )
