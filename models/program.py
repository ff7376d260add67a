"""Name of each tier's command line, as the user typed it, for usage lines and hints."""

_typed: dict[str, str] = {}  # by tier; empty for `python -m TIER`


def program(tier: str) -> str:
    """Return the words in front of a subcommand of a tier."""
    return _typed.get(tier, f"python -m {tier}")


def name_program(tier: str, words: str) -> None:
    """Let `program` return these words for a tier, in this process."""
    _typed[tier] = words
