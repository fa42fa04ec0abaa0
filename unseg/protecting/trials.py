"""How long a run will take, foretold from a few images that are protected without being written."""

from __future__ import annotations

import os
import shutil
import time
from array import array
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np

from unseg.compute.progress import Progress
from unseg.protecting.forecast import Forecast, Trial, forecast, spread
from unseg.protecting.objects import Refused
from unseg.protecting.one_image import Job
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.planning import RunPlan
from unseg.storage.image_limits import ImageError

T = TypeVar("T")
TRIALS = 3  # images that are tried


def foretell(plan: RunPlan, tried_from: int, pool: Executor, progress: Progress) -> Forecast:
    """Returns what the run will take, and tells it.

    Where at least `tried_from` images are to do, some of them are tried. Nothing is written.
    """
    foreseen = _forecast(plan, tried_from, pool)
    for sentence in foreseen.sentences(str(plan.out)):
        progress.say(sentence)
    return foreseen


def _forecast(plan: RunPlan, tried_from: int, pool: Executor) -> Forecast:
    pipeline, to_do = plan.pipeline, plan.to_do
    on_gpu = pipeline.source.device_type != "cpu"
    sizes, pictures = array("Q"), array("Q")  # pictures: their places among the jobs to do
    for place, job in enumerate(to_do):
        sizes.append(_size_of(job, pipeline))
        if job.kind is None:
            pictures.append(place)
    trials: list[Trial] = []
    if len(to_do) >= tried_from:
        by_size = np.argsort(np.asarray(sizes)[np.asarray(pictures, np.intp)], kind="stable")
        chosen = spread(range(len(by_size)), TRIALS if pipeline.generators > 1 or on_gpu else 1)
        with pipeline.generator_threads() as generator:
            for place in (pictures[by_size[number]] for number in chosen):
                trial = _try(to_do[place], sizes[place], pipeline, pool=pool, generator=generator)
                trials += [] if trial is None else [trial]
    out = plan.out.resolve()
    free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free
    share = plan.processes if pipeline.source.device_type == "cuda" else 1  # processes share the cores, not GPUs
    return forecast(
        len(plan.jobs),
        len(plan.jobs) - len(to_do),
        sizes=sizes,
        trials=trials,
        generators=pipeline.generators * share,
        workers=pipeline.workers,
        bytes_free=free,
    )


def _size_of(job: Job, pipeline: Pipeline) -> int:
    """Returns an input's bytes; 0 where it cannot be read, which its own line will tell."""
    try:
        data = pipeline.objects.image_bytes(job.sample)
        return os.stat(job.sample.image).st_size if data is None else len(data)
    except (OSError, ImageError):
        return 0


def _try(job: Job, size: int, pipeline: Pipeline, *, pool: Executor, generator: Executor) -> Trial | None:
    """Protects one image without writing it and returns what that took; None where it fails, as the run will tell.

    size: of the input, in bytes. pool, generator: the threads that decode and that ask the network.
    """
    try:
        loaded, decoding = _timed(pool, pipeline.maker.decode, job)
        noises, generating = _timed(generator, pipeline.source.noises, [loaded.prepared])
        if generating < 1:  # the first time has the network's start in it
            noises, generating = _timed(generator, pipeline.source.noises, [loaded.prepared])
        (data, _), encoding = _timed(pool, pipeline.maker.make, loaded, noises[0])
    except (Refused, ImageError, MemoryError):
        return None
    return Trial(generating / pipeline.source.batch_size, decoding + encoding, bytes_in=size, bytes_out=len(data))


def _timed(executor: Executor, work: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """Returns what `work` returns in a thread of `executor`, and the seconds until then."""
    started = time.perf_counter()
    return executor.submit(work, *arguments).result(), time.perf_counter() - started
