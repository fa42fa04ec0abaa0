"""A training run survives whatever stops it: the weights are those of the unbroken run, to the last bit."""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support.told_progress import Told
from tests.support.training_runs import SMOKE, final_state, made_samples, run, same
from unseg.cli import main
from unseg.commands import train as train_options
from unseg.data.catalog import Pair
from unseg.errors import UserError
from unseg.storage import checkpoint_files
from unseg.training import checkpoints, loop, steps
from unseg.training.checkpoints import RunFolder
from unseg.training.loop import RunOptions, run_settings, take_step, train
from unseg.training.players import Starts

OPTIONS = RunOptions(tensorboard=False, validation_images=2)
PROGRAM = Path(__file__).parents[1] / "support" / "training_runs.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The unbroken run."""
    output = tmp_path_factory.mktemp("whole")
    assert run(output).step == SMOKE.total_phases
    return output


class Killed(BaseException):
    """What no code catches."""


def die_at(monkeypatch, step):
    def die(training, *arguments):
        if training.step == step:
            raise Killed
        return take_step(training, *arguments)

    monkeypatch.setattr(loop, "take_step", die)


def metadata(output):
    """What the weights' file says beside the tensors."""
    with safe_open(output / "generator.safetensors", "pt") as file:
        return file.metadata()


