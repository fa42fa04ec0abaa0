"""A run on an engine: the driver plans, actors make the shards of the plan, and the driver merges them.

It is a run in shards (`unseg.protecting.shards`), on disks that all machines see or in stores. What all shards share is
sent to each actor once: the settings, the noise, what says where objects are. A shard's own is its images with the
names planned for them, so that no actor lists what others do. A shard is done once its manifest is there: that is asked
before it is handed out, and again before it is made. So nothing is lost with an actor or the driver but time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unseg.compute.engine import Crew, Engine, Part, Work, connected
from unseg.compute.progress import SILENT, Progress
from unseg.compute.ray_cluster import OPTION
from unseg.compute.threads import alone, single_threaded_pool
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.protecting.annotation_objects import AnnotationObjects
from unseg.protecting.container_runs import FACTS, Rewriting, merge_any, rewriting_of, write_facts
from unseg.protecting.execution import Summary, execute
from unseg.protecting.manifest import AGREED, MANIFEST, SHARDS, Entry, Key
from unseg.protecting.merging import merge
from unseg.protecting.noise_source import NoiseSource
from unseg.protecting.objects import Objects
from unseg.protecting.one_image import Job
from unseg.protecting.opened_containers import Containers
from unseg.protecting.outputs import looked_for
from unseg.protecting.planning import RunPlan, part_of
from unseg.protecting.processes import Blueprint, blueprint
from unseg.protecting.request import Request
from unseg.protecting.shards import SHARD, Shard, begun, is_done, own_lines
from unseg.protecting.stores import (
    IMAGES_A_SHARD,
    merged_in_store,
    send_plan,
    shard_in_store,
    shards_for,
)
from unseg.storage import image_limits
from unseg.storage.files import sha256_of
from unseg.storage.lending import Sender, receiving
from unseg.storage.locks import SILENCE, FolderLock, holder_of
from unseg.storage.mirror import Mirror, mirror_here
from unseg.storage.picture_kinds import side_files

SHARDS_AN_ACTOR = 8  # so that all end at about the same time
LEAST = 8  # images of a shard: below that, its manifest is most of the work
LOOK_AGAIN = 0.5  # seconds
GOES = SILENCE + 30  # seconds in which whoever holds a lock has ended, or is taken for dead
RunAndHandOut = Callable[[Request, bool, Progress, Callable[[RunPlan], None]], Summary]


@dataclass(frozen=True)
class _Piece:
    """A shard as an actor is told it: with what a plan has of its own for it. objects: those of its images, where each
    shard has its own. anew: tars or tables that are written once these are made."""

    shard: Shard
    header: dict[str, Any]
    problems: tuple[Entry, ...]
    before: dict[Key, Entry]
    jobs: tuple[Job, ...]
    objects: Objects | None
    anew: Rewriting | None


@dataclass(frozen=True)
class _Made:
    """What an actor says of a shard: how many images, and how many of them an earlier run had finished."""

    images: int
    kept: int


# --- the driver


def protect_on_engine(request: Request, engine: Engine, progress: Progress, run: RunAndHandOut) -> Summary:
    """Carries out a run on an engine. run: plans it on this machine, and hands out what it planned."""
    out, containers = request.out, request.containers
    there = mirror_here()
    mirror = None if there is None or there.url(out) is None else there  # of the output, not of images alone
    whole = out if containers is None else out.parent
    kept, seconds = 0, 0.0
    cores = request.settings.workers or 1
    with connected(engine, progress) as crew:
        size = crew.size(cores)
        count = shards_for(request, lambda images: _images_a_shard(images, size))
        parts = containers.parts(count, request.parts) if containers and request.parts else None
        _wait_for_the_last(out)
        before = None if mirror is None else sha256_of(out / MANIFEST)

        def hand_out(plan: RunPlan) -> None:
            nonlocal kept, seconds
            if containers is not None:
                write_facts(containers, out)
            if mirror is not None:
                if containers is not None:
                    mirror.send(out / FACTS)
                send_plan(mirror, out, before)
            started = time.perf_counter()
            kept = _Driver(plan, count, parts, containers).has_made(crew, cores, progress)
            seconds = time.perf_counter() - started

        plan = Shard(0, count)
        try:
            run(replace(request, shard=plan, engine=None, parts=parts), False, progress, hand_out)
        except UserError as error:  # the user gave no shard
            raise UserError(str(error).replace(f"--shard {plan}: ", f"{OPTION}: ")) from error
    if mirror is not None:
        mirror.listed(mirror.url(whole if containers else out / SHARDS) or "")  # what actors put there
        merged = merged_in_store(mirror, whole, of_edition=True)
    else:
        merged = merge(out, of_edition=True) if containers is None else merge_any(whole)
    return replace(merged, kept=kept, seconds=seconds)


def _images_a_shard(images: int, actors: int) -> int:
    return min(IMAGES_A_SHARD, max(LEAST, -(-images // (SHARDS_AN_ACTOR * actors))))


def _wait_for_the_last(out: Path) -> None:
    """Waits until the actors of a driver that was killed are gone: they end by themselves."""
    until = time.monotonic() + GOES
    while time.monotonic() < until and any(holder_of(folder) is not None for folder in begun(out)):
        time.sleep(LOOK_AGAIN)


@dataclass(frozen=True)
class _Driver:
    """What is handed out. parts: as for `Shard.of`. containers: tars or tables whose images the plan speaks of."""

    plan: RunPlan
    count: int
    parts: tuple[int, ...] | None
    containers: Containers | None

    def has_made(self, crew: Crew, cores: int, progress: Progress) -> int:
        """Has every shard made that is not there yet; returns how many images earlier runs had finished."""
        plan, sender = self.plan, Sender.here()
        shards = [Shard(number, self.count) for number in range(1, self.count + 1)]
        to_do = [shard for shard in shards if not _is_made(shard, plan.out, plan.header, self._anew(shard))]
        done = sum(len(shard.of(plan.jobs, self.parts)) for shard in set(shards) - set(to_do))
        whole = replace(blueprint(plan.pipeline, 1), workers=cores, held=None)
        files = whole.objects.opened.files if isinstance(whole.objects, AnnotationObjects) else ()
        common = sender.common(replace(whole, objects=_objects_of(whole.objects, ()) or whole.objects), files)
        parts = (Part(f"shard {shard}", self._part(shard, sender)) for shard in to_do)
        gpus = int(plan.pipeline.source.device_type != "cpu")
        kept = done
        with (
            progress.bar("images", len(plan.jobs)) as tick,
            closing(crew.results(work_on_shards, common, parts, len(to_do), cores, gpus)) as results,
        ):
            for _ in range(done):
                tick()
            for made in results:
                kept += made.kept
                for _ in range(made.images):
                    tick()
        return kept

    def _anew(self, shard: Shard) -> Rewriting | None:
        return None if self.containers is None else rewriting_of(self.containers, self.plan.out, shard)

    def _part(self, shard: Shard, sender: Sender) -> bytes:
        plan, own, anew = self.plan, part_of(self.plan, shard, self.parts), self._anew(shard)
        own |= {"jobs": tuple(own["jobs"]), "before": dict(own["before"])}  # which are read from this machine's disk
        objects = _objects_of(plan.pipeline.objects, (job.sample for job in own["jobs"]))
        piece = _Piece(shard, {**plan.header, SHARD: shard.number}, objects=objects, anew=anew, **own)
        return sender.part(piece, _files_of(piece, plan.out))


def _objects_of(objects: Objects, samples: Iterable[SampleFile]) -> Objects | None:
    """Returns what says where the objects of these images are, without what it knows of others; None where it knows no
    more of one image than of all."""
    if not isinstance(objects, AnnotationObjects):
        return None
    opened = objects.opened.of_images(map(objects.opened.name_of, samples))
    if opened is objects.opened:
        return None
    return AnnotationObjects(opened, objects.rule, objects.place, objects.max_pixels, objects.upright)


def _is_made(shard: Shard, out: Path, plan: Mapping[str, Any], anew: Rewriting | None) -> bool:
    """Returns whether a shard came to its end; of tars and tables, whose images are done before, all must be there."""
    return is_done(shard, out, plan) and (anew is None or anew.is_done)


def _files_of(piece: _Piece, out: Path) -> Iterator[Path]:
    """Yields the files that a shard reads, and those that may be in the way of what it writes."""
    for job in piece.jobs:
        yield job.sample.image
        if job.sample.mask is not None:
            yield from (job.sample.mask, *side_files(job.sample.mask))
        if isinstance(piece.objects, AnnotationObjects):
            yield from piece.objects.opened.reader.files_of(piece.objects.opened.name_of(job.sample))
        outputs = {job.planned.output, job.planned.copy, *(job.earlier.owned if job.earlier else ())}
        yield from (out / name for name in outputs if name is not None)
    if piece.anew is not None:
        yield from piece.anew.originals
        yield from (out.parent / name for name in piece.anew.files)


# --- an actor


@contextmanager
def work_on_shards(common: bytes) -> Iterator[Work]:
    """Begins an actor's work: builds the source of noise once, and makes shards with it."""
    with receiving() as receiver, receiver.common(common) as whole:
        source = whole.source.build(0)

        def work(part: bytes) -> _Made:
            with receiver.part(part) as piece:
                return _made(replace(whole, objects=piece.objects or whole.objects), source, piece, receiver.mirror)

        yield work


