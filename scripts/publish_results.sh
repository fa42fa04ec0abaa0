#!/usr/bin/env bash
# Puts what unseg evaluate measured under docs/results: the JSON, its page with the run's pictures, tables and charts.
#
#   bash scripts/publish_results.sh runs/effect/binary camvid-binary   # RUN NAME
#
# Needs: what install.sh needs.
# Takes: seconds.
# Leaves: docs/results/NAME.json, .html, .md, -final.svg, -curves.svg (and -shares.svg where a share was protected).
# Settings: RESULTS=docs/results  TITLE="CamVid, road and pavement" (the page's heading)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=${RESULTS:-$root/docs/results}
if [[ $# -ne 2 ]]; then
    echo "publish_results.sh: give RUN and NAME, such as runs/effect/binary camvid-binary" >&2
    exit 2
fi
bash "$root/install.sh"
"$root/.venv/bin/unseg" report "$1" --charts ${TITLE:+--title "$TITLE"} --out "$results/$2.html"
cp "$1/results.json" "$results/$2.json"
