"""Key files: made once, for their owner alone, read strictly, known by a hash that tells nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from unseg.errors import UserError
from unseg.storage.key_file import key_beside, key_hash, new_key, read_key, write_key


def test_a_key_comes_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path, key = tmp_path / "new" / "a.key", new_key()
    write_key(path, key)
    assert read_key(path) == key and len(key) == 32
    if os.name != "nt":  # Windows has no such modes: a key has the rights of its folder
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == key.hex().encode() + b"\n"


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a\.key: the key cannot be written"):
        write_key(path, new_key())
    assert path.read_text() == "mine"


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "zz" * 32, "é" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.key").write_text(text)
    with pytest.raises(UserError, match=r"a\.key: holds no key of 32 bytes"):
        read_key(tmp_path / "a.key")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(b"\xef\xbb\xbf" + b"0a" * 32 + b"\r\n")
    assert read_key(tmp_path / "a.key") == b"\n" * 32


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.key: the key cannot be read"):
        read_key(tmp_path / "none.key")


def test_hashes_tell_keys_apart_and_are_not_the_plain_ones() -> None:
    one, other = bytes(32), bytes(31) + b"\1"
    assert key_hash(one) == key_hash(bytes(32)) != key_hash(other)
    assert key_hash(one) == "2fcd1823a41e2a5059b94b17428f3121"


def test_the_key_lies_beside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_beside(Path("out")) == key_beside(Path("x/../out/")) == tmp_path / "out.key"
    assert key_beside(Path(".")) == tmp_path.with_name(tmp_path.name + ".key")
