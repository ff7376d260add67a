"""`thinkahead worker`: think about users on demand; --data has their namespace and attributes."""

from collections.abc import Sequence

from offline.__main__ import main as offline
from thinkahead.words import has, value_of, with_namespace, without


def main(arguments: Sequence[str]) -> int:
    words, data = with_namespace(arguments), value_of(arguments, "--data")
    about = (
        ["--attributes", data] if data is not None and not has(arguments, "--attributes") else []
    )
    return offline(["worker", *without(words, "--data"), *about])
