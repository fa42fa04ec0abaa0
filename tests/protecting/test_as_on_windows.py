"""The light path without what POSIX alone has: protect, resume, verify, locks and names, as far as Linux shows it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from unseg.errors import UserError
from unseg.protecting import outputs
from unseg.protecting.manifest import MANIFEST, Entry, relative
from unseg.protecting.outputs import plan_outputs
from unseg.storage import files, locks
from unseg.storage.files import is_link, remove_temporaries, write_bytes
from unseg.storage.locks import LOCK_FILE, SILENCE, FolderLock

ROOT = Path(__file__).resolve().parents[2]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for Windows looks into /proc")


def unseg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "tests.support.as_on_windows", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="cp1252")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("con.png", "a:b.jpg", "sub/写真.bmp", "x ..png"):
        for root in ("photos", "masks"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 61, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / "photos" / name)
        mask = np.zeros((40, 61), np.uint8)
        mask[5:30, 20:50] = 255
        Pillow.fromarray(mask).save((tmp_path / "masks" / name).with_suffix(".png"))
    (tmp_path / "photos" / "a:b.jpg").rename(tmp_path / "photos" / "ab:c.jpg")
    (tmp_path / "masks" / "a:b.png").rename(tmp_path / "masks" / "ab:c.png")
    return tmp_path


@on_linux
def test_protect_go_on_and_verify_without_posix(folder: Path) -> None:
    command = ("protect", "photos", "--masks", "masks", "--out", "out", "--processes", "1")
    made = unseg(folder, *command, "--json")
    assert (made.returncode, made.stderr.count("Traceback")) == (0, 0), made.stderr
    notes = {note["input"]: note["note"] for note in json.loads(made.stdout)["notes"]}
    assert notes == {
        "con.png": "named con_.png because Windows takes no file of the name con.png",
        "ab:c.jpg": "named ab_c.png because Windows takes no file of the name ab:c.jpg",
    }
    lines = [json.loads(line) for line in (folder / "out" / MANIFEST).read_text(encoding="utf-8").splitlines()[1:]]
    assert sorted(line["output"] for line in lines) == ["ab_c.png", "con_.png", "sub/写真.png", "x ..png"]
    assert not (folder / "out" / LOCK_FILE).exists()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = unseg(folder, *command)
    assert again.returncode == 0 and "4 of them by an earlier run" in " ".join(again.stdout.replace("|", " ").split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    proved = unseg(folder, "verify", "out")
    assert (proved.returncode, "Traceback" in proved.stderr) == (0, False), proved.stdout + proved.stderr


@on_linux
@pytest.mark.parametrize(
    "arguments", [("--help",), ("datasets",), ("protect", "nowhere", "--out", "o"), ("web", "--key", "no")]
)
def test_other_commands_without_posix(folder: Path, arguments: tuple[str, ...]) -> None:
    done = unseg(folder, *arguments)
    assert "Traceback" not in done.stderr and done.returncode in (0, 2), done.stderr
    assert "Error" not in done.stderr.replace("unseg: error", ""), done.stderr


@on_linux
def test_stopped_by_a_signal_without_posix(folder: Path) -> None:
    code = (
        "from tests.support.as_on_windows import without_posix; without_posix()\n"
        "import signal, sys\nfrom unseg.compute.interrupts import in_good_order, kept_from_children\n"
        "try:\n    with in_good_order(), kept_from_children():\n        signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 7


# --- locks where the system has none that are taken here


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "has_fcntl", False)
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(outputs, "WINDOWS", True)


def left_behind(folder: Path, age: float) -> Path:
    folder.mkdir()
    path = folder / LOCK_FILE
    path.write_text(json.dumps({"pid": 12345, "host": socket.gethostname()}))
    os.utime(path, (time.time() - age,) * 2)
    return path


@on_linux
def test_dead_runs_lock_is_taken_over_while_it_is_open(tmp_path: Path) -> None:
    lock = left_behind(tmp_path / "out", SILENCE + 5)
    code = (
        "from tests.support.as_on_windows import with_windows_files, without_posix\n"
        "without_posix()\nwith_windows_files()\n"
        "import os\nfrom pathlib import Path\nfrom unseg.storage import files, locks\n"
        f"files.WINDOWS, out = True, Path({str(tmp_path / 'out')!r})\n"
        "with locks.FolderLock(out) as lock:\n"
        "    print(lock.stale.pid, os.listdir(out), locks.holder_of(out).pid == os.getpid())\n"
        "    lock.held.check()\n"
        "print(os.listdir(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"12345 ['{LOCK_FILE}'] True\n[]\n", "")
    assert not lock.exists()


def test_lock_of_a_run_that_may_live_is_refused_and_says_for_how_long(tmp_path: Path, windows: None) -> None:
    lock = left_behind(tmp_path / "out", 30)
    before = lock.read_bytes()
    with pytest.raises(UserError, match=r"process 12345 .*after 120 s without a sign of life it is taken for dead"):
        FolderLock(tmp_path / "out").__enter__()
    assert lock.read_bytes() == before and os.listdir(tmp_path / "out") == [LOCK_FILE]


def test_of_two_that_take_over_one_does(tmp_path: Path, windows: None) -> None:
    left_behind(tmp_path / "out", SILENCE + 5)
    with FolderLock(tmp_path / "out") as lock:
        assert lock.stale is not None and lock.stale.pid == 12345
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing there"):
            FolderLock(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path / "out") == []


# --- files and names


def test_file_that_is_open_elsewhere_is_waited_for(
    tmp_path: Path, windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refusals = os.replace, iter([True, True, False])

    def refusing(source: Path, target: Path) -> None:
        if next(refusals):
            raise PermissionError(13, "used by a virus scanner")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x" and os.listdir(tmp_path) == ["a"]
    refusals = iter([True] * 99)
    monkeypatch.setattr(files, "HELD_WAIT", 0)
    with pytest.raises(PermissionError):
        write_bytes(tmp_path / "b", b"x")


def test_temporary_file_that_is_open_elsewhere_stays(
    tmp_path: Path, windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".unseg-0123456789abcdef.tmp").touch()

    def refusing(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "used by another process")

    monkeypatch.setattr(Path, "unlink", refusing)
    remove_temporaries(tmp_path)
    monkeypatch.setattr(files, "WINDOWS", False)
    with pytest.raises(PermissionError):
        remove_temporaries(tmp_path)


def test_junction_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Junction:
        st_mode, st_reparse_tag = os.lstat(tmp_path).st_mode, 0xA0000003

    assert not is_link(tmp_path)
    monkeypatch.setattr(os, "lstat", lambda path: Junction)
    assert is_link(tmp_path)


def test_folder_on_another_drive_is_named_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_drive(path: str, start: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    assert relative(tmp_path / "photos", tmp_path / "out") == "../photos"
    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert relative(tmp_path / "photos", tmp_path / "out") == (tmp_path / "photos").as_posix()


def test_copies_have_names_that_windows_takes(tmp_path: Path, windows: None) -> None:
    assert plan_outputs([("con.png", ".")], tmp_path / "out", "png", {})[0].copy == "con_.png"


def planned(tmp_path: Path, *names: str, earlier: dict[str, str] | None = None) -> dict[str, str]:
    keys = sorted((name, "../in") for name in names)
    before = {
        (name, "../in"): Entry(name, "../in", "protected", output=output) for name, output in (earlier or {}).items()
    }
    plans = plan_outputs(keys, tmp_path / "out", "png", before)
    return {name: plan.output for (name, _), plan in zip(keys, plans, strict=True)}


def test_names_stay_apart_after_they_were_changed_for_windows(tmp_path: Path, windows: None) -> None:
    assert planned(tmp_path, "photo:1.png", "photo_1.png", "PHOTO?1.png") == {
        "PHOTO?1.png": "PHOTO_1.png",
        "photo:1.png": "photo_1.png.png",
        "photo_1.png": "photo_1.png.2.png",
    }
    assert planned(tmp_path, "photo:1.png", earlier={"photo:1.png": "first.png"}) == {"photo:1.png": "first.png"}


def test_two_forms_of_a_letter_are_kept_apart_as_macos_takes_them_for_one_name(tmp_path: Path) -> None:
    one, two = "caf\u00e9.png", "cafe\u0301.png"
    assert planned(tmp_path, one, two) == {two: two, one: f"{one}.png"}


def test_names_stay_as_they_are_elsewhere(tmp_path: Path) -> None:
    assert planned(tmp_path, "con.png", "a:b.png", "x .") == {
        "con.png": "con.png",
        "a:b.png": "a:b.png",
        "x .": "x ..png",
    }


@pytest.mark.parametrize("name", ["c:a.png", "C:/a.png", "a\\..\\..\\b.png"])
def test_ways_out_are_refused_on_windows(tmp_path: Path, windows: None, name: str) -> None:
    with pytest.raises(UserError, match="leads out of it"):
        planned(tmp_path, name)
