#!/usr/bin/env bash
# Measures how fast images are protected and how much memory it takes, and prints a table.
#
#   bash scripts/benchmark.sh            100 and 1,000 photographs of 512×512, and the ViT-B generator
#   bash scripts/benchmark.sh --quick    a few images: checks that it runs, measures nothing
#
# Needs: what install.sh needs; 700 MB of temporary disk space; a machine that does nothing else meanwhile.
# Takes: about 3 minutes on 2 cores.
# Leaves: the figures as JSON in OUT, with the machine's name, cores, torch version and date.
# Settings: OUT=runs/benchmark.json  GENERATOR=compact (or a weight file)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/install.sh"
exec "$root/.venv/bin/python" -m unseg.benchmark --out "${OUT:-runs/benchmark.json}" --generator "${GENERATOR:-compact}" "$@"
