#!/usr/bin/env bash
# Measures what protection does: trains networks from scratch on clean and on changed images and tests them on clean ones, with
# several seeds. Two tasks: binary (road and pavement against the rest) and classes (every class apart). The images are clean,
# protected, protected and re-encoded as JPEG, with random noise, or with a fixed pattern per class.
#
#   DATA_ROOT=data/camvid bash scripts/measure_effect.sh
#   GENERATOR=weight_dir/my.safetensors TASKS=binary CONDITIONS=clean,protected SEEDS=0 bash scripts/measure_effect.sh
#   TASKS=binary STEPS=1000 SEEDS=0 CONDITIONS=clean,protected,random bash scripts/measure_effect.sh --shares 20,40,60,80
#
# Needs: what install.sh needs, and CamVid in the SegNet 11-class edition as DATA_ROOT/images/{train,test}/NAME.jpg and
#        DATA_ROOT/labels/{train,test}/NAME.png (class index, 255 = not labelled); see data/README.md.
# Takes: 14 hours on 2 free cores of 2.5 GHz with PARALLEL=1, 28 hours of one core in all: 55 minutes for each seed and condition
#        of a task through the four networks (0.29, 0.45, 0.21 and 0.10 s a step, 3,000 steps, 5 % more for the tests). Reckoned
#        from these measured times; the whole was not run in one go.
# Leaves: OUT/TASK/ with results.json, curves.jsonl and examples/; `unseg report OUT/binary OUT/classes` makes a page of them.
#        A run that is there already is not repeated, and one that was interrupted goes on from its last checkpoint: start it again.
#        Seed 0 of everything comes first. Any other data set and task: `unseg evaluate --clean …` (docs/guide/evaluate.md).
# Settings: DATA_ROOT=data/camvid  OUT=runs/effect  TASKS="binary classes"  GENERATOR=compact (or a weight file)
#           OBJECTS=3,4 (CamVid's road and pavement): the classes that are the object of the binary task
#           NETWORKS=unet_resnet18,fpn_resnet34,deeplabv3plus_mobilenet_v2,segformer_b0  SEEDS=0,1,2
#           CONDITIONS=clean,random,pattern,protected,protected+jpeg75
#           BY_CLASS=1 tells the generator every pixel's class in the classes task; 0: one mask over all labelled pixels
#           TEST_SPLIT=test (val for choices of design)  SIZE=128x96  STEPS=3000  BATCH=4
#           PARALLEL=1 runs the tasks side by side, one thread each (faster on 2 cores; output goes to OUT/TASK.log)
#           More options go to `unseg evaluate`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=${DATA_ROOT:-data/camvid}
out=${OUT:-runs/effect}
split=${TEST_SPLIT:-test}
read -ra tasks <<<"${TASKS:-binary classes}"
for task in "${tasks[@]}"; do
    [[ $task == binary || $task == classes ]] || { echo "measure_effect.sh: TASKS=$task: give binary or classes" >&2 && exit 2; }
done
run= # what evaluate puts before its command
if [[ ! -d $data ]]; then
    echo "measure_effect.sh: no data set in $data; put CamVid there (see data/README.md) or name its folder with DATA_ROOT=" >&2
    exit 2
fi
bash "$root/install.sh"

conditions=${CONDITIONS:-clean,random,pattern,protected,protected+jpeg75}
making=() # a generator is for the images that it makes alone
if [[ ,$conditions, == *,protected[,+@]* || " $* " == *" --shares"* ]]; then
    making=(--generator "${GENERATOR:-compact}")
fi

evaluate() {
    local task=$1 learnt
    shift
    case $task in
        binary) learnt=(--binary --objects "${OBJECTS:-3,4}") ;;
        classes) learnt=(--objects all) ;;
        *) echo "measure_effect.sh: TASKS=$task: give binary or classes" >&2 && exit 2 ;;
    esac
    if [[ $task == classes && ${BY_CLASS:-1} != 0 ]]; then
        learnt+=(--by-class)
    fi
    $run "$root/.venv/bin/unseg" evaluate --task semantic --preset small-scratch "${learnt[@]}" --background-label -1 --no-colour-jitter \
        --clean "$data/images/train" --annotations "$data/labels/train" --annotations-format index \
        --test "$data/images/$split" --test-annotations "$data/labels/$split" --out "$out/$task" \
        ${making[@]+"${making[@]}"} \
        --networks "${NETWORKS:-unet_resnet18,fpn_resnet34,deeplabv3plus_mobilenet_v2,segformer_b0}" \
        --conditions "$conditions" --seeds "${SEEDS:-0,1,2}" \
        --size "${SIZE:-128x96}" --steps "${STEPS:-3000}" --batch "${BATCH:-4}" "$@"
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
    # exec: so that the job is the program itself, and stopping it stops the training
    run=exec OMP_NUM_THREADS=1 evaluate "$task" "$@" >"$out/$task.log" 2>&1 &
    jobs+=($!)
    echo "measure_effect.sh: $task runs; follow it with: tail -f $out/$task.log"
done
failed=0
for i in "${!tasks[@]}"; do
    wait "${jobs[i]}" || failed=$?
    tail -n 60 "$out/${tasks[i]}.log"
done
exit "$failed"
