#!/usr/bin/env bash
# Checks a machine with a GPU in one run: the tests that need one, and speed beside the plain way; prints what it found.
#
#   bash scripts/gpu_check.sh                       the check
#   bash scripts/gpu_check.sh --device cpu --quick  tiny networks on a processor: tests the check, measures nothing
#
# Needs: what install.sh needs; an NVIDIA GPU of 48 GB or more; 2 GB of temporary disk space; a machine that does nothing
# else meanwhile. Without a GPU it ends in one line and exit code 2.
# Takes: at most 8 minutes after the installation. Every part has a time limit; one that fails leaves the others' figures.
# Leaves: the figures as JSON in OUT, with the machine's name, cores, torch version and date. Exit code 1 where a test or
# a part failed.
# Settings: OUT=runs/gpu-check.json
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/install.sh"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # the benchmarks are not in the wheel
exec "$root/.venv/bin/python" -m benchmarks.gpu_check --out "${OUT:-runs/gpu-check.json}" "$@"
