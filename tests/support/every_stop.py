"""Stops a run at every single step that changes its output, one after the other, and goes on with the same command.

    python tests/support/every_stop.py edition kill       SIGKILL before each step, and in the middle of each writing
    python tests/support/every_stop.py protect full       from each step on the disk takes no new byte and no new name
    python tests/support/every_stop.py edition read-only  from each step on the disk takes no change at all
    … --part 7                                            only every 7th step

A step is a file that is opened for writing, a piece that is written, a rename, a removal, a new folder or link, a time
stamp, in the output folder. After each stop every file must be whole or a temporary one, `unseg verify` must read what
is there, and the same command must end with the bytes of an unbroken run. Prints one JSON line; exit code 0 if all
held.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import unseg.editions.carry
import unseg.protecting.inputs
import unseg.protecting.manifest
import unseg.protecting.run
import unseg.storage.files
from tests.support.edition_sets import BUILDERS
from tests.support.fake_generator import loaded
from tests.support.kill_runs import check, make_photographs, tree
from tests.support.own_processes import wait_for_threads
from unseg.data.edition_catalog import edition_row
from unseg.editions.audit import verify_edition
from unseg.editions.carried import CARRIED
from unseg.editions.description import EDITION
from unseg.editions.edition import make_edition
from unseg.editions.options import settings_from
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST
from unseg.storage.files import TEMPORARY
from unseg.storage.locks import LOCK_FILE

LIMITS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
RECORDS = (MANIFEST, CARRIED, EDITION, LOCK_FILE)
REFUSED, WRONG = 2, 99  # exit codes: one line said why; anything else
PHOTOGRAPHS = 12


class Stop:
    """Counts the steps of this process that change `out`, and stops it at step `number` (from 0; None: never)."""

    def __init__(self, out: Path, kind: str, number: int | None) -> None:
        self.out, self.kind, self.number, self.steps = str(out), kind, number, 0
        self.lock = threading.Lock()
        sys.addaudithook(self.heard)
        for module in (unseg.storage.files, unseg.protecting.manifest, unseg.editions.carry):
            module.open = self.open

    def reached(self) -> bool:
        """Whether the run is to be stopped at the step that begins now, which is counted."""
        with self.lock:
            self.steps += 1
            return self.number is not None and (
                self.steps > self.number if self.kind in LIMITS else self.steps == self.number + 1
            )

    def heard(self, event: str, given: tuple) -> None:
        if event == "open":
            changes = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.symlink")
        where = given[1] if event in ("os.rename", "os.symlink") else given[0] if given else ""
        if not changes or not isinstance(where, (str, os.PathLike)) or not os.fspath(where).startswith(self.out):
            return
        takes_room = event in ("open", "os.mkdir", "os.symlink")
        if (takes_room or self.kind != "full") and self.reached():
            self.end()

    def end(self) -> NoReturn:
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(LIMITS[self.kind], os.strerror(LIMITS[self.kind]))

    def open(self, path: object, mode: str = "r", *arguments: object, **options: object) -> object:
        file = open(path, mode, *arguments, **options)  # noqa: SIM115  # whoever called `open` closes it
        return file if mode.startswith("r") else _Stopped(file, self)


class _Stopped:
    """A file for writing whose pieces are steps."""

    def __init__(self, file: io.IOBase, stop: Stop) -> None:
        self.file, self.stop = file, stop

    def write(self, data: bytes | str) -> int:
        if self.stop.reached():
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.stop.end()
        return self.file.write(data)

    def __enter__(self) -> _Stopped:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def in_a_process(work: Callable[[], int], out: Path, kind: str, number: int | None) -> tuple[int, int]:
    """The exit code of `work` in a fork of this process, and the steps that it came through (0 where it was killed)."""
    reader, writer = os.pipe()
    wait_for_threads()
    child = os.fork()
    if child == 0:
        code = WRONG
        stop = Stop(out, kind, number)
        try:
            code = work()
        except UserError as error:
            code = REFUSED if "\n" not in str(error) and os.strerror(LIMITS.get(kind, 0)) in str(error) else WRONG
        finally:
            os.write(writer, str(stop.steps).encode())
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as answer:
        steps = int(answer.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps


def protecting(folder: Path, out: Path) -> Callable[[], int]:
    make_photographs(folder, PHOTOGRAPHS)
    settings = unseg.protecting.run.ProtectSettings(device="cpu", workers=1)
    return lambda: (
        unseg.protecting.run.protect(
            [folder / "photos"], out, settings, masks=folder / "masks", generator=loaded()
        ).exit_code
    )


def making_an_edition(folder: Path, out: Path) -> Callable[[], int]:
    """COCO in miniature with new names, so that its json files are written anew, and links to evaluation images."""
    BUILDERS["coco"](folder / "data")
    settings = settings_from(
        edition_row("coco"),
        {"DATA_ROOT": str(folder / "data"), "OUT": str(out), "NAMES": "png", "VAL": "link", "NGPU": "0"},
    )
    return lambda: make_edition(settings).summary.exit_code


def stop_everywhere(folder: Path, what: str, kind: str, part: int) -> dict[str, object]:
    out = folder / "out"
    work = {"protect": protecting, "edition": making_an_edition}[what](folder, out)
    code, steps = in_a_process(work, out, kind, None)
    check(
        code == 1 and steps > 20,
        f"the unbroken run ends with 1, since some photographs cannot be protected: {code}, {steps}",
    )
    unbroken, codes = tree(out), []
    for number in range(0, steps, part):
        shutil.rmtree(out)
        code, _ = in_a_process(work, out, kind, number)
        codes.append(code)
        where = f"{what}, {kind} at step {number} of {steps}"
        # a run that was done but for removing its lock ends as if nothing had been
        check(code in ((-signal.SIGKILL,) if kind == "kill" else (REFUSED, 1)), f"{where}: ended with {code}")
        for name, content in (tree(out) if out.exists() else {}).items():
            temporary = TEMPORARY.fullmatch(Path(name).name)
            check(kind != "full" or not temporary, f"{where}: {name} is left")
            check(
                bool(temporary) or Path(name).name in RECORDS or unbroken.get(name) == content,
                f"{where}: {name} is whole",
            )
        if out.exists():
            try:
                found = verify_edition(out, workers=1)
                said = " ".join(item.problem for item in (*found.unprotected, *found.other_files))
                there = {name: content for name, content in tree(out).items() if name != LOCK_FILE}
                check(
                    "cut off" in said
                    or "not finished" in said
                    or bool(found.extra or found.missing)
                    or there == unbroken,
                    f"{where}: verify takes it for the whole",
                )
            except UserError as error:
                check("\n" not in str(error), f"{where}: {error}")
        code, _ = in_a_process(work, out, kind, None)
        check(code == 1, f"{where}: going on ends with {code}")
        check(tree(out) == unbroken, f"{where}: the tree equals the unbroken run's")
    return {
        "what": what,
        "kind": kind,
        "steps": steps,
        "stops": len(codes),
        "refused_in_one_line": codes.count(REFUSED),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("protect", "edition"))
    parser.add_argument("kind", choices=("kill", *LIMITS))
    parser.add_argument("--part", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(stop_everywhere(Path(folder), **vars(arguments))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
