"""Ways in which an output folder, or the lock in it, goes away in the middle of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from unseg.storage.locks import LOCK_FILE

GONE = "--out .*out: was removed, renamed or replaced while this run was writing there, or the file .unseg-lock in it"


def removed(out: Path) -> None:
    while out.exists():  # a run that writes a file there at this moment makes one attempt fail
        shutil.rmtree(out, ignore_errors=True)


def renamed(out: Path) -> None:
    out.rename(out.with_name("moved"))


def a_link_to_itself(out: Path) -> None:
    renamed(out)
    out.symlink_to("moved")


def a_link_elsewhere(out: Path) -> None:
    renamed(out)
    out.with_name("elsewhere").mkdir()
    out.symlink_to("elsewhere")


def made_anew(out: Path) -> None:
    renamed(out)
    out.mkdir()


def a_file(out: Path) -> None:
    renamed(out)
    out.write_text("mine")


def without_its_lock(out: Path) -> None:
    (out / LOCK_FILE).unlink()


def with_another_lock(out: Path) -> None:
    (out / LOCK_FILE).rename(out / "kept")  # so that the new file cannot get the old one's number on the disk
    (out / LOCK_FILE).write_text("{}")


GOING = [removed, renamed, a_link_to_itself, a_link_elsewhere, made_anew, a_file, without_its_lock, with_another_lock]
