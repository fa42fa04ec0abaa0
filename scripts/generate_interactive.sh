#!/usr/bin/env bash
# Makes the unlearnable edition of HQSeg-44K's seven training sets, in the set's own layout, ready for an evaluator.
#
#   DATA_ROOT=data/hqseg bash scripts/generate_interactive.sh               44,320 images
#   DATA_ROOT=data/hqseg SET=DUTS-TR bash scripts/generate_interactive.sh   one set
#
# Needs: what install.sh needs; in DATA_ROOT: HQSeg-44K's folders as in data/README.md.
# Takes: DRY_RUN=1 says it for this machine: how many images, how long, how much disk, and every problem found.
# Leaves: in OUT the same folders with the training images protected, their masks, and the validation sets untouched where they
#         are there. Beside them unseg-manifest.jsonl (every image), unseg-edition.json and unseg-edition-files.jsonl (all
#         else). Annotations are copies: nothing that happens in OUT reaches the originals. The same command goes on after an
#         interruption, and does nothing where all is done. Images without an object are copied unprotected and listed (exit
#         code 1).
# Settings: DATA_ROOT (required)  OUT=runs/unlearnable/interactive
#           GENERATOR=compact (or a weight file, such as the published one)
#           SET=DIS5K-TR, ThinObject5K-TR, FSS, DUTS-TR, DUTS-TE, ECSSD, MSRA_10K; several with commas (all)
#           OBJECTS=all (the mask)
#           EPSILON=8 on the object, BACKGROUND_EPSILON=2 elsewhere, in grey levels of 255
#           NAMES=keep: PNG bytes under X.jpg, which HQ-SAM's loader asks for and which leaves X.png to the mask; png: X.png,
#             where no mask has that name
#           FORMAT=png, which keeps the bound exactly; jpeg: quality 100, and the manifest says by how much it breaks the bound
#           VAL=copy (evaluation images; link: symbolic links to yours; none: leave them out)
#           LIMIT=N protects the first N images alone, for a try, without annotations  DRY_RUN=1 writes nothing
#           NGPU (every visible GPU; 0: processors, with NPROC=1 processes)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/install.sh"
exec "$root/.venv/bin/python" "$root/generate/generate_interactive.py" "$@"
