#!/bin/sh
# Train the reasoner of qwen3.toml, or continue a stopped run; results in $WORK/results.json.
# Once, where the whole project is installed:
#   python -m training.remote prepare --release releases/beauty --data data/beauty \
#     --work runs/qwen3 --config training/runs/qwen3.toml
# Then, on the machine with the GPU, with that work folder and the data. `--check-only` says what fits.
set -eu
cd "$(dirname "$0")/../.."
DATA=${DATA:-data/beauty}
WORK=${WORK:-runs/qwen3}
exec "${PYTHON:-python3}" -m training.remote run \
  --data "$DATA" --work "$WORK" --config training/runs/qwen3.toml "$@"
