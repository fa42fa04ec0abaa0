#!/usr/bin/env bash
# Trains a segmentation network on clean and on unlearnable Pascal VOC images, tests both on clean images, and prints the IoU of
# every class beside each other: the published evaluation, DeepLabV1 on ResNet38 (docs/guide/evaluate.md).
#
#   WEIGHTS=pretrained_checkpoint/ilsvrc-cls_rna-a1_cls1000_ep-0001.params DATA_ROOT=VOCdevkit/VOC2012 \
#       PROTECTED=runs/unlearnable/pascal bash eval/run_seg.sh
#   DATA_ROOT=data/camvid WIDTH=0.0625 EPOCHS=5 SIZE=161x161 bash eval/run_seg.sh     a try on a CPU, on any class maps
#   DATA_ROOT=VOCdevkit/VOC2012 NETWORK=unet_resnet18 STEPS=6000 SIZE=240x180 bash eval/run_seg.sh --seeds 0,1,2
#
# Needs: what install.sh needs, and in DATA_ROOT either of
#          JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt   (Pascal VOC; also where it
#          lies in DATA_ROOT/VOC2012 or DATA_ROOT/VOCdevkit/VOC2012); SegmentationClassAug for the 10,582 training images
#          images/{train,test}/NAME.jpg, labels/{train,test}/NAME.png                                (anything else)
#        The labels are class-index PNG, 255 = not labelled. The published size needs a GPU (16 crops of 321×321, 124 million
#        weights).
# Leaves: results.json, curves and example predictions in OUT; links to the images in OUT/voc; without PROTECTED the images that
#        it made in OUT/protected. Nothing in DATA_ROOT changes. The same command goes on after an interruption.
# Settings: DATA_ROOT ($DETECTRON2_DATASETS if not set)  OUT=runs/run_seg
#           PROTECTED  unlearnable training images, by the clean ones' names, PNG or PNG under names in .jpg: a folder, or an
#                      edition of VOC as scripts/generate_pascal.sh writes it; without it GENERATOR makes them first
#           GENERATOR=compact (or a weight file)  OBJECTS=all (every class but 0; or ids such as 15 or 3,4, or by-class)
#           TRAIN_LIST=train  TEST_LIST=val: lists in ImageSets/Segmentation, or files with a name a line.  TRAIN_LIST=train_aug:
#                      where VOC has no such list, every image in SegmentationClassAug that TEST_LIST does not name
#           LABELS=SegmentationClass, SegmentationClassAug with TRAIN_LIST=train_aug: the training labels
#           NETWORK=deeplabv1_resnet38 (or another of `unseg evaluate --task semantic`)  SEED=0
#           WEIGHTS    where the network starts (pretrained_checkpoint/README.md); without it from random weights
#           CONDITIONS=clean,protected (also random: noise of the same budget, as a control)
#           NGPU (every visible GPU; 0: processors, with NPROC=1 processes)
#         Of deeplabv1_resnet38: EPOCHS=30 (or STEPS)  BATCH=16  SIZE=321x321 (the crop)  RATE=7e-4
#           WIDTH=1    a factor on every layer's channels
#           PUBLISHED_OPTIMIZER=1  momentum 1e-5 and no weight decay, as the published code ran by a slip, in place of the momentum
#                      of 0.9 and the decay of 1e-5 that it means
#         Of other networks: STEPS=6000  BATCH=8  SIZE=240x180.  More options go to `unseg evaluate`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-runs/run_seg}
fail() {
    echo "run_seg.sh: $1" >&2
    exit 2
}
whole() { # NAME VALUE LEAST
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ && $2 -ge $3 ]] || fail "$1=$2: give a whole number from $3"
}

