"""Command line of the intake: read files, show the summary, write a data folder.

 0  read, and written with --out
74  the folder cannot be written
78  fix the input
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import InvalidInput
from models.intake.column_names import FIELDS
from models.intake.data_folder import write_data
from models.intake.intake import read_data
from models.intake.reading_options import ReadingOptions

_BAD_INPUT, _IO_ERROR, _INTERRUPTED = 78, 74, 130


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    try:
        return _run(options)
    except InvalidInput as exc:
        return _fail(str(exc), _BAD_INPUT)
    except OSError as exc:
        return _fail(f"{exc.filename or options.out}: {exc.strerror or exc}", _IO_ERROR)
    except KeyboardInterrupt:
        return _fail("interrupted, nothing is written", _INTERRUPTED)


def _run(options: argparse.Namespace) -> int:
    if not options.dry_run and options.out is None:
        raise InvalidInput("expected --out DIR, or --dry-run to look only")
    if options.out is not None and options.out.exists():
        raise InvalidInput(f"{options.out}: exists already, expected a folder to be made")
    intake = read_data(options.files, _reading(options))
    if not options.dry_run:
        write_data(intake, options.out)
    if options.json:
        print(intake.summary.model_dump_json())
    else:
        print(intake.summary.render())
        print(f"{'written':<10}{'nothing, --dry-run' if options.dry_run else options.out}")
    return 0


def _reading(options: argparse.Namespace) -> ReadingOptions:
    return ReadingOptions(
        columns=dict(options.map),
        encoding=options.encoding,
        time_unit=options.time_unit,
        time_format=options.time_format,
        is_strict=options.strict,
        skips_wrong=options.skip_wrong,
    )


def _fail(text: str, code: int) -> int:
    print(f"thinkahead import: {text}", file=sys.stderr)
    return code


def _pair(text: str) -> tuple[str, str]:
    field, separator, column = text.partition("=")
    if not separator or field not in FIELDS:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected FIELD=COLUMN with a field of {', '.join(FIELDS)}"
        )
    return field, column


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="thinkahead import",
        description="Read CSV, TSV, JSON lines (also .gz), Parquet, MovieLens, RecBole and Gorse "
        "files into a data folder, and say what was read, dropped and guessed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="files, or folders of files")
    add("--out", type=Path, metavar="DIR", help="data folder to be made")
    add(
        "--map",
        type=_pair,
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="column of a field, such as user_id=reviewerID; of a file without a header, its "
        "number from 1; an empty COLUMN reads none; may be given several times",
    )
    add("--encoding", metavar="NAME", help="of text files, such as latin-1 (default: utf-8)")
    add("--time-unit", choices=["s", "ms", "us", "ns"], help="of times (default: recognised)")
    add("--time-format", metavar="FORM", help="of times, such as '%%d/%%m/%%Y' (default: ISO 8601)")
    add("--strict", action="store_true", help="refuse rows to drop and values to guess")
    add("--skip-wrong", action="store_true", help="leave wrong rows out and count them")
    add("--dry-run", action="store_true", help="read and say, write nothing")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args(arguments)
