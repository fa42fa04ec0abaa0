"""From folders of images to their unlearnable versions on disk.

Decoding threads → generator → encoding threads, a bounded number of pixels at a time, results in sorted order.
What is written does not depend on the order or grouping of the inputs: every batch has the same shape (filled with
zeros), and small networks run on one thread an image, so not on the number of cores either.
"""
from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch

from unseg import __version__, images, noise
from unseg.checkpoint import LoadedGenerator, load_generator
from unseg.config import Budget
from unseg.data.codes import class_areas, class_codes, code_map
from unseg.data.masks import MaskKind, MaskRule, detect_kind, object_mask
from unseg.data.samples import SampleFile, SampleList, find_samples
from unseg.device import choose_device, cores, single_threaded_pool, use_threads
from unseg.errors import UserError
from unseg.files import blocks_of, link_on_the_way, remove_temporaries, sha256_of, sync_folder, write_blocks
from unseg.forecast import Forecast, Trial, forecast, spread
from unseg.images import ImageError
from unseg.lock import FolderLock
from unseg.manifest import FORMAT, Entry, Key, Manifest, ManifestWriter, cannot_go_on, read_manifest
from unseg.metrics import psnr
from unseg.outputs import SUFFIXES, Planned, check_folders, plan_outputs
from unseg.protector import Boxes, Framed, Protector, Region

T = TypeVar("T")

PIXELS_IN_FLIGHT = 48_000_000  # about 1 GB with everything that an image needs on its way
SMALL_NETWORK_SIDE = 512  # up to here several images side by side, one thread each, beat one image on all threads
CUDA_BATCH_SIZE = 8
FARTHEST = 2.0**31  # pixels: boxes reach no farther
ANNOUNCED = 64  # images whose names are put on record at a time, before any of them is written
TRIALS, TRIED_FROM = 3, 100  # images that are tried to foretell a run's length, and the length that is worth it
STOPS_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # on a disk that takes nothing more
NO_ROOT = ""  # the root of what is no image, such as a folder that could not be read: looked at anew by every run


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value}: choose from {', '.join(choices)}")


@dataclass(frozen=True)
class ProtectSettings:
    """Everything that a run of `protect` may vary. None for batch_size or workers: chosen from the device.

    by_class: every class of class-id masks gets a noise of its own (see `unseg.data.codes`), and every pixel whose class is
    not `ignore_label` the object's budget.
    """

    budget: Budget = field(default_factory=Budget)
    generator: str | Path = "compact"
    region: Region = "mask"
    mask_type: Literal["auto", "binary", "index"] = "auto"
    objects: tuple[int, ...] | None = None
    by_class: bool = False
    ignore_label: int | None = 255
    background_label: int | None = 0
    format: Literal["png", "tiff", "webp", "jpeg"] = "png"
    png_level: int = 1
    metadata: Literal["keep", "icc", "none"] = "icc"
    keep_times: bool = False
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: float = images.MAX_PIXELS / 1e6

    def __post_init__(self) -> None:
        _check_choice("--region", self.region, ("mask", "published"))
        if self.by_class and self.region != "mask":
            raise UserError(f"--objects by-class: has no prompt, so no --region {self.region}; leave it out")
        if self.by_class and self.mask_type == "binary":
            raise UserError("--objects by-class: needs masks of class ids, so no --mask-type binary")
        _check_choice("--mask-type", self.mask_type, ("auto", "binary", "index"))
        _check_choice("--format", self.format, tuple(SUFFIXES))
        _check_choice("--metadata", self.metadata, ("keep", "icc", "none"))
        if not 0 <= self.png_level <= 9:
            raise UserError(f"--png-level {self.png_level}: give 0 (stored) to 9 (smallest)")
        for option, value in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value}: give 1 or more")
        if not 0 < self.max_megapixels < math.inf:
            raise UserError(f"--max-megapixels {self.max_megapixels}: give a number over 0")


class Reporter(Protocol):
    """What a run tells while it works. The default says nothing."""

    def say(self, text: str) -> None: ...
    def track(self, items: Iterable[T], total: int, what: str) -> Iterable[T]: ...


class Silent:
    def say(self, text: str) -> None:
        pass

    def track(self, items: Iterable[T], total: int, what: str) -> Iterable[T]:
        return items


