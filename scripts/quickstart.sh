#!/usr/bin/env bash
# Sets up what protects images, makes four photographs unlearnable with the default noise, and draws what it did.
#
#   bash scripts/quickstart.sh
#
# Needs: what install.sh needs (93 MB from the network the first time); no GPU and no data: the photographs ship with UnSeg.
# Takes: half a minute the first time, then a few seconds.
# Leaves: .venv/, and quickstart/ with photographs/, masks/, protected/ (and its manifest) and pictures/.
# Settings: OUT=quickstart  where the results go (in the current folder)
#           PROFILE=light   full also installs torch, training and measuring; a full .venv is used as it is
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROFILE=${PROFILE:-light} bash "$root/install.sh"
exec "$root/.venv/bin/python" -m unseg.quickstart "${OUT:-quickstart}"
