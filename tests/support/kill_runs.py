"""Kills `protect` (SIGKILL) at random moments, goes on with the same command, and compares with an unbroken run.

    python tests/support/kill_runs.py --kills 200 --photographs 200 --seed 0
    python tests/support/kill_runs.py --kills 40 --photographs 200 --processes 2

After every kill each file in the output must be whole, and the next run must leave alone what the manifest called
finished. Whenever a run gets to its end, the tree must equal the unbroken run's, byte for byte, without temporary files
or lock; then another output is begun, until there were enough kills. A small fast generator; the photographs are small,
and some of them are broken, have no mask or no object, so that every kind of ending occurs. Prints one JSON line; exit
code 0 if all held.

With --processes the work is shared, every third kill hits a worker, whose run must then end by itself with one line,
and no process may outlive its run; the unbroken run is of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import slow_generator
from tests.support.fake_generator import loaded
from tests.support.own_processes import children, is_alive, wait_for_threads
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.storage.files import TEMPORARY, files_under
from unseg.storage.locks import LOCK_FILE

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")
WORKER_GONE = 2  # the exit code of a run that lost a worker


@dataclass
class Figures:
    """What was counted.

    kills: SIGKILLs that met a running process. with_temporary: that left a temporary file. stale_locks: that left the
    lock. finished_kept: files that a manifest called finished before a kill and that the next run left untouched.
    workers_killed: kills that hit a worker.
    """

    photographs: int
    processes: int
    seconds_unbroken: float
    kills: int = 0
    outputs_completed: int = 0
    with_temporary: int = 0
    stale_locks: int = 0
    finished_kept: int = 0
    workers_killed: int = 0


def make_photographs(folder: Path, count: int) -> None:
    """photos/ and masks/: every 20th photograph is broken, every 20th has no mask, every 20th an empty one."""
    draw = np.random.default_rng(0)
    for number in range(count):
        name = f"{'abcd'[number % 4]}/{number:03}"
        photo, mask = folder / "photos" / f"{name}.png", folder / "masks" / f"{name}.png"
        for path in (photo, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        height, width = draw.integers(40, 90, 2)
        Pillow.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photo)
        values = np.zeros((height, width), np.uint8)
        if number % 20 != 7:
            values[height // 3 :] = 255
        if number % 20 != 3:
            Pillow.fromarray(values).save(mask)
        if number % 20 == 11:
            photo.write_bytes(photo.read_bytes()[:900])


def start(folder: Path, out: Path, processes: int = 1) -> int:
    """A process that protects photos/ into `out`: forked, so that it does not take seconds to import torch."""
    wait_for_threads()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        generator = loaded() if processes == 1 else slow_generator.loaded()  # else all is done before a kill can fall
        code = protect(
            [folder / "photos"], out, SETTINGS, masks=folder / "masks", generator=generator, processes=processes
        ).exit_code
    except UserError as error:
        code = WORKER_GONE if "was killed by SIGKILL before its images were done" in str(error) else code
    finally:
        os._exit(code)


def wait_for_work(process: int, out: Path, draw: random.Random, photographs: int) -> None:
    """Waits until the process has made a random number of outputs or has ended: workers take seconds to start."""
    there = len(list(out.glob("*/*.png")))
    wanted = there + draw.randrange(max(1, (photographs - there) // 3))
    while (
        len(list(out.glob("*/*.png"))) < wanted
        and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.05))


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def check(good: bool, what: str) -> None:
    if not good:
        raise SystemExit(f"broken promise: {what}")


def kill_runs(folder: Path, kills: int, photographs: int, seed: int, processes: int = 1) -> Figures:
    draw = random.Random(seed)
    make_photographs(folder, photographs)
    started = time.perf_counter()
    _, status = os.waitpid(start(folder, folder / "unbroken"), 0)
    figures = Figures(photographs, processes, round(time.perf_counter() - started, 2))
    check(
        os.waitstatus_to_exitcode(status) == 1,
        "the unbroken run ends with 1, since some photographs cannot be protected",
    )
    unbroken = tree(folder / "unbroken")
    out, finished, begun = folder / "out", {}, False
    longest = figures.seconds_unbroken  # what a run takes at most; less than the first one took on a busy machine
    while figures.kills < kills or begun:
        started = time.perf_counter()
        process, workers, victim = start(folder, out, processes), [], None
        if figures.kills < kills:
            if processes == 1:
                time.sleep(draw.uniform(0, longest))
            else:
                wait_for_work(process, out, draw, photographs)
                workers = children(process)
            victim = draw.choice(workers) if workers and figures.kills % 3 == 2 else process
            with suppress(ProcessLookupError):  # a worker that has just ended by itself
                os.kill(victim, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        check(code in (1, -signal.SIGKILL) or victim in workers and code == WORKER_GONE, f"exit code {code}")
        deadline = time.monotonic() + 30
        while any(map(is_alive, workers)):
            check(time.monotonic() < deadline, "no worker outlives its run")
            time.sleep(0.005)
        figures.workers_killed += code == WORKER_GONE
        for name, (inode, changed) in finished.items():
            found = os.stat(out / name)
            check((found.st_ino, found.st_mtime_ns) == (inode, changed), f"{name} was finished and is made again")
        figures.finished_kept += len(finished)
        begun = code != 1
        if not begun:
            longest = min(longest, time.perf_counter() - started)
            check(tree(out) == unbroken, "the tree equals the unbroken run's")
            shutil.rmtree(out)
            finished = {}
            figures.outputs_completed += 1
            continue
        figures.kills += 1
        found = tree(out) if out.exists() else {}
        left = [name for name in found if TEMPORARY.fullmatch(Path(name).name)]
        figures.with_temporary += bool(left)
        figures.stale_locks += LOCK_FILE in found
        for name, content in found.items():
            if name not in left and name not in (LOCK_FILE, MANIFEST):
                check(unbroken.get(name) == content, f"{name} is whole")
        manifest = read_manifest(out)
        entries = manifest.entries.values() if manifest else []
        finished = {
            entry.output: (os.stat(out / entry.output).st_ino, os.stat(out / entry.output).st_mtime_ns)
            for entry in entries
            if entry.status in ("protected", "copied")
        }
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(kill_runs(Path(folder), **vars(arguments)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
