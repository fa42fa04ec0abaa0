"""unseg protect --processes: the same bytes for any number, and none of them outlives the run."""
from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg.shards
from annotation_sets import BUILDERS, build, photographs
from fake_generator import loaded
from unseg import cli
from unseg.data.annotations import ObjectRule, open_annotations
from unseg.errors import UserError
from unseg.files import TEMPORARY, files_under
from unseg.manifest import MANIFEST, Entry, read_manifest
from unseg.objects import AnnotatedImages, OpenAnnotations
from unseg.pipeline import Result
from unseg.protect import ProtectSettings, protect
from unseg.shards import _Parts

SETTINGS = ProtectSettings(device="cpu", workers=1)
TESTS = Path(__file__).resolve().parent


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
    objects = AnnotatedImages(opened, ObjectRule(), "x", 10**6)
    there = pickle.loads(pickle.dumps(objects))
    for image, (pixels, _) in photographs().items():
        masks = [part.opened.reader.read(built.name(image), *pixels.shape[:2]).object_mask(ObjectRule()) for part in (objects, there)]
        assert np.array_equal(*masks)


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path) -> None:
    """With annotations; one image is broken, one without an object."""
    built = build("coco compressed", tmp_path / "set")
    for number in range(4):
        Pillow.fromarray(photographs()["a.png"][0][number:]).save(built.images / f"not_named_{number}.png")
    (built.images / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    trees = []
    for processes in (1, 2, 3):
        out = tmp_path / f"out{processes}"
        summary = protect([built.images], out, SETTINGS, annotations=built.path, processes=processes, generator=loaded())
        assert sorted(entry.status for entry in summary.entries) == ["copied"] * 5 + ["failed"] + ["protected"] * 2
        trees.append(tree(out))
    assert all(found == trees[0] for found in trees[1:]) and MANIFEST in trees[0]
    assert protect([built.images], tmp_path / "out2", SETTINGS, annotations=built.path, processes=2, generator=loaded()).kept == 2


# --- how it ends

SLOW = """
import signal, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import slow_generator, unseg.protect
from unseg import cli

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    unseg.protect.load_generator = lambda which, device: None
    run = unseg.protect.protect
    unseg.protect.protect = lambda *given, **options: run(*given, **options, generator=slow_generator.loaded())
    sys.exit(cli.main(sys.argv[1:]))
"""


class Running:
    """The real command with a slow generator in two workers, in the middle of its images."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        (folder / "run.py").write_text(SLOW.format(tests=str(TESTS), root=str(TESTS.parent)))
        command = [sys.executable, "run.py", "protect", "photos", "--out", "out", "--device", "cpu", "--workers", "1",
                   "--processes", "2", "--quiet"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": "1"})
        before = len(list(self.out.glob("*.png")))
        while self.process.poll() is None and len(list(self.out.glob("*.png"))) < before + 4:
            time.sleep(0.02)
        assert self.process.poll() is None, self.process.stderr.read()
        self.workers = children(self.process.pid)
        assert len(self.workers) >= 2

    def ended(self) -> str:
        """What it said last; nothing of it is left."""
        started = time.monotonic()
        error = self.process.communicate(timeout=60)[1]
        assert time.monotonic() - started < 20 and "Traceback" not in error, error
        deadline = time.monotonic() + 10
        while any(map(alive, self.workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, self.workers))
        return error.strip()


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that work: not multiprocessing's own tracker of resources."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == pid and "spawn_main" in command:
            found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux's book of processes")
def test_killed_workers_a_killed_parent_and_ctrl_c_end_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    photos = write_photographs(tmp_path / "photos", 40)
    running = Running(tmp_path)
    os.kill(running.workers[0], signal.SIGKILL)
    said = running.ended()
    assert running.process.returncode == 2 and "\n" not in said
    assert f"process {running.workers[0]} was killed by SIGKILL before its images were done" in said
    finished = check_what_is_left(running.out)

    running = Running(tmp_path)
    running.process.send_signal(signal.SIGINT)
    assert running.ended().endswith("run the same command again to go on") and running.process.returncode == 130
    assert check_what_is_left(running.out) >= finished

    running = Running(tmp_path)
    running.process.kill()
    running.ended()
    summary = protect([photos], running.out, SETTINGS, generator=loaded())
    assert summary.exit_code == 0 and summary.kept >= finished
    protect([photos], tmp_path / "whole", SETTINGS, generator=loaded())
    assert tree(running.out) == tree(tmp_path / "whole")


def check_what_is_left(out: Path) -> int:
    """How many images are on record as finished: all that have a file but those that the workers had in hand."""
    assert not [path for path in files_under(out) if TEMPORARY.fullmatch(path.name)]
    finished = [entry for entry in read_manifest(out).entries.values() if entry.status == "protected"]
    assert all((out / entry.output).is_file() for entry in finished)
    assert len(list(out.glob("*.png"))) - len(finished) <= 12
    return len(finished)


# --- options


def test_more_processes_than_images_are_as_many_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def results(plan: object, processes: int, jobs: object, count: int) -> object:
        started.append(processes)
        yield from (Result(Entry(*job.key, "protected")) for job in jobs)

    monkeypatch.setattr(unseg.shards, "results", results)
    for count, (folder, processes) in zip((1, 3), (("one", 5), ("three", 5))):
        protect([write_photographs(tmp_path / folder, count)], tmp_path / f"{folder} out", SETTINGS, processes=processes,
                generator=loaded())
    assert started == [3]  # a single image is protected by the one process that is there


def test_numbers_of_processes_and_gpus_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = write_photographs(tmp_path / "photos", 1)
    with pytest.raises(UserError, match="--processes 0: give 1 or more"):
        protect([photos], tmp_path / "out", SETTINGS, processes=0, generator=loaded())
    assert cli.main(["protect", str(photos), "--out", str(tmp_path / "out"), "--gpus", "99"]) == 2
    assert "--gpus 99: torch sees" in capsys.readouterr().err and not (tmp_path / "out").exists()
