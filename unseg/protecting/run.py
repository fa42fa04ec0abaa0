"""From folders of images to their unlearnable versions on disk: what a run is given, plans, tells and writes down.

What happens to each image is in `unseg.protecting.pipeline`, what its object is in `unseg.protecting.objects`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from unseg import __version__
from unseg.compute.device import choose_device
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.data.annotations import Looking, ObjectRule
from unseg.data.annotations.label_files import LabelFiles
from unseg.data.masks import MaskKind, MaskRule, detect_kind
from unseg.data.samples import SampleFile, SampleList, find_samples
from unseg.errors import UserError
from unseg.method.codes import class_codes
from unseg.protecting import processes
from unseg.protecting.forecast import Forecast, Trial, forecast, spread
from unseg.protecting.manifest import FORMAT, Entry, Manifest, ManifestWriter, read_manifest
from unseg.protecting.objects import AnnotatedImages, BoxFile, MaskFiles, Objects, OpenAnnotations, Refused, WholeImage
from unseg.protecting.outputs import check_folders, plan_outputs
from unseg.protecting.pipeline import Job, Pipeline, Result, settled
from unseg.protecting.protector import Boxes
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding, image_limits
from unseg.storage.files import remove_temporaries, stays_inside, sync_folder
from unseg.storage.image_limits import ImageError
from unseg.storage.locks import FolderLock
from unseg.storage.weights import LoadedGenerator, load_generator

__all__ = ["OpenAnnotations", "ProtectSettings", "Reporter", "Silent", "Summary", "protect", "read_boxes"]

T = TypeVar("T")

FARTHEST = 2.0**31  # pixels: boxes reach no farther
ANNOUNCED = 64  # images whose names are put on record at a time, before any of them is written
TRIALS, TRIED_FROM = 3, 100  # images that are tried to foretell a run's length, and the length that is worth it
# Settings that a manifest's first line holds only where they have another value than this.
WRITTEN_IF_OTHER = {"names": "suffix", "precision": "float32", "attention": "auto", "compile": False, "png_level": 1}
NO_ROOT = ""  # the root of what is no image, such as a folder that could not be read: looked at anew by every run


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
    """What a run did. entries: every input of it, sorted. kept: how many were found done. seconds: of the images.

    forecast: what was said before it began. dry: nothing was done; "protected" are those that nothing speaks against.
    """

    entries: tuple[Entry, ...]
    kept: int
    seconds: float
    forecast: Forecast
    dry: bool = False

    def of(self, status: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.status == status]

    @property
    def exit_code(self) -> int:
        """0 where every image is protected, else 1."""
        return int(any(entry.status != "protected" for entry in self.entries))


def protect(
    inputs: Sequence[str | Path],
    out: str | Path,
    settings: ProtectSettings = ProtectSettings(),
    *,
    masks: str | Path | None = None,
    boxes: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    annotations_format: str = "auto",
    samples: SampleList | None = None,
    rule: ObjectRule | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    processes: int = 1,
    generator: LoadedGenerator | None = None,
    reporter: Reporter = Silent(),
) -> Summary:
    """Protect images on disk.

    inputs: folders (recursive) and files; none where annotations hold the images themselves. out: the output folder; see
    `unseg.protecting.manifest` and `unseg.protecting.outputs` for what is found there; it is locked meanwhile. generator: one that is loaded
    already, instead of `settings.generator`.

    What the object is, one of: masks, a folder, paired by relative stem; boxes, a JSON file,
    {"relative/name.jpg": [[x1, y1, x2, y2], …]}; annotations, a file or folder of `annotations_format` (one of
    `unseg.data.annotations.FORMATS`), or ones that are open already; without any the whole image. rule: which part of
    masks or annotations, in place of what `settings` says.

    samples: the images, in place of those under `inputs`; each is the file of its name under its root, and its output has
    that name under `out`. Their masks, if any, lie in the folder `masks`. limit: only the first so many by name. dry_run:
    write nothing, not even `out`, and tell from headers, masks and annotations what a run would do. processes: how many
    share the work (see `unseg.protecting.processes`); on GPUs each has its own. What small generators write does not depend on it; for
    large ones on a CPU see docs/trust.md.

    Whatever concerns one image is in the summary and the manifest; whatever concerns the run is a UserError before
    anything is written.
    """
    inputs, out = [Path(path) for path in inputs], Path(out)
    masks = None if masks is None else Path(masks)
    settings = settings if rule is None else settings.with_rule(rule)
    _check_options(inputs, settings, masks, boxes, annotations, samples, limit, processes)
    workers = settings.workers or cores()
    with image_limits.own_size_limit(), alone(), single_threaded_pool(workers) as pool:
        opened = _opened(annotations, annotations_format, inputs, samples, settings, pool, reporter)
        found = _find(inputs, masks, samples, opened)
        roots = inputs or sorted({sample.root for sample in found.samples})
        check_folders(roots, out, masks or (opened.path if opened else None))
        boxes_of = None if boxes is None else read_boxes(Path(boxes))
        device = choose_device(settings.device)
        loaded = generator or load_generator(settings.generator, device)
        settings = settled(settings, loaded.network, device, reporter.say)
        if any(path.is_dir() for path in inputs):  # for single files, most of a folder of masks has no image
            _tell_leftovers(found, boxes_of, reporter)

        def planned() -> _Run:
            objects = _objects(settings, out, masks, found, boxes_of, opened, pool, reporter)
            codes = _class_codes(settings, objects, loaded, pool, reporter)
            pipeline = Pipeline(settings, loaded, device, out, objects, codes, workers)
            return _Run(pipeline, found, opened, limit, processes, generator, pool, reporter)

        if dry_run:
            return planned().foresee()
        with FolderLock(out) as lock:
            if lock.stale:
                reporter.say(f"note: an earlier run ({lock.stale}) was cut off; this one goes on from there")
            return planned().work()


def read_boxes(path: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The boxes file, checked: image name → boxes (x1, y1, x2, y2) in pixels, corners inclusive."""
    try:
        content = json.loads(image_limits.read_bytes(path))
    except ImageError as error:
        raise UserError(f"--boxes {path}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--boxes {path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f'--boxes {path}: give an object {{"name.jpg": [[x1, y1, x2, y2], …]}}')
    for name, boxes in content.items():
        for box in boxes if isinstance(boxes, list) else [None]:
            if not _is_box(box):
                raise UserError(
                    f"--boxes {path}: {name[:200]}: {str(box)[:80]} is no box; give [x1, y1, x2, y2] with x1 ≤ x2,"
                    " y1 ≤ y2"
                )
    return {name: tuple(tuple(box) for box in boxes) for name, boxes in content.items()}


def _is_box(box: Any) -> bool:
    numbers = (
        isinstance(box, list)
        and len(box) == 4
        and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FARTHEST for value in box
        )
    )
    return numbers and box[0] <= box[2] and box[1] <= box[3]