@dataclass(frozen=True)
class Summary:
    """What a run did. entries: every input of it, sorted. kept: how many were found done. seconds: of the images."""

    entries: tuple[Entry, ...]
    kept: int
    seconds: float

    def of(self, status: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.status == status]

    @property
    def exit_code(self) -> int:
        """0 where every image is protected, else 1."""
        return int(any(entry.status != "protected" for entry in self.entries))


def protect(inputs: Sequence[str | Path], out: str | Path, settings: ProtectSettings = ProtectSettings(), *,
            masks: str | Path | None = None, boxes: str | Path | None = None, generator: LoadedGenerator | None = None,
            reporter: Reporter = Silent()) -> Summary:
    """Protect images on disk.

    inputs: folders (recursive) and files. out: the output folder; see `unseg.manifest` and `unseg.outputs` for what is
    found there; it is locked meanwhile. masks: a folder, paired by relative stem. boxes: a JSON file,
    {"relative/name.jpg": [[x1, y1, x2, y2], …]}. generator: one that is loaded already, instead of
    `settings.generator`. Whatever concerns one image is in the summary and the manifest; whatever concerns the run is a
    UserError before anything is written.
    """
    inputs, out = [Path(path) for path in inputs], Path(out)
    masks = None if masks is None else Path(masks)
    if masks is not None and boxes is not None:
        raise UserError("--masks and --boxes: give one of them, each says what the object is")
    if settings.by_class and masks is None:
        raise UserError("--objects by-class: needs masks of class ids; name their folder with --masks")
    found = find_samples(inputs, masks)
    check_folders(inputs, out, masks)
    boxes_of = None if boxes is None else read_boxes(Path(boxes))
    device = choose_device(settings.device)
    workers = settings.workers or cores()
    loaded = generator or load_generator(settings.generator, str(device))
    if any(path.is_dir() for path in inputs):  # for single files, most of a folder of masks has no image
        _tell_leftovers(found, boxes_of, reporter)
    with FolderLock(out) as lock, images.own_size_limit(), single_threaded_pool(workers) as pool:
        if lock.stale:
            reporter.say(f"note: an earlier run ({lock.stale}) was cut off; this one goes on from there")
        earlier = read_manifest(out)
        rule = _mask_rule(settings, masks, found, pool, reporter)
        codes = _class_codes(settings, rule, masks, found, loaded, pool, reporter)
        run = _Run(settings, loaded, device, out, rule, boxes_of, masks, workers, codes)
        _check_same_settings(run.header(), earlier, out)
        samples = {(sample.name, run.relative(sample.root)): sample for sample in found.samples}
        known = earlier.entries if earlier else {}
        before = {key: entry for key, entry in known.items() if entry.input_root != NO_ROOT}
        planned = plan_outputs(samples, out, settings.format, before)
        jobs = [_Job(samples[key], planned[key], key, before.get(key)) for key in sorted(samples)]
        problems = [Entry(problem.name, NO_ROOT, "failed", reason=problem.reason) for problem in found.problems]
        return run.work(jobs, problems, before.values(), pool, reporter)


