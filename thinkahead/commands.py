"""Table of the subcommands. Imports nothing but the standard library."""

from typing import NamedTuple


class Command(NamedTuple):
    """One word after `thinkahead`."""

    module: str  # has `main(arguments) -> int`
    purpose: str
    example: str
    before: tuple[str, ...] = ()  # words put before the arguments
    note: str = ""  # printed above the help of the module


FIRST = ("import", "train", "serve", "night", "status")  # shown first on the help page

COMMANDS = {
    "import": Command(
        "models.intake.cli",
        "read CSV, JSON lines, Parquet, MovieLens and others into a data folder",
        "thinkahead import events.csv products.csv --out mine",
    ),
    "train": Command(
        "thinkahead.train",
        "make a release: train, judge, train on everything",
        "thinkahead train --data mine --out releases/mine",
        note="""\
thinkahead train --data DATA --out RELEASE [--config fast]

Trains all stages and publishes a release: `thinkahead train all`, as `all` is the default stage.
A stopped run continues when the same command is given again. All stages and options:
""",
    ),
    "serve": Command(
        "thinkahead.serve",
        "answer requests over HTTP, on 127.0.0.1:8000",
        "thinkahead serve --release releases/mine --data mine",
        note="""\
thinkahead serve --release RELEASE [--data DATA] [--check]
thinkahead serve keys new --client NAME --scopes SCOPE...

--data DATA   first import the histories that the store does not have yet. Users of other data than
              the bundled ones get a namespace of their own, the name of the file or folder
--check       test whether the service would start, list every setting, and end
Without --live it follows RELEASE.live in the state folder, where `thinkahead learn` publishes.
All options:
""",
    ),
    "night": Command(
        "thinkahead.night",
        "think about all users, and make the result live",
        "thinkahead night --release releases/mine --data mine",
        note="""\
thinkahead night --release RELEASE [--data DATA]
thinkahead night plan|think|validate|load|activate|rollback|gc|archive|repair|erase|...

Runs `thinkahead night refresh --users all --resume`: a stopped night continues.
--data DATA   first import the histories that the store does not have yet. Users of other data than
              the bundled ones get a namespace of their own, the name of the file or folder
All options of `refresh`; `thinkahead night COMMAND --help` has those of other commands:
""",
    ),
    "status": Command(
        "thinkahead.status_page",
        "show store, live night, release, learner and worker",
        "thinkahead status --data mine",
    ),
    "learn": Command(
        "thinkahead.learn",
        "learn from new events while the service serves",
        "thinkahead learn --release releases/mine --data mine",
        note="""\
thinkahead learn --release RELEASE --data DATA
thinkahead learn roll-back|canary|reason-day ...

Follows the event log (--follow) unless another mode is given. It publishes into RELEASE.live in the
state folder, which `thinkahead serve` follows, and keeps its work in RELEASE.learner. All options:
""",
    ),
    "worker": Command(
        "thinkahead.on_demand",
        "think about users on demand, until stopped",
        "thinkahead worker --release releases/mine --data mine",
        note="thinkahead worker --release RELEASE [--data DATA]\n\n"
        "--data DATA   for the users of these data: their namespace. All options:\n",
    ),
    "bench": Command(
        "bench.__main__",
        "measure quality, speed, load and faults",
        "thinkahead bench quality --data mine --release releases/mine.work/held-out",
    ),
    "demo": Command(
        "bench.__main__",
        "show the whole system with the bundled data",
        "thinkahead demo --release releases/beauty --data data/beauty",
        before=("demo",),
    ),
    "kernel": Command(
        "thinkahead.kernel",
        "compile the finish in C, which is optional and faster",
        "thinkahead kernel",
    ),
    "completion": Command(
        "thinkahead.completion",
        "print a script that completes commands with TAB",
        'eval "$(thinkahead completion bash)"',
    ),
}