class _Run:
    """One run over a list of images: what is planned, and the two things that can be done with the plan."""

    def __init__(
        self,
        pipeline: Pipeline,
        found: SampleList,
        opened: OpenAnnotations | None,
        limit: int | None,
        processes: int,
        generator: LoadedGenerator | None,
        pool: Executor,
        reporter: Reporter,
    ) -> None:
        self.pipeline, self.pool, self.reporter, self.out = pipeline, pool, reporter, pipeline.out
        earlier = read_manifest(self.out)
        self.header = json.loads(json.dumps(_header(pipeline)))
        _check_same_settings(self.header, earlier, self.out)
        samples = {(sample.name, relative(sample.root, self.out)): sample for sample in found.samples}
        chosen = sorted(samples)[:limit]
        absent = _absent(found, opened, self.out)
        if limit is not None and chosen:
            absent = [entry for entry in absent if entry.input <= chosen[-1][0]]
        self.problems = [
            *(Entry(problem.name, NO_ROOT, "failed", reason=problem.reason) for problem in found.problems),
            *absent,
        ]
        known = earlier.entries if earlier else {}
        annotated = relative(_root_of(opened), self.out) if opened else NO_ROOT  # what is absent there is told anew
        self.before = {
            key: entry
            for key, entry in known.items()
            if entry.input_root != NO_ROOT and not (entry.input_root == annotated and _is_absent(entry, self.out))
        }
        planned = plan_outputs(samples, self.out, pipeline.settings.format, self.before, pipeline.settings.names)
        self.jobs = [Job(samples[key], planned[key], key, self.before.get(key)) for key in chosen]
        self.processes, self.generator = max(1, min(processes, len(self.jobs))), generator

    def work(self) -> Summary:
        """Everything that writes."""
        self._remove_temporaries()
        foreseen = self._tell_forecast(TRIED_FROM)
        started = time.perf_counter()
        kept, entries = 0, list(self.problems)
        with ManifestWriter(self.out, self.header, self.before.values()) as manifest:
            for problem in self.problems:
                manifest.add(problem)
            with closing(self._results(manifest)) as results:
                for result in self.reporter.track(results, len(self.jobs), "images"):
                    manifest.add(result.entry)
                    entries.append(result.entry)
                    kept += result.kept
                    if len(entries) % ANNOUNCED == 0:
                        self._sync(entries[-ANNOUNCED:])
            self._sync(entries)
        self._remove_temporaries()  # of a killed run's workers, which end a moment after it
        return _summary(entries, kept, time.perf_counter() - started, foreseen)

    def _remove_temporaries(self) -> None:
        try:
            remove_temporaries(self.out)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written: {error.strerror}") from error

    def foresee(self) -> Summary:
        """What `work` would do, as far as headers, masks and annotations tell. Nothing is written."""
        started = time.perf_counter()
        checked = self.pool.map(self._foresee, self.jobs)
        entries = [*self.problems, *self.reporter.track(checked, len(self.jobs), "check")]
        foreseen = self._tell_forecast(1)
        kept = sum(not job.is_new for job in self.jobs)
        return _summary(entries, kept, time.perf_counter() - started, foreseen, dry=True)

    def _foresee(self, job: Job) -> Entry:
        if not job.is_new:
            return job.earlier
        pipeline = self.pipeline
        try:
            data = pipeline.objects.image_bytes(job.sample)
            height, width = image_decoding.upright_size(job.sample.image, pipeline.settings.max_pixels, data)
            pixels = np.broadcast_to(np.uint8(0), (height, width, 3))  # takes one byte: only sides are looked at
            reason = image_encoding.unsupported(pipeline.settings.format, pixels, None)
            if reason:
                raise Refused("failed", reason)
            pipeline.objects.find(job.sample, height, width)
        except Refused as refused:
            return Entry(*job.key, refused.status, reason=refused.reason)
        except ImageError as error:
            return Entry(*job.key, "failed", reason=error.reason)
        return Entry(*job.key, "protected", output=job.planned.output, note=job.planned.note)

    def _results(self, manifest: ManifestWriter) -> Iterator[Result]:
        jobs = self._announced(manifest)
        if self.processes == 1:
            return self.pipeline.results(jobs, self.pool)
        plan = processes.blueprint(self.pipeline, self.generator, self.processes)
        return processes.results(plan, self.processes, jobs, len(self.jobs))

    def _announced(self, manifest: ManifestWriter) -> Iterator[Job]:
        """The jobs, each one put on record before it is handed out."""
        for start in range(0, len(self.jobs), ANNOUNCED):
            part = self.jobs[start : start + ANNOUNCED]
            manifest.announce(entry for entry in map(_claims, part) if entry is not None)
            yield from part

    def _sync(self, entries: Iterable[Entry]) -> None:
        """Wait until the disk has the names of the entries' files; their contents were waited for when they were written."""
        for folder in {(self.out / entry.output).parent for entry in entries if entry.output}:
            with suppress(FileNotFoundError):  # of an earlier run, removed since
                sync_folder(folder)

    # --- what it will take

    def _tell_forecast(self, tried_from: int) -> Forecast:
        foreseen = self._forecast(tried_from)
        for sentence in foreseen.sentences(str(self.out)):
            self.reporter.say(sentence)
        return foreseen

    def _forecast(self, tried_from: int) -> Forecast:
        """What the run will take; for long ones from the trial of a few images of all sizes, which writes nothing."""
        pipeline, to_do = self.pipeline, [job for job in self.jobs if job.is_new]
        share = self.processes if pipeline.protector.device.type == "cuda" else 1  # processes share the cores, not GPUs
        sizes = {job.key: self._size_of(job) for job in to_do}
        trials = []
        if len(to_do) >= tried_from:
            by_size = sorted(to_do, key=lambda job: (sizes[job.key], job.key))
            chosen = spread(
                by_size, TRIALS if pipeline.generators > 1 or pipeline.protector.device.type != "cpu" else 1
            )
            with pipeline.generator_threads() as generator:
                trials = [trial for job in chosen if (trial := self._try(job, sizes[job.key], generator))]
        out = self.out.resolve()
        free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free
        return forecast(
            len(self.jobs),
            len(self.jobs) - len(to_do),
            list(sizes.values()),
            trials,
            pipeline.generators * share,
            pipeline.workers,
            free,
        )

    def _size_of(self, job: Job) -> int:
        """Bytes; 0 where it cannot be read, which its own line will tell."""
        try:
            data = self.pipeline.objects.image_bytes(job.sample)
            return os.stat(job.sample.image).st_size if data is None else len(data)
        except (OSError, ImageError):
            return 0

    def _try(self, job: Job, size: int, generator: Executor) -> Trial | None:
        """Protect one image without writing it; None where that fails, as the run will tell."""

        def timed(executor: Executor, work: Callable[..., T], *arguments: object) -> tuple[T, float]:
            started = time.perf_counter()
            return executor.submit(work, *arguments).result(), time.perf_counter() - started

        pipeline, notes = self.pipeline, []
        try:
            loaded, decoding = timed(self.pool, pipeline.decode, job)
            noises, generating = timed(generator, pipeline.noises, [loaded], notes)
            if generating < 1:  # the first time has the network's start in it
                noises, generating = timed(generator, pipeline.noises, [loaded], notes)
            (data, _), encoding = timed(self.pool, pipeline.make, loaded, noises[0])
        except (Refused, ImageError, MemoryError):
            return None
        for note in notes:  # what is done once, at the first call, was done here, and no image's line will tell of it
            self.reporter.say(f"note: {note}")
        return Trial(generating / pipeline.protector.batch_size, decoding + encoding, size, len(data))


