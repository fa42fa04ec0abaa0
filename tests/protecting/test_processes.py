"""unseg protect --processes: the same bytes for any number, and none of them outlives the run."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import unseg.protecting.processes
from tests.support import full_disk
from tests.support.acting_progress import Acting
from tests.support.annotation_sets import BUILDERS, build, photographs
from tests.support.fake_generator import loaded
from tests.support.own_processes import children, is_alive
from tests.support.slow_generator import loaded as slow_loaded
from unseg import cli
from unseg.data.annotations import ObjectRule, open_annotations
from unseg.errors import UserError
from unseg.protecting.annotation_objects import AnnotationObjects
from unseg.protecting.manifest import Entry, read_manifest
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.pipeline import Result
from unseg.protecting.processes import _Parts
from unseg.protecting.run import ProtectSettings, protect
from unseg.storage.files import TEMPORARY, files_under

SETTINGS = ProtectSettings(device="cpu", workers=1, unmasked="copy")
TESTS = Path(__file__).resolve().parents[1]


def write_photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


# --- the work is shared out


@pytest.mark.parametrize(("count", "processes"), [(0, 2), (1, 2), (5, 2), (200, 3), (1000, 7)])
def test_parts_hold_every_job_once(count: int, processes: int) -> None:
    parts, handed = _Parts(iter(range(count)), count, processes), []
    while part := parts.next():
        assert len(part) <= 64
        handed += part
    assert handed == list(range(count))


@pytest.mark.parametrize("name", BUILDERS)
def test_annotations_reach_other_processes(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    opened = OpenAnnotations(open_annotations(built.path, built.images), built.path, built.images)
    objects = AnnotationObjects(opened, ObjectRule(), "x", 10**6)
    there = pickle.loads(pickle.dumps(objects))
    for image, (pixels, _) in photographs().items():
        here, elsewhere = (part.opened.reader.read(built.name(image), *pixels.shape[:2]) for part in (objects, there))
        assert np.array_equal(here.object_mask(ObjectRule()), elsewhere.object_mask(ObjectRule()))


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes_also_after_they_were_killed(tmp_path: Path) -> None:
    """With annotations; one image is broken, some are not named, one has no object."""
    built, out = build("coco compressed", tmp_path / "set"), tmp_path / "out"
    for number in range(12):
        Pillow.fromarray(photographs()["a.png"][0][number:]).save(built.images / f"not_named_{number:02}.png")
    (built.images / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = {"annotations": built.path, "generator": slow_loaded()}
    protect([built.images], tmp_path / "one", SETTINGS, **given)

    def kill() -> None:  # both: which one still has images to do depends on how fast they started
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(UserError, match="process .* was killed by SIGKILL before its images were done") as error:
        protect([built.images], out, SETTINGS, processes=2, progress=Acting(1, kill), **given)
    assert "\n" not in str(error.value) and multiprocessing.active_children() == []
    finished = check_what_is_left(out)
    summary = protect([built.images], out, SETTINGS, processes=3, **given)
    assert sorted(entry.status for entry in summary.entries) == ["copied"] * 13 + ["failed"] + ["protected"] * 2
    assert summary.kept == finished and multiprocessing.active_children() == []
    assert tree(out) == tree(tmp_path / "one")


@pytest.mark.slow
def test_a_disk_that_takes_nothing_more_of_a_process_ends_all_in_one_line(tmp_path: Path) -> None:
    """Full after some images, then read-only at once; then the same command with one process."""
    photos, out = write_photographs(tmp_path / "photos", 10), tmp_path / "out"
    protect([photos], tmp_path / "whole", SETTINGS, generator=loaded(), whole_image=True)
    for room, error in ((15_000, errno.ENOSPC), (0, errno.EROFS)):
        with pytest.raises(
            UserError, match=f"--out .*out: cannot be written: {os.strerror(error)}; what is finished is kept"
        ) as raised:
            protect([photos], out, SETTINGS, generator=full_disk.loaded(room, error), processes=2, whole_image=True)
        assert "\n" not in str(raised.value) and multiprocessing.active_children() == []
        finished = check_what_is_left(out)
        assert 0 < finished < 10
    assert protect([photos], out, SETTINGS, generator=loaded(), whole_image=True).kept == finished
    assert tree(out) == tree(tmp_path / "whole")


# --- how it ends

SLOW = """
import sys, time
sys.path.insert(0, {root!r})
import unseg.protecting.run
from tests.support import slow_generator
from unseg import cli

