"""A run holds its output folder to its end: it notices that folder or lock went away, and two runs never hold both."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg.storage.locks
from tests.support.acting_progress import Acting
from tests.support.fake_generator import loaded
from tests.support.going_away import (
    GOING,
    GONE,
    a_file,
    a_link_elsewhere,
    made_anew,
    removed,
    renamed,
    with_another_lock,
)
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.files import files_under, make_folders, walk_folders
from unseg.storage.locks import LOCK_FILE, FolderLock, holder_of

ROOT = Path(__file__).resolve().parents[2]
COUNT = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(5)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(COUNT):
        Pillow.fromarray(draw.integers(0, 256, (11, 17, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        mask = np.uint8(255) * (np.indices((11, 17))[1] > number)
        Pillow.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path / "photos"


def run(photos: Path, act: Callable[[], object] | None = None, at: int = 3) -> Summary:
    progress = {} if act is None else {"progress": Acting(at, act)}
    settings = ProtectSettings(device="cpu", workers=1)
    out, masks = photos.parent / "out", photos.parent / "masks"
    return protect([photos], out, settings, masks=masks, generator=loaded(), **progress)


@pytest.mark.parametrize("at", [0, 3, COUNT])
@pytest.mark.parametrize("act", GOING)
def test_an_output_that_goes_away_ends_the_run(photos: Path, act: Callable[[Path], None], at: int) -> None:
    """At the first image, among them, and after the last one, before the manifest is finished."""
    out = photos.parent / "out"
    with pytest.raises(UserError, match=GONE):
        run(photos, lambda: act(out), at)
    if act in (removed, renamed):
        assert not out.exists()
    if act in (a_link_elsewhere, made_anew):
        assert list(out.iterdir()) == []  # nothing is written where the run holds nothing
    if act is a_file:
        assert out.read_text() == "mine"
    if act is with_another_lock:
        assert (out / LOCK_FILE).read_text() == "{}"  # what others hold is left to them


def test_what_is_left_of_a_renamed_output_is_unfinished_and_can_go_on(photos: Path) -> None:
    out = photos.parent / "out"
    with pytest.raises(UserError, match=GONE):
        run(photos, lambda: renamed(out))
    moved = photos.parent / "moved"
    assert '"unfinished": true' in (moved / MANIFEST).read_text().splitlines()[0]
    assert verify(moved).exit_code == 1
    moved.rename(out)
    assert run(photos).exit_code == 0 and verify(out).exit_code == 0


@pytest.mark.slow
def test_workers_notice_it_too(photos: Path) -> None:
    out = photos.parent / "out"
    draw = np.random.default_rng(9)
    for number in range(COUNT, 80):
        Pillow.fromarray(draw.integers(0, 256, (11, 17, 3), dtype=np.uint8)).save(photos / f"{number}.png")
        Pillow.fromarray(np.full((11, 17), 255, np.uint8)).save(photos.parent / "masks" / f"{number}.png")
    with pytest.raises(UserError, match=GONE):
        protect(
            [photos],
            out,
            ProtectSettings(device="cpu", workers=1),
            masks=photos.parent / "masks",
            processes=2,
            progress=Acting(2, lambda: made_anew(out)),
        )
    assert list(out.iterdir()) == []


# --- locks without the system's


def without_flock(descriptor: int, *, blocking: bool) -> bool:
    raise OSError(errno.ENOLCK, "No locks available")


CONTENDER = """
import os, sys, time
from pathlib import Path
import unseg.storage.locks as locks
from unseg.errors import UserError

def without(descriptor, *, blocking):
    raise OSError(37, "No locks available")

if sys.argv[2] == "no flock":
    locks.lock_descriptor = without
inside = Path(sys.argv[3])
while time.time() < float(sys.argv[4]):
    pass
try:
    with locks.FolderLock(Path(sys.argv[1])) as lock:
        descriptor = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails where another run is inside, too
        time.sleep(0.3)
        lock.held.check()
        inside.unlink()
        print("held")
