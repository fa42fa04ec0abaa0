"""A plan carried out: the files and the manifest of a run; or, for a dry run, the lines that it would write."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice

import numpy as np

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import Progress, track
from unseg.compute.threads import in_order
from unseg.errors import UserError
from unseg.protecting import processes
from unseg.protecting.effect import foreseen_status
from unseg.protecting.forecast import Forecast
from unseg.protecting.manifest import (
    Entry,
    Manifest,
    ManifestWriter,
    cannot_go_on,
    in_key_order,
    spooled_lines,
    write_manifest,
)
from unseg.protecting.objects import Refused
from unseg.protecting.one_image import Job
from unseg.protecting.pipeline import Pipeline, Result
from unseg.protecting.planning import RunPlan
from unseg.protecting.shards import begun
from unseg.protecting.trials import foretell
from unseg.storage import image_decoding, image_encoding
from unseg.storage.files import remove_temporaries, sync_folder
from unseg.storage.image_limits import ImageError
from unseg.storage.key_file import write_key

ANNOUNCED = 64  # images whose names are put on record at a time, before any of them is written
TRIED_FROM = 100  # images: the length from which a run is tried first
NEVER = sys.maxsize  # of runs whose length a trial here would not tell


@dataclass(frozen=True)
class Summary:
    """What a run did.

    entries: a line for every input of it, sorted. kept: how many were found done. seconds: of the images. forecast:
    what was said before it began. dry: nothing was done; "protected" are those that nothing speaks against. planned:
    only what shards go by was settled.
    """

    entries: Sequence[Entry]
    kept: int
    seconds: float
    forecast: Forecast
    dry: bool = False
    planned: bool = False

    def of(self, status: str) -> list[Entry]:
        """Returns the lines of one status: "protected", "weak", "uncoded", "copied", "skipped" or "failed".

        Those of "protected" may be many: `counts` and `entries` take less memory.
        """
        return [entry for entry in self.entries if entry.status == status]

    @cached_property
    def counts(self) -> Counter[str]:
        """Returns how many lines have which status."""
        return Counter(entry.status for entry in self.entries)

    @property
    def exit_code(self) -> int:
        """Returns 0 where every image is protected, else 1."""
        return int(self.counts.total() > self.counts["protected"])


def execute(plan: RunPlan, pool: Executor, progress: Progress, *, tried: bool = True) -> Summary:
    """Carries a plan out and returns what was done. The caller holds the lock of the output folder.

    tried: whether some images of a long run are tried first, which tells its length.
    """
    _remove_temporaries(plan)
    foreseen = foretell(plan, TRIED_FROM if tried else NEVER, pool, progress)
    started = time.perf_counter()
    kept, unsynced = 0, list[Entry]()
    _keep_key(plan, progress)
    with ManifestWriter(plan.records, plan.header, plan.before.values(), plan.pipeline.held) as manifest:
        for problem in plan.problems:
            manifest.add(problem)
        with closing(_results(plan, manifest, pool)) as results:
            for result in track(progress, results, len(plan.jobs), "images"):
                manifest.add(result.entry)
                unsynced.append(result.entry)
                kept += result.kept
                if len(unsynced) == ANNOUNCED:
                    _sync(plan, unsynced)
                    unsynced.clear()
        _sync(plan, unsynced)
    _remove_temporaries(plan)  # of a killed run's workers, which end a moment after it
    return Summary(manifest.added, kept, time.perf_counter() - started, foreseen)


def settle(plan: RunPlan, shards: int, pool: Executor, progress: Progress, *, tried: bool = True) -> Summary:
    """Writes what all shards of a run go by: its key and an unfinished manifest. No image is protected.

    A plan that shards have begun to carry out stays as it is. The caller holds the lock of the output folder.
    tried: as for `execute`.
    """
    foreseen = foretell(plan, TRIED_FROM if tried else NEVER, pool, progress)
    started = time.perf_counter()
    if not begun(plan.out):
        _keep_key(plan, progress)
        try:
            write_manifest(plan.out, Manifest(plan.header, plan.before), finished=False)
        except OSError as error:
            raise cannot_go_on(plan.out, error) from error
    return Summary((), 0, time.perf_counter() - started, foreseen, planned=True)


def _keep_key(plan: RunPlan, progress: Progress) -> None:
    if plan.key is not None and plan.key.is_new:
        write_key(plan.key.path, plan.key.key)
        progress.say(f"key: drawn, and kept in {plan.key.path}: keep it for later images, and do not publish it")


def foresee(plan: RunPlan, pool: Executor, progress: Progress) -> Summary:
    """Returns what `execute` would do, as far as headers, masks and annotations tell. Nothing is written."""
    started = time.perf_counter()
    checked = in_order(pool, lambda job: _foreseen(job, plan.pipeline), plan.jobs)
    entries = spooled_lines(chain(plan.problems, track(progress, checked, len(plan.jobs), "check")))
    foreseen = foretell(plan, 1, pool, progress)
    kept = len(plan.jobs) - len(plan.to_do)
    return Summary(in_key_order(entries), kept, time.perf_counter() - started, foreseen, dry=True)


def _foreseen(job: Job, pipeline: Pipeline) -> Entry:
    if job.earlier is not None and not job.is_new:
        return job.earlier
    try:
        if job.kind is not None:
            return pipeline.stacks.foreseen(job, pipeline.may_be_whole(job))
        data = pipeline.objects.image_bytes(job.sample)
        upright = not pipeline.settings.keep_frame
        frame = image_decoding.frame_of(job.sample.image, pipeline.settings.max_pixels, data, upright=upright)
        samples, alpha = _as_large(frame)
        reason = image_encoding.unsupported(pipeline.settings.format, samples, alpha)
        if reason:
            raise Refused("failed", reason)
        with PIXELS.room_for(frame.height * frame.width):
            found = pipeline.maker.find(job.sample, frame, pipeline.may_be_whole(job))
            status, reason = foreseen_status(pipeline.source.region(found))
    except Refused as refused:
        return pipeline.foreseen_line(job, refused)
    except ImageError as error:
        return Entry(*job.key, "failed", reason=error.reason)
    note = "; ".join(filter(None, (job.planned.note, *found.notes))) or None
    where = found.facts.get("object")
    share = None if pipeline.objects.settings().get("refined") else float(found.mask_HW.mean())
    return Entry(
        *job.key,
        status,
        output=job.planned.output,
        reason=reason,
        note=note,
        prompt=pipeline.objects.prompt,
        object=where,
        object_share=share,
    )


def _as_large(frame: image_decoding.Frame) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns samples and alpha of an image of this kind; they take two bytes, whatever their size."""
    value = np.uint16(0) if frame.bits == 16 else np.uint8(0)
    alpha = np.broadcast_to(value, (frame.height, frame.width)) if frame.has_alpha else None
    return np.broadcast_to(value, (frame.height, frame.width, frame.channels)), alpha