if __name__ == "__main__":
    run = unseg.protecting.run.protect
    unseg.protecting.run.protect = lambda *given, **options: run(*given, **options, generator=slow_generator.loaded())
    sys.exit(cli.main(sys.argv[1:]))
"""


class Running:
    """The real command with a slow generator in two workers, in the middle of its images."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        (folder / "run.py").write_text(SLOW.format(root=str(TESTS.parent)))
        command = [
            sys.executable,
            "run.py",
            "protect",
            "--whole-image",
            "photos",
            "--out",
            "out",
            "--device",
            "cpu",
            "--workers",
            "1",
            "--processes",
            "2",
            "--quiet",
        ]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while self.process.poll() is None and len(list(self.out.glob("*.png"))) < 4:
            time.sleep(0.02)
        assert self.process.poll() is None, self.process.stderr.read()
        self.workers = children(self.process.pid)
        assert len(self.workers) >= 2

    def ended(self) -> str:
        """What it said last; nothing of it is left."""
        started = time.monotonic()
        error = self.process.communicate(timeout=60)[1]
        assert time.monotonic() - started < 20 and "Traceback" not in error, error
        wait_for_the_end(self.workers)
        return error.strip()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux's book of processes")
def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(tmp_path: Path) -> None:
    photos = write_photographs(tmp_path / "photos", 40)
    running = Running(tmp_path)
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: every process gets it
    assert running.ended() == "unseg: interrupted; what is finished is kept, run the same command again to go on"
    assert running.process.returncode == 130
    finished = check_what_is_left(running.out)
    assert finished >= 2
    summary = protect([photos], running.out, SETTINGS, generator=loaded(), whole_image=True)
    assert summary.exit_code == 0 and summary.kept == finished
    protect([photos], tmp_path / "whole", SETTINGS, generator=loaded(), whole_image=True)
    assert tree(running.out) == tree(tmp_path / "whole")


ORPHAN = """
import multiprocessing, sys, time
from unseg.compute.stopping import end_with_the_parent

def work(connection):
    end_with_the_parent()
    connection.send("ready")
    time.sleep(60)

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs,))
    process.start()
    ours.recv()
    print(process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux's book of processes")
def test_a_worker_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = subprocess.Popen(
        [sys.executable, "orphan.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )
    worker = int(parent.stdout.readline())
    assert is_alive(worker)
    parent.kill()
    parent.communicate()
    wait_for_the_end([worker])


def wait_for_the_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, processes))


def check_what_is_left(out: Path) -> int:
    """How many images are on record as finished: all that have a file but those that the workers had in hand."""
    assert not [path for path in files_under(out) if TEMPORARY.fullmatch(path.name)]
    finished = [entry for entry in read_manifest(out).entries.values() if entry.status == "protected"]
    assert all((out / entry.output).is_file() for entry in finished)
    assert len(list(out.glob("*.png"))) - len(finished) <= 12
    return len(finished)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_processes_on_gpus_write_the_bytes_of_one(tmp_path: Path) -> None:
    """The shipped generator; more processes than GPUs share them."""
    photos, settings = write_photographs(tmp_path / "photos", 12), ProtectSettings(device="cuda", workers=1)
    for processes in (1, 2):
        assert (
            protect([photos], tmp_path / str(processes), settings, processes=processes, whole_image=True).exit_code == 0
        )
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


# --- options


def test_more_processes_than_images_are_as_many_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def results(plan: object, processes: int, jobs: object, count: int) -> object:
        started.append(processes)
        yield from (Result(Entry(*job.key, "protected")) for job in jobs)

    monkeypatch.setattr(unseg.protecting.processes, "results", results)
    for count, (folder, processes) in zip((1, 3), (("one", 5), ("three", 5)), strict=True):
        protect(
            [write_photographs(tmp_path / folder, count)],
            tmp_path / f"{folder} out",
            SETTINGS,
            processes=processes,
            generator=loaded(),
            whole_image=True,
        )
    assert started == [3]  # a single image is protected by the one process that is there


def test_numbers_of_processes_and_gpus_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = write_photographs(tmp_path / "photos", 1)
    with pytest.raises(UserError, match="--processes 0: give 1 or more"):
        protect([photos], tmp_path / "out", SETTINGS, processes=0, generator=loaded(), whole_image=True)
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(tmp_path / "out"), "--gpus", "99"]) == 2
    assert "--gpus 99: torch sees" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_worker_whose_parent_is_gone_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseg.protecting.processes, "end_with_the_parent", lambda: None)
    parents, workers = multiprocessing.Pipe()
    parents.close()
    unseg.protecting.processes._work(workers)  # an EOFError was printed with its traceback
