#!/usr/bin/env bash
# Makes the unlearnable edition of NWPU VHR-10, WHU building and SSDD, in the set's own layout, ready for an evaluator.
#
#   DATA_ROOT=data/remote bash scripts/generate_remote.sh           all three
#   DATA_ROOT=data/remote SET=WHU bash scripts/generate_remote.sh   one set
#
# Needs: what install.sh needs; in DATA_ROOT: NWPU/imgs, WHU/imgs/train/image and SSDD/imgs, with RSPrompter's json in
#        NWPU/annotations and SSDD/annotations and the labels in WHU/imgs/train/label; or one merged mask PNG an image
#        in NWPU/masks and SSDD/masks. Other layouts: data/README.md.
# Takes: with DRY_RUN=1 it tells how many images there are, how long this machine takes, how much disk it needs, and
#        every problem it finds.
# Leaves: in OUT the same folders with the training images protected, masks and json, and the images of val and test
#         untouched. Beside them unseg-manifest.jsonl (every image), unseg-edition.json and unseg-edition-files.jsonl
#         (all else). Annotations are copies: nothing that happens in OUT reaches the originals. The same command goes
#         on after an interruption, and does nothing where all is done. Images without an object are copied
#         unprotected and listed (exit code 1).
# Settings: DATA_ROOT (required)  OUT=runs/unlearnable/remote
#           LINKED_ROOTS=/a:/b (folders outside DATA_ROOT that links in it may lead to; others are refused)
#           NOISE=codes (compact or tint; sam with GENERATOR, a weight file such as the published one)
#               codes need no network: install.sh then takes its light profile (93 MB), unless PROFILE=full
#           KEY (beside OUT) and CODES (those of the masks): files, for later images with the same codes
#           SPLIT=train (val, test)
#           SET=NWPU, WHU, SSDD; several with commas (all)
#           ANNOTATIONS=json or masks (the one that is there)
#           OBJECTS=all (the mask, or every annotated object)
#           EPSILON=8 on the object, BACKGROUND_EPSILON=2 elsewhere (with a network's noise alone), in grey levels of
#               255; STRENGTH=subtle, standard, strong stands for EPSILON=4, 8, 12
#           REGION=mask: EPSILON holds exactly on the object; REGION=published: on the mask prompt, resized back
#           NAMES=keep keeps the old name, although the file contains PNG data; NAMES=png writes X.png and changes
#               file_name in the json
#           FORMAT=png keeps the bound exactly; FORMAT=jpeg writes quality 100, and the manifest tells how far it
#               exceeds the bound
#           VAL=copy copies the evaluation images, VAL=link links to yours, VAL=none leaves them out
#           LIMIT=N processes only the first N images, without annotations  DRY_RUN=1 writes nothing
#           NGPU (with a network's noise: every visible GPU; NGPU=0: processors, with NPROC=1 processes)
#           SHARD=plan/8 once, then 1/8 to 8/8 in any order and on any machines, then SHARD=merge: one job of several
#           ENGINE=ray: a cluster of Ray shares the work, RAY_ADDRESS=HOST:PORT; without that, this machine's cores
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ${NOISE:-codes} == codes && -z ${GENERATOR:-} ]]; then
    export PROFILE=${PROFILE:-light}
fi
bash "$root/install.sh"
exec "$root/.venv/bin/python" "$root/generate/generate_remote.py" "$@"
