"""Several processes train as one would, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from segment_anything_training import build
from tests.support.training_runs import final_state, one_step_each, same, small_paper
from unseg.compute import distributed, launch
from unseg.compute.distributed import World, connect, shard
from unseg.data.loader import BatchLoader
from unseg.data.training_data import TrainingImage
from unseg.data.views import draw_views, steps_per_epoch
from unseg.errors import UserError
from unseg.training.recipes import recipe

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "support" / "training_runs.py"
LAUNCH = [
    sys.executable,
    "-m",
    "unseg.compute.launch",
    "--nproc-per-node",
    "2",
    "--standalone",
    "--local-addr",
    "127.0.0.1",
]
ENDLESS = ("--set", "total_phases=100000", "--set", "log_every=100000")
SINGLE_THREADED = {**os.environ, "OMP_NUM_THREADS": "1"}


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shards_are_disjoint_and_complete(items, size):
    parts = [shard(items, rank, size) for rank in range(size)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("rank, size", [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_has_no_shard(rank, size):
    with pytest.raises(ValueError, match="rank"):
        shard([1, 2, 3], rank, size)


def test_a_process_alone_shares_with_nobody():
    with connect("cpu") as world:
        assert world == World() and world.leads
        assert world.sum([1, 2.5]) == [1.0, 2.5] and world.from_first("x") == "x"
        assert [part.tolist() for part in world.gather(torch.tensor([1, 2]))] == [[1, 2]]
        world.barrier()


@pytest.fixture(scope="module", params=["gradients", "coded"])
def mode(request):
    """Without codes, and with a generator that is given them."""
    return request.param


@pytest.fixture(scope="module")
def two(mode, tmp_path_factory):
    """One step of each player on two processes."""
    output = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [*LAUNCH, str(PROGRAM), mode, str(output)], env=SINGLE_THREADED, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(output / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(mode):
    """The same on one process with the doubled batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SURROGATE_IMAGE_SIZE", build.SURROGATE_IMAGE_SIZE)  # small_paper changes both
        patch.setitem(build.SAM_CONFIGS, "vit_b", build.SAM_CONFIGS["vit_b"])
        return one_step_each(small_paper(batch_size=4, code_prompt=mode == "coded"), World())


@pytest.mark.parametrize("player", ["surrogate", "generator"])
def test_gradients_are_those_of_one_process_with_the_doubled_batch(two, one, player):
    assert two[0][f"{player} loss"] == two[1][f"{player} loss"] == pytest.approx(one[f"{player} loss"], abs=1e-5)
    compared = 0
    for name, expected in one[f"{player} gradients"].items():
        found = two[0][f"{player} gradients"][name]
        assert (found is None) == (expected is None), name
        if expected is not None and (largest := float(expected.abs().max())) > 1e-7:
            assert float((found - expected).abs().max()) < min(1e-5, 1e-3 * largest), (
                name
            )  # also where gradients are small
            compared += 1
    assert compared > 20


def test_gradients_are_the_same_bits_on_every_process(two):
    for player in ("surrogate", "generator"):
        assert same(two[0][f"{player} gradients"], two[1][f"{player} gradients"])


def test_parameters_that_no_process_used_have_no_gradient(two):
    """Adam would move a weight with a gradient of zero by its momentum."""
    unused = [name for name, gradient in two[0]["surrogate gradients"].items() if gradient is None]
    assert unused and all("prompt_encoder" in name or "mask_decoder.output_hypernetworks" in name for name in unused)


def test_the_frozen_player_keeps_every_bit_on_every_process(two):
    assert all(found[f"{player} kept"] for found in two for player in ("surrogate", "generator"))


def test_replicas_stay_identical(two):
    assert same(two[0]["states"], two[1]["states"])


