#!/usr/bin/env bash
# Trains a generator: bilevel, one process.
#
#   DATA_ROOT=data/my_set bash scripts/run_train.sh                              the compact generator
#   DATA_ROOT=data/hqseg RECIPE=paper OUTPUT=runs/paper bash scripts/run_train.sh
#   DATA_ROOT=data/my_set bash scripts/run_train.sh --set seed=7                 more options go to train.py
#
# Needs: what install.sh needs, images with masks or segment maps in DATA_ROOT (layout: data/README.md), and a GPU for
#        anything but a trial: the recipe says how long it takes and on what.
# Leaves: the log, the checkpoints and the generator in OUTPUT.
# Settings: RECIPE (compact), DATA_ROOT (required), OUTPUT (runs/RECIPE); paths are seen from the current folder.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RECIPE=${RECIPE:-compact}
if [[ -z ${DATA_ROOT:-} ]]; then
    echo "run_train.sh: DATA_ROOT is not set; name the folder of images and masks, as in DATA_ROOT=data/my_set" >&2
    exit 2
fi
bash "$root/install.sh"
exec "$root/.venv/bin/python" "$root/train.py" --recipe "$RECIPE" --data-root "$DATA_ROOT" \
    --output "${OUTPUT:-runs/$RECIPE}" "$@"