def read_boxes(path: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The boxes file, checked: image name → boxes (x1, y1, x2, y2) in pixels, corners inclusive."""
    try:
        content = json.loads(images.read_bytes(path))
    except ImageError as error:
        raise UserError(f"--boxes {path}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--boxes {path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f'--boxes {path}: give an object {{"name.jpg": [[x1, y1, x2, y2], …]}}')
    for name, boxes in content.items():
        for box in boxes if isinstance(boxes, list) else [None]:
            if not _is_box(box):
                raise UserError(f"--boxes {path}: {name[:200]}: {str(box)[:80]} is no box; give [x1, y1, x2, y2] with x1 ≤ x2,"
                                " y1 ≤ y2")
    return {name: tuple(tuple(box) for box in boxes) for name, boxes in content.items()}


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FARTHEST for value in box)
    return numbers and box[0] <= box[2] and box[1] <= box[3]


@dataclass(frozen=True)
class _Job:
    sample: SampleFile
    planned: Planned
    key: Key
    earlier: Entry | None


@dataclass(frozen=True)
class _Loaded:
    """A decoded sample, ready for the network. facts: what of its manifest line is known. codes: in place of what the network
    is given, where classes are told apart.
    """

    job: _Job
    image: images.Image
    mask_HW: np.ndarray
    framed: Framed | None
    facts: Entry
    codes_HW: np.ndarray | None = None


@dataclass(frozen=True)
class _Result:
    """What became of an input. kept: an earlier run had finished it."""

    entry: Entry
    kept: bool = False


class _Refused(Exception):
    """A sample that stays without protection: "copied" or "failed", and why."""

    def __init__(self, status: Literal["copied", "failed"], reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Run:
    """One run over a folder: what is the same for all its images."""

    def __init__(self, settings: ProtectSettings, loaded: LoadedGenerator, device: torch.device, out: Path,
                 rule: MaskRule | None, boxes: Mapping[str, Boxes] | None, masks: Path | None, workers: int,
                 codes: Mapping[int, int] | None = None) -> None:
        self.codes = codes
        self.settings, self.loaded, self.out, self.rule, self.boxes = settings, loaded, out, rule, boxes
        self.workers, self.max_pixels = workers, int(settings.max_megapixels * 1e6)
        self.masks_root = None if masks is None else self.relative(masks)
        batch_size = settings.batch_size or (CUDA_BATCH_SIZE if device.type == "cuda" else 1)
        self.protector = Protector(loaded.network, settings.budget, settings.region, device=device,
                                   batch_size=batch_size)
        side_by_side = device.type == "cpu" and loaded.network.image_size <= SMALL_NETWORK_SIDE
        self.generators = workers if side_by_side else 1
        self.torch_threads = 1 if side_by_side or device.type != "cpu" else workers

    def relative(self, folder: Path) -> str:
        """`folder` as the manifest names it."""
        return Path(os.path.relpath(os.path.realpath(folder), os.path.realpath(self.out))).as_posix()

    @property
    def prompt(self) -> str:
        if self.codes is not None:
            return "classes"
        return "mask" if self.rule else "boxes" if self.boxes is not None else "whole"

    def header(self) -> dict[str, Any]:
        """The manifest's first line. Under "settings" is what must not differ between runs into one folder."""
        network, budget = self.loaded.network, self.settings.budget
        return {
            "format": FORMAT, "unseg": __version__,
            "settings": {
                "object_budget": float(budget.object), "background_budget": float(budget.background),
                "generator": self.loaded.sha256, "region": self.settings.region, "format": self.settings.format,
                "metadata": self.settings.metadata,
                "prompt": self.prompt, "mask_rule": asdict(self.rule) if self.rule else None,
                "image_size": network.image_size, "mask_size": network.mask_size,
                **({} if self.codes is None else {"codes": {str(label): code for label, code in sorted(self.codes.items())}}),
            },
            "generator": {"name": self.loaded.name, "source": self.loaded.source, "sha256": self.loaded.sha256},
            "device": self.protector.device.type, "batch_size": self.protector.batch_size,
        }

    def work(self, jobs: Sequence[_Job], problems: Sequence[Entry], earlier: Iterable[Entry], pool: Executor,
             reporter: Reporter) -> Summary:
        """Everything that writes."""
        self._prepare_folder()
        for sentence in self._forecast(jobs, pool).sentences(str(self.out)):
            reporter.say(sentence)
        header = json.loads(json.dumps(self.header()))
        started = time.perf_counter()
        kept, entries = 0, list(problems)
        with ManifestWriter(self.out, header, earlier) as manifest:
            for problem in problems:
                manifest.add(problem)
            with closing(self._entries(jobs, manifest, pool)) as results:
                for result in reporter.track(results, len(jobs), "images"):
                    manifest.add(result.entry)
                    entries.append(result.entry)
                    kept += result.kept
                    if len(entries) % ANNOUNCED == 0:
                        self._sync(entries[-ANNOUNCED:])
            self._sync(entries)
        return Summary(tuple(sorted(entries, key=lambda entry: entry.key)), kept, time.perf_counter() - started)

    def _sync(self, entries: Iterable[Entry]) -> None:
        """Wait until the disk has the names of the entries' files; their contents were waited for when they were written."""
        for folder in {(self.out / entry.output).parent for entry in entries if entry.output}:
            with suppress(FileNotFoundError):  # of an earlier run, removed since
                sync_folder(folder)

    def _prepare_folder(self) -> None:
        try:
            remove_temporaries(self.out)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written: {error.strerror}") from error

    def _forecast(self, jobs: Sequence[_Job], pool: Executor) -> Forecast:
        """What the run will take; for long ones from the trial of a few images of all sizes, which writes nothing."""
        to_do = [job for job in jobs if job.earlier is None or job.earlier.status != "protected"]
        sizes = {job.key: _size_of(job.sample.image) for job in to_do}
        trials = []
        if len(to_do) >= TRIED_FROM:
            by_size = sorted(to_do, key=lambda job: (sizes[job.key], job.key))
            chosen = spread(by_size, TRIALS if self.generators > 1 or self.protector.device.type != "cpu" else 1)
            with ThreadPoolExecutor(1, initializer=use_threads, initargs=(self.torch_threads,)) as generator:
                trials = [trial for job in chosen if (trial := self._try(job, sizes[job.key], generator, pool))]
        free = shutil.disk_usage(self.out).free
        return forecast(len(jobs), len(jobs) - len(to_do), list(sizes.values()), trials, self.generators, self.workers, free)

    def _try(self, job: _Job, size: int, generator: Executor, pool: Executor) -> Trial | None:
        """Protect one image without writing it; None where that fails, as the run will tell."""
        def timed(executor: Executor, work: Callable[..., T], *arguments: object) -> tuple[T, float]:
            started = time.perf_counter()
            return executor.submit(work, *arguments).result(), time.perf_counter() - started

        try:
            loaded, decoding = timed(pool, self._decode, job)
            noises, generating = timed(generator, self._noises, [loaded])
            if generating < 1:  # the first time has the network's start in it
                noises, generating = timed(generator, self._noises, [loaded])
            (data, _), encoding = timed(pool, self._make, loaded, noises[0])
        except (_Refused, ImageError, MemoryError):
            return None
        return Trial(generating / self.protector.batch_size, decoding + encoding, size, len(data))

    def _entries(self, jobs: Sequence[_Job], manifest: ManifestWriter, pool: Executor) -> Iterator[_Result]:
        """The results in the order of the jobs, while later jobs are being worked on."""
        window: deque[tuple[int, Future[list[_Result | Future[_Result]]]]] = deque()
        depth = self.generators + 2 + 2 * self.workers // self.protector.batch_size
        generators = ThreadPoolExecutor(self.generators, initializer=use_threads, initargs=(self.torch_threads,))
        announced = 0

        def oldest() -> Iterator[_Result]:
            _, future = window[0]
            for result in future.result():
                yield result.result() if isinstance(result, Future) else result
            window.popleft()

        try:
            for start in range(0, len(jobs), self.protector.batch_size):
                group = jobs[start:start + self.protector.batch_size]
                pixels = sum(images.pixel_count(job.sample.image) for job in group)
                while window and (len(window) >= depth or sum(item[0] for item in window) + pixels > PIXELS_IN_FLIGHT):
                    yield from oldest()
                while announced < start + len(group):
                    claims = map(self._claims, jobs[announced:announced + ANNOUNCED])
                    manifest.announce(entry for entry in claims if entry is not None)
                    announced += ANNOUNCED
                loads = [pool.submit(self._load, job) for job in group]
                window.append((pixels, generators.submit(self._generate, loads, pool)))
            while window:
                yield from oldest()
        finally:
            generators.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _claims(job: _Job) -> Entry | None:
        """The line that says what a job may write before it does, so that a killed run's files are known as ours.

        None where the manifest says it already. What an earlier run finished stays finished.
        """
        owned = set(job.earlier.owned) if job.earlier else set()
        claims = {job.planned.output, job.planned.copy, *owned} - {None}
        if claims <= owned:
            return None
        earlier = job.earlier or Entry(*job.key, "started")
        return replace(earlier, claims=tuple(sorted(claims)))

    # --- in the decoding threads

    def _load(self, job: _Job) -> _Loaded | _Result:
        try:
            if job.earlier is not None and self._is_done(job, job.earlier):
                if self.settings.keep_times:
                    self._set_times(job)
                return _Result(replace(job.earlier, claims=None), kept=True)
            return self._decode(job)
        except _Refused as refused:
            return self._unprotected(job, refused)
        except ImageError as error:
            mask_is_bad = error.path == job.sample.mask
            return self._unprotected(job, _Refused("failed", f"mask: {error.reason}" if mask_is_bad else error.reason))
        except MemoryError:
            return self._unprotected(job, _Refused("failed", "not enough memory to decode it"))

    def _is_done(self, job: _Job, earlier: Entry) -> bool:
        """Whether an earlier run protected this very input, and its output is still what was written."""
        return (earlier.status == "protected" and earlier.output == job.planned.output
                and (self.boxes is None or earlier.boxes == self.boxes.get(job.sample.name))
                and link_on_the_way(self.out, job.planned.output) is None
                and earlier.input_sha256 == sha256_of(job.sample.image)
                and earlier.output_sha256 == sha256_of(self.out / job.planned.output)
                and (None if job.sample.mask is None else sha256_of(job.sample.mask)) == earlier.mask_sha256)

    def _set_times(self, job: _Job) -> None:
        try:
            os.utime(self.out / job.planned.output, ns=_times(job.sample.image))
        except OSError as error:
            raise _Refused("failed", f"its time stamp cannot be set: {error.strerror or error}") from error

    def _decode(self, job: _Job) -> _Loaded:
        image = images.read_image(job.sample.image, self.max_pixels, describe=self.settings.metadata == "keep")
        height, width, channels = image.samples.shape
        reason = images.unsupported(self.settings.format, image.samples, image.alpha)
        if reason:
            raise _Refused("failed", reason)
        as_rgb = "grey kept as RGB with equal channels: WebP has no grey" \
            if channels == 1 and self.settings.format == "webp" else None
        notes = "; ".join(filter(None, (image.note, as_rgb, job.planned.note)))
        facts = Entry(*job.key, "protected", output=job.planned.output, note=notes or None, width=width, height=height,
                      input_sha256=image.sha256, prompt=self.prompt, object_budget=float(self.settings.budget.object),
                      background_budget=float(self.settings.budget.background), generator=self.loaded.sha256)
        mask, boxes, codes = None, None, None
        if self.rule is not None:
            values, facts = self._mask_values(job, facts)
            mask = object_mask(values, self.rule)
            codes = None if self.codes is None else code_map(values, self.codes, self.settings.ignore_label)
        if self.boxes is not None:
            boxes = self.boxes.get(job.sample.name)
            facts = replace(facts, boxes=boxes)
            if not boxes:
                raise _Refused("copied", "no box for it in the boxes file")
        mask = Protector.object(image.samples, mask, boxes)
        if not mask.any():
            if boxes is not None:
                raise _Refused("failed", f"every box lies outside the image ({width}×{height})")
            raise _Refused("copied", f"no object in its mask ({job.sample.mask_name})")
        facts = replace(facts, object_share=float(mask.mean()))
        framed = self.protector.frame(image.samples, mask, boxes) if codes is None else None
        return _Loaded(job, image, mask, framed, facts, codes)

    def _mask_values(self, job: _Job, facts: Entry) -> tuple[np.ndarray, Entry]:
        if job.sample.mask is None:
            raise _Refused("copied", "no mask for it")
        label = images.open_label(job.sample.mask, self.max_pixels)
        if label.values.shape != (facts.height, facts.width):
            height, width = label.values.shape
            raise _Refused("failed", f"mask {job.sample.mask_name} is {width}×{height}, the image (upright) is"
                                     f" {facts.width}×{facts.height}: make them one size")
        facts = replace(facts, mask=job.sample.mask_name, mask_root=self.masks_root, mask_sha256=label.sha256)
        return label.values, facts

    def _unprotected(self, job: _Job, refused: _Refused) -> _Result:
        """The line of an image that is not protected, after it has been copied where that is what happens to it."""
        earlier = job.earlier
        if refused.status == "copied":
            try:
                return _Result(self._copy(job, refused.reason))
            except ImageError as error:
                refused = _Refused("failed", f"{refused.reason}; and copying it failed: {error.reason}")
            except _Refused as error:
                refused = _Refused("failed", f"{refused.reason}; and copying it failed: {error.reason}")
        # What an earlier run wrote for it stays, and stays ours.
        there = [name for name in (earlier.owned if earlier else ()) if os.path.lexists(self.out / name)]
        entry = Entry(*job.key, "failed", reason=refused.reason)
        if earlier and earlier.output in there:
            entry = replace(entry, output=earlier.output, output_sha256=earlier.output_sha256)
            there.remove(earlier.output)
        return _Result(replace(entry, claims=tuple(sorted(set(there))) or None))

    def _copy(self, job: _Job, reason: str) -> Entry:
        name = job.planned.copy
        if name is None:
            raise ImageError(self.out / job.sample.name, f"{job.sample.name} exists in the output folder")
        there = None if link_on_the_way(self.out, name) else sha256_of(self.out / name)
        if there is not None and there == sha256_of(job.sample.image):
            sha256 = there
        else:
            with images.open_regular(job.sample.image) as file:
                sha256 = self._write(name, blocks_of(file), job)
        entry = Entry(*job.key, "copied", output=name, reason=reason, input_sha256=sha256, output_sha256=sha256,
                      prompt=self.prompt)
        self._remove_replaced(job, entry)
        return entry

    # --- in the generator's thread

    def _generate(self, loads: Sequence[Future[_Loaded | _Result]], pool: Executor) -> list[_Result | Future[_Result]]:
        results = [load.result() for load in loads]
        noises = iter(self._noises([result for result in results if isinstance(result, _Loaded)]))
        return [pool.submit(self._save, result, next(noises)) if isinstance(result, _Loaded) else result
                for result in results]

    def _noises(self, ready: Sequence[_Loaded]) -> Sequence[torch.Tensor | None]:
        if self.codes is not None:
            return [None] * len(ready)  # a class's noise is the same everywhere: no network is asked
        try:
            return self.protector.noise([item.framed for item in ready]) if ready else ()
        except torch.OutOfMemoryError as error:
            raise UserError(f"--batch-size {self.protector.batch_size}: the device has not enough memory for it; give a"
                            " smaller one, or --device cpu") from error

    # --- in the encoding threads

    def _save(self, loaded: _Loaded, noise_3NN: torch.Tensor | None) -> _Result:
        job = loaded.job
        try:
            data, facts = self._make(loaded, noise_3NN)
            sha256 = self._write(job.planned.output, [data], job)
        except _Refused as refused:
            return self._unprotected(job, refused)
        except MemoryError:
            return self._unprotected(job, _Refused("failed", "not enough memory to protect it"))
        entry = replace(facts, output_sha256=sha256)
        self._remove_replaced(job, entry)
        return _Result(entry)

    def _make(self, loaded: _Loaded, noise_3NN: torch.Tensor | None) -> tuple[bytes, Entry]:
        """The protected image's file, and what its manifest line says of it."""
        if noise_3NN is not None and not torch.isfinite(noise_3NN).all():
            raise _Refused("failed", "the generator's noise is not finite: its weights are damaged or not trained")
        image, settings = loaded.image, self.settings
        region = self.protector.region(loaded.mask_HW)
        if loaded.codes_HW is not None:
            protected = self.protector.by_class(image.samples, loaded.codes_HW)
        else:
            protected = noise.apply(image.samples, noise_3NN, region, settings.budget)
        metadata = image.metadata.select(settings.metadata)
        if settings.format == "webp" and protected.shape[2] == 1:
            metadata = replace(metadata, icc_profile=None)  # it is for grey, and WebP has none
        data = images.encode(settings.format, protected, image.alpha, metadata, settings.png_level)
        measured = {}
        if settings.format == "jpeg":
            protected = images.decode_samples(data)
            measured = breach(image.samples, protected, region, settings.budget)
        ratio = psnr(image.samples, protected)
        return data, replace(loaded.facts, psnr=ratio if math.isfinite(ratio) else None, **measured)

    def _write(self, name: str, blocks: Iterable[bytes], job: _Job) -> str:
        """Write an output whole, wait for the disk, return its sha256. A disk that takes nothing more ends the run."""
        link = link_on_the_way(self.out, str(PurePosixPath(name).parent))
        if link is not None:
            raise _Refused("failed", f"{link} in the output is a link, which is not followed")
        try:
            times = _times(job.sample.image) if self.settings.keep_times else None
            return write_blocks(self.out / name, blocks, durable=True, times=times)
        except OSError as error:
            if error.errno in STOPS_THE_RUN:
                raise cannot_go_on(self.out, error) from error
            raise _Refused("failed", f"cannot be written: {error.strerror or error}") from error

    def _remove_replaced(self, job: _Job, entry: Entry) -> None:
        """Remove what an earlier run wrote for this input under another name, if it is still exactly that."""
        earlier = job.earlier
        if earlier and earlier.output and earlier.output != entry.output and earlier.output_sha256:
            replaced = self.out / earlier.output
            if link_on_the_way(self.out, earlier.output) is None and sha256_of(replaced) == earlier.output_sha256:
                replaced.unlink()


def _times(path: Path) -> tuple[int, int]:
    """When a file was last read and changed, in ns."""
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns


def _size_of(path: Path) -> int:
    """Bytes; 0 where the file is gone, which its own line will tell."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def breach(original_HWC: np.ndarray, changed_HWC: np.ndarray, region_HW: np.ndarray,
           budget: Budget) -> dict[str, float]:
    """How far an image (uint8) is outside its budget: over_budget, the share of its values; max_over, whole grey levels."""
    change = np.abs(changed_HWC.astype(np.int16) - original_HWC)
    over = change - np.where(region_HW, int(budget.object), int(budget.background)).astype(np.int16)[..., None]
    return {"over_budget": float((over > 0).mean()), "max_over": max(0, int(over.max()))}


def _check_same_settings(header: Mapping[str, Any], earlier: Manifest | None, out: Path) -> None:
    """Refuse to mix images of different settings in one folder."""
    if earlier is None:
        return
    now, before = json.loads(json.dumps(header["settings"])), earlier.header.get("settings", {})
    changed = [f"{name}: {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in dict.fromkeys([*now, *before])
               if before.get(name) != now.get(name)]
    if changed:
        raise UserError(f"--out {out}: holds images made with other settings ({'; '.join(changed)}); give another folder or"
                        " remove it")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _mask_rule(settings: ProtectSettings, masks: Path | None, found: SampleList, pool: Executor,
               reporter: Reporter) -> MaskRule | None:
    """What mask values mean, and the sentence that says so; None without masks.

    All masks of the folder are looked at, also those without an image in this run: the answer must not depend on which
    images are protected together.
    """
    if masks is None:
        return None
    kind: MaskKind = settings.mask_type if settings.mask_type != "auto" else "binary"
    if settings.mask_type == "auto":
        paths = _all_masks(masks, found)
        detected = detect_kind(paths, pool, lambda items: reporter.track(items, len(paths), "masks"))
        kind = detected.kind
        reporter.say(f"masks: {detected.statement}")
    if settings.by_class:
        if kind == "binary":
            raise UserError(f"--objects by-class: the masks in {masks} hold no class ids; leave it out, or give --mask-type index")
        return MaskRule(kind, None, settings.ignore_label, None)
    return MaskRule(kind, settings.objects, settings.ignore_label, settings.background_label)


def _all_masks(masks: Path, found: SampleList) -> list[Path]:
    return sorted({sample.mask for sample in found.samples if sample.mask} | {masks / name for name in found.unused_masks})


def _class_codes(settings: ProtectSettings, rule: MaskRule | None, masks: Path | None, found: SampleList,
                 loaded: LoadedGenerator, pool: Executor, reporter: Reporter) -> dict[int, int] | None:
    """The code of every class in the masks' folder, and the sentence that says so; None where classes are not told apart.

    All masks count, as in `_mask_rule`, and for the same reason. One that cannot be read does not: its image's line tells.
    """
    if not settings.by_class:
        return None
    available = getattr(loaded.network, "codes", 0)
    if not available:
        raise UserError(f"--objects by-class: generator {loaded.source} has no codes for classes; use --generator compact")
    paths = _all_masks(masks, found)
    areas: Counter[int] = Counter()
    for counted in reporter.track(pool.map(lambda path: _areas_of(path, settings, rule), paths), len(paths), "classes"):
        areas.update(counted)
    codes = class_codes(areas, available)
    shared = f"; classes beyond the {available} codes share one with a larger class" if len(codes) > available else ""
    reporter.say(f"classes: {len(codes)}, codes by falling area{shared}")
    return codes


def _areas_of(path: Path, settings: ProtectSettings, rule: MaskRule) -> dict[int, int]:
    try:
        return class_areas([images.open_label(path, int(settings.max_megapixels * 1e6)).values], rule.ignore_label)
    except ImageError:
        return {}


def _tell_leftovers(found: SampleList, boxes: Mapping[str, Boxes] | None, reporter: Reporter) -> None:
    """What was given and is not used: said, since it may be a mistake."""
    names = {sample.name for sample in found.samples}
    unused_boxes = sorted(set(boxes or {}) - names)
    for what, left in (("files are no images and are left out", found.other_files),
                       ("masks have no image", found.unused_masks), ("boxes have no image", unused_boxes)):
        if left:
            reporter.say(f"note: {len(left)} {what} ({', '.join(left[:3])}{', …' if len(left) > 3 else ''})")
