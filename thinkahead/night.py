"""`thinkahead night`: import if asked to, then a whole night that goes on after a stop."""

from collections.abc import Sequence

from offline.__main__ import main as offline
from thinkahead.words import has, is_subcommand, value_of, with_namespace, without


def main(arguments: Sequence[str]) -> int:
    if is_subcommand(arguments):
        return offline(arguments)
    arguments = with_namespace(arguments)
    data = value_of(arguments, "--data")
    wants_help = has(arguments, "-h", "--help")
    if data is not None and not wants_help and (code := offline(import_words(data, arguments))):
        return code
    return offline(refresh_words(arguments))


def import_words(data: str, arguments: Sequence[str]) -> list[str]:
    """Return the words of the import into the store that the night uses."""
    words = ["import", "--data", data]
    for option in ("--redis", "--namespace", "--release"):
        value = value_of(arguments, option)
        words += [] if value is None else [option, value]
    return words


def refresh_words(arguments: Sequence[str]) -> list[str]:
    """Return the words of the night: all users and --resume, unless the user says otherwise."""
    words = ["refresh", *without(arguments, "--data")]
    data = value_of(arguments, "--data")
    if data is not None and not has(arguments, "--attributes"):
        words += ["--attributes", data]
    if not has(arguments, "--users", "--user"):
        words += ["--users", "all"]
    if not has(arguments, "--resume", "--dry-run"):
        words.append("--resume")
    return words