GLOO_THREADS = """
import json, pathlib, sys
from unseg.compute.distributed import connect

def gloo():
    names = [(task / "comm").read_text() for task in pathlib.Path("/proc/self/task").glob("*")]
    return names.count("pt_gloo_runloop\\n")

with connect("cpu") as world:
    world.barrier()
    joined = gloo()
    assert "torch._dynamo" not in sys.modules
    import torch._dynamo  # as torch's optimizers do at their first step
pathlib.Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps([joined, gloo()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads from /proc")
def test_gloo_s_threads_end_with_the_group(tmp_path):
    """One that still lives while the interpreter ends may take the process along: SIGABRT after the work was done."""
    program = tmp_path / "program.py"
    program.write_text(GLOO_THREADS)
    done = subprocess.run(
        [*LAUNCH, str(program), str(tmp_path)],
        env={**SINGLE_THREADED, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        joined, left = json.loads((tmp_path / f"{rank}.json").read_text())
        assert joined > 0 and left == 0


def test_two_processes_see_disjoint_parts_of_every_step_and_all_of_an_epoch():
    class Named:
        """Sixteen samples that are their number."""

        def __len__(self):
            return 16

        def __getitem__(self, index):
            return TrainingImage(str(index), np.zeros((64, 64, 3), np.uint8), (np.full((64, 64), 255, np.uint8),))

    samples, config = Named(), recipe("smoke")
    assert steps_per_epoch(len(samples), config, 2) == 4
    names = [[batch.names for batch in BatchLoader(samples, config, 0, 4, rank, 2)] for rank in (0, 1)]
    seen = [name for rank in names for batch in rank for name in batch]
    assert sorted(seen, key=int) == [str(index) for index in range(16)]
    assert all(not set(left) & set(right) for left, right in zip(*names, strict=True))
    doubled = draw_views(samples, recipe("smoke", {"batch_size": "4"}), 1)
    assert doubled.names == names[0][1] + names[1][1]


# --- through the script that people run ------------------------------------------------------------------------------


def train(data, output, *more, **environment):
    return [
        ["bash", str(ROOT / "scripts/run_train.sh"), "--quiet", "--no-tensorboard", "--workers", "0", *more],
        {
            **SINGLE_THREADED,
            "DATA_ROOT": str(data),
            "OUTPUT": str(output),
            "RECIPE": "smoke",
            "NGPU": "0",
            "NPROC": "2",
            **environment,
        },
    ]


def finish(command, environment, cwd=None):
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=cwd)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for index in range(8):
        Image.fromarray(random.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(root / "images" / f"i{index}.png")
        mask = np.zeros((80, 96), np.uint8)
        mask[10:60, 5 + 5 * index : 50] = 255
        Image.fromarray(mask).save(root / "masks" / f"i{index}.png")
    return root


def training_processes(launcher):
    """The processes that the launcher has started, by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                ranks[int(entry[5:])] = int(child)
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow(seconds=45)
def test_smoke_on_two_processes_killed_and_resumed_is_the_unbroken_run(photographs, tmp_path):
    """Through scripts/run_train.sh, from another folder, with relative paths."""
    (tmp_path / "data").symlink_to(photographs)
    longer = ("--set", "total_phases=30", "--set", "log_every=10")
    whole = finish(*train("data", "whole", *longer), cwd=tmp_path)
    assert whole.returncode == 0 and whole.stderr == "", whole.stderr
    assert "2 processes, 4 images a step" in whole.stdout and whole.stdout.count("generator:") == 1

    command, environment = train("data", "broken", *longer)
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "broken/checkpoints/step_00000008.json", process)
    os.kill(training_processes(process)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30  # seconds, where gloo's own patience is half an hour
    assert process.returncode == 128 + signal.SIGKILL
    assert (
        told.count("\n") == 1
        and "process 1 was ended by SIGKILL" in told
        and "goes on from the last checkpoint" in told
    )

    resumed = finish(*train("data", "broken", *longer), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "of 30 steps are done; goes on from there" in resumed.stdout
    left, right = (final_state(tmp_path / name) for name in ("whole", "broken"))
    assert left["step"] == 30 and len(left["random"][0]) == 2 and same(left, right)
    assert same(*(load_file(tmp_path / name / "generator.safetensors") for name in ("whole", "broken")))
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    assert steps[0] == steps[1] == [10, 20, 30]


@pytest.mark.slow
def test_one_process_that_fails_stops_all_with_one_message(photographs, tmp_path):
    """A broken image is read by one process alone."""
    data = tmp_path / "data"
    for path in photographs.rglob("*.png"):
        (data / path.relative_to(photographs)).parent.mkdir(parents=True, exist_ok=True)
        (data / path.relative_to(photographs)).write_bytes(path.read_bytes())
    (data / "images/i5.png").write_bytes((data / "images/i5.png").read_bytes()[:300])
    failed = finish(*train(data, tmp_path / "run", "--set", "log_every=12"))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and "i5.png" in failed.stderr and failed.stderr.startswith("unseg: error: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, told",
    [
        (["--set", "batch_size=0"], "batch_size=0: give a whole number from 1 to 16,384\n"),
        (["--keep", "x"], "invalid value for '--keep': "),
    ],
)
def test_a_wrong_option_is_told_once(photographs, tmp_path, options, told):
    failed = finish(*train(photographs, tmp_path / "run", *options))
    assert (
        failed.returncode == 2 and failed.stderr.startswith(f"unseg: error: {told}") and failed.stderr.count("\n") == 1
    )
    assert failed.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_saves_once_and_leaves(photographs, tmp_path, number, code):
    command, environment = train(photographs, tmp_path / "run", *ENDLESS)
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "run/checkpoints/step_00000004.json", process)
    process.send_signal(number)
    said, told = process.communicate(timeout=60)
    assert process.returncode == code and told == ""
    assert said.count(f"stopped by {number.name} after step ") == 1
    step = max(int(path.stem[len("step_") :]) for path in (tmp_path / "run/checkpoints").glob("*.json"))
    assert f"after step {step} of 100000" in said


@pytest.mark.slow
def test_no_process_trains_on_without_its_launcher(photographs, tmp_path):
    """Two that nobody can stop would write into the folder in which the next command goes on."""
    command, environment = train(photographs, tmp_path / "run", *ENDLESS)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "run/checkpoints/step_00000004.json", process)
    orphans = training_processes(process)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any(
        Path(f"/proc/{orphan}/cmdline").exists() and Path(f"/proc/{orphan}/cmdline").read_bytes() for orphan in orphans
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    with FileLock(tmp_path / "run/.training.lock", timeout=5):
        pass


@pytest.mark.parametrize(
    "environment, part",
    [
        ({"NGPU": "two"}, "NGPU=two: give a whole number"),
        ({"NPROC": "0"}, "NPROC=0"),
        ({"NGPU": "1000"}, "NGPU=1000: torch sees "),
        ({"NNODES": "2"}, "RDZV_ENDPOINT is not set"),
        ({"DATA_ROOT": ""}, "DATA_ROOT is not set"),
    ],
)
def test_wrong_settings_of_the_script_are_one_line(tmp_path, environment, part):
    failed = finish(*train(tmp_path, tmp_path / "run", **environment))
    assert failed.returncode == 2 and part in failed.stderr and failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_several_machines_meet_at_the_endpoint(photographs, tmp_path):
    """Two launchers, as on two machines, with one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for rank in (0, 1):
        command, environment = train(
            photographs, tmp_path / "run", NNODES="2", NODE_RANK=str(rank), RDZV_ENDPOINT=endpoint, NPROC="1"
        )
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "2 processes" in said[0][0] and said[1][0] == "" and final_state(tmp_path / "run")["step"] == 12


@pytest.mark.slow
def test_slurm_starts_again_what_it_had_to_stop(photographs, tmp_path):
    """With stand-ins for Slurm's own programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/asked\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    command, environment = train(
        photographs,
        tmp_path / "run",
        *ENDLESS,
        NPROC="1",
        SLURM_JOB_NUM_NODES="1",
        SLURM_JOB_ID="77",
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_NODELIST="n1",
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    command[1] = str(ROOT / "scripts/run_train.slurm")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run/checkpoints/step_00000004.json", process)
    process.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B:TERM does
    said, told = process.communicate(timeout=60)
    assert process.returncode == 143 and told == "" and "stopped by SIGTERM after step" in said
    assert (tmp_path / "asked").read_text() == "requeue 77\n"


# --- the launcher's words --------------------------------------------------------------------------------------------


class Failure:
    def __init__(self, exitcode):
        self.exitcode = exitcode


@pytest.mark.parametrize(
    "codes, code, part",
    [
        ([3, 2], 2, ""),
        ([-15, 1], 1, ""),
        ([3, -11], 139, "process 1 was ended by SIGSEGV"),
        ([3, -9], 137, "memory may have run out"),
        ([3, 3], 3, "another machine"),
        ([143, -15], 3, "another machine"),
    ],
)
def test_the_launcher_tells_what_the_processes_could_not(capsys, codes, code, part):
    assert launch._tell([(rank, Failure(exitcode)) for rank, exitcode in enumerate(codes)]) == code
    told = capsys.readouterr().err
    assert part in told and told.count("\n") == bool(part)


# Two processes that hear of their end at different moments. The first one asks the launcher to end.
BEGINNING = """
import os, signal, sys, time
from contextlib import nullcontext
from unseg.compute.interrupts import end_at_once, in_good_order, tell_the_launcher
first, moment = os.environ["RANK"] == "0", sys.argv[1]
if moment == "while it imports":
    end_at_once()
try:
    with in_good_order() if moment == "at work" else nullcontext():
        if first:
            while not os.path.exists("ready"):  # Python itself, as it starts, answers Ctrl-C with a traceback
                time.sleep(0.01)
            os.kill(os.getppid(), int(sys.argv[2]))
        open("ready", "w").close()
        time.sleep(60)
except KeyboardInterrupt:
    if first:
        print("stopped after step 4")
        tell_the_launcher()
"""
UNTOLD = "unseg: interrupted; the same command goes on from the last checkpoint\n"


@pytest.mark.parametrize(
    "moment, number, said, told",
    [
        pytest.param("before anything", signal.SIGTERM, "", UNTOLD, marks=pytest.mark.slow),
        ("while it imports", signal.SIGTERM, "", UNTOLD),
        pytest.param("while it imports", signal.SIGINT, "", "unseg: interrupted\n", marks=pytest.mark.slow),
        ("at work", signal.SIGTERM, "stopped after step 4\n", ""),
    ],
)
def test_a_signal_to_the_launcher_is_one_line_at_any_moment(tmp_path, moment, number, said, told):
    program = tmp_path / "program.py"
    program.write_text(BEGINNING)
    launched = [sys.executable, "-m", "unseg.compute.launch", "--nproc-per-node", "2", "--standalone"]
    process = subprocess.run(
        [*launched, "--local-addr", "127.0.0.1", str(program), moment, str(int(number))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (process.returncode, process.stdout, process.stderr) == (128 + number, said, told)
    assert not list(tmp_path.glob("unseg-*"))


def test_more_processes_than_gpus_is_one_line(monkeypatch):
    monkeypatch.setattr(distributed, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed._own_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="2 visible GPUs"):
        distributed._own_device("auto")
