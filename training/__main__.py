"""`python -m training STAGE`, or `learn`, `roll-back`, `canary`, `reason-day`, `tasks`."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from models.errors import InvalidSettings
from models.extras import needs_extras

# Commands with a parser each; other words are stages.
_COMMANDS = {
    "learn": "training.learn.cli",
    "roll-back": "training.learn.roll_back",
    "canary": "training.learn.canary",
    "reason-day": "training.reasoner_day.cli",
    "tasks": "training.perception.show",
}


def main(arguments: Sequence[str]) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported, as the next
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    name = arguments[0] if arguments else ""
    try:
        with needs_extras("night", "train"):
            module = import_module(_COMMANDS.get(name, "training.cli"))
            code: int = module.main(list(arguments[1:] if name in _COMMANDS else arguments))
    except InvalidSettings as exc:
        print(f"training: {exc}", file=sys.stderr)
        return 78
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