except UserError as error:
    print("refused" if "is writing there" in str(error) else error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ["flock", "no flock"])
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_runs_one_gets_the_lock(tmp_path: Path, system: str, stale: bool) -> None:
    """All at the same moment, of a new folder, and of one whose holder on another host is dead."""
    out = tmp_path / "out"
    out.mkdir()
    if stale:
        (out / LOCK_FILE).write_text(json.dumps({"pid": 7, "host": "another-host"}))
        os.utime(out / LOCK_FILE, (time.time() - 500,) * 2)
    start = time.time() + 4
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, out, system, tmp_path / "inside", str(start)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(5)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in runs]
    assert set(said) <= {"held", "refused"} and said.count("held") >= 1, said
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", '{"pid": 7, "host": "another-host"}'])
def test_of_many_threads_one_gets_the_lock_without_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Of a new folder, and of one with a dead lock: one that was never signed, one cut short, one of another host."""
    monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", without_flock)
    for attempt in range(20):
        out = tmp_path / str(attempt)
        out.mkdir()
        if content is not None:
            (out / LOCK_FILE).write_text(content)
            os.utime(out / LOCK_FILE, (time.time() - 500,) * 2)
        locks = [FolderLock(out) for _ in range(8)]
        holders: list[FolderLock] = []
        barrier = threading.Barrier(len(locks))

        def contend(lock: FolderLock, barrier: threading.Barrier, holders: list[FolderLock]) -> None:
            barrier.wait()
            try:
                holders.append(lock.__enter__())
            except UserError as error:
                assert "is writing there" in str(error)

        threads = [threading.Thread(target=contend, args=(lock, barrier, holders)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(holders) == 1
        holders[0].held.check()
        holders[0].__exit__(None, None, None)
        assert list(out.iterdir()) == []


def test_the_claim_of_a_run_that_was_killed_while_taking_over_goes_stale_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", without_flock)
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps({"pid": 7, "host": "another-host"}))
    os.utime(lock, (time.time() - 500,) * 2)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            FolderLock(tmp_path).__enter__()
    (claim,) = set(tmp_path.iterdir()) - {lock}
    with pytest.raises(UserError, match="another process is writing there"):
        FolderLock(tmp_path).__enter__()
    os.utime(claim, (time.time() - 500,) * 2)
    with FolderLock(tmp_path) as taken:
        taken.held.check()
        assert taken.stale is not None and taken.stale.pid == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ahead", [30, 3600, 10**9])
@pytest.mark.parametrize("flock", [True, False])
def test_a_lock_from_the_future_goes_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, flock: bool
) -> None:
    """120 s after a run first saw it; here 2 s. A holder that lives, with a clock that is ahead, keeps it."""
    monkeypatch.setattr(unseg.storage.locks, "SILENCE", 2.0)
    if not flock:
        monkeypatch.setattr(unseg.storage.locks, "lock_descriptor", without_flock)
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps({"pid": 7, "host": "another-host"}))
    for _ in range(2):  # the second time, its holder has shown life
        os.utime(lock, (time.time() + ahead,) * 2)
        with pytest.raises(UserError, match="process 7 on another-host is writing there"):
            FolderLock(tmp_path).__enter__()
        assert abs(lock.stat().st_mtime - time.time()) < 2
        with pytest.raises(UserError, match="process 7 on another-host is writing there"):
            FolderLock(tmp_path).__enter__()
    time.sleep(2.1)
    assert holder_of(tmp_path) is None
    with FolderLock(tmp_path) as taken:
        assert taken.stale is not None and taken.stale.pid == 7


def test_who_only_looks_does_not_wait_for_the_future(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps({"pid": 7, "host": "another-host"}))
    for ahead, held in ((60, True), (3600, False)):
        os.utime(lock, (time.time() + ahead,) * 2)
        assert (holder_of(tmp_path) is not None) == held
        assert lock.stat().st_mtime > time.time() + ahead / 2  # it writes nothing


# --- folders without recursion


def test_folders_are_walked_as_the_standard_library_walks_them(tmp_path: Path) -> None:
    for name in ("b/c/x", "b/a/y", "a/z", "d"):
        make_folders((tmp_path / name).parent)
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "link").symlink_to("../a")
    (tmp_path / "e").symlink_to("nowhere")
    assert list(walk_folders(tmp_path, print)) == list(os.walk(tmp_path))
    followed = [parent for parent, _, _ in walk_folders(tmp_path, print, follow_links=True)]
    assert len(followed) == 5 and len({os.path.realpath(folder) for folder in followed}) == 5
    without = walk_folders(tmp_path, print, follow_links=True, enters=lambda path: not path.endswith(("link", "b/a")))
    assert {parent for parent, _, _ in without} == {str(tmp_path / name) for name in ("", "b", "b/c", "a")}
    found = {path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path)}
    assert found == {"b/c/x", "b/a/y", "a/z", "d", "e", "b/link"}


def test_only_folders_below_the_given_one_are_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "out" / "a" / "b", within=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    deep = tmp_path / "out" / "a" / "b"
    assert make_folders(deep, within=tmp_path / "out") == [deep, deep.parent] and deep.is_dir()
    (deep / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_folders(deep / "file")
