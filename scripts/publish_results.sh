#!/usr/bin/env bash
# Puts what unseg evaluate measured under docs/results: the JSON and one figure. The manual's page is made from the JSON.
#
#   bash scripts/publish_results.sh runs/effect/binary camvid-binary   # RUN NAME
#
# Needs: what install.sh needs.
# Takes: seconds.
# Leaves: docs/results/NAME.json, NAME-curves.svg and, of runs with defences, NAME-defences.svg; in RUN report.html, its tables and its charts. Name the page in mkdocs.yml
#         (results/NAME.md) and in docs/results/README.md.
# Settings: RESULTS=docs/results  TITLE="CamVid, road and pavement" (the heading of RUN/report.html)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=${RESULTS:-$root/docs/results}
if [[ $# -ne 2 ]]; then
    echo "publish_results.sh: give RUN and NAME, such as runs/effect/binary camvid-binary" >&2
    exit 2
fi
bash "$root/install.sh"
"$root/.venv/bin/unseg" report "$1" --charts ${TITLE:+--title "$TITLE"} --out "$1/report.html"
figure=$1/report-curves.svg
if [[ ! -f $figure ]]; then
    echo "publish_results.sh: $1/results.json has several tasks or no curves; publish one task at a time" >&2
    exit 1
fi
cp "$1/results.json" "$results/$2.json"
cp "$figure" "$results/$2-curves.svg"
if [[ -f $1/report-defences.svg ]]; then # of a run that has defences
    cp "$1/report-defences.svg" "$results/$2-defences.svg"
fi
