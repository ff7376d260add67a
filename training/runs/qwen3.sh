#!/bin/sh
# The reasoner of qwen3.toml, from wherever it was stopped; results in $WORK/results.json.
# Once, where the whole project is installed:
#   python -m training.remote prepare --release releases/beauty --data data/beauty \
#     --work runs/qwen3 --config training/runs/qwen3.toml
# Then, where the GPU is, with that work folder beside the data:
set -eu
cd "$(dirname "$0")/../.."
DATA=${DATA:-data/beauty}
WORK=${WORK:-runs/qwen3}
exec "${PYTHON:-python3}" -m training.remote run \
  --data "$DATA" --work "$WORK" --config training/runs/qwen3.toml "$@"