def _results(plan: RunPlan, manifest: ManifestWriter, pool: Executor) -> Generator[Result, None, None]:
    jobs = _announced(plan.jobs, manifest)
    if plan.processes == 1:
        return plan.pipeline.results(jobs, pool)
    blueprint = processes.blueprint(plan.pipeline, plan.processes)
    return processes.results(blueprint, plan.processes, jobs, count=len(plan.jobs))


def _announced(jobs: Sequence[Job], manifest: ManifestWriter) -> Iterator[Job]:
    """Yields the jobs, each one put on record before it is handed out."""
    left = iter(jobs)
    while part := list(islice(left, ANNOUNCED)):
        manifest.announce(entry for entry in map(_claims, part) if entry is not None)
        yield from part


def _claims(job: Job) -> Entry | None:
    """Returns the line that says what a job may write before it does, so that a killed run's files are known as ours.

    Returns None where the manifest says it already. What an earlier run finished stays finished.
    """
    owned = set(job.earlier.owned) if job.earlier else set()
    copy = set() if job.planned.copy is None else {job.planned.copy}
    claims = {job.planned.output} | copy | owned
    if claims <= owned:
        return None
    earlier = job.earlier or Entry(*job.key, "started")
    return replace(earlier, claims=tuple(sorted(claims)))


def _sync(plan: RunPlan, entries: Iterable[Entry]) -> None:
    """Waits until the disk has the names of the entries' files, whose contents it has since they were written."""
    for folder in {(plan.out / entry.output).parent for entry in entries if entry.output}:
        with suppress(FileNotFoundError):  # of an earlier run, removed since
            sync_folder(folder)


def _remove_temporaries(plan: RunPlan) -> None:
    try:
        remove_temporaries(plan.records)  # those of other shards are not ours
    except OSError as error:
        raise UserError(f"--out {plan.records}: cannot be written: {error.strerror}") from error
