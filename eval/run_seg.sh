#!/usr/bin/env bash
# Trains a segmentation network from scratch on clean and on unlearnable training images; tests both on clean images.
#
#   DATA_ROOT=VOCdevkit/VOC2012 PROTECTED=protected/voc bash eval/run_seg.sh
#   DATA_ROOT=data/camvid bash eval/run_seg.sh --task binary --object-classes 3,4    more options go to `unseg evaluate`
#
# Needs: what install.sh needs, and in DATA_ROOT either of
#          JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt   (Pascal VOC)
#          images/{train,test}/NAME.jpg, labels/{train,test}/NAME.png                                (anything else)
#        The labels are class-index PNG, 255 = ignored.
# Takes: minutes on a GPU; hours on 2 CPU cores at the default size and steps.
# Leaves: results.json, the learning curves and pictures in OUT; a run that is in results.json already is not repeated.
# Settings: DATA_ROOT (required)
#           PROTECTED  folder of unlearnable training images, as `unseg protect --masks` wrote them; without it they are
#                      made on the way by GENERATOR
#           OBJECTS    classes that are the object: 1 to 20 for VOC, else every class; such as 3,4
#           GENERATOR=compact  OUT=runs/run_seg  TASK=classes  SIZE=240x180  STEPS=6000
#           VOC only: TRAIN_LIST=train  TEST_LIST=val  LABELS=SegmentationClass (SegmentationClassAug for the 10,582)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${DATA_ROOT:-} ]]; then
    echo "run_seg.sh: DATA_ROOT is not set; name the data set: DATA_ROOT=VOCdevkit/VOC2012 bash eval/run_seg.sh" >&2
    exit 2
fi
out=${OUT:-runs/run_seg}

# VOC lists its splits in text files: links in $out/voc show them as the folders that `unseg evaluate` reads.
link_split() {
    local split=$1 list=$voc/ImageSets/Segmentation/$2.txt name
    mkdir -p "$out/voc/images/$split" "$out/voc/labels/$split"
    if [[ ! -f $list ]]; then
        echo "run_seg.sh: $list: no such file; name the list of the $split images with TRAIN_LIST or TEST_LIST" >&2
        exit 2
    fi
    while read -r name _ || [[ -n $name ]]; do
        ln -sf "$voc/JPEGImages/$name.jpg" "$out/voc/images/$split/"
        ln -sf "$voc/${LABELS:-SegmentationClass}/$name.png" "$out/voc/labels/$split/"
    done <"$list"
}

if [[ -d $DATA_ROOT/JPEGImages ]]; then
    voc=$(cd "$DATA_ROOT" && pwd)
    mkdir -p "$out/voc"
    find "$out/voc" -type l -delete # of an earlier run with other lists
    link_split train "${TRAIN_LIST:-train}"
    link_split test "${TEST_LIST:-val}"
    DATA_ROOT=$out/voc
    OBJECTS=${OBJECTS:-1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20}
fi

options=(--generator "${GENERATOR:-compact}")
if [[ -n ${PROTECTED:-} ]]; then
    options=(--protected "$PROTECTED")
fi
if [[ -n ${OBJECTS:-} ]]; then
    options+=(--object-classes "$OBJECTS")
fi

bash "$root/install.sh"
exec "$root/.venv/bin/unseg" evaluate --data "$DATA_ROOT" --out "$out" --task "${TASK:-classes}" \
    --size "${SIZE:-240x180}" --steps "${STEPS:-6000}" "${options[@]}" "$@"
