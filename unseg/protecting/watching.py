"""A run that goes on: folders are looked at again and again, and what has come or changed is protected.

Folders are looked at every second (`PAUSE`), rather than by asking the system to tell of changes: the system is silent
about folders of other machines, and whether a file is still being written shows in its size and time alone. A file
counts once both have stayed for two seconds (`SETTLED`), and so does a mask, or a file of boxes, before its images are
protected by it. A mask that the run found itself counts anew once a person has changed it. A look asks for names, sizes
and times, and reads no content.

What an ordinary run does with an image happens to each of them, in rounds: the lock is held throughout, and the
manifest is whole after each round. What the first line of the manifest says stays: what masks hold, and which class
has which code.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import cores, single_threaded_pool
from unseg.data.samples import SampleFile, walk
from unseg.errors import UserError
from unseg.protecting.execution import Summary, execute
from unseg.protecting.header import recorded
from unseg.protecting.inputs import Inputs, read_inputs
from unseg.protecting.kept_masks import masks_beside
from unseg.protecting.manifest import MANIFEST, Entry, read_manifest
from unseg.protecting.mask_finding import with_masks
from unseg.protecting.outputs import check_folders
from unseg.protecting.planning import plan_run
from unseg.protecting.request import Request
from unseg.storage.locks import FolderLock, Held, told_of_stale
from unseg.storage.picture_kinds import is_mask_name, is_picture

PAUSE, SETTLED = 1.0, 2.0  # seconds: between two looks; for which a file must have stayed as it is
LOOKING_SHARE = 0.1  # of the time, at most, that is spent on looking at large folders
TOLD = 20  # images of a round that are told one by one
Mark = tuple[int, int, int]
"""Size, time of change in ns, and number of a file: what shows that it is another one or has changed."""
STATUS_WORDS = {
    "weak": "weak",
    "uncoded": "without noise",
    "copied": "copied",
    "skipped": "left out",
    "failed": "failed",
}


def check_watched(request: Request, dry_run: bool) -> None:
    """Raises UserError where a request is not one to go on with, or its folders are not there."""
    tint = request.settings.noise == "tint"
    for option, given, why in (
        ("--dry-run", dry_run, "writes nothing"),
        ("--limit", request.limit is not None, "ends after so many images"),
        ("--mask", request.mask is not None, "is of one image"),
        ("--shard", request.shard is not None, "is a part of a run that ends"),
        ("--engine ray", request.engine is not None, "shares out a run that ends"),
        ("--webdataset", request.webdataset is not None, "takes tar files that are complete"),
        ("--huggingface", request.huggingface is not None, "takes tables that are complete"),
        ("s3://", request.is_in_stores, "is looked at once, and its contents are fetched then"),
        ("--unmasked fail", request.settings.unmasked == "fail", "ends a run before its first image"),
        ("--noise tint", tint, "counts the classes of all images first"),
    ):
        if given:
            raise UserError(f"{option}: {why}, and --watch goes on with what comes; leave out one of them")
    for folder in request.inputs:
        if not folder.is_dir():
            raise UserError(f"--watch: {folder} is no folder; name the folders that images come into")
    if request.mask_folder is not None and not request.mask_folder.is_dir():
        raise UserError(f"--masks {request.mask_folder}: no such folder")
    if not request.inputs:
        raise UserError("--watch: name the folders that images come into")
    check_folders(request.inputs, request.out, request.mask_folder)


def watched(request: Request, progress: Progress) -> NoReturn:
    """Protects what lies in a request's folders, and then whatever comes, until it is interrupted.

    It ends with the KeyboardInterrupt that ends it, whose text says what there is by then; or with UserError.
    """
    with FolderLock(request.out) as lock:
        if lock.stale:
            progress.say(told_of_stale(lock.stale))
        try:
            _Watch(request, lock.held, progress).go_on()
        except KeyboardInterrupt as stop:
            raise type(stop)(_ending(request.out)) from None


def _ending(out: Path) -> str:
    counts: Counter[str] = Counter()
    with suppress(UserError):
        found = read_manifest(out)
        counts.update(entry.status for entry in (found.entries.values() if found else ()))
    others = [f"{counts[status]} {word}" for status, word in STATUS_WORDS.items() if counts[status]]
    told = ", ".join([f"{counts['protected']} protected", *others])
    return f"no longer watching; {out} holds {told}; run the same command again to go on"


def _mark_of(path: Path) -> Mark | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


class _Look:
    """Files as they were when last looked at, and since when each has been so."""

    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        self._since: dict[str, float] = {}

    def again(self, paths: Iterable[Path]) -> None:
        """Looks at these files; those that are not among them are gone."""
        now, found = time.monotonic(), dict[str, Mark]()
        for path in paths:
            mark = _mark_of(path)
            if mark is not None:  # else it has just gone
                found[os.fspath(path)] = mark
        self._since = {name: self._since[name] if self.marks.get(name) == mark else now for name, mark in found.items()}
        self.marks = found

    def settled(self) -> dict[str, Mark]:
        """Returns the files that have stayed as they are for long enough to be whole."""
        since = time.monotonic() - SETTLED
        return {name: mark for name, mark in self.marks.items() if self._since[name] <= since}


class _Watch:
    """What a run that goes on remembers. held: the output folder that it has locked."""

    def __init__(self, request: Request, held: Held, progress: Progress) -> None:
        self.request, self.held, self.progress = request, held, progress
        self._look = _Look()
        self._considered: dict[str, Mark] | None = None
        self._done: dict[str, tuple[Mark | None, ...]] = {}
        self._found_masks: dict[str, Path] = {}
        self._inputs: Inputs | None = None
        self._began = False

    def go_on(self) -> NoReturn:
        """Looks and protects until an exception ends it."""
        while True:
            began = time.monotonic()
            self._look.again(self._paths())
            settled, took = self._look.settled(), time.monotonic() - began
            if settled != self._considered:
                self._tell_gone()
                if self._is_ready(settled):
                    self._round(settled)
                self._considered = settled
            time.sleep(max(PAUSE, took / LOOKING_SHARE))

    # --- what there is

    def _paths(self) -> Iterator[Path]:
        """Yields every file that decides on something, also those that are no images."""
        request, out = self.request, os.path.realpath(self.request.out)
        for folder in request.inputs:
            if not folder.is_dir():
                raise UserError(f"{folder}: is gone; put it back and run the same command again")
            yield from walk(folder, [], [out])
        masks = masks_beside(request.out) if request.finds_masks else request.mask_folder
        if masks is not None:
            yield from walk(masks, [], [out])
        yield from self._hints()

    def _hints(self) -> Iterator[Path]:
        """Yields the files that say where the objects of many images are."""
        request = self.request
        for place in (request.boxes, request.points, request.annotations):
            if isinstance(place, Path):
                yield from [place] if not place.is_dir() else walk(place, [])

    def _is_ready(self, settled: dict[str, Mark]) -> bool:
        """Returns whether there is an image, and a mask where those are to come in files; tells what has not come."""
        lacking = self._lacking(settled)
        if lacking is not None and not self._began and self._lacking(self._look.marks) == lacking:
            self.progress.say(f"watching {_listed(self.request.inputs)}: waiting for the first {lacking}")
        return lacking is None

    def _lacking(self, files: Iterable[str]) -> str | None:
        masks = self.request.mask_folder
        inputs = tuple(os.path.join(folder, "") for folder in self.request.inputs)
        if not any(name.startswith(inputs) and is_picture(Path(name)) for name in files):
            return "image"
        if masks is None or any(name.startswith(os.path.join(masks, "")) and is_mask_name(name) for name in files):
            return None
        return f"mask in {masks}"

    def _tell_gone(self) -> None:
        gone = sorted(name for name in self._done if name not in self._look.marks)
        for name in gone:
            del self._done[name]
        for name in gone[:TOLD]:
            self.progress.say(f"{name}: is gone; what was written for it stays")

    # --- a round

    def _round(self, settled: dict[str, Mark]) -> None:
        """Protects the images that have settled and are not done as they are; tells what became of each."""
        progress = SILENT if self._began else self.progress
        with single_threaded_pool(self.request.settings.workers or cores()) as pool:
            try:
                request = _as_recorded(self.request)
                inputs = read_inputs(request, pool, progress, self._inputs)
                due = self._due(inputs.found.samples, settled)
                if not due:
                    return
                plan = plan_run(request, self._masked(request, inputs, due, pool), pool, progress, self.held)
            except UserError as error:
                if not self._began:
                    raise
                self.progress.say(f"error: {error}; waiting until that changes")
                return
            jobs = tuple(job for job in plan.jobs if os.fspath(job.sample.image) in due)
            for name in due.keys() & self._found_masks.keys():  # not read yet: a change from here on counts
                due[name] = (due[name][0], _mark_of(self._found_masks[name]))
            plan = replace(plan, jobs=jobs, processes=max(1, min(self.request.processes, len(jobs))))
            summary = execute(plan, pool, progress)
        self._done |= due
        self._tell(summary)
        self._inputs, self._began = inputs, True

    def _masked(self, request: Request, inputs: Inputs, due: Collection[str], pool: Executor) -> Inputs:
        """Returns the inputs with the masks that are found for those that are due, which then are all there are."""
        if not request.finds_masks:
            return inputs
        samples = [sample for sample in inputs.found.samples if os.fspath(sample.image) in due]
        chosen = replace(inputs, found=replace(inputs.found, samples=samples))
        masked = with_masks(request, chosen, pool, self.progress, writes=True)
        found = {os.fspath(sample.image): sample.mask for sample in masked.found.samples}
        self._found_masks |= {name: mask for name, mask in found.items() if mask is not None}
        return masked

    def _due(self, samples: Sequence[SampleFile], settled: dict[str, Mark]) -> dict[str, tuple[Mark | None, ...]]:
        """Returns the images to protect now, each with the marks of all files that decide on it."""
        hints = [settled.get(os.fspath(path)) for path in self._hints()]
        if None in hints:
            return {}
        due: dict[str, tuple[Mark | None, ...]] = {}
        for sample in samples:
            image = os.fspath(sample.image)
            masks = [os.fspath(path) for path in (sample.mask, self._found_masks.get(image)) if path is not None]
            marks = (settled.get(image), *hints, *(settled.get(name) for name in masks))
            if None not in marks and self._done.get(image) != marks:
                due[image] = marks
        return due

    def _tell(self, summary: Summary) -> None:
        if not self._began:
            left = len(summary.entries) - summary.counts["protected"]
            others = f", {left} not: {self.request.out / MANIFEST} says why" if left else ""
            self.progress.say(
                f"watching {_listed(self.request.inputs)}: {summary.counts['protected']} protected{others}; what comes"
                " is protected, too, until Ctrl-C"
            )
            return
        for entry in summary.entries[:TOLD]:
            self.progress.say(_line(entry))
        if len(summary.entries) > TOLD:
            self.progress.say(f"… and {len(summary.entries) - TOLD} more in {self.request.out / MANIFEST}")


def _as_recorded(request: Request) -> Request:
    """Returns the request with what an earlier round, or run, found out about masks for good."""
    found = read_manifest(request.out)
    if found is None or request.mask_folder is None or request.settings.mask_type != "auto":
        return request
    kind = recorded(found, request.out).kind
    return request if kind is None else replace(request, settings=replace(request.settings, mask_type=kind))


def _line(entry: Entry) -> str:
    if entry.status == "protected":
        return f"{entry.input}: protected"
    return f"{entry.input}: {STATUS_WORDS.get(entry.status, entry.status)}: {entry.reason}"


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(map(str, folders))
