#!/usr/bin/env bash
# Measures how fast images are protected or networks trained, and how much memory it takes; prints a table.
#
#   bash scripts/benchmark.sh                  protecting: the compact generator and ViT-B, beside a plain way; growth
#   bash scripts/benchmark.sh generate --only compact,vit,growth    the same, or some of these sections
#   bash scripts/benchmark.sh train            training: this project's step and a plain one, in one run
#   bash scripts/benchmark.sh [train] --quick  a few images, tiny networks: checks that it runs, measures nothing
#
# Needs: what install.sh needs; 2 GB of temporary disk space; a machine that does nothing else meanwhile. Training is
# measured with ViT-B on a GPU of 48 GB or more, where there is one, else with a reduced ViT on the processor (6 GB of memory).
# Takes: about 12 minutes on 2 cores (compact 2, vit 3, growth 7), training 10. On a GPU, where it also measures each
# precision, it has never been timed; scripts/gpu_check.sh is a shorter run for a GPU.
# Leaves: the figures as JSON in OUT, with the machine's name, cores, torch version and date.
# Settings: OUT=runs/benchmark.json (training: runs/benchmark-train.json)  GENERATOR=compact (or a weight file; protecting)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
what=generate
case "${1:-}" in
  generate | train) what=$1; shift ;;
esac
bash "$root/install.sh"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # the benchmarks are not in the wheel
if [ "$what" = train ]; then
  exec "$root/.venv/bin/python" -m benchmarks.training_step --out "${OUT:-runs/benchmark-train.json}" "$@"
fi
exec "$root/.venv/bin/python" -m benchmarks.generation --out "${OUT:-runs/benchmark.json}" --generator "${GENERATOR:-compact}" "$@"
