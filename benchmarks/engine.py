"""The engine on a simulated cluster of Ray: what survives, what it costs beside processes, how it grows; one run.

    python -m benchmarks.engine [--only survival,overhead,nodes,memory] [--rounds 3] [--quick] [--out FILE]

Nodes are processes of this machine on loopback; those of `overhead` have two cores, all others one.

- survival: 2,000 small images in an S3 server of this machine, three nodes. Two nodes are killed, then the driver, and
  the same command runs again. Counts the files that differ from those of one process, and images with another number of
  lines than one.
- overhead: `--engine ray` on one node of two cores beside `--processes 2`, in turn. By the images/s that a longer run
  has beyond a shorter one, and by the seconds of whole commands.
- nodes: images/s on 1, 2 and 3 nodes of one core, one round. More nodes than this machine has cores can add nothing.
- memory: the largest resident set of the driver and of any actor, with 1,000 and with 20,000 images.

Needs the packages of the extra `test`. Takes about 8 minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.machine import machine
from benchmarks.photographs import photographs
from benchmarks.timed_runs import Run, images_per_second, median, usage_of
from tests.support.s3_server import BUCKET, served
from tests.support.small_cluster import SmallCluster, cluster_of
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, SHARDS, read_manifest
from unseg.storage.files import files_under

COMMAND = ("-c", "import sys; from unseg.cli import main; sys.exit(main())")
SECTIONS = ("survival", "overhead", "nodes", "memory")
KILLED_AT = (0.15, 0.35, 0.55)  # of the shards: a node, another node, the driver
GIVEN_UP_AFTER = 600.0  # seconds


@dataclass(frozen=True)
class Size:
    """Says how much is measured: images and, where they differ from survival's, pixels a side.

    short, long: of two runs whose difference is taken. growing: of runs whose memory is compared.
    """

    survival: int = 2000
    short: int = 64
    long: int = 704
    side: int = 512
    growing: tuple[int, ...] = (1000, 20000)
    small: int = 48


QUICK = Size(survival=60, short=8, long=40, side=96, growing=(40, 80))


class Images:
    """Folders of photographs with masks, by count and side, made once. key: a file with one."""

    def __init__(self, root: Path) -> None:
        self.root, self.key = root, root / "key"

    def folder(self, count: int, side: int) -> Path:
        """Returns a folder with `photos` and `masks`, each photograph with a mask of its own."""
        self.key.write_text("3c" * 32 + "\n", encoding="ascii")
        folder = self.root / f"{count}-{side}"
        if not folder.exists():
            photographs(folder / "photos", count, seed=count, height=side, width=side + side // 3)
            (folder / "masks").mkdir()
            for number in range(count):
                mask = np.zeros((side, side + side // 3), np.uint8)
                mask[side // 5 : side // 2, side // 8 : side // 2 + number % (side // 2)] = 255
                cv2.imwrite(str(folder / "masks" / f"{number:05d}.png"), mask)
        return folder


def command(images: Images, photos: str, masks: str, out: str, options: Sequence[str]) -> list[str]:
    """Returns the arguments of a Python process that protects images quietly."""
    return [*COMMAND, "protect", photos, "--masks", masks, "--out", out, "--key", str(images.key), "-q", *options]


def timed(images: Images, count: int, side: int, options: Sequence[str]) -> Run:
    """Returns what protecting a folder of that many images takes, as one command."""
    folder = images.folder(count, side)
    with tempfile.TemporaryDirectory(dir=images.root) as out:
        arguments = command(images, str(folder / "photos"), str(folder / "masks"), f"{out}/out", options)
        usage = usage_of(arguments)
        return Run(count, usage.seconds, usage.peak_mib)


def by_engine(cluster: SmallCluster) -> list[str]:
    """Returns the options that let a cluster share the work."""
    return ["--engine", "ray", "--ray-address", cluster.address]


# --- survival


def survival(size: Size, images: Images, rounds: int) -> dict[str, Any]:
    """Returns what differs from the work of one process after two nodes and the driver were killed."""
    folder, root = images.folder(size.survival, size.small), f"s3://{BUCKET}/set"
    alone = folder / "alone"
    usage_of(command(images, str(folder / "photos"), str(folder / "masks"), str(alone), ["--processes", "2"]))
    with served() as server, cluster_of(3) as cluster:
        for part in ("photos", "masks"):
            server.put(f"{folder / part}/", f"{root}/{part}", recursive=True)
        arguments = command(images, f"{root}/photos", f"{root}/masks", f"{root}/out", by_engine(cluster))
        started = time.perf_counter()
        _killed(arguments, server, f"{root}/out", cluster)
        usage_of(arguments)
        seconds = time.perf_counter() - started
        start = len(f"{root}/out".removeprefix("s3://")) + 1
        there = {name[start:]: server.cat_file(name) for name in server.find(f"{root}/out")}
    wanted = {path.relative_to(alone).as_posix(): path.read_bytes() for path in files_under(alone)}
    lines = Counter(json.loads(line)["input"] for line in there.get(MANIFEST, b"").splitlines()[1:])
    manifest = read_manifest(alone)
    assert manifest is not None, "a run that came to its end has a manifest"
    return {
        "images": size.survival,
        "nodes": 3,
        "nodes_killed": 2,
        "drivers_killed": 1,
        "files": len(wanted),
        "files_that_differ": sum(there.get(name) != wanted.get(name) for name in there.keys() | wanted.keys()),
        "images_not_told_once": sum(lines[entry.input] != 1 for entry in manifest.entries.values()),
        "seconds": round(seconds, 1),
    }


def _killed(arguments: list[str], server: Any, out: str, cluster: SmallCluster) -> None:
    """Runs a driver until so many shards are done, kills two nodes on the way, and then the driver."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as driver:
        count = 0
        for share in KILLED_AT[:2]:
            count = _wait_for(server, out, share, driver, count)
            cluster.kill()
            cluster.add()
        _wait_for(server, out, KILLED_AT[2], driver, count)
        os.kill(driver.pid, signal.SIGKILL)


