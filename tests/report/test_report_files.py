"""The files of a report: whole, on the disk before they have their names, and one line where a folder takes none."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.report_results import results, run, write
from unseg import cli
from unseg.report.writing import write_report
from unseg.storage.locks import FolderLock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "runs", results([run()]))
    return tmp_path / "runs"


def half_written(folder: Path) -> Path:
    path = folder / f".unseg-{19:016x}.tmp"
    path.write_bytes(b"half")
    return path


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_takes_nothing_is_one_line(
    error: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["report", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()

    def refuse(old: object, new: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "replace", refuse)
    assert cli.main(["report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"unseg: error: {folder / 'report.html'}: cannot be written (") and told.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_output_folder_that_cannot_be_made_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_bytes(b"")
    assert cli.main(["report", str(folder), "--out", str(folder / "file" / "page.html")]) == 2
    told = capsys.readouterr().err
    assert told == f"unseg: error: --out {folder / 'file'}: is no folder; give another one\n"


def test_files_are_on_the_disk_before_they_have_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append(Path(new).name), rename(old, new))[1])
    write_report([folder])
    assert events == ["sync", "report.html", "sync", "report.md"]


def test_what_a_killed_report_left_goes_and_what_an_evaluation_is_writing_stays(folder: Path) -> None:
    left = half_written(folder)
    with FolderLock(folder):
        write_report([folder])
        assert left.exists()
    (folder / "below").mkdir()
    below = half_written(folder / "below")
    write_report([folder])
    assert not left.exists() and below.exists()


def test_a_report_waits_for_another_one(folder: Path) -> None:
    filelock = pytest.importorskip("filelock")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert filelock.lock_descriptor(descriptor, blocking=False)
        writing = threading.Thread(target=write_report, args=([folder],))
        writing.start()
        time.sleep(0.5)
        assert not (folder / "report.html").exists()
    finally:
        os.close(descriptor)
    writing.join(60)
    assert (folder / "report.html").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_request_to_end_leaves_no_temporary_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(os, "fsync", terminated)
    assert cli.main(["report", str(folder)]) == 143
    assert capsys.readouterr().err == "unseg: interrupted\n"
    assert [path.name for path in folder.iterdir()] == ["results.json"]