def _summary(entries: Iterable[Entry], kept: int, seconds: float, foreseen: Forecast, dry: bool = False) -> Summary:
    return Summary(tuple(sorted(entries, key=lambda entry: entry.key)), kept, seconds, foreseen, dry)


def _claims(job: Job) -> Entry | None:
    """The line that says what a job may write before it does, so that a killed run's files are known as ours.

    None where the manifest says it already. What an earlier run finished stays finished.
    """
    owned = set(job.earlier.owned) if job.earlier else set()
    claims = {job.planned.output, job.planned.copy, *owned} - {None}
    if claims <= owned:
        return None
    earlier = job.earlier or Entry(*job.key, "started")
    return replace(earlier, claims=tuple(sorted(claims)))


def relative(path: Path, out: Path) -> str:
    """`path` as the manifest in `out` names it."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(out))).as_posix()


def _absent(found: SampleList, opened: OpenAnnotations | None, out: Path) -> list[Entry]:
    """A line for everything that is annotated without an image."""
    if opened is None:
        return []
    told = {problem.name for problem in found.problems}
    root = relative(_root_of(opened), out)
    return [
        Entry(problem.name, root, "failed", reason=f"annotated, but not protected: {problem.reason}")
        for problem in opened.reader.missing
        if problem.name not in told
    ]


def _root_of(opened: OpenAnnotations) -> Path:
    return opened.images_root or opened.path


def _is_absent(entry: Entry, out: Path) -> bool:
    """Whether a line speaks of an image that is annotated without being there."""
    return entry.status == "failed" and not entry.owned and not os.path.lexists(out / entry.input_root / entry.input)


def _header(pipeline: Pipeline) -> dict[str, Any]:
    """The manifest's first line. Under "settings" is what must not differ between runs into one folder."""
    settings, loaded = pipeline.settings, pipeline.loaded
    codes, objects = pipeline.codes, pipeline.objects
    level = settings.png_level if settings.format in ("png", "tiff") else WRITTEN_IF_OTHER["png_level"]
    later = {
        "names": settings.names,
        "precision": settings.precision,
        "attention": settings.attention,
        "compile": settings.compile,
        "png_level": level,
    }
    header = {
        "format": FORMAT,
        "unseg": __version__,
        "settings": {
            "object_budget": float(settings.budget.object),
            "background_budget": float(settings.budget.background),
            "generator": loaded.sha256,
            "region": settings.region,
            "format": settings.format,
            "metadata": settings.metadata,
            "prompt": objects.prompt,
            **objects.settings(),
            "image_size": loaded.network.image_size,
            "mask_size": loaded.network.mask_size,
            **({} if codes is None else {"codes": {str(label): code for label, code in sorted(codes.items())}}),
            **{name: value for name, value in later.items() if value != WRITTEN_IF_OTHER[name]},
        },
        "generator": {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256},
        "device": pipeline.protector.device.type,
        "batch_size": pipeline.protector.batch_size,
    }
    if isinstance(objects, AnnotatedImages):
        header["annotations_format"] = objects.opened.format
    return header


