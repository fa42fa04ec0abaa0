"""A run on an engine: the driver plans, actors make the shards of the plan, and the driver merges them.

It is a run in shards (`unseg.protecting.shards`), on disks that all machines see or in stores. What all shards share is
sent to each actor once: the settings, the noise, what says where objects are. A shard's own is its images with the
names planned for them, so that no actor lists what others do. A shard is done once its manifest is there: that is asked
before it is handed out, and again before it is made. So nothing is lost with an actor or the driver but time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unseg.compute.engine import Crew, Engine, Part, Work, connected
from unseg.compute.progress import SILENT, Progress
from unseg.compute.ray_cluster import OPTION
from unseg.compute.threads import alone, single_threaded_pool
from unseg.errors import UserError
from unseg.protecting.execution import Summary, execute
from unseg.protecting.manifest import AGREED, MANIFEST, SHARDS, Entry, Key
from unseg.protecting.merging import merge
from unseg.protecting.noise_source import NoiseSource
from unseg.protecting.one_image import Job
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
from unseg.storage.locks import SILENCE, FolderLock, holder_of
from unseg.storage.mirror import Mirror, Name, mirror_here, mirrored
from unseg.storage.packing import packed, unpacked

SHARDS_AN_ACTOR = 8  # so that all end at about the same time
LEAST = 8  # images of a shard: below that, its manifest is most of the work
LOOK_AGAIN = 0.5  # seconds
GOES = SILENCE + 30  # seconds in which whoever holds a lock has ended, or is taken for dead
RunAndHandOut = Callable[[Request, bool, Progress, Callable[[RunPlan], None]], Summary]


@dataclass(frozen=True)
class _Piece:
    """A shard as an actor is told it: with what a plan has of its own for it. names: of the files that it may read."""

    shard: Shard
    header: dict[str, Any]
    problems: tuple[Entry, ...]
    before: dict[Key, Entry]
    jobs: tuple[Job, ...]
    names: list[Name]


@dataclass(frozen=True)
class _Made:
    """What an actor says of a shard: how many images, and how many of them an earlier run had finished."""

    images: int
    kept: int


# --- the driver


def protect_on_engine(request: Request, engine: Engine, progress: Progress, run: RunAndHandOut) -> Summary:
    """Carries out a run on an engine. run: plans it on this machine, and hands out what it planned."""
    out, mirror = request.out, mirror_here()
    kept, seconds = 0, 0.0
    cores = request.settings.workers or 1
    with connected(engine, progress) as crew:
        size = crew.size(cores)
        count = shards_for(request, lambda images: _images_a_shard(images, size))
        _wait_for_the_last(out)
        before = None if mirror is None else sha256_of(out / MANIFEST)

        def hand_out(plan: RunPlan) -> None:
            nonlocal kept, seconds
            if mirror is not None:
                send_plan(mirror, out, before)
            started = time.perf_counter()
            kept = _made_by_actors(plan, count, crew, cores, mirror, progress)
            seconds = time.perf_counter() - started

        plan = Shard(0, count)
        try:
            run(replace(request, shard=plan, engine=None), False, progress, hand_out)
        except UserError as error:  # the user gave no shard
            raise UserError(str(error).replace(f"--shard {plan}: ", f"{OPTION}: ")) from error
    if mirror is None:
        merged = merge(out, of_edition=True)
    else:
        mirror.listed(mirror.url(out / SHARDS) or "")  # what actors put there
        merged = merged_in_store(mirror, out)
    return replace(merged, kept=kept, seconds=seconds)


def _images_a_shard(images: int, actors: int) -> int:
    return min(IMAGES_A_SHARD, max(LEAST, -(-images // (SHARDS_AN_ACTOR * actors))))


def _wait_for_the_last(out: Path) -> None:
    """Waits until the actors of a driver that was killed are gone: they end by themselves."""
    until = time.monotonic() + GOES
    while time.monotonic() < until and any(holder_of(folder) is not None for folder in begun(out)):
        time.sleep(LOOK_AGAIN)


def _made_by_actors(
    plan: RunPlan, count: int, crew: Crew, cores: int, mirror: Mirror | None, progress: Progress
) -> int:
    """Has every shard made that is not there yet; returns how many images earlier runs had finished."""
    shards = [Shard(number, count) for number in range(1, count + 1)]
    to_do = [shard for shard in shards if not is_done(shard, plan.out, plan.header)]
    done = sum(len(shard.of(plan.jobs)) for shard in set(shards) - set(to_do))
    common = packed(replace(blueprint(plan.pipeline, 1), workers=cores, held=None, mounts=()), mirror)
    parts = (Part(f"shard {shard}", packed(_piece(plan, shard, mirror), mirror)) for shard in to_do)
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


def _piece(plan: RunPlan, shard: Shard, mirror: Mirror | None) -> _Piece:
    own = part_of(plan, shard)
    jobs = tuple(own["jobs"])
    return _Piece(
        shard,
        {**plan.header, SHARD: shard.number},
        problems=own["problems"],
        before=dict(own["before"]),
        jobs=jobs,
        names=[] if mirror is None else mirror.names(_files_of(jobs, plan.out)),
    )


def _files_of(jobs: tuple[Job, ...], out: Path) -> Iterator[Path]:
    """Yields the files that jobs read, and those that may be in the way of what they write."""
    for job in jobs:
        yield job.sample.image
        if job.sample.mask is not None:
            yield job.sample.mask
        outputs = {job.planned.output, job.planned.copy, *(job.earlier.owned if job.earlier else ())}
        yield from (out / name for name in outputs if name is not None)


# --- an actor


@contextmanager
def work_on_shards(common: bytes) -> Iterator[Work]:
    """Begins an actor's work: builds the source of noise once, and makes shards with it."""
    with mirrored() as mirror:
        whole: Blueprint = unpacked(common, mirror)
        source = whole.source.build(0)

        def work(part: bytes) -> _Made:
            piece: _Piece = unpacked(part, mirror)
            with mirror.lent(piece.names):
                return _made(whole, source, piece, mirror)

        yield work


def _made(whole: Blueprint, source: NoiseSource, piece: _Piece, mirror: Mirror) -> _Made:
    shard, out = piece.shard, whole.out
    url = mirror.url(out)
    if url is not None:
        mirror.listed(mirror.url(shard.folder(out)) or "")
    if is_done(shard, out, piece.header):
        return _Made(len(piece.jobs), len(piece.jobs))
    if url is None:
        summary = _protected(whole, source, piece)
    else:
        summary = shard_in_store(mirror, out, shard, lambda: _protected(whole, source, piece))
    return _Made(len(piece.jobs), summary.kept)


def _protected(whole: Blueprint, source: NoiseSource, piece: _Piece) -> Summary:
    """Protects the images of a shard that an actor before this one did not finish, and writes its manifest."""
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
        return execute(plan, pool, SILENT, tried=False)


@contextmanager
def _locked(folder: Path) -> Iterator[FolderLock]:
    """Holds the lock of a shard's folder; waits for an actor that was given the shard before and is given up."""
    until = time.monotonic() + GOES
    while holder_of(folder) is not None and time.monotonic() < until:
        time.sleep(LOOK_AGAIN)
    with FolderLock(folder) as lock:
        yield lock
