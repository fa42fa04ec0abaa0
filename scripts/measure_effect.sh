#!/usr/bin/env bash
# Measures what protection does: trains networks from scratch on clean, protected and random-noise images and tests them on
# clean ones. Two tasks: binary (road and pavement against the rest) and classes (every class apart).
#
#   DATA_ROOT=data/camvid bash scripts/measure_effect.sh
#   GENERATOR=weight_dir/my.safetensors TASKS=binary bash scripts/measure_effect.sh --conditions clean,protected
#
# Needs: what install.sh needs, and CamVid in the SegNet 11-class edition as DATA_ROOT/images/{train,test}/NAME.jpg and
#        DATA_ROOT/labels/{train,test}/NAME.png (class index, 255 = not labelled); see data/README.md.
# Takes: 2 hours on 2 free CPU cores with PARALLEL=1 (a training of unet_resnet18 takes 26 minutes of one core, of
#        fpn_mobilenet_v2 11; each is done three times a task); minutes on a GPU.
# Leaves: OUT/TASK/ with results.json, curves.jsonl, curves.png, final.png. A run that is there already is not repeated, so
#        after an interruption start it again.
# Settings: DATA_ROOT=data/camvid  OUT=runs/effect  TASKS="binary classes"  GENERATOR=compact (or a weight file)
#           NETWORKS=unet_resnet18,fpn_mobilenet_v2  SIZE=128x96  STEPS=3000  BATCH=4  SEEDS=0
#           PARALLEL=1 runs the tasks side by side, one thread each (faster on 2 cores; output goes to OUT/TASK.log)
#           More options go to `unseg evaluate`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=${DATA_ROOT:-data/camvid}
out=${OUT:-runs/effect}
read -ra tasks <<<"${TASKS:-binary classes}"
if [[ ! -d $data ]]; then
    echo "measure_effect.sh: no data set in $data; put CamVid there (see data/README.md) or name its folder with DATA_ROOT=" >&2
    exit 2
fi
bash "$root/install.sh"

evaluate() {
    local task=$1
    shift
    "$root/.venv/bin/unseg" evaluate --data "$data" --out "$out/$task" --task "$task" --generator "${GENERATOR:-compact}" \
        --networks "${NETWORKS:-unet_resnet18,fpn_mobilenet_v2}" --size "${SIZE:-128x96}" --steps "${STEPS:-3000}" \
        --batch "${BATCH:-4}" --seeds "${SEEDS:-0}" "$@"
}

if [[ -z ${PARALLEL:-} ]]; then
    for task in "${tasks[@]}"; do
        evaluate "$task" "$@"
    done
    exit
fi

mkdir -p "$out"
jobs=()
trap 'kill "${jobs[@]}" 2>/dev/null || true' INT TERM
for task in "${tasks[@]}"; do
    OMP_NUM_THREADS=1 evaluate "$task" "$@" >"$out/$task.log" 2>&1 &
    jobs+=($!)
    echo "measure_effect.sh: $task runs; follow it with: tail -f $out/$task.log"
done
failed=0
for i in "${!tasks[@]}"; do
    wait "${jobs[i]}" || failed=$?
    tail -n 16 "$out/${tasks[i]}.log"
done
exit "$failed"