def _wait_for(server: Any, out: str, share: float, driver: subprocess.Popen[bytes], count: int) -> int:
    """Waits until a share of the shards has its mark; returns how many shards there are."""
    until = time.monotonic() + GIVEN_UP_AFTER
    while time.monotonic() < until:
        if driver.poll() is not None:
            raise UserError(f"survival: the driver ended before it was killed (exit code {driver.returncode})")
        if not count and server.exists(f"{out}/{MANIFEST}"):
            count = json.loads(server.cat_file(f"{out}/{MANIFEST}").splitlines()[0])["shards"]["count"]
        if count and len(server.glob(f"{out}/{SHARDS}/*/{MANIFEST}")) >= share * count:
            return count
        time.sleep(0.1)
    raise UserError("survival: the shards are not made")


# --- speed


def overhead(size: Size, images: Images, rounds: int) -> dict[str, Any]:
    """Returns what the engine takes beside processes of the same number of cores."""
    with cluster_of(1, cores=2) as cluster:
        ways = {"processes": ["--processes", "2"], "engine": [*by_engine(cluster), "--processes", "2"]}
        runs: dict[str, list[tuple[Run, Run]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, options in ways.items():
                pair = [timed(images, count, size.side, options) for count in (size.short, size.long)]
                runs[way].append((pair[0], pair[1]))
    rates = {way: median(images_per_second(*pair) for pair in pairs) for way, pairs in runs.items()}
    whole = {way: median(pair[1].seconds for pair in pairs) for way, pairs in runs.items()}
    return {
        "runs": {way: [[asdict(run) for run in pair] for pair in pairs] for way, pairs in runs.items()},
        "images_per_second": rates,
        "share_more_time_an_image": _beyond(rates["processes"], rates["engine"]),
        "whole_seconds": whole,
        "share_more_time_in_all": _beyond(whole["engine"], whole["processes"]),
        "rounds": rounds,
    }


def _beyond(more: float | None, less: float | None) -> float | None:
    return None if more is None or less is None else round(more / less - 1, 3)


def nodes(size: Size, images: Images, rounds: int) -> dict[str, Any]:
    """Returns images/s on 1, 2 and 3 nodes of one core each."""
    rates = {}
    for count in (1, 2, 3):
        with cluster_of(count) as cluster:
            short, long = (timed(images, number, size.side, by_engine(cluster)) for number in (size.short, size.long))
        rates[str(count)] = images_per_second(short, long)
    first = rates["1"]
    return {
        "images_per_second": rates,
        "times_one_node": {name: rate and first and round(rate / first, 2) for name, rate in rates.items()},
    }


# --- memory


def memory(size: Size, images: Images, rounds: int) -> dict[str, Any]:
    """Returns the peaks of the driver and of the largest actor, by the number of images."""
    found: dict[str, Any] = {"side": size.small, "peak_mib": {}}
    with cluster_of(1, cores=2) as cluster:
        for count in size.growing:
            with _actors_watched() as peak:
                driver = timed(images, count, size.small, by_engine(cluster)).peak_mib
            found["peak_mib"][str(count)] = {"driver": round(driver), "actor": round(max(peak, default=0))}
    few, many = (found["peak_mib"][str(count)] for count in size.growing)
    found["growth"] = {who: round(many[who] / few[who], 3) for who in few if few[who]}
    return found


@contextmanager
def _actors_watched() -> Iterator[list[float]]:
    """Collects the largest resident sets, in MiB, of this machine's actors while they work. Linux alone tells them."""
    peaks: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peaks.extend(_peaks_of_actors())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peaks
    finally:
        done.set()
        watching.join()


def _peaks_of_actors() -> Iterator[float]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::Actor"):
                status = (process / "status").read_text(encoding="ascii", errors="replace")
                yield int(status.partition("VmHWM:")[2].split(None, 1)[0]) / 1024
        except (OSError, IndexError, ValueError):
            continue


# --- all of it


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="The engine beside processes.")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=3, help="of things that are compared")
    parser.add_argument("--quick", action="store_true", help="a few images: checks that it runs, measures nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/engine.json"), help="where the figures go, as JSON")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    figures: dict[str, Any] = {"machine": machine(), "size": asdict(size)}
    measured = {"survival": survival, "overhead": overhead, "nodes": nodes, "memory": memory}
    try:
        with tempfile.TemporaryDirectory(prefix="unseg-") as root:
            for name in options.only.split(","):
                if name not in measured:
                    raise UserError(f"--only {name}: choose from {', '.join(SECTIONS)}")
                figures[name] = measured[name](size, Images(Path(root)), 1 if options.quick else options.rounds)
                shown = {key: value for key, value in figures[name].items() if key != "runs"}
                print(f"{name}: {json.dumps(shown)}", flush=True)
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {options.out}")
    survived = figures.get("survival", {})
    return int(bool(survived.get("files_that_differ") or survived.get("images_not_told_once")))


if __name__ == "__main__":
    sys.exit(main())
