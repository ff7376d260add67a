"""Options that commands which judge a release on left-out items have in common."""

import argparse
import os
from pathlib import Path


def judging_parser(command: str, *, num_users: int) -> argparse.ArgumentParser:
    """num_users: how many of the split by default; 0 stands for all of them."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {command}", allow_abbrev=False)
    add = parser.add_argument
    add("--release", type=Path, default=Path("releases/beauty"), metavar="DIR")
    add("--data", type=Path, default=Path("data/beauty"), metavar="DIR")
    add("--split", choices=("test", "valid"), default="test")
    add("--users", type=int, default=num_users, metavar="N", help="a seeded sample; 0: everybody")
    add("--seed", type=int, default=0, metavar="S")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--cache", type=Path, default=Path(".state/bench"), metavar="DIR", help="kept thoughts")
    add("--json", type=Path, metavar="FILE", help="a table in Markdown goes beside it")
    return parser
