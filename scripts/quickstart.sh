#!/usr/bin/env bash
# Sets up the project, makes real photographs unlearnable with the generator that ships with it, and draws what it did.
#
#   bash scripts/quickstart.sh
#
# Needs: what install.sh needs; no GPU, no data, and no network once .venv is there: scikit-image holds the photographs.
# Takes: the set-up's minutes the first time, then under a minute on 2 cores.
# Leaves: quickstart/ with photographs/, masks/, protected/ (and its manifest) and pictures/.
# Settings: OUT=quickstart  where the results go (in the current folder)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/install.sh"
exec "$root/.venv/bin/python" -m unseg.quickstart "${OUT:-quickstart}"