def _check_options(
    inputs: Sequence[Path],
    settings: ProtectSettings,
    masks: object,
    boxes: object,
    annotations: object,
    samples: SampleList | None,
    limit: int | None,
    processes: int,
) -> None:
    given = [
        option
        for option, value in (("--masks", masks), ("--boxes", boxes), ("--annotations", annotations))
        if value is not None
    ]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of them, each says what the object is")
    if not inputs and samples is None and annotations is None:
        raise UserError("no images: name folders or files")
    if settings.by_class and masks is None and annotations is None:
        raise UserError(
            "--objects by-class: needs class ids; name the masks' folder with --masks, or give --annotations"
        )
    if settings.objects == "things" and annotations is None:
        raise UserError("--objects things: needs --annotations, of a format that tells things from stuff")
    if settings.objects is not None and masks is None and annotations is None:
        raise UserError(
            "--objects with class ids: needs --masks or --annotations; without them the whole image is the object"
        )
    if settings.mask_type != "auto" and annotations is not None:
        raise UserError(f"--mask-type {settings.mask_type}: is for --masks; name annotations with --annotations-format")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give 1 or more")
    if processes < 1:
        raise UserError(f"--processes {processes}: give 1 or more")


def _opened(
    annotations: str | Path | OpenAnnotations | None,
    form: str,
    inputs: Sequence[Path],
    samples: SampleList | None,
    settings: ProtectSettings,
    pool: Executor,
    reporter: Reporter,
) -> OpenAnnotations | None:
    if annotations is None:
        return None
    if not isinstance(annotations, OpenAnnotations):
        given = inputs or (sorted({sample.root for sample in samples.samples}) if samples else [])
        roots = sorted({path.parent if path.is_file() else path for path in given})
        if len(roots) > 1:
            raise UserError(
                f"--annotations {annotations}: name images relative to one folder, not to"
                f" {', '.join(map(str, roots))}; give one folder at a time"
            )
        annotations = OpenAnnotations.open(
            annotations, roots[0] if roots else None, form, Looking(pool, reporter.track)
        )
    reporter.say(f"annotations: {annotations.reader.statement}")
    annotations.reader.check_rule(settings.rule)
    if settings.by_class and getattr(annotations.reader, "kind", None) == "binary":
        raise UserError(
            f"--objects by-class: the masks in {annotations.path} hold no class ids; leave it out, or give"
            " --annotations-format index"
        )
    return annotations