data=${DATA_ROOT:-${DETECTRON2_DATASETS:-}}
[[ -n $data ]] || fail "DATA_ROOT is not set; name the data set: DATA_ROOT=VOCdevkit/VOC2012 bash eval/run_seg.sh"
network=${NETWORK:-deeplabv1_resnet38}
options=(--networks "$network" --seeds "${SEED:-0}")
if [[ $network == deeplabv1_* ]]; then
    batch=${BATCH:-16} epochs=${EPOCHS:-30}
    whole BATCH "$batch" 2
    whole EPOCHS "$epochs" 1
    momentum=0.9 decay=1e-5
    [[ -z ${PUBLISHED_OPTIMIZER:-} ]] || momentum=1e-5 decay=0
    options+=(--size "${SIZE:-321x321}" --batch "$batch" --optimizer sgd --learning-rate "${RATE:-7e-4}" --decay poly
        --warm-up 0 --momentum "$momentum" --weight-decay "$decay" --no-colour-jitter --set "width=${WIDTH:-1.0}")
else
    STEPS=${STEPS:-6000}
    options+=(--size "${SIZE:-240x180}" --batch "${BATCH:-8}")
fi
[[ -z ${STEPS:-} ]] || whole STEPS "$STEPS" 1
NPROC=${NPROC:-1}
whole NPROC "$NPROC" 1
[[ -d ${PROTECTED:-.} ]] || fail "PROTECTED=$PROTECTED: no such folder"
[[ -e ${WEIGHTS:-.} ]] || fail "WEIGHTS=$WEIGHTS: no such file; pretrained_checkpoint/README.md says where it comes from"
if [[ -n ${WEIGHTS:-} ]]; then
    options+=(--weights "$WEIGHTS")
else
    echo "run_seg.sh: WEIGHTS is not set, so $network starts from random weights, all of which learn"
fi

bash "$root/install.sh"
python=$root/.venv/bin/python
data=$("$python" "$root/eval/link_voc.py" "$data" "$out/voc" "${TRAIN_LIST:-train}" "${TEST_LIST:-val}" "${LABELS:-}") || exit 2
format=index
[[ $data != "$out/voc" ]] || format=voc # whose classes have names
if [[ -z ${STEPS:-} ]]; then # whole batches an epoch, so the published 19,830 for 10,582 images
    count=$(find -L "$data/images/train" -type f | wc -l)
    STEPS=$((epochs * (count > batch ? count / batch : 1)))
fi
options+=(--steps "$STEPS" --eval-every $((STEPS > 10 ? STEPS / 10 : STEPS)))
NGPU=${NGPU:-$("$python" -c 'import torch; print(torch.cuda.device_count())')}
whole NGPU "$NGPU" 0
processes=$((NGPU > 0 ? NGPU : NPROC))
((NGPU > 0)) || options+=(--device cpu)

protected=${PROTECTED:-}
if [[ -z $protected ]]; then
    protected=$out/protected
    made=0
    "$root/.venv/bin/unseg" protect "$data/images/train" --masks "$data/labels/train" --objects "${OBJECTS:-all}" \
        --mask-type index --unmasked copy --generator "${GENERATOR:-compact}" --out "$protected" || made=$?
    ((made <= 1)) || exit "$made"
    ((made == 0)) || echo "run_seg.sh: some images are unprotected, as the table says; training goes on" >&2
fi
for place in JPEGImages VOC2012/JPEGImages VOCdevkit/VOC2012/JPEGImages; do # of an edition
    [[ ! -d $protected/$place ]] || protected=$protected/$place
done

run=("$root/.venv/bin/unseg")
if ((processes > 1)); then
    cores=$(nproc 2>/dev/null || echo "$processes")
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
    run=("$python" -m unseg.compute.launch --nproc-per-node "$processes" --standalone --local-addr 127.0.0.1 --module unseg.cli)
fi
"${run[@]}" evaluate --task semantic --views whole --conditions "${CONDITIONS:-clean,protected}" --annotations-format "$format" \
    --clean "$data/images/train" --annotations "$data/labels/train" --protected "$protected" \
    --test "$data/images/test" --test-annotations "$data/labels/test" --out "$out" "${options[@]}" "$@"
"$python" "$root/eval/class_table.py" "$out"
