"""What a server keeps on the disk goes with it; what a killed one left goes when the next one starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.web_process import ROOT
from unseg.errors import UserError
from unseg.web.workspace import workspace

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom unseg.web.workspace import workspace\n"
    "with workspace(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'secret.jpg').write_bytes(b'x')\n    print(folder, flush=True)\n    time.sleep(60)\n"
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def other(tmp_path):
    """Another process with a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.folder = process.stdout.readline().strip()
    yield process
    process.kill()
    process.wait()


def test_nothing_is_left_after_the_end(tmp_path):
    with pytest.raises(ValueError), workspace(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep/picture.jpg").write_bytes(b"x")
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        raise ValueError
    assert names(tmp_path) == []


def test_a_killed_servers_folder_goes_and_a_living_ones_stays(tmp_path, other):
    with workspace(tmp_path):
        assert os.path.exists(f"{other.folder}/secret.jpg")
    other.kill()
    other.wait()
    assert os.path.exists(f"{other.folder}/secret.jpg")
    with workspace(tmp_path) as own:
        assert not os.path.exists(other.folder)
        assert names(tmp_path) == sorted([own.name, f"{own.name}.lock"])
    assert names(tmp_path) == []


def test_links_that_look_like_such_a_folder_are_left_alone(tmp_path):
    """In a folder that all users write to, somebody else may have laid them: to lock such a file would empty it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("words")
    places = tmp_path / "shared"
    places.mkdir()
    (places / "unseg-web-0.lock").symlink_to(mine / "letter.txt")
    (places / "unseg-web-1.lock").write_text("")
    (places / "unseg-web-1").symlink_to(mine)
    with workspace(places):
        pass
    assert (mine / "letter.txt").read_text() == "words"
    assert names(places) == ["unseg-web-0.lock", "unseg-web-1"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="set TMPDIR to a folder with room"), workspace(tmp_path / "file"):
        pass


def test_another_users_folder_is_left_alone(tmp_path, other, monkeypatch):
    other.kill()
    other.wait()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1, raising=False)
    with workspace(tmp_path):
        assert os.path.exists(f"{other.folder}/secret.jpg")