def _find(
    inputs: Sequence[Path], masks: Path | None, samples: SampleList | None, opened: OpenAnnotations | None
) -> SampleList:
    """The images of the run, with what is left of the folders. ValueError where a caller's samples lie elsewhere than they
    say: nobody could find their originals again."""
    if samples is not None:
        for sample in samples.samples:
            if not _is_below(sample.image, sample.root, sample.name):
                raise ValueError(f"{sample.image} is not {sample.name} in {sample.root}")
            if opened is not None and opened.images_root is not None and opened.images_root not in sample.image.parents:
                raise ValueError(
                    f"{sample.image} does not lie in {opened.images_root}, where the annotations' images are"
                )
        return samples
    if opened is None:
        return find_samples(inputs, masks)
    if opened.images_root is None:
        return opened.samples()
    of_labels = isinstance(opened.reader, LabelFiles) and opened.reader.format != "huggingface"
    found = find_samples(inputs, opened.path if of_labels else None)
    own = {os.path.realpath(path) for path in opened.reader.own_images()}

    def is_own(image: Path) -> bool:
        real = Path(os.path.realpath(image))
        return any(str(path) in own for path in (real, *real.parents))

    kept = [
        SampleFile(sample.name, sample.image, sample.root)
        for sample in found.samples
        if not own or not is_own(sample.image)
    ]
    return SampleList(
        kept, [problem for problem in found.problems if not problem.name.startswith("masks: ")], [], found.other_files
    )


def _is_below(path: Path, root: Path, name: str) -> bool:
    return os.path.normpath(root / name) == os.path.normpath(path) or not stays_inside(name)  # that is told by its name


