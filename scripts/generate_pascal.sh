#!/usr/bin/env bash
# Makes the unlearnable edition of Pascal VOC 2012, in the set's own layout, ready for an evaluator.
#
#   DATA_ROOT=VOCdevkit/VOC2012 bash scripts/generate_pascal.sh                       1,464 images of train
#   DATA_ROOT=data SPLIT=train_aug NGPU=1 bash scripts/generate_pascal.sh             10,582, with SBD's labels
#   DATA_ROOT=data OBJECTS=15 LIMIT=20 OUT=runs/try bash scripts/generate_pascal.sh   a try: persons only, 20 images
#
# Needs: what install.sh needs; in DATA_ROOT, DATA_ROOT/VOC2012 or DATA_ROOT/VOCdevkit/VOC2012: JPEGImages,
#        SegmentationClass and ImageSets/Segmentation/train.txt; for SPLIT=train_aug also SegmentationClassAug and
#        train_aug.txt.
# Takes: with DRY_RUN=1 it tells how many images there are, how long this machine takes, how much disk it needs, and
#        every problem it finds.
# Leaves: in OUT JPEGImages (the split's protected, those of val untouched), the folders of labels and the lists.
#         Beside them unseg-manifest.jsonl (every image), unseg-edition.json and unseg-edition-files.jsonl (all else).
#         Annotations are copies: nothing that happens in OUT reaches the originals. The same command goes on after an
#         interruption, and does nothing where all is done. Images without an object are copied unprotected and listed
#         (exit code 1).
# Settings: DATA_ROOT (required)  OUT=runs/unlearnable/pascal
#           LINKED_ROOTS=/a:/b (folders outside DATA_ROOT that links in it may lead to; others are refused)
#           NOISE=codes (compact or tint; sam with GENERATOR, a weight file such as the published one)
#               codes need no network: install.sh then takes its light profile (93 MB), unless PROFILE=full
#           KEY (beside OUT) and CODES (those of the masks): files, for later images with the same codes
#           SPLIT=train (val, trainval, train_aug)
#           OBJECTS=auto: all, or by-class where classes cover the images; all (every class; 255 is never the
#               object), multi (classes 1 to 5), ids such as 15 or 3,4, by-class
#           EPSILON=8 on the object, BACKGROUND_EPSILON=2 elsewhere (with a network's noise alone), in grey levels of
#               255; STRENGTH=subtle, standard, strong stands for EPSILON=4, 8, 12
#           REGION=mask: EPSILON holds exactly on the object; REGION=published: on the mask prompt, resized back
#           NAMES=keep keeps the name X.jpg, which VOC's loaders ask for, although the file contains PNG data;
#               NAMES=png writes X.png
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
exec "$root/.venv/bin/python" "$root/generate/generate_pascal.py" "$@"
