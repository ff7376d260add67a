"""`thinkahead learn`: follow the event log, and publish where `thinkahead serve` looks."""

import os
from collections.abc import Sequence

from models.store.embedded import state_folder
from models.store.namespace import VARIABLE, folder_name
from thinkahead.words import beside, has, is_subcommand, value_of, with_namespace
from training.__main__ import main as training


def main(arguments: Sequence[str]) -> int:
    if is_subcommand(arguments):
        return training(arguments)
    return training(["learn", *learn_words(arguments)])


def learn_words(arguments: Sequence[str]) -> list[str]:
    """Return the words of the learner, with the folders of its release."""
    words = with_namespace(arguments)
    release = value_of(words, "--release")
    if release is None or has(words, "-h", "--help"):
        return words
    if not has(words, "--follow", "--once", "--replay"):
        words.append("--follow")
    for option, suffix in (("--live", "live"), ("--work", "learner")):
        if not has(words, option):
            words += [option, str(beside(release, suffix))]
    if not has(words, "--erased", "--replay"):
        namespace = value_of(words, "--namespace") or os.environ.get(VARIABLE, "")
        words += ["--erased", str(state_folder(None) / folder_name("generations", namespace))]
    return words