def _made(whole: Blueprint, source: NoiseSource, piece: _Piece, mirror: Mirror) -> _Made:
    shard, out, anew = piece.shard, whole.out, piece.anew
    url = mirror.url(out)
    if url is not None:
        mirror.listed(mirror.url(shard.folder(out)) or "")
    if _is_made(shard, out, piece.header, anew):
        return _Made(len(piece.jobs), len(piece.jobs))
    if url is None:
        summary = _written(whole, source, piece)
    elif anew is None:
        summary = shard_in_store(mirror, out, shard, lambda: _written(whole, source, piece))
    else:
        summary = shard_in_store(mirror, out.parent, shard, lambda: _written(whole, source, piece), out, anew.files)
    return _Made(len(piece.jobs), summary.kept)


def _written(whole: Blueprint, source: NoiseSource, piece: _Piece) -> Summary:
    """Writes the images of a shard that an actor before this one did not finish, or the files that hold them."""
    folder = piece.shard.folder(whole.out)
    with (
        image_limits.own_size_limit(),
        image_limits.quiet_decoders(),
        alone(),
        single_threaded_pool(whole.workers) as pool,
        _locked(folder) as lock,
    ):
        before = {**piece.before, **own_lines(piece.shard, whole.out, piece.header[AGREED])}
        names = list(looked_for(((job.key, job.planned) for job in piece.jobs), whole.out, before))
        jobs = tuple(
            replace(job, planned=name, earlier=before.get(job.key)) for job, name in zip(piece.jobs, names, strict=True)
        )
        pipeline = replace(whole, held=lock.held).around(source)
        plan = RunPlan(pipeline, piece.header, piece.problems, before, jobs, processes=1, records=folder)
        summary = execute(plan, pool, SILENT, tried=False)
        if piece.anew is None:
            return summary
        summary = piece.anew.carry_out(folder, summary, SILENT)
        piece.anew.remove_loose()
        return summary


@contextmanager
def _locked(folder: Path) -> Iterator[FolderLock]:
    """Holds the lock of a shard's folder; waits for an actor that was given the shard before and is given up."""
    until = time.monotonic() + GOES
    while holder_of(folder) is not None and time.monotonic() < until:
        time.sleep(LOOK_AGAIN)
    with FolderLock(folder) as lock:
        yield lock
