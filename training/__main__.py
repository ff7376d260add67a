"""`python -m training STAGE`, `learn`, `roll-back`, `canary` or `reason-day`; all take --help."""

import os
import sys

from models.errors import InvalidSettings
from models.extras import needs_extras

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    try:
        with needs_extras("night", "train"):
            if sys.argv[1:2] == ["learn"]:
                from training.learn.cli import main as learn

                sys.exit(learn(sys.argv[2:]))
            if sys.argv[1:2] == ["roll-back"]:
                from training.learn.roll_back import main as roll_back

                sys.exit(roll_back(sys.argv[2:]))
            if sys.argv[1:2] == ["canary"]:
                from training.learn.canary import main as canary

                sys.exit(canary(sys.argv[2:]))
            if sys.argv[1:2] == ["reason-day"]:
                from training.reasoner_day.cli import main as reason_day

                sys.exit(reason_day(sys.argv[2:]))
            from training.cli import main

            sys.exit(main())
    except InvalidSettings as exc:
        print(f"training: {exc}", file=sys.stderr)
        sys.exit(78)
