"""Files are written whole or not at all, never over others, and known by their hashes."""

from __future__ import annotations

import hashlib
import os

import pytest

from unseg.errors import UserError
from unseg.storage.files import BLOCK, refuse_existing, sha256_of, sha256_or_refuse, write_durably

LONGER_THAN_A_BLOCK = bytes(range(256)) * (BLOCK // 256) + b"end"


def test_what_was_written_is_known_by_its_hash(tmp_path):
    path = tmp_path / "new" / "a.bin"
    expected = hashlib.sha256(LONGER_THAN_A_BLOCK).hexdigest()
    assert write_durably(path, LONGER_THAN_A_BLOCK) == expected
    assert path.read_bytes() == LONGER_THAN_A_BLOCK
    assert sha256_of(path) == sha256_or_refuse(path) == expected
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("name", ["", "none"])
def test_what_is_no_file_has_no_hash(tmp_path, name):
    assert sha256_of(tmp_path / name) is None
    with pytest.raises(UserError, match="cannot be read; check its permissions"):
        sha256_or_refuse(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert sha256_of(tmp_path / "pipe") is None


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.bin: cannot be written \(No space left on device\); check space and perm"):
        write_durably(path, b"after")
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_nothing_that_is_there_is_written_over(tmp_path, kind):
    path = tmp_path / "mine"
    refuse_existing([path])
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="mine: exists already; give another name, or move it away"):
        refuse_existing([tmp_path / "other", path])
