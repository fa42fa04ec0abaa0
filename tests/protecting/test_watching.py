"""--watch: what comes, changes and goes in watched folders; half-written files; the lock, the manifest, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

import unseg
from tests.support import watched_folders
from tests.support.watched_folders import PATIENCE
from unseg import cli
from unseg.errors import UserError
from unseg.protecting import watching
from unseg.protecting.manifest import read_manifest
from unseg.protecting.verification import verify

DRAW = np.random.default_rng(4)
PROGRAM = """
import sys
from unseg.cli import main
sys.exit(main())
"""
COMMAND = [sys.executable, "-c", PROGRAM, "protect"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE", 0.02)
    monkeypatch.setattr(watching, "SETTLED", 0.15)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path


def add(folders: Path, name: str, seed: int = 0, mask: bool = True, classes: tuple[int, int] | None = None) -> None:
    values = np.random.default_rng(seed).integers(20, 230, (41, 60, 3), np.uint8)
    if mask:
        labels = np.zeros((41, 60), np.uint8) if classes is None else np.full((41, 60), classes[0], np.uint8)
        labels[5:23, 30:51] = 255 if classes is None else classes[1]
        path = folders / "masks" / f"{Path(name).with_suffix('')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(labels).save(path)
    path = folders / "photos" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def watch(
    folders: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> AbstractContextManager[watched_folders.Stop]:
    given = {"masks": folders / "masks", **options}
    return watched_folders.watched(folders / "photos", folders / "out", monkeypatch, **given)


def statuses(folders: Path) -> dict[str, str]:
    found = read_manifest(folders / "out")
    assert found is not None
    return {entry.input: entry.status for entry in found.entries.values()}


def test_what_comes_is_protected_as_an_ordinary_run_does_it(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(folders, monkeypatch) as told:
        told.wait_for("waiting for the first image")
        add(folders, "a.png", 1)
        told.wait_for("1 protected; what comes is protected, too, until Ctrl-C")
        add(folders, "sub/b.jpg", 2)
        told.wait_for("sub/b.jpg: protected")
        (folders / "elsewhere.png").write_bytes((folders / "photos" / "a.png").read_bytes())
        os.utime(folders / "elsewhere.png", (1e9, 1e9))
        Image.fromarray(np.full((41, 60), 255, np.uint8)).save(folders / "masks" / "c.png")
        os.rename(folders / "elsewhere.png", folders / "photos" / "c.png")
        told.wait_for("c.png: protected")
        with pytest.raises(UserError, match="is writing there"):
            unseg.protect_folder(folders / "photos", folders / "out", masks=folders / "masks")
    assert isinstance(told.end, KeyboardInterrupt)
    assert str(told.end) == (
        f"no longer watching; {folders / 'out'} holds 3 protected; run the same command again to go on"
    )
    assert verify(folders / "out").exit_code == 0
    key = folders / "out.key"
    unseg.protect_folder(folders / "photos", folders / "plain", masks=folders / "masks", key=key)
    for name in ("a.png", "sub/b.png", "c.png"):
        assert (folders / "plain" / name).read_bytes() == (folders / "out" / name).read_bytes()
    lines = [(folders / out / "unseg-manifest.jsonl").read_text() for out in ("plain", "out")]
    assert lines[0] == lines[1]


def test_a_file_that_is_being_written_is_waited_for(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folders, "a.png", 1)
    add(folders, "b.png", 2)
    whole = (folders / "photos" / "b.png").read_bytes()
    (folders / "photos" / "b.png").unlink()
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected; what comes")
        monkeypatch.setattr(watching, "SETTLED", 2.0)
        with open(folders / "photos" / "b.png", "wb", buffering=0) as file:
            for start in range(0, len(whole), 1 + len(whole) // 12):
                file.write(whole[start : start + 1 + len(whole) // 12])
                threading.Event().wait(0.05)
                assert not any(sentence.startswith("b.png") for sentence in told.sentences)
        told.wait_for("b.png: protected")
    assert not any("failed" in sentence for sentence in told.sentences)


def test_a_stalled_file_fails_and_is_taken_up_again(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folders, "a.png", 1)
    add(folders, "b.png", 2)
    whole = (folders / "photos" / "b.png").read_bytes()
    (folders / "photos" / "b.png").write_bytes(whole[:500])
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected, 1 not: ")
        assert statuses(folders)["b.png"] == "failed"
        (folders / "photos" / "b.png").write_bytes(whole)
        told.wait_for("b.png: protected")
    assert statuses(folders) == {"a.png": "protected", "b.png": "protected"}


def test_a_mask_that_comes_later_and_one_that_changes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folders, "a.png", 1)
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected; what comes")
        add(folders, "late.png", 2, mask=False)
        told.wait_for("late.png: left out: no mask for it")
        add(folders, "late.png", 2)
        told.wait_for("late.png: protected")
        before = (folders / "out" / "a.png").read_bytes()
        Image.fromarray(np.pad(np.full((9, 20), 255, np.uint8), ((2, 30), (1, 39)))).save(folders / "masks" / "a.png")
        told.wait_for("a.png: protected")
        assert (folders / "out" / "a.png").read_bytes() != before
    assert verify(folders / "out").exit_code == 0


def test_a_changed_image_is_made_anew_and_one_that_is_gone_stays(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folders, "a.png", 1)
    add(folders, "b.png", 2)
    with watch(folders, monkeypatch) as told:
        told.wait_for("2 protected; what comes")
        before = (folders / "out" / "a.png").read_bytes()
        add(folders, "a.png", 3)
        told.wait_for("a.png: protected")
        after = (folders / "out" / "a.png").read_bytes()
        assert after != before
        (folders / "photos" / "a.png").unlink()
        told.wait_for("a.png: is gone; what was written for it stays")
        assert (folders / "out" / "a.png").read_bytes() == after and statuses(folders)["a.png"] == "protected"
        add(folders, "a.png", 1)
        told.wait_for("a.png: protected", times=2)
        assert (folders / "out" / "a.png").read_bytes() == before


def test_codes_and_what_masks_hold_stay_as_the_first_line_has_them(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folders, "a.png", 1, classes=(3, 7))
    add(folders, "b.png", 2, classes=(3, 7))
    with watch(folders, monkeypatch) as told:
        told.wait_for("2 protected; what comes")
        header = read_manifest(folders / "out").header
        add(folders, "c.png", 3, classes=(7, 3))
        told.wait_for("c.png: protected")
        add(folders, "d.png", 4, classes=(3, 9))
        told.wait_for("d.png: failed: class 9 has no code")
        assert read_manifest(folders / "out").header == header
    with watch(folders, monkeypatch) as told:
        told.wait_for("3 protected, 1 not: ")
        assert read_manifest(folders / "out").header == header


def test_a_binary_start_is_not_changed_by_a_later_mask_of_classes(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folders, "a.png", 1)
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected; what comes")
        add(folders, "b.png", 2, classes=(0, 5))
        told.wait_for("b.png: protected")  # of two levels, the brighter one
        add(folders, "c.png", 2, classes=(1, 1))
        told.wait_for("c.png: ")
    with watch(folders, monkeypatch) as told:  # an ordinary run would ask for what the masks are
        told.wait_for(" protected")


def test_a_file_of_boxes_that_is_mended_goes_on(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = folders / "boxes.json"
    boxes.write_text('{"a.png": [[5, 6, 40, 30]]}')
    add(folders, "a.png", 1)
    with watch(folders, monkeypatch, masks=None, boxes=boxes) as told:
        told.wait_for("1 protected; what comes")
        boxes.write_text('{"a.png": [[5, 6, 40, 30]], ')
        told.wait_for("cannot be read as JSON")
        add(folders, "b.png", 2, mask=False)
        boxes.write_text('{"a.png": [[5, 6, 40, 30]], "b.png": [[1, 2, 30, 20]]}')
        told.wait_for("b.png: protected")
    assert statuses(folders) == {"a.png": "protected", "b.png": "protected"}


def test_a_network_is_loaded_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unseg.protecting import inputs

    loads: list[object] = []
    load = inputs._network
    monkeypatch.setattr(inputs, "_network", lambda request: loads.append(request) or load(request))
    add(folders, "a.png", 1)
    with watch(folders, monkeypatch, noise="compact") as told:
        told.wait_for("1 protected; what comes")
        add(folders, "b.png", 2)
        told.wait_for("b.png: protected")
    assert len(loads) == 1


def test_planes_with_masks_of_planes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).integers(0, 900, (9, 14, 3), np.int16)
    labels = np.zeros((9, 14, 3), np.uint8)
    labels[2:7, 3:12, 1] = 1
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folders / "masks" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folders / "photos" / "a.nii.gz")
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected; what comes")
    assert statuses(folders) == {"a.nii.gz": "protected"} and verify(folders / "out").exit_code == 0


def test_a_folder_that_is_gone_ends_it(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folders, "a.png", 1)
    with watch(folders, monkeypatch) as told:
        told.wait_for("1 protected; what comes")
        os.rename(folders / "photos", folders / "moved")
        told.heard.acquire()
        assert told.heard.wait_for(lambda: told.end is not None, PATIENCE)
        told.heard.release()
    assert isinstance(told.end, UserError) and "photos: is gone; put it back" in str(told.end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dry_run": True}, "--dry-run: writes nothing, and --watch goes on"),
        ({"limit": 3}, "--limit: ends after so many images"),
        ({"unmasked": "fail"}, "--unmasked fail: ends a run before its first image"),
        ({"noise": "tint"}, "--noise tint: counts the classes of all images first"),
        ({"masks": "nowhere"}, "--masks nowhere: no such folder"),
    ],
)
def test_what_does_not_go_with_watching_is_one_line(folders: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        unseg.protect_folder(folders / "photos", folders / "out", watch=True, **{"masks": folders / "masks", **options})
    assert not (folders / "out").exists()


def test_only_folders_are_watched(folders: Path) -> None:
    add(folders, "a.png", 1)
    with pytest.raises(UserError, match=r"^--watch: .*a\.png is no folder; name the folders that images come into"):
        unseg.protect_folder(folders / "photos" / "a.png", folders / "out", watch=True, whole_image=True)
    with pytest.raises(UserError, match="lies in the input folder"):
        unseg.protect_folder(folders / "photos", folders / "photos" / "out", watch=True, whole_image=True)
    assert cli.main(["protect", "x", "--whole-image", "--out", "o", "--watch", "--json"]) == 2


def wait_until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_in_one_line(folders: Path, number: signal.Signals, code: int) -> None:
    add(folders, "a.png", 1)
    arguments = ["photos", "--masks", "masks", "--out", "out", "--watch"]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=folders, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until((folders / "out" / "a.png").exists)
            wait_until(lambda: statuses(folders).get("a.png") == "protected")
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == code
    last = "unseg: no longer watching; out holds 1 protected; run the same command again to go on"
    assert err.splitlines()[-1] == last and "Traceback" not in err and "Manifest" not in out
    assert not (folders / "out" / ".unseg-lock").exists()
