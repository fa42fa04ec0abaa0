#!/usr/bin/env bash
# Makes the unlearnable edition of ADE20K (SceneParse150), in the set's own layout, ready for an evaluator.
#
#   DETECTRON2_DATASETS=datasets bash scripts/generate_ade20k.sh                                20,210 images
#   DETECTRON2_DATASETS=datasets OBJECTS=multi NGPU=0 NPROC=2 bash scripts/generate_ade20k.sh   the 100 instance classes
#
# Needs: what install.sh needs; in DATA_ROOT or DETECTRON2_DATASETS: ADEChallengeData2016/images/training and
#        annotations_detectron2/training (Mask2Former's prepare_ade20k_sem_seg.py).
# Takes: with DRY_RUN=1 it tells how many images there are, how long this machine takes, how much disk it needs, and
#        every problem it finds.
# Leaves: in OUT ADEChallengeData2016 with images/training protected, images/validation untouched, and the annotations
#         that are there. Beside them unseg-manifest.jsonl (every image), unseg-edition.json and
#         unseg-edition-files.jsonl (all else). Annotations are copies: nothing that happens in OUT reaches the
#         originals. The same command goes on after an interruption, and does nothing where all is done. Images
#         without an object are copied unprotected and listed (exit code 1).
# Settings: DATA_ROOT or DETECTRON2_DATASETS (one is required)  OUT=runs/unlearnable/ade20k
#           LINKED_ROOTS=/a:/b (folders outside DATA_ROOT that links in it may lead to; others are refused)
#           NOISE=codes (compact or tint; sam with GENERATOR, a weight file such as the published one)
#               codes need no network: install.sh then takes its light profile (93 MB), unless PROFILE=full
#           KEY (beside OUT) and CODES (those of the masks): files, for later images with the same codes
#           SPLIT=train (val)
#           OBJECTS=auto: all, or by-class where classes cover the images; all (labels other than 255), multi (the
#               100 instance classes), ids from 0 such as 12,20, by-class
#           EPSILON=8 on the object, BACKGROUND_EPSILON=2 elsewhere (with a network's noise alone), in grey levels of
#               255; STRENGTH=subtle, standard, strong stands for EPSILON=4, 8, 12
#           REGION=mask: EPSILON holds exactly on the object; REGION=published: on the mask prompt, resized back
#           NAMES=keep keeps the name X.jpg, which detectron2's loaders ask for, although the file contains PNG data;
#               NAMES=png writes X.png and changes file_name in the json
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
exec "$root/.venv/bin/python" "$root/generate/generate_ade20k.py" "$@"
