"""From images on disk to their unlearnable versions beside them: decoding threads → generator → encoding threads.

A bounded number of pixels at a time, results in the order of the jobs. What is written does not depend on the order or
grouping of the inputs: every batch has the same shape (filled with zeros), and small networks run on one thread an image,
so not on the number of cores either.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import nn

from unseg.compute.threads import single_threaded_pool, worker_threads
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.method import noise
from unseg.method.codes import code_map
from unseg.method.config import Budget
from unseg.method.metrics import psnr
from unseg.protecting.manifest import Entry, Key, cannot_go_on
from unseg.protecting.objects import Found, Objects, Refused
from unseg.protecting.outputs import Planned
from unseg.protecting.protector import LANES, Framed, Protector, fitting_precision
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding, image_limits
from unseg.storage.files import blocks_of, link_on_the_way, sha256_of, write_blocks
from unseg.storage.image_limits import ImageError
from unseg.storage.weights import LoadedGenerator

PIXELS_IN_FLIGHT = 48_000_000  # about 1 GB with everything that an image needs on its way
SMALL_NETWORK_SIDE = 512  # up to here several images side by side, one thread each, beat one image on all threads
CUDA_BATCH_SIZES = {"small": 32, "large": 8}  # of networks up to that side, and of larger ones
FRAME_PIXEL_BYTES = (
    512  # of a GPU's memory for an image, by its frame's pixels: ViT-B takes 346, ViT-H 498, compact 112
)
STOPS_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # on a disk that takes nothing more


@dataclass(frozen=True)
class Job:
    """One input. earlier: its line of an earlier run."""

    sample: SampleFile
    planned: Planned
    key: Key
    earlier: Entry | None

    @property
    def is_new(self) -> bool:
        """Whether no earlier run protected it, as far as the manifest says."""
        return self.earlier is None or self.earlier.status != "protected"


@dataclass(frozen=True)
class Loaded:
    """A decoded sample, ready for the network. facts: what of its manifest line is known. codes: in place of what the network
    is given, where classes are told apart.
    """

    job: Job
    image: image_decoding.Image
    mask_HW: np.ndarray
    framed: Framed | None
    facts: Entry
    codes_HW: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """What became of an input. kept: an earlier run had finished it."""

    entry: Entry
    kept: bool = False


class Pipeline:
    """What is the same for all images of a run. workers: threads that decode and encode. codes: of the classes, where those
    are told apart.
    """

    def __init__(
        self,
        settings: ProtectSettings,
        loaded: LoadedGenerator,
        device: torch.device,
        out: Path,
        objects: Objects,
        codes: Mapping[int, int] | None,
        workers: int,
    ) -> None:
        self.settings, self.loaded, self.out, self.objects, self.codes = settings, loaded, out, objects, codes
        self.workers = workers
        batch_size = settings.batch_size or default_batch_size(device, loaded.network.image_size)
        self.protector = Protector(
            loaded.network,
            settings.budget,
            settings.region,
            device=device,
            batch_size=batch_size,
            precision=settings.precision,
            attention=settings.attention,
            compiled=settings.compile,
            graph=settings.graph,
        )
        side_by_side = device.type == "cpu" and loaded.network.image_size <= SMALL_NETWORK_SIDE
        self.generators = workers if side_by_side else 1
        self.torch_threads = 1 if side_by_side or device.type != "cpu" else workers

    def pool(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """The decoding and encoding threads."""
        return single_threaded_pool(self.workers)

    def generator_threads(self) -> ThreadPoolExecutor:
        """Those that ask the network. On a GPU one batch is copied while another computes."""
        count = self.generators if self.protector.device.type == "cpu" else LANES
        return worker_threads(count, self.torch_threads)

    def results(self, jobs: Iterable[Job], pool: Executor) -> Iterator[Result]:
        """The results in the order of the jobs, while later jobs are being worked on. A job is taken from `jobs` only once
        there is room for it, and nothing of it is written before."""
        window: deque[tuple[int, Future[list[Result | Future[Result]]]]] = deque()
        depth = self.generators + 2 + 2 * self.workers // self.protector.batch_size
        generators = self.generator_threads()

        def oldest() -> Iterator[Result]:
            _, future = window[0]
            for result in future.result():
                yield result.result() if isinstance(result, Future) else result
            window.popleft()

        try:
            for group, pixels in self._groups(jobs):
                while window and (len(window) >= depth or sum(item[0] for item in window) + pixels > PIXELS_IN_FLIGHT):
                    yield from oldest()
                loads = [pool.submit(self.load, job) for job in group]
                window.append((pixels, generators.submit(self._generate, loads, pool)))
            while window:
                yield from oldest()
        finally:
            generators.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)

    # --- inputs

    def _groups(self, jobs: Iterable[Job]) -> Iterator[tuple[list[Job], int]]:
        """Jobs for a batch each, and their pixels. Large photographs make small groups: what does not depend on the
        company in a batch does not depend on their number either."""
        group: list[Job] = []
        pixels = 0
        for job in jobs:
            own = self._pixels_of(job)
            if group and pixels + own > PIXELS_IN_FLIGHT:
                yield group, pixels
                group, pixels = [], 0
            group.append(job)
            pixels += own
            if len(group) == self.protector.batch_size:
                yield group, pixels
                group, pixels = [], 0
        if group:
            yield group, pixels

    def _pixels_of(self, job: Job) -> int:
        try:
            data = self.objects.image_bytes(job.sample)
        except ImageError:
            return 0
        return image_limits.pixel_count(job.sample.image if data is None else io.BytesIO(data))

    def _sha256_of_input(self, job: Job) -> str | None:
        data = self.objects.image_bytes(job.sample)
        return sha256_of(job.sample.image) if data is None else hashlib.sha256(data).hexdigest()

    # --- in the decoding threads

    def load(self, job: Job) -> Loaded | Result:
        try:
            if job.earlier is not None and self._is_done(job, job.earlier):
                if self.settings.keep_times:
                    self._set_times(job, job.planned.output)
                return Result(replace(job.earlier, claims=None), kept=True)
            return self.decode(job)
        except Refused as refused:
            return self._unprotected(job, refused)
        except ImageError as error:
            return self._unprotected(job, Refused("failed", error.reason))
        except MemoryError:
            return self._unprotected(job, Refused("failed", "not enough memory to decode it"))

    def _is_done(self, job: Job, earlier: Entry) -> bool:
        """Whether an earlier run protected this very input, and its output is still what was written."""
        return (
            earlier.status == "protected"
            and earlier.output == job.planned.output
            and link_on_the_way(self.out, job.planned.output) is None
            and earlier.input_sha256 == self._sha256_of_input(job)
            and earlier.output_sha256 == sha256_of(self.out / job.planned.output)
            and self.objects.is_same(job.sample, earlier)
        )

    def _set_times(self, job: Job, name: str) -> None:
        try:
            os.utime(self.out / name, ns=_times(job.sample.image))
        except OSError as error:
            raise Refused("failed", f"its time stamp cannot be set: {error.strerror or error}") from error

    def decode(self, job: Job) -> Loaded:
        """Refused or an ImageError where it cannot be protected."""
        data, describe = self.objects.image_bytes(job.sample), self.settings.metadata == "keep"
        image = (
            image_decoding.read_image(job.sample.image, self.settings.max_pixels, describe=describe)
            if data is None
            else image_decoding.decode_image(job.sample.image, data, self.settings.max_pixels, describe=describe)
        )
        height, width, channels = image.samples.shape
        reason = image_encoding.unsupported(self.settings.format, image.samples, image.alpha)
        if reason:
            raise Refused("failed", reason)
        found = self.objects.find(job.sample, height, width)
        as_rgb = (
            "grey kept as RGB with equal channels: WebP has no grey"
            if channels == 1 and self.settings.format == "webp"
            else None
        )
        notes = "; ".join(filter(None, (image.note, as_rgb, job.planned.note, *found.notes)))
        facts = Entry(
            *job.key,
            "protected",
            output=job.planned.output,
            note=notes or None,
            width=width,
            height=height,
            input_sha256=image.sha256,
            prompt=self.objects.prompt,
            object_budget=float(self.settings.budget.object),
            background_budget=float(self.settings.budget.background),
            generator=self.loaded.sha256,
            object_share=float(found.mask_HW.mean()),
            **found.facts,
        )
        if self.codes is not None:
            return Loaded(job, image, found.mask_HW, None, facts, self._codes_of(found))
        return Loaded(job, image, found.mask_HW, self.protector.frame(image.samples, found.mask_HW, found.boxes), facts)

    def _codes_of(self, found: Found) -> np.ndarray:
        try:
            return code_map(found.classes_HW, self.codes, found.no_class)
        except ValueError as error:
            raise Refused(
                "failed", f"{error}: its classes changed since they were counted; run the same command again"
            ) from error

    def _unprotected(self, job: Job, refused: Refused) -> Result:
        """The line of an image that is not protected, after it has been copied where that is what happens to it."""
        earlier = job.earlier
        if refused.status == "copied":
            try:
                return Result(self._copy(job, refused.reason))
            except ImageError as error:
                refused = Refused("failed", f"{refused.reason}; and copying it failed: {error.reason}")
            except Refused as error:
                refused = Refused("failed", f"{refused.reason}; and copying it failed: {error.reason}")
        # What an earlier run wrote for it stays, and stays ours.
        there = [name for name in (earlier.owned if earlier else ()) if os.path.lexists(self.out / name)]
        entry = Entry(*job.key, "failed", reason=refused.reason)
        if earlier and earlier.output in there:
            entry = replace(entry, output=earlier.output, output_sha256=earlier.output_sha256)
            there.remove(earlier.output)
        return Result(replace(entry, claims=tuple(sorted(set(there))) or None))

    def _copy(self, job: Job, reason: str) -> Entry:
        name = job.planned.copy
        if name is None:
            raise ImageError(self.out / job.sample.name, f"{job.sample.name} exists in the output folder")
        there = None if link_on_the_way(self.out, name) else sha256_of(self.out / name)
        if there is not None and there == self._sha256_of_input(job):
            sha256 = there
            if self.settings.keep_times:
                self._set_times(job, name)
        else:
            sha256 = self._write(name, self._input_blocks(job), job)
        entry = Entry(
            *job.key,
            "copied",
            output=name,
            reason=reason,
            input_sha256=sha256,
            output_sha256=sha256,
            prompt=self.objects.prompt,
        )
        self._remove_replaced(job, entry)
        return entry

    def _input_blocks(self, job: Job) -> Iterator[bytes]:
        data = self.objects.image_bytes(job.sample)
        if data is not None:
            yield data
            return
        with image_limits.open_regular(job.sample.image) as file:
            yield from blocks_of(file)

    # --- in the generator's thread

    def _generate(self, loads: Sequence[Future[Loaded | Result]], pool: Executor) -> list[Result | Future[Result]]:
        results = [load.result() for load in loads]
        notes: list[str] = []
        noises = iter(self.noises([result for result in results if isinstance(result, Loaded)], notes))
        return [
            pool.submit(self._save, _with_notes(result, notes), next(noises)) if isinstance(result, Loaded) else result
            for result in results
        ]

    def noises(self, ready: Sequence[Loaded], notes: list[str]) -> Sequence[torch.Tensor | None]:
        """The noise of each image of a batch. notes: what was done in another way than asked for is added to it."""
        if self.codes is not None:
            return [None] * len(ready)  # a class's noise is the same everywhere: no network is asked
        try:
            return self.protector.noise([item.framed for item in ready], notes) if ready else ()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--batch-size {self.protector.batch_size}: the device has not enough memory for it; give a"
                " smaller one, or --device cpu"
            ) from error

    # --- in the encoding threads

    def _save(self, loaded: Loaded, noise_3NN: torch.Tensor | None) -> Result:
        job = loaded.job
        try:
            data, facts = self.make(loaded, noise_3NN)
            sha256 = self._write(job.planned.output, [data], job)
        except Refused as refused:
            return self._unprotected(job, refused)
        except MemoryError:
            return self._unprotected(job, Refused("failed", "not enough memory to protect it"))
        entry = replace(facts, output_sha256=sha256)
        self._remove_replaced(job, entry)
        return Result(entry)

    def make(self, loaded: Loaded, noise_3NN: torch.Tensor | None) -> tuple[bytes, Entry]:
        """The protected image's file, and what its manifest line says of it."""
        if noise_3NN is not None and not torch.isfinite(noise_3NN).all():
            raise Refused("failed", "the generator's noise is not finite: its weights are damaged or not trained")
        image, settings = loaded.image, self.settings
        region = self.protector.region(loaded.mask_HW)
        if loaded.codes_HW is not None:
            protected = self.protector.by_class(image.samples, loaded.codes_HW)
        else:
            protected = noise.apply(image.samples, noise_3NN, region, settings.budget)
        metadata = image.metadata.select(settings.metadata)
        if settings.format == "webp" and protected.shape[2] == 1:
            metadata = replace(metadata, icc_profile=None)  # it is for grey, and WebP has none
        data = image_encoding.encode(settings.format, protected, image.alpha, metadata, settings.png_level)
        measured = {}
        if settings.format == "jpeg":
            protected = image_decoding.decode_samples(data)
            measured = breach(image.samples, protected, region, settings.budget)
        ratio = psnr(image.samples, protected)
        return data, replace(loaded.facts, psnr=ratio if math.isfinite(ratio) else None, **measured)

    def _write(self, name: str, blocks: Iterable[bytes], job: Job) -> str:
        """Write an output whole, wait for the disk, return its sha256. A disk that takes nothing more ends the run."""
        link = link_on_the_way(self.out, str(PurePosixPath(name).parent))
        if link is not None:
            raise Refused("failed", f"{link} in the output is a link, which is not followed")
        try:
            times = _times(job.sample.image) if self.settings.keep_times else None
            return write_blocks(self.out / name, blocks, durable=True, times=times)
        except OSError as error:
            if error.errno in STOPS_THE_RUN:
                raise cannot_go_on(self.out, error) from error
            raise Refused("failed", f"cannot be written: {error.strerror or error}") from error

    def _remove_replaced(self, job: Job, entry: Entry) -> None:
        """Remove what an earlier run wrote for this input under another name, if it is still exactly that."""
        earlier = job.earlier
        if earlier and earlier.output and earlier.output != entry.output and earlier.output_sha256:
            replaced = self.out / earlier.output
            if link_on_the_way(self.out, earlier.output) is None and sha256_of(replaced) == earlier.output_sha256:
                replaced.unlink()