def _objects(
    settings: ProtectSettings,
    out: Path,
    masks: Path | None,
    found: SampleList,
    boxes: Mapping[str, Boxes] | None,
    opened: OpenAnnotations | None,
    pool: Executor,
    reporter: Reporter,
) -> Objects:
    if opened is not None:
        return AnnotatedImages(opened, settings.rule, relative(opened.path, out), settings.max_pixels)
    if boxes is not None:
        return BoxFile(boxes)
    if masks is None:
        return WholeImage()
    rule, paths = _mask_rule(settings, masks, found, pool, reporter), _all_masks(masks, found)
    return MaskFiles(rule, relative(masks, out), paths, settings.by_class, settings.max_pixels)


def _check_same_settings(header: Mapping[str, Any], earlier: Manifest | None, out: Path) -> None:
    """Refuse to mix images of different settings in one folder."""
    if earlier is None:
        return
    now, before = json.loads(json.dumps(header["settings"])), earlier.header.get("settings", {})
    changed = list(_differences({**WRITTEN_IF_OTHER, **before}, {**WRITTEN_IF_OTHER, **now}))
    if changed:
        raise UserError(
            f"--out {out}: holds images made with other settings ({'; '.join(changed)}); give another folder or"
            " remove it"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Every setting that is another, "name: value, now value"; of settings that hold others, those of these."""
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{within}{name}.")
        elif old != new:
            yield f"{within}{name}: {', now '.join(_shown(old, new))}"


def _shown(*values: Any) -> list[str]:
    """The values in at most 80 characters each, which begin shortly before the place where they differ."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    same = len(os.path.commonprefix(texts))
    start = same - 20 if same > 60 else 0
    return [f"{'…' * bool(start)}{text[start : start + 80]}{'…' * (len(text) > start + 80)}" for text in texts]


def _mask_rule(
    settings: ProtectSettings, masks: Path, found: SampleList, pool: Executor, reporter: Reporter
) -> MaskRule:
    """What mask values mean, and the sentence that says so.

    All masks of the folder are looked at, also those without an image in this run: the answer must not depend on which
    images are protected together.
    """
    kind: MaskKind = settings.mask_type if settings.mask_type != "auto" else "binary"
    if settings.mask_type == "auto":
        paths = _all_masks(masks, found)
        detected = detect_kind(paths, pool, lambda items: reporter.track(items, len(paths), "masks"))
        kind = detected.kind
        reporter.say(f"masks: {detected.statement}{detected.otherwise}")
    if settings.by_class:
        if kind == "binary":
            raise UserError(
                f"--objects by-class: the masks in {masks} hold no class ids; leave it out, or give --mask-type index"
            )
        return MaskRule(kind, None, settings.ignore_label, None)
    return MaskRule(kind, settings.objects, settings.ignore_label, settings.background_label)


def _all_masks(masks: Path, found: SampleList) -> list[Path]:
    return sorted(
        {sample.mask for sample in found.samples if sample.mask} | {masks / name for name in found.unused_masks}
    )


def _class_codes(
    settings: ProtectSettings, objects: Objects, loaded: LoadedGenerator, pool: Executor, reporter: Reporter
) -> dict[int, int] | None:
    """The code of every class of the set, and the sentence that says so; None where classes are not told apart."""
    if not settings.by_class:
        return None
    available = getattr(loaded.network, "codes", 0)
    if not available:
        raise UserError(
            f"--objects by-class: generator {loaded.source} has no codes for classes; use --generator compact"
        )
    codes = class_codes(objects.class_areas(pool, reporter.track), available)
    shared = f"; classes beyond the {available} codes share one with a larger class" if len(codes) > available else ""
    reporter.say(f"classes: {len(codes)}, codes by falling area{shared}")
    return codes


def _tell_leftovers(found: SampleList, boxes: Mapping[str, Boxes] | None, reporter: Reporter) -> None:
    """What was given and is not used: said, since it may be a mistake."""
    names = {sample.name for sample in found.samples}
    unused_boxes = sorted(set(boxes or {}) - names)
    for what, left in (
        ("files are no images and are left out", found.other_files),
        ("masks have no image", found.unused_masks),
        ("boxes have no image", unused_boxes),
    ):
        if left:
            reporter.say(f"note: {len(left)} {what} ({', '.join(left[:3])}{', …' if len(left) > 3 else ''})")
