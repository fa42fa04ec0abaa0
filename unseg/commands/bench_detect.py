"""`unseg bench --detect DIR`: whether a trainer's network would find the noise of a protected folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unseg.commands.bench_options import RunningOptions
from unseg.commands.console import Terminal
from unseg.compute.progress import Progress, track
from unseg.errors import UserError

if TYPE_CHECKING:  # torch is imported only when the command runs
    from unseg.evaluation.time_to_detect import CodedPhotograph, Detecting
    from unseg.protecting.pairs import ProtectedFolder

MOST_IMAGES, FEWEST_IMAGES = 200, 8  # evenly spread; with fewer a network could learn the photographs by heart
RESULT = "detect.json"
BEGINS_AGAIN = "interrupted; nothing is kept of a measurement that takes minutes, run the same command again"


@dataclass(frozen=True)
class DetectOptions:
    """What is asked of a protected folder."""

    PANEL: ClassVar[str] = "Time to detect"
    detect: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Measure in minutes whether a trainer's network would find the noise of this folder, the --out of "
            "`unseg protect`; no set is needed then.",
        ),
    ] = None
    long_side: Annotated[
        int, typer.Option(help="With --detect: pixels that a trainer shrinks larger images to (64 or more).")
    ] = 640
    originals: Annotated[Path | None, typer.Option(help="With --detect: as for `unseg verify`.")] = None
    masks: Annotated[Path | None, typer.Option(help="With --detect: as for `unseg verify`.")] = None
    annotations: Annotated[Path | None, typer.Option(help="With --detect: as for `unseg verify`.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="With --detect: print what was found as JSON.")] = False


def detect(
    options: DetectOptions, folder: Path, out: Path | None, running: RunningOptions, seed: int, terminal: Terminal
) -> dict[str, Any]:
    """Measures the time to detect of a protected folder, says it in words and returns it as JSON.

    out: a folder for detect.json; None: nothing is written. Raises UserError for what cannot be measured.
    """
    import torch

    from unseg.compute.device import choose_device
    from unseg.compute.threads import cores, single_threaded_pool
    from unseg.evaluation.time_to_detect import Detecting, Question, time_to_detect, verdict
    from unseg.storage.files import write_bytes

    if options.long_side < 64:
        raise UserError(f"--long-side {options.long_side}: give at least 64 pixels")
    if out is not None and (out / RESULT).exists():
        raise UserError(f"--out {out}: holds a {RESULT} already; give another folder or remove it")
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder for {RESULT}")
    if running.threads is not None:
        torch.set_num_threads(running.threads)
    training, chosen = Detecting(seed=seed), choose_device(running.device)
    with single_threaded_pool(cores()) as pool:
        photographs = _photographs(_opened(options, folder, pool), options.long_side, folder, pool, terminal)
    question = Question(lambda index, random: photographs[index].visited(random), len(photographs))
    windows = time_to_detect(question, training, device=chosen, progress=terminal)
    found = verdict(windows)
    terminal.say(found.sentence())
    result = _result(folder, options.long_side, training, photographs) | {
        "answer": found.answer,
        "sentence": found.sentence(),
        "windows": [asdict(window) for window in windows],
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / RESULT, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return result


def _opened(options: DetectOptions, folder: Path, pool: Executor) -> ProtectedFolder:
    from unseg.editions.audit import edition_annotations
    from unseg.editions.description import read_edition
    from unseg.protecting.open_annotations import OpenAnnotations
    from unseg.protecting.pairs import ProtectedFolder

    if not folder.is_dir():
        raise UserError(f"--detect {folder}: no such folder; give the --out folder of `unseg protect`")
    edition = read_edition(folder)
    annotations: Path | OpenAnnotations | None = options.annotations
    if edition is not None:
        annotations = edition_annotations(folder, edition, options.originals)
    return ProtectedFolder.open(folder, pool, originals=options.originals, masks=options.masks, annotations=annotations)


def _photographs(
    opened: ProtectedFolder, long_side: int, folder: Path, pool: Executor, progress: Progress
) -> list[CodedPhotograph]:
    """Returns at most MOST_IMAGES photographs that show a part with noise; UserError where there are too few."""
    from unseg.evaluation.time_to_detect import coded_photograph

    entries = opened.entries[:: -(-len(opened.entries) // MOST_IMAGES)]

    def read(place: int) -> CodedPhotograph:
        pair = opened.pair(entries[place])
        return coded_photograph(pair.original, pair.protected, pair.classes, long_side)

    read_all = track(progress, pool.map(read, range(len(entries))), len(entries), "reading images and originals")
    usable = [photograph for photograph in read_all if photograph.parts.any()]
    if len(usable) < FEWEST_IMAGES:
        raise UserError(
            f"--detect {folder}: {len(usable)} of {len(entries)} images show a part with noise, at least "
            f"{FEWEST_IMAGES} are needed; protect more images"
        )
    return usable


def _result(
    folder: Path, long_side: int, training: Detecting, photographs: Sequence[CodedPhotograph]
) -> dict[str, Any]:
    from unseg import __version__
    from unseg.evaluation.time_to_detect import STANDARD

    return {
        "folder": str(folder),
        "unseg": __version__,
        "long_side": long_side,
        **asdict(training),
        "images": len(photographs),
        "parts": sum(int(photograph.parts.max()) for photograph in photographs),
        "standard": list(STANDARD),
    }