def settled(
    settings: ProtectSettings, network: nn.Module, device: torch.device, say: Callable[[str], None]
) -> ProtectSettings:
    """The settings of a run on that device: with a precision in place of "auto". UserError where it cannot do what they ask."""
    if settings.graph and device.type != "cuda":
        raise UserError("--graph: only a GPU records CUDA graphs; leave it out, or give --device cuda")
    if settings.attention == "flex" and device.type != "cuda":
        raise UserError("--attention flex: FlexAttention is for GPUs; leave it out, or give --device cuda")
    if settings.precision != "auto":
        return settings
    if settings.by_class:  # no network is asked
        return replace(settings, precision="float32")
    precision, sentence = fitting_precision(network, device)
    if sentence:
        say(sentence)
    return replace(settings, precision=precision)


def default_batch_size(device: torch.device, side: int) -> int:
    """Images a batch for a network whose frame has that side; on a GPU as many as fill it, in at most half of its free memory."""
    if device.type == "cpu":
        return 1
    count, free = (
        CUDA_BATCH_SIZES["small" if side <= SMALL_NETWORK_SIDE else "large"],
        torch.cuda.mem_get_info(device)[0],
    )
    while count > 1 and count * side**2 * FRAME_PIXEL_BYTES > free / 2:
        count //= 2
    return count


def _with_notes(loaded: Loaded, notes: Sequence[str]) -> Loaded:
    """With what was noted about its batch in its manifest line."""
    if not notes:
        return loaded
    return replace(loaded, facts=replace(loaded.facts, note="; ".join(filter(None, (loaded.facts.note, *notes)))))


def _times(path: Path) -> tuple[int, int]:
    """When a file was last read and changed, in ns."""
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns


def breach(
    original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray, budget: Budget
) -> dict[str, float]:
    """How far an image (uint8) is outside its budget: over_budget, the share of its values; max_over, whole grey levels."""
    change = np.abs(changed_HWC.astype(np.int16) - original_HWC)
    over = change - np.where(region_HW, int(budget.object), int(budget.background)).astype(np.int16)[..., None]
    return {"over_budget": float((over > 0).mean()), "max_over": max(0, int(over.max()))}
