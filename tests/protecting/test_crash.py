"""Runs that are cut off: killed, out of disk, refused by a read-only disk; and runs that meet each other.

Every one of them must go on with the same command to the bytes of an unbroken run, and lose nothing that was finished.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg.protecting.manifest
import unseg.protecting.run
import unseg.storage.files
import unseg.storage.locks
from tests.support.acting_progress import Acting
from tests.support.fake_generator import loaded
from tests.support.full_disk import Disk
from tests.support.told_progress import Told
from unseg import cli
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.header import check_same_settings
from unseg.protecting.manifest import MANIFEST, Manifest, read_manifest
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.files import TEMPORARY, files_under
from unseg.storage.locks import LOCK_FILE, FolderLock, holder_of

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")
TESTS = Path(__file__).resolve().parents[1]
HOST = socket.gethostname()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photographs of some 10 kB each, in two folders; one without an object, one broken."""
    random = np.random.default_rng(0)
    for number in range(7):
        for folder in ("photos", "masks"):
            path = tmp_path / folder / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (60, 60, 3), dtype=np.uint8)
            Pillow.fromarray(pixels if folder == "photos" else np.full((60, 60), (number != 3) * 255, np.uint8)).save(
                path
            )
    (tmp_path / "photos" / "a" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "photos"


def run(photos: Path, out: str = "out") -> Summary:
    return protect([photos], photos.parent / out, SETTINGS, masks=photos.parent / "masks", generator=loaded())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


@pytest.fixture
def unbroken(photos: Path) -> dict[str, bytes]:
    summary = run(photos, "unbroken")
    assert [len(summary.of(status)) for status in ("protected", "copied", "failed")] == [5, 1, 1]
    return tree(photos.parent / "unbroken")


# --- kills


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_killed_runs_end_as_the_unbroken_one() -> None:
    """10 kills; `python tests/support/kill_runs.py` makes 200. It forks before torch has threads."""
    command = [
        sys.executable,
        str(TESTS / "support" / "kill_runs.py"),
        "--kills",
        "10",
        "--photographs",
        "40",
        "--seed",
        "3",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr + result.stdout
    figures = json.loads(result.stdout)
    assert figures["kills"] == 10 and figures["outputs_completed"] >= 1 and figures["stale_locks"] >= 5


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.parametrize(
    ("what", "kind"),
    [("protect", "kill"), ("protect", "full"), ("edition", "kill"), ("edition", "full"), ("edition", "read-only")],
)
def test_a_run_that_stops_at_a_step_goes_on(what: str, kind: str) -> None:
    """Every 23rd step; `python tests/support/every_stop.py` stops at each."""
    command = [sys.executable, str(TESTS / "support" / "every_stop.py"), what, kind, "--part", "23"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr + result.stdout
    figures = json.loads(result.stdout)
    assert figures["stops"] >= 2 and (figures["refused_in_one_line"] == 0) == (kind == "kill")


# --- disks that take nothing more


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=["full", "read-only", "quota"])
@pytest.mark.parametrize("room", [0, 300, 700, 1500, 15_000, 40_000, 60_000])
def test_a_disk_that_takes_nothing_more_ends_the_run_in_one_line(
    photos: Path, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, room: int, error: int
) -> None:
    disk = Disk(room, error)
    for module in (unseg.storage.files, unseg.protecting.manifest):
        monkeypatch.setattr(module, "open", disk.open, raising=False)
    with pytest.raises(UserError, match=rf"--out .*out: .*{os.strerror(error)}") as raised:
        run(photos)
    assert "\n" not in str(raised.value)
    out = photos.parent / "out"
    found = tree(out) if out.exists() else {}
    assert not any(TEMPORARY.fullmatch(Path(name).name) for name in found) and LOCK_FILE not in found
    for name, content in found.items():
        assert name == MANIFEST or content == unbroken[name]
    monkeypatch.undo()
    finished = (
        {entry.key for entry in read_manifest(out).entries.values() if entry.status == "protected"} if found else set()
    )
    summary = run(photos)
    assert summary.kept >= len(finished)
    assert tree(out) == unbroken


def mounted(folder: Path, options: str) -> bool:
    """A small file system in memory on `folder`; False where we may not."""
    folder.mkdir(exist_ok=True)
    return (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 kB: less than the outputs need."""
    disk = tmp_path / "disk"
    if not sys.platform.startswith("linux") or not mounted(disk, "size=48k"):
        pytest.skip("no right to mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_real_full_disk_and_a_real_read_only_one(photos: Path, unbroken: dict[str, bytes], small_disk: Path) -> None:
    with pytest.raises(UserError, match="No space left on device; what is finished is kept"):
        run(photos, "disk/out")
    half = tree(small_disk / "out")
    assert 1 < len(half) < len(unbroken)
    remount(small_disk, "ro")
    with pytest.raises(UserError, match="disk/out: cannot be written: Read-only file system"):
        run(photos, "disk/out")
    assert tree(small_disk / "out") == half
    remount(small_disk, "rw,size=1m")
    run(photos, "disk/out")
    assert {name: data for name, data in tree(small_disk / "out").items() if name != MANIFEST} == {
        name: data for name, data in unbroken.items() if name != MANIFEST
    }  # its names of folders are other ones


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files")
def test_what_reaches_the_disk_in_which_order(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power relies on claims before files, content before its name, all names before the end."""
    events: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def renamed(source: object, target: object) -> None:
        events.append(("rename", str(source)))
        rename(source, target)
        events.append(("name", str(target)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    run(photos)
    out = photos.parent / "out"
    manifest, outputs = str(out / MANIFEST), [str(path) for path in files_under(out) if path.name != MANIFEST]
    assert len(outputs) == 6
    for number, (event, name) in enumerate(events):
        if event == "rename":
            assert ("sync", name) in events[:number]
    named = [number for number, (event, name) in enumerate(events) if event == "name" and name in outputs]
    assert len(named) == 6 and events[: named[0]].count(("sync", manifest)) == 1  # the claims
    last = max(number for number, event in enumerate(events) if event == ("name", manifest))
    assert last > named[-1]
    for folder in ("a", "b"):
        assert ("sync", str(out / folder)) in events[named[-1] : last]
    assert ("sync", str(out)) in events[last:]


def test_a_temporary_file_of_a_killed_runs_worker_is_removed_too(photos: Path, unbroken: dict[str, bytes]) -> None:
    """A worker ends a moment after its parent, and may begin a file while the next run is at work already."""

    out, masks = photos.parent / "out", photos.parent / "masks"
    late = Acting(1, (out / "a" / f".unseg-{'0' * 16}.tmp").touch)
    protect([photos], out, SETTINGS, masks=masks, generator=loaded(), progress=late)
    assert tree(photos.parent / "out") == unbroken


# --- two runs


def test_a_second_run_is_refused_with_the_first_ones_name(photos: Path) -> None:
    out = photos.parent / "out"
    with FolderLock(out):
        for work in (lambda: run(photos), lambda: FolderLock(out).__enter__()):
            with pytest.raises(
                UserError, match=rf"--out .*out: process {os.getpid()} on {HOST} is writing there; wait until"
            ):
                work()
        assert holder_of(out).pid == os.getpid()
        (out / MANIFEST).write_text('{"format": 2, "settings": {}}\n')
        with pytest.raises(UserError, match=f"process {os.getpid()} on {HOST} is writing there; wait until"):
            verify(out)
        (out / MANIFEST).unlink()
    assert holder_of(out) is None and list(out.iterdir()) == []
    run(photos)


def killed_holder(folder: Path) -> int:
    """The process id of a process that took the lock and was killed."""
    code = (
        "import sys, time; from pathlib import Path; from unseg.storage.locks import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, cwd=TESTS.parent)
    assert process.stdout.readline() == b"held\n"
    assert holder_of(folder).pid == process.pid
    with pytest.raises(UserError, match=f"process {process.pid} on {HOST} is writing there"):
        FolderLock(folder).__enter__()
    process.kill()
    process.communicate()
    return process.pid


def test_a_killed_runs_lock_is_known_as_stale(photos: Path, unbroken: dict[str, bytes]) -> None:
    out = photos.parent / "out"
    pid = killed_holder(out)
    assert (out / LOCK_FILE).exists() and holder_of(out) is None
    told = Told()
    protect([photos], out, SETTINGS, masks=photos.parent / "masks", generator=loaded(), progress=told)
    assert f"note: an earlier run (process {pid} on {HOST}) was cut off; this one goes on from there" in told.sentences
    assert tree(out) == unbroken


@pytest.mark.parametrize(
    ("content", "age", "refused"),
    [
        ({"pid": 7, "host": "another-host"}, 5, True),
        ({"pid": 7, "host": "another-host"}, 500, False),
        ({"pid": os.getpid(), "host": HOST}, 5, False),
        ("", 5, False),
        ("{", 5, False),
        ("[]", 5, False),
    ],
)
def test_who_is_taken_for_alive(tmp_path: Path, content: object, age: float, refused: bool) -> None:
    """On this host the system's lock decides, which nobody holds here; on another the last sign of life."""
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps(content) if isinstance(content, dict) else content)
    os.utime(path, (time.time() - age,) * 2)
    if refused:
        with pytest.raises(UserError, match=r"process 7 on another-host is writing there \(after 120 s without a sign"):
            FolderLock(tmp_path).__enter__()
        assert holder_of(tmp_path).host == "another-host" and path.exists()
    else:
        assert holder_of(tmp_path) is None
        with FolderLock(tmp_path) as lock:
            assert (lock.stale is None) == (content == "")
        assert not path.exists()


def test_the_holder_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseg.storage.locks, "BEAT", 0.02)
    with FolderLock(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        for _ in range(500):
            if (tmp_path / LOCK_FILE).stat().st_mtime > 1:
                return
            time.sleep(0.01)
    raise AssertionError("no sign of life in 5 s")


def test_without_flock_the_sign_of_life_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseg.storage.locks, "has_fcntl", False)
    with FolderLock(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on {HOST} is writing there"):
        FolderLock(tmp_path).__enter__()
    with FolderLock(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our opening and locking it, its holder may end and remove it: ours would be a lock without a name."""
    lock, removed = unseg.storage.locks.lock_descriptor, []

    def late(descriptor: int, *, blocking: bool) -> bool:
        if not removed:
            removed.append((tmp_path / LOCK_FILE).unlink())
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", late)
    with FolderLock(tmp_path):
        assert removed and (tmp_path / LOCK_FILE).exists()
        with pytest.raises(UserError):
            FolderLock(tmp_path).__enter__()


@pytest.mark.parametrize(("age", "refused"), [(5, True), (500, False)])
def test_on_a_disk_without_locks_the_sign_of_life_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, refused: bool
) -> None:
    def without(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", without)
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 7, "host": HOST}))
    os.utime(tmp_path / LOCK_FILE, (time.time() - age,) * 2)
    assert (holder_of(tmp_path) is not None) == refused
    if refused:
        with pytest.raises(UserError, match=f"process 7 on {HOST} is writing there"):
            FolderLock(tmp_path).__enter__()
    else:
        with FolderLock(tmp_path) as lock:
            assert lock.stale is not None and lock.stale.pid == 7


def test_a_look_at_the_lock_keeps_no_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` takes the system's lock for a moment to learn whether anybody has it."""
    lock, tries = unseg.storage.locks.lock_descriptor, []

    def busy_at_first(descriptor: int, *, blocking: bool) -> bool:
        tries.append(descriptor)
        return len(tries) > 1 and lock(descriptor, blocking=blocking)

    monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", busy_at_first)
    with FolderLock(tmp_path):
        assert len(tries) == 2


def test_folders_made_for_nothing_are_removed(photos: Path) -> None:
    with pytest.raises(UserError, match="--objects with class ids needs"):
        protect(
            [photos],
            photos.parent / "new" / "out",
            ProtectSettings(device="cpu", rule=ObjectRule((3,))),
            masks=photos.parent / "masks",
            generator=loaded(),
        )
    assert not (photos.parent / "new").exists()


def test_a_disk_too_full_for_the_lock_is_left_as_it_was(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="--out .*out: cannot be written: No space left on device"):
        run(photos)
    assert not (photos.parent / "out").exists()


def test_a_lock_that_is_a_link_is_not_followed(photos: Path) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (photos.parent / "elsewhere").write_text("mine")
    (out / LOCK_FILE).symlink_to(photos.parent / "elsewhere")
    with pytest.raises(UserError, match="--out .*out: cannot be written: Too many levels of symbolic links"):
        run(photos)
    assert (photos.parent / "elsewhere").read_text() == "mine"


# --- manifests


def test_a_resumed_failure_leaves_no_trace_of_the_interruption(photos: Path, unbroken: dict[str, bytes]) -> None:
    """Claims of a killed run are dropped once it is known what became of the input."""
    out = photos.parent / "out"
    run(photos)
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    claims = [json.dumps({**json.loads(line), "status": "started", "claims": ["a/x.png"]}) + "\n" for line in lines[1:]]
    (out / MANIFEST).write_text("".join([lines[0], *claims, '{"input": "torn']))
    run(photos)
    assert tree(out) == unbroken


def test_zeros_at_the_end_of_a_manifest_are_left_out(photos: Path, unbroken: dict[str, bytes]) -> None:
    out = photos.parent / "out"
    run(photos)
    with open(out / MANIFEST, "ab") as file:
        file.write(bytes(512))
    run(photos)
    assert tree(out) == unbroken


def test_other_settings_are_all_named(photos: Path) -> None:
    run(photos)
    with pytest.raises(UserError) as raised:
        protect(
            [photos],
            photos.parent / "out",
            replace(SETTINGS, budget=Budget(4, 2), format="tiff", metadata="none"),
            masks=photos.parent / "masks",
            generator=loaded(),
        )
    assert "(--epsilon: 8.0, now 4.0; --format: png, now tiff; --metadata: icc, now none)" in str(raised.value)


def test_the_difference_is_shown_wherever_it_lies(photos: Path) -> None:
    """Also within settings that hold others, and in values too long to be shown whole."""
    out = photos.parent / "out"
    header = {
        "region": "mask",
        "mask_rule": {"kind": "index", "objects": list(range(90)), "background_label": 0},
        "codes": {str(label): label % 12 for label in range(40)},
        "names": "keep",
    }
    other = json.loads(json.dumps(header))
    other["mask_rule"]["objects"][50], other["mask_rule"]["background_label"], other["codes"]["33"] = 500, None, 11
    del other["names"]
    with pytest.raises(UserError) as raised:
        check_same_settings({"settings": other}, Manifest({"settings": header}, {}), out)
    said = str(raised.value)
    assert "(--names: keep, now png; " in said and "; --background-label: 0, now null; codes.33: 9, now 11)" in said
    assert re.search(r"; --objects: ….{15,25},50,51,.{40,60}…, now ….{15,25},500,51,.{40,60}…; ", said), said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"png_level": 6}, "--png-level: 1, now 6"),
        ({"names": "keep"}, "--names: png, now keep"),
        ({"precision": "bfloat16"}, "--precision: float32, now bfloat16"),
        ({"region": "published"}, "--region: mask, now published"),
        ({"rule": ObjectRule(background_label=None)}, "--background-label: 0, now null"),
        ({"budget": Budget(8, 3)}, "--background-epsilon: 2.0, now 3.0"),
    ],
)
def test_each_setting_that_changes_bytes_is_compared(photos: Path, changed: dict, said: str) -> None:
    protect([photos], photos.parent / "out", SETTINGS, masks=photos.parent / "masks", generator=loaded())
    before = tree(photos.parent / "out")
    with pytest.raises(UserError) as raised:
        protect(
            [photos],
            photos.parent / "out",
            replace(SETTINGS, **changed),
            masks=photos.parent / "masks",
            generator=loaded(),
        )
    assert f"with other settings ({said}); give another folder" in str(raised.value)
    assert tree(photos.parent / "out") == before


def test_another_generator_file_or_other_annotations_are_named(photos: Path) -> None:
    protect([photos], photos.parent / "out", SETTINGS, masks=photos.parent / "masks", generator=loaded())
    with pytest.raises(UserError, match="generator: 000000.*, now 111111"):
        protect([photos], photos.parent / "out", SETTINGS, masks=photos.parent / "masks", generator=loaded("1" * 64))
    with pytest.raises(
        UserError, match=r'\(.*mask_rule: {"kind": "binary".*, now null; annotations: null, now {"format": "binary"'
    ):
        protect([photos], photos.parent / "out", SETTINGS, annotations=photos.parent / "masks", generator=loaded())


def test_a_copy_that_is_there_is_not_made_again(photos: Path) -> None:
    run(photos)
    copy = photos.parent / "out" / "b" / "3.png"
    before = copy.stat()
    run(photos)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# --- signals


def terminated(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_request_to_end_is_one_line_and_143(
    photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseg.protecting.run, "protect", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(photos.parent / "out")]) == 143
    assert capsys.readouterr().err.endswith("run the same command again to go on\n")
    assert signal.getsignal(signal.SIGTERM) == before