def lines(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def same_log(left, right):
    """But for what differs between any two runs: times."""
    drop = ("seconds", "images_per_second", "waiting_share")
    return [{key: line[key] for key in line if key not in drop} for line in lines(left)] == [
        {key: line[key] for key in line if key not in drop} for line in lines(right)
    ]


def assert_unbroken(output, whole):
    assert same(final_state(output), final_state(whole))
    assert same(load_file(output / "generator.safetensors"), load_file(whole / "generator.safetensors"))
    assert same_log(output, whole)


@pytest.mark.parametrize("step", [0, 4, 7])
def test_a_resumed_run_is_the_unbroken_one(whole, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, step)
        run(tmp_path)
    torch.manual_seed(99)  # what a new process finds
    run(tmp_path)
    assert_unbroken(tmp_path, whole)


@pytest.mark.slow
def test_a_run_killed_twice_by_sigkill_is_the_unbroken_one(tmp_path):
    def program(output, *options):
        # All in processes of their own: this one's threads may keep what other tests set, as how denormals count.
        return subprocess.run([sys.executable, PROGRAM, "run", output, *options], capture_output=True, text=True)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert program(whole).returncode == 0
    for step in (3, 9):
        process = program(broken, "--kill", str(step), "0")
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert RunFolder(broken).steps() == [8, 4]
    assert program(broken).returncode == 0
    assert_unbroken(broken, whole)


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_training_whose_folder_goes_away_ends(tmp_path, made_anew):
    """Renamed, or another made in its place: no checkpoint is written there, and the old one can go on."""
    output, moved = tmp_path / "out", tmp_path / "moved"
    with RunFolder(output) as folder:
        folder.save({}, 4, {})
        output.rename(moved)
        if made_anew:
            output.mkdir()
        for work in (folder.check_held, lambda: folder.save({}, 8, {})):
            with pytest.raises(UserError, match="--output .*out: was removed, renamed or replaced while this run"):
                work()
    assert not (output / "checkpoints").exists() and RunFolder(moved).steps() == [4]
    with RunFolder(moved) as folder:
        folder.save({}, 8, {})
    assert RunFolder(moved).steps() == [8, 4]


@pytest.mark.parametrize("point", ["in the state", "before its facts"])
def test_a_kill_while_a_checkpoint_is_written_costs_that_checkpoint_only(whole, tmp_path, monkeypatch, point):
    with monkeypatch.context() as patch, pytest.raises(Killed):

        def interrupted(state, file):
            file.write(b"half of it")
            raise Killed

        def killed(*_):
            raise Killed

        def fail_at_eight(folder, state, step, settings):
            if step == 8:
                if point == "in the state":
                    patch.setattr(checkpoints.torch, "save", interrupted)
                else:
                    patch.setattr(checkpoints, "write_durably", killed)
            return save(folder, state, step, settings)

        save = RunFolder.save
        patch.setattr(RunFolder, "save", fail_at_eight)
        run(tmp_path)
    assert RunFolder(tmp_path).steps() == [4]
    run(tmp_path)
    assert_unbroken(tmp_path, whole)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("room", [0, 100_000])
def test_a_disk_that_fills_up_at_a_checkpoint_costs_that_checkpoint_only(whole, tmp_path, monkeypatch, room):
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:

        def full_at_eight(folder, state, step, settings):
            if step == 8:
                patch.setattr(checkpoint_files._Digesting, "__init__", on_a_small_disk)
            return save(folder, state, step, settings)

        def on_a_small_disk(digesting, file):
            make(digesting, SmallDisk(file))

        class SmallDisk:
            def __init__(self, file):
                self.file = file

            def write(self, data):
                if self.file.tell() + len(data) > room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return self.file.write(data)

            def flush(self):
                self.file.flush()

        save, make = RunFolder.save, checkpoint_files._Digesting.__init__
        patch.setattr(RunFolder, "save", full_at_eight)
        run(tmp_path)
    assert str(error.value).endswith(
        "step_00000008.pt: cannot be written (No space left on device); check space and permissions"
    )
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000004.json",
        "step_00000004.pt",
    ]
    run(tmp_path)
    assert_unbroken(tmp_path, whole)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "a flipped bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {
            "a flipped bit": bytes(data),
            "half a file": bytes(data[: len(data) // 2]),
            "nothing": b"",
            "no JSON": b'{"step": 8',
        }[how]
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run that was killed after its checkpoint of step 8."""
    output = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 9)
        run(output)
    return output


@pytest.mark.parametrize(
    "suffix, how", [(".pt", "a flipped bit"), (".pt", "half a file"), (".pt", "nothing"), (".json", "no JSON")]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_chosen(broken, tmp_path, suffix, how):
    output, told = tmp_path / "run", Told()
    shutil.copytree(broken, output)
    damage(output / "checkpoints" / f"step_00000008{suffix}", how)
    settings = run_settings(SMOKE, {"processes": 1, "images": 8})
    for _ in range(2):  # the second time there is nothing to say
        assert RunFolder(output).newest(settings, told) == output / "checkpoints" / "step_00000004.pt"
    (said,) = told.sentences
    assert "step_00000008.pt: " in said and "the one before is used" in said and "\n" not in said
    assert (output / "checkpoints" / "step_00000008.pt.damaged").exists()  # set aside, not lost


def test_a_run_with_a_damaged_checkpoint_is_the_unbroken_one(whole, broken, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(broken, output)
    damage(output / "checkpoints" / "step_00000008.pt", "a flipped bit")
    run(output)
    assert_unbroken(output, whole)


def test_where_no_checkpoint_is_whole_nothing_starts_over_it(tmp_path):
    run(tmp_path, dataclasses.replace(SMOKE, total_phases=2, decay_phase=1))
    damage(tmp_path / "checkpoints" / "step_00000002.pt", "a flipped bit")
    before = (tmp_path / "generator.safetensors").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match="another --output"):
            run(tmp_path, dataclasses.replace(SMOKE, total_phases=2, decay_phase=1))
    assert (tmp_path / "generator.safetensors").read_bytes() == before


def test_other_settings_are_refused_with_the_difference(whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for changes, part in (
        ({"batch_size": 3}, "batch_size: 2, now 3"),
        ({"jitter": (0.5, 1.0)}, "jitter: [0.5, 2.0], now [0.5, 1.0]"),
        ({"seed": 1, "target": "ones"}, "target: mask, now ones; seed: 42, now 1"),
    ):
        with pytest.raises(UserError) as error:
            run(whole, dataclasses.replace(SMOKE, **changes))
        assert part in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="samples: null, now abc"):
        run(whole, same={"samples": "abc"})
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_weights_and_checkpoints_tell_their_step(whole):
    assert metadata(whole)["step"] == "10" and json.loads(metadata(whole)["config"])["total_phases"] == 10
    for step in (4, 8, 10):
        path = whole / "checkpoints" / f"step_{step:08}.pt"
        assert json.loads(path.with_suffix(".json").read_text())["step"] == checkpoints.read_state(path)["step"] == step


@pytest.mark.parametrize("compiled", [False, True])
def test_runs_of_before_go_on_where_a_setting_that_is_gone_had_the_value_that_is_left(broken, tmp_path, compiled):
    """Version 0.1 wrote whether torch.compile was used, and float32 numbers differ with it."""
    output = tmp_path / "run"
    shutil.copytree(broken, output)
    for path in (output / "checkpoints").glob("*.json"):
        facts = json.loads(path.read_text())
        facts["settings"]["compile"] = compiled
        path.write_text(json.dumps(facts))
    if not compiled:
        assert run(output).step == SMOKE.total_phases
        return
    with pytest.raises(UserError, match="compile: true, now null"):
        run(output)


def test_how_often_to_log_and_to_save_may_change(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 5)
        run(tmp_path)
    run(tmp_path, dataclasses.replace(SMOKE, log_every=3, checkpoint_every=1), keep=2)
    ours, theirs = (final_state(output) for output in (tmp_path, whole))
    assert all(same(ours[key], theirs[key]) for key in ("step", "births", "generator", "surrogates", "random"))
    assert RunFolder(tmp_path).steps() == [10, 9]


def test_a_finished_run_stays_as_it_is(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.pt")}
    told = Told()
    assert run(whole, resume=True, progress=told).step == SMOKE.total_phases
    (said,) = told.sentences
    assert said.endswith("10 of 10 steps are done; nothing is left to do")
    assert told.bars == [("training", 0, 0)]
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.pt")} == before


def test_resume_insists_on_a_run(tmp_path):
    with pytest.raises(UserError, match="start without --resume"):
        run(tmp_path, resume=True)


def test_weights_without_a_checkpoint_are_not_written_over(tmp_path):
    (tmp_path / "generator.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match="another folder"):
        run(tmp_path)
    assert (tmp_path / "generator.safetensors").read_bytes() == b"mine"


def test_two_runs_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOCK_WITHIN", 0.1)
    hold = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); "
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / ".training.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process trains into it"):
            run(tmp_path)
    finally:
        holder.communicate()
    assert not list((tmp_path / "checkpoints").iterdir())
    with FileLock(tmp_path / ".training.lock", timeout=0):
        pass


def test_a_checkpoint_of_somebody_else_is_one_line(whole, tmp_path):
    """Its sha256 is right and so are its settings; what it holds is not this run's."""
    shutil.copytree(whole, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    path = folder.path(folder.steps()[0])
    facts, state = json.loads(path.with_suffix(".json").read_text()), checkpoints.read_state(path)
    generator = state["generator"]
    name, weight = next(iter(generator["network"].items()))
    first = generator["optimizer"]["state"][0]
    wrong = {
        "no generator": {"generator": {}},
        "a text": {"generator": "x"},
        "expanded": {"generator": {**generator, "network": {name: torch.zeros(1).expand(10**6, 10**6)}}},
        "on meta": {"generator": {**generator, "network": {name: weight.to("meta")}}},
        "another size": {"generator": {**generator, "network": {**generator["network"], name: weight[:1]}}},
        "no memory": {"generator": {**generator, "optimizer": {}}},
        "other memory": {"generator": {**generator, "optimizer": {"state": {0: {**first, "exp_avg": torch.ones(5)}}}}},
        "steps": {"generator": {**generator, "steps": 1.5}},
        "no surrogates": {"surrogates": []},
        "step": {"step": "4"},
        "step below 0": {"step": -4},
        "losses": {"recent": [1]},
        "random": {"random": [[torch.zeros(9)]]},
    }
    for what, change in wrong.items():
        torch.save({**state, **change}, path)
        digest = checkpoints.sha256_of(path)
        path.with_suffix(".json").write_text(json.dumps({**facts, "sha256": digest}))
        with pytest.raises(UserError) as caught:
            run(tmp_path / "run")
        told = str(caught.value)
        assert str(path) in told and told.endswith("use another --output") and "\n" not in told, (what, told)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = tmp_path / "step.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step/data.pkl", pickle.dumps(Harm(), 2))
        archive.writestr("step/version", "3")
    with pytest.raises(UserError, match="step.pt: not a file of weights that can be read") as error:
        checkpoints.read_state(path)
    assert "\n" not in str(error.value) and not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_saves_and_leaves_and_the_same_command_goes_on(whole, tmp_path, monkeypatch, number, name):
    handler, told = signal.signal(number, signal.default_int_handler), Told()
    with monkeypatch.context() as patch:

        def signalled(training, *arguments):
            if training.step == 5:
                os.kill(os.getpid(), number)
            return take_step(training, *arguments)

        patch.setattr(loop, "take_step", signalled)
        outcome = run(tmp_path, progress=told)
    assert signal.signal(number, handler) is signal.default_int_handler  # given back
    assert (outcome.step, outcome.stopped_by) == (6, number)
    assert told.sentences[-1].startswith(f"stopped by {name} after step 6 of 10")
    assert told.bars == [("validation", 2, 2), ("training", 10, 6)]  # the log has a line after step 5
    assert RunFolder(tmp_path).steps() == [6, 4]
    assert final_state(tmp_path)["step"] == 6 and metadata(tmp_path)["step"] == "6"
    run(tmp_path)
    assert_unbroken(tmp_path, whole)


def test_a_loss_that_is_not_a_number_stops_and_tells_all(tmp_path, monkeypatch):
    def poisoned(training, views, phase):
        if training.step == 6:
            with monkeypatch.context() as patch:
                patch.setattr(steps, "mask_loss", lambda logits, *rest: logits.sum() * float("inf"))
                return take_step(training, views, phase)
        return take_step(training, views, phase)

    monkeypatch.setattr(loop, "take_step", poisoned)
    with pytest.raises(UserError) as error:
        run(tmp_path)
    saved = checkpoints.read_state(tmp_path / "failed_step_00000006_process_0.pt")
    assert "step 6: the surrogate's loss is" in str(error.value) and "\n" not in str(error.value)
    names = {sample.name for sample in made_samples()}
    assert (
        len(saved["names"]) == 2
        and set(saved["names"]) <= names
        and all(name in str(error.value) for name in saved["names"])
    )
    assert saved["pixels"].shape == (2, 4, 64, 64) and saved["step"] == 6
    assert all(value.isfinite().all() for value in saved["surrogates"][0]["network"].values())
    assert RunFolder(tmp_path).steps() == [4]


def test_the_log_shows_both_losses_and_the_gap(whole):
    found = lines(whole)
    assert [line["step"] for line in found] == [5, 10]
    assert all(
        np.isfinite(line[key])
        for line in found
        for key in ("surrogate_loss", "generator_loss", "surrogate_noised", "surrogate_clean")
    )
    assert found[0]["surrogate_noised"] != found[0]["surrogate_clean"]


def test_only_the_last_checkpoints_stay(tmp_path):
    run(tmp_path, dataclasses.replace(SMOKE, total_phases=5, decay_phase=5, checkpoint_every=1), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000004.json",
        "step_00000004.pt",
        "step_00000005.json",
        "step_00000005.pt",
    ]
    with pytest.raises(UserError, match="--keep 0"):
        run(tmp_path, keep=0)


def test_pretrained_weights_that_the_settings_ask_for_must_be_named(tmp_path):
    for field, option in (("generator_start=sam", "--sam"), ("surrogate_start=mae", "--mae")):
        name, value = field.split("=")
        with pytest.raises(UserError, match=f"{field}: .*{option}"):
            run(tmp_path / name, dataclasses.replace(SMOKE, **{name: value}))
    for settings, file, part in (
        (["generator_start=random"], "--sam", "contradicts --set generator_start=random"),
        (["surrogate_start=scratch"], "--mae", "contradicts --set surrogate_start=scratch"),
    ):
        with pytest.raises(UserError, match=part):
            train_options._with_starts(
                train_options._overrides(settings),
                *[Path("w.pth") if file == name else None for name in ("--sam", "--mae")],
            )
    assert train_options._with_starts({}, Path("a"), Path("b")) == {"generator_start": "sam", "surrogate_start": "mae"}


def test_pretrained_weights_fill_what_is_new_and_nothing_else(tmp_path, monkeypatch):
    """Also surrogates that start afresh later; not the generator of a run that goes on."""
    filled = []

    def fill(network):
        filled.append(type(network).__name__)
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, 0.01)

    config = dataclasses.replace(
        SMOKE, generator_start="sam", surrogate_start="mae", surrogates=("compact",), surrogate_lifetime=3
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 5)
        train(config, made_samples(), tmp_path, starts=Starts(fill, fill), options=OPTIONS)
    assert filled == [
        "CompactGenerator",
        "CompactSurrogate",
        "CompactSurrogate",
    ]  # the second surrogate after step 4 (its third)
    train(config, made_samples(), tmp_path, starts=Starts(fill, fill), options=OPTIONS)
    assert filled.count("CompactGenerator") == 1 and filled.count("CompactSurrogate") > 2


def test_epochs_end_with_a_checkpoint(tmp_path):
    config = dataclasses.replace(SMOKE, steps_per_phase=0, total_phases=3, decay_phase=3, checkpoint_every=100)
    run(tmp_path, config)  # 8 images, 2 a step
    assert RunFolder(tmp_path).steps() == [12, 8, 4]


@pytest.mark.parametrize("threads", ["-1", "100000"])
def test_threads_that_no_machine_has_are_one_line(tmp_path, capsys, threads):
    assert main(["train", "--data-root", str(tmp_path), "--output", str(tmp_path / "run"), "--threads", threads]) == 2
    assert capsys.readouterr().err == f"unseg: error: --threads {threads}: give a whole number from 0 to 1,024\n"


def test_other_files_under_the_same_names_are_other_data(tmp_path: Path) -> None:
    """A training that goes on compares names and sizes of all its files, without reading them."""
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    image.write_bytes(b"photograph")
    mask.write_bytes(b"mask")
    pair = Pair("a", str(image), (str(mask),))
    before = train_options.described(pair)
    mask.write_bytes(b"MASK")
    assert train_options.described(pair) == before
    mask.write_bytes(b"another")
    assert train_options.described(pair) != before
