#!/usr/bin/env bash
# Sets up the project and runs its tests, fast ones first.
#
#   bash scripts/test.sh                  all tests
#   bash scripts/test.sh -m "not slow"    the fast ones; every argument goes to pytest
#
# Needs: what install.sh needs; no GPU, no data, and no network once .venv is there.
# Takes: at most 25 minutes on 2 cores, set-up included.
# Leaves: .venv/, nothing else.
# Settings: GOMP_SPINCOUNT=10000 (how long OpenMP's threads wait awake; its own default holds cores that others use for longer)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash install.sh
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
exec .venv/bin/python -m pytest --durations=10 "$@"
