"""`thinkahead worker`: think about users on demand; --data names the namespace of its users."""

from collections.abc import Sequence

from offline.__main__ import main as offline
from thinkahead.words import with_namespace, without


def main(arguments: Sequence[str]) -> int:
    return offline(["worker", *without(with_namespace(arguments), "--data")])
