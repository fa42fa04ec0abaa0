#!/usr/bin/env bash
# Sets up the project, checks its code, builds its documentation and runs its tests, fast ones first. Two processes share
# the tests, the fast or the slow ones of a file at a time.
#
#   bash scripts/test.sh                  the checks, the documentation, all tests
#   bash scripts/test.sh -m "not slow"    the same with the fast tests alone; every argument goes to pytest, which then
#                                         runs once, in one process
#   CHECKS=0 bash scripts/test.sh -k box  tests alone, while you work on them
#
# Needs: what install.sh needs; no GPU, no data, and no network once .venv is there.
# Takes: at most 25 minutes on 2 cores, set-up included; the checks and the documentation take about a minute of it.
# Leaves: .venv/ and site/ (the documentation: open site/index.html), and caches of ruff, mypy and pytest; nothing else.
# Settings: CHECKS=1 (0 leaves out ruff, mypy and the documentation), PYTHON=/path/to/python3 (for install.sh),
#           GOMP_SPINCOUNT=10000 (how long OpenMP's threads wait awake; its own default holds cores that others use for longer)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Tests start hundreds of Pythons: without compiled modules on disk each of them compiles torch anew.
unset PYTHONDONTWRITEBYTECODE
bash install.sh
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
if [[ ${CHECKS:-1} != 0 ]]; then
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
fi
tests=(.venv/bin/python -m pytest --durations=10)
if (($#)); then
    exec "${tests[@]}" "$@"
fi
# Groups and their order are those of tests/conftest.py: fast tests first.
exec "${tests[@]}" -n 2 --dist loadgroup --no-loadscope-reorder
