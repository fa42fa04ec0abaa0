"""One image by itself, from a file or from memory to its protected version's bytes, by the plan of a run.

Nothing is written, and there is no manifest. The bytes are those that a run with the same settings and key writes.
"""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from unseg.compute.progress import Progress
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.data.samples import SampleFile, SampleList
from unseg.errors import UserError
from unseg.protecting.inputs import load_libraries, read_inputs
from unseg.protecting.manifest import Entry
from unseg.protecting.objects import Refused
from unseg.protecting.one_image import Job
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.planning import plan_run
from unseg.protecting.request import Request
from unseg.storage import image_limits
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import ImageError


@dataclass(frozen=True)
class LoneImage:
    """What became of an image. data: what is to be written for it; None where that is nothing. entry: in words."""

    data: bytes | None
    entry: Entry


def protect_alone(request: Request, progress: Progress, data: bytes | None = None, name: str = "") -> LoneImage:
    """Returns what becomes of the one image of a request; UserError where it, or what belongs to it, cannot be used.

    request: its `out` does not count, and with noise of codes it has a key. data: the image, called `name`, where it is
    not the one file that the request names.
    """
    nowhere = Path(tempfile.gettempdir()) / f"unseg-{secrets.token_hex(8)}"  # is never made
    samples = None
    if data is not None:
        root = nowhere / "in"
        samples = SampleList([SampleFile(name, root / name, root, data=data)])
    request = replace(request, out=nowhere / "out", samples=samples)
    if request.finds_masks:
        raise UserError("--masks auto: keeps the masks that it finds beside an output folder; name a folder with --out")
    request.check()
    load_libraries(request)
    workers = request.settings.workers or cores()
    with image_limits.own_size_limit(), alone(), single_threaded_pool(workers) as pool:
        plan = plan_run(request, read_inputs(request, pool, progress), pool, progress)
        if len(plan.jobs) != 1:
            raise UserError(f"{', '.join(map(str, request.inputs))}: give one image")
        job = plan.jobs[0]
        if job.kind is not None:
            raise UserError(f"{job.sample.image}: {job.kind} is written part by part; name a folder with --out")
        return _made(job, plan.pipeline)


def _made(job: Job, pipeline: Pipeline) -> LoneImage:
    name = job.sample.name if job.sample.data is not None else job.sample.image
    try:
        return LoneImage(*pipeline.maker.made(job))
    except ImageError as error:
        raise UserError(f"{name}: {error.reason}") from error
    except MemoryError as error:
        raise UserError(f"{name}: not enough memory to protect it") from error
    except Refused as refused:
        entry = pipeline.foreseen_line(job, refused)
        if refused.status == "failed":
            raise UserError(f"{name}: {refused.reason}") from refused
        if entry.status != "copied":
            return LoneImage(None, entry)
        data = job.sample.data
        found = bytes_of_image(job.sample.image, pipeline.settings.max_pixels) if data is None else data
        return LoneImage(found, entry)
