#!/bin/sh
# Locust's simulated visitors on a running service; `make locust` installs Locust once.
#   sh examples/load_test.sh URL DATA [USERS] [SECONDS]
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m thinkahead bench scenario \
    --host "$1" --data "$2" --users "${3:-50}" --seconds "${4:-60}"
