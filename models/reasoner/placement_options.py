"""Command line options for the device and the number format of a reasoner. Loads no torch.

`models.reasoner.placement` resolves them.
"""

import argparse

AUTO = "auto"
DTYPES = ("float32", "bfloat16")


def add_placement_arguments(parser: argparse.ArgumentParser, engine: str = "") -> None:
    """Add `--device` and `--dtype`.

    engine: the only one that reads the device; named in its help.
    """
    of_engine = f" ({engine})" if engine else ""
    parser.add_argument(
        "--device",
        default=AUTO,
        metavar="auto|cpu|cuda[:N]",
        help=f"device of the reasoner{of_engine}; auto: the GPU if there is one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=(AUTO, *DTYPES),
        default=AUTO,
        help="its numbers; auto: bfloat16 on a GPU, float32 on a CPU (default: %(default)s)",
    )
