"""`thinkahead kernel`: compile the finish in C into the installed package."""

import argparse
from collections.abc import Sequence

from models.online.build_kernel import main as build


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="thinkahead kernel", description=__doc__)
    parser.parse_args(arguments)
    return build()
