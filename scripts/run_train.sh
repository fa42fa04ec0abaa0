#!/usr/bin/env bash
# Trains a generator: bilevel, on every GPU of this machine, of several machines, or on processors.
#
#   DATA_ROOT=data/my_set bash scripts/run_train.sh                         trains the compact generator
#   DATA_ROOT=data/hqseg RECIPE=paper bash scripts/run_train.sh --sam pretrained_checkpoint/sam_vit_b_01ec64.pth
#   DATA_ROOT=data/my_set NGPU=0 NPROC=2 bash scripts/run_train.sh --set seed=7    two processes; options go to train.py
#   NNODES=2 RDZV_ENDPOINT=first-machine:29500 … bash scripts/run_train.sh    on each of two machines
#
# Needs: what install.sh needs, images with masks or segment maps in DATA_ROOT (layout: data/README.md), and a GPU for
#        anything but a trial: the recipe says how long it takes and on what. Several machines share the disk of OUTPUT.
# Leaves: the log, pictures, checkpoints and the generator in OUTPUT. The same command goes on after Ctrl-C, SIGTERM or
#        a kill, to the same weights as if nothing had happened; scripts/run_train.slurm does that under Slurm.
# Settings: RECIPE (compact; paper, smoke), DATA_ROOT (required), OUTPUT or OUT (runs/RECIPE); paths are seen from the current
#           folder. NGPU (every visible GPU; 0: processors, with NPROC processes, 1 if not set), OMP_NUM_THREADS (cores
#           by processes). Several machines: NNODES (1), RDZV_ENDPOINT (HOST:PORT), RDZV_ID (unseg), RDZV_BACKEND (c10d;
#           static with NODE_RANK), TORCHRUN_ARGS (more options of torchrun).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RECIPE=${RECIPE:-compact}
fail() {
    echo "run_train.sh: $1" >&2
    exit 2
}
count() { # NAME VALUE LEAST
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ && $2 -ge $3 ]] || fail "$1=$2: give a whole number from $3"
}
if [[ -z ${DATA_ROOT:-} ]]; then
    fail "DATA_ROOT is not set; name the folder of images and masks, as in DATA_ROOT=data/my_set"
fi
NNODES=${NNODES:-1}
NPROC=${NPROC:-1}
count NNODES "$NNODES" 1
count NPROC "$NPROC" 1
if ((NNODES > 1)) && [[ -z ${RDZV_ENDPOINT:-} ]]; then
    fail "NNODES=$NNODES: RDZV_ENDPOINT is not set; give HOST:PORT of the first machine, the same on all of them"
fi
bash "$root/install.sh"
python=$root/.venv/bin/python
[[ -z ${NGPU:-} ]] || count NGPU "$NGPU" 0
if [[ -z ${NGPU:-} || $NGPU -gt 0 ]]; then
    visible=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    NGPU=${NGPU:-$visible}
    ((NGPU <= visible)) ||
        fail "NGPU=$NGPU: torch sees $visible GPUs here; give at most that many, or 0 for processors (NPROC)"
fi

train=("$root/train.py" --recipe "$RECIPE" --data-root "$DATA_ROOT" --output "${OUTPUT:-${OUT:-runs/$RECIPE}}")
processes=$NGPU
if ((NGPU == 0)); then
    processes=$NPROC
    train+=(--device cpu)
fi
if ((processes == 1 && NNODES == 1)); then
    exec "$python" "${train[@]}" "$@"
fi

cores=$(nproc 2>/dev/null || echo "$processes")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
launch=(--nproc-per-node "$processes")
if ((NNODES == 1)); then
    launch+=(--standalone --local-addr 127.0.0.1)
else
    launch+=(--nnodes "$NNODES" --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-unseg}")
    if [[ -n ${NODE_RANK:-} ]]; then
        launch+=(--node-rank "$NODE_RANK" --rdzv-backend "${RDZV_BACKEND:-static}")
    else
        launch+=(--rdzv-backend "${RDZV_BACKEND:-c10d}")
    fi
fi
read -ra more <<<"${TORCHRUN_ARGS:-}"
exec "$python" -m unseg.compute.launch "${launch[@]}" ${more[@]+"${more[@]}"} "${train[@]}" "$@"
