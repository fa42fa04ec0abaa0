"""The plan of a run: every image's job, and what is known before the first of them begins."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress
from unseg.compute.threads import cores
from unseg.data.annotations.core import first_few
from unseg.data.mask_detection import detect_kind
from unseg.data.masks import MASK_KINDS, MaskKind, check_kind
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import OF_MASKS, SampleFile, SampleList, kept_texts
from unseg.errors import UserError
from unseg.method.codes import class_codes
from unseg.protecting.annotation_objects import AnnotationObjects
from unseg.protecting.code_planning import RunKey, plan_codes
from unseg.protecting.header import check_same_settings, header_of, recorded
from unseg.protecting.inputs import Inputs
from unseg.protecting.jobs import KeyedSamples, planned_jobs
from unseg.protecting.kept_masks import AutoMasks
from unseg.protecting.manifest import AGREED, Entry, Key, Manifest, lines_of, relative
from unseg.protecting.mask_placing import Placing
from unseg.protecting.network_protector import takes_codes
from unseg.protecting.network_source import NetworkSource
from unseg.protecting.noise_source import NoiseSource
from unseg.protecting.objects import (
    ClassedObjects,
    MaskFiles,
    MaskFolder,
    Objects,
    WholeImage,
)
from unseg.protecting.one_image import Job
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.prompted_objects import BoxFile, PointFile
from unseg.protecting.request import Request
from unseg.protecting.shards import SHARD, Shard, agreement, check_agreed, earlier_manifest
from unseg.storage.loaded_generator import LoadedGenerator
from unseg.storage.locks import Held
from unseg.storage.sequences import Made
from unseg.storage.stacks.stack_kinds import any_label

NO_ROOT = ""  # the root of what is no image, such as a folder that could not be read: looked at anew by every run


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run does, known before it writes.

    header: the manifest's first line. problems: lines of what cannot become a job. before: lines of earlier runs that
    stay. jobs: in the order of their names. processes: how many share the work. records: the folder of the manifest.
    key: of noise of codes.
    """

    pipeline: Pipeline
    header: dict[str, Any]
    problems: tuple[Entry, ...]
    before: Mapping[Key, Entry]
    jobs: Sequence[Job]
    processes: int
    records: Path
    key: RunKey | None = None

    @property
    def out(self) -> Path:
        """Returns the output folder."""
        return self.pipeline.out

    @property
    def to_do(self) -> Sequence[Job]:
        """Returns the jobs that no earlier run finished, as far as its manifest says."""
        if not self.before:
            return self.jobs
        return Made(array("q", (place for place, job in enumerate(self.jobs) if job.is_new)), self.jobs.__getitem__)


def as_planned(request: Request) -> Request:
    """Returns the request of a shard with what its plan found out about the masks, which are not looked at again.

    Any other request stays as it is. UserError where the shard has no plan, or another one.
    """
    if request.shard is None or request.shard.is_plan:
        return request
    earlier = earlier_manifest(request.out, request.shard)
    kind = None if earlier is None else recorded(earlier, request.out).kind
    if kind is None or request.mask_folder is None or request.settings.mask_type != "auto":
        return request
    return replace(request, settings=replace(request.settings, mask_type=kind))


def plan_run(request: Request, inputs: Inputs, pool: Executor, progress: Progress, held: Held | None = None) -> RunPlan:
    """Returns the plan of a run; UserError where the output folder or the settings forbid it. Nothing is written.

    Masks are looked at in the threads of `pool`; `progress` is told what they are. held: the output folder that the run
    has locked; None where it is not to write.
    """
    out, settings = request.out, request.settings
    objects, earlier = _objects(request, inputs, pool, progress), earlier_manifest(out, request.shard)
    settled = earlier if earlier is not None and (request.shard is not None or _has_images(earlier)) else None
    if isinstance(objects, ClassedObjects) and (request.shard is None or request.shard.is_plan):
        _check_ids(objects, settings.unmasked == "skip", pool, progress)
    source: NoiseSource
    key = None
    if inputs.loaded is None or inputs.device is None:
        coded = plan_codes(request, inputs, objects, settled, pool, progress)
        objects, source, key = coded.objects, coded.source, coded.key
    else:
        own, loaded = request.generator is not None, inputs.loaded
        if takes_codes(loaded.network):
            coded = plan_codes(request, inputs, objects, settled, pool, progress)
            objects, key = coded.objects, coded.key
            source = NetworkSource(settings, loaded, inputs.device, own=own, coded=coded.source)
        else:
            _check_no_codes(request, loaded)
            tints = _tints(request, objects, loaded, pool, progress)
            source = NetworkSource(settings, loaded, inputs.device, tints, own=own)
    pipeline = Pipeline(settings, source, out, objects, settings.workers or cores(), held)
    header = header_of(pipeline)
    check_same_settings(header, settled, out)
    keyed = KeyedSamples(inputs.found.samples, out)
    chosen = keyed.keys[: request.limit]
    last = chosen[-1][0] if request.limit is not None and chosen else None
    if settings.unmasked == "fail":
        _check_none_lacks(objects, keyed.samples[: request.limit])
    before = _lines_that_stay(earlier.entries if earlier else {}, inputs.opened, out)
    plan = RunPlan(
        pipeline,
        header,
        problems=_problems(inputs, out, last),
        before=before,
        jobs=planned_jobs(keyed, len(chosen), pipeline, before, request),
        processes=request.processes,
        records=request.records,
        key=key,
    )
    plan = plan if request.shard is None else _part_of(plan, request.shard, request.parts, earlier)
    return replace(plan, processes=max(1, min(plan.processes, len(plan.jobs))))


def _has_images(earlier: Manifest) -> bool:
    """Returns whether earlier runs wrote an image; where none came about, nothing is settled."""
    return any(entry.owned for entry in earlier.entries.values())


def _part_of(plan: RunPlan, shard: Shard, parts: tuple[int, ...] | None, earlier: Manifest | None) -> RunPlan:
    """Returns a shard's part of a plan; UserError where it is not the plan that was made for all shards.

    What is no job is told by the first shard.
    """
    agreed = agreement(shard, plan.jobs, plan.pipeline.settings, parts)
    header = {**plan.header, AGREED: agreed, **({} if shard.is_plan else {SHARD: shard.number})}
    check_agreed(shard, header, earlier, plan.out)
    plan = replace(plan, header=header)
    return plan if shard.is_plan else replace(plan, **part_of(plan, shard, parts))


def part_of(plan: RunPlan, shard: Shard, parts: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Returns what a shard's plan has of its own, by name: jobs, their lines of before, and problems that it tells.

    parts: as for `Shard.of`.
    """
    jobs = shard.of(plan.jobs, parts)
    before = lines_of(job.earlier for job in jobs if job.earlier is not None)
    return {"jobs": jobs, "before": before, "problems": plan.problems if shard.number == 1 else ()}


# --- what the object is


def _objects(request: Request, inputs: Inputs, pool: Executor, progress: Progress) -> Objects:
    settings, opened = request.settings, inputs.opened
    rule = replace(settings.rule, background_label=None) if settings.rule.by_class else settings.rule
    if opened is not None:
        place = relative(opened.path, request.out)
        objects = AnnotationObjects(opened, rule, place, settings.max_pixels, upright=not settings.keep_frame)
        if objects.lists_objects:
            _check_labels(rule, opened.reader.format)
        return objects
    if inputs.boxes is not None:
        return BoxFile(inputs.boxes, request.refine_boxes)
    if inputs.points is not None:
        return PointFile(inputs.points)
    if inputs.kept is not None:
        paths = kept_texts(
            os.fspath(sample.mask_file) for sample in inputs.found.samples if sample.mask_file is not None
        )
        return AutoMasks(inputs.kept, request.out, paths, settings.max_pixels)
    masks = request.mask_root
    if masks is None:
        return WholeImage()
    folder = _mask_folder(request, masks, inputs.found, pool, progress)
    return MaskFiles(folder, rule, settings.max_pixels)


def _check_labels(rule: ObjectRule, format_name: str) -> None:
    """Raises UserError where a label of maps is given, and annotations have no maps to which it could belong."""
    usual = ObjectRule()
    for option, label, other in (
        ("--ignore-label", rule.ignore_label, usual.ignore_label),
        ("--background-label", rule.background_label, usual.background_label),
    ):
        if label not in (None, other):
            raise UserError(
                f"{option} {label}: is for masks with class numbers, and these annotations ({format_name}) list"
                " objects; leave it out, and name the classes with --objects"
            )


def _mask_folder(request: Request, masks: Path, found: SampleList, pool: Executor, progress: Progress) -> MaskFolder:
    """Returns what lies in the folder of masks; tells what their values mean where that was detected.

    All masks of the folder are looked at, also those without an image in this run: the answer must not depend on which
    images are protected together.
    """
    settings = request.settings
    own = (os.fspath(sample.mask_file) for sample in found.samples if sample.mask_file is not None)
    paths = kept_texts(chain(own, (os.path.join(masks, name) for name in found.unused_masks)), once=True)
    closed = [problem for problem in found.problems if problem.name.startswith(OF_MASKS)]
    if not paths and not closed:
        raise UserError(f"--masks {masks}: holds no mask; name their folder (is a drive not mounted?)")
    if settings.mask_type == "auto":
        place = f"--masks {masks}" if request.mask is None else f"--mask {request.mask}"
        kind = _detected(place, paths, settings.rule, pool, progress)
    else:
        kind = settings.mask_type
    if settings.rule.by_class and kind != "index":
        raise UserError(
            f"{settings.by_class_option}: the masks in {masks} hold no class ids; leave it out, or give --mask-type"
            " index"
        )
    check_kind(kind, settings.rule)
    placing = Placing(settings.mask_frame, settings.fit_masks)
    unreadable = f"{closed[0].name}: {closed[0].reason}" if closed else None
    return MaskFolder(relative(masks, request.out), kind, paths, placing, unreadable)


def _detected(place: str, paths: Sequence[str], rule: ObjectRule, pool: Executor, progress: Progress) -> MaskKind:
    """Returns what the values of masks mean, and tells it; whoever asks for class ids says that they hold them.

    place: the option that names the masks.
    """
    detected = detect_kind(paths, pool, progress, lambda path: any_label(Path(path)))
    if (rule.by_class or rule.which != "all") and (detected.kind is None or "index" in detected.fits):
        progress.say("masks: class ids, as --objects says")
        return "index"
    kind = detected.settled(place, f"--mask-type {' or '.join(MASK_KINDS)}")
    progress.say(f"masks: {detected.statement}{detected.otherwise}")
    return kind


def _check_ids(objects: ClassedObjects, nothing_else: bool, pool: Executor, progress: Progress) -> None:
    """Tells which class ids there are where no mask of the set shows any that the rule names.

    nothing_else: then nothing would be protected, which is a UserError.
    """
    which = objects.rule.which
    if not isinstance(which, tuple) or not objects.has_classes or objects.shows(which, pool):
        return
    everything = objects.ruled(replace(objects.rule, which="all", background_label=None))
    there = sorted(everything.areas(pool, progress).classes)
    if not there:  # nothing that can be read: the line of each image tells
        return
    sentence = f"--objects: no image shows class {first_few(map(str, which))}; all classes that they show: "
    sentence += first_few(map(str, there), 100)
    if nothing_else:
        raise UserError(sentence)
    progress.say(f"note: {sentence}")


def _check_none_lacks(objects: Objects, samples: Sequence[SampleFile]) -> None:
    """Raises UserError where nothing is said of an image's object, as far as names tell, and that is to be an error."""
    lacking = [sample.name for sample in samples if objects.lacks(sample)]
    if lacking:
        raise UserError(
            f"--unmasked fail: images without mask, box or annotation: {len(lacking)} ({first_few(lacking)}); add it,"
            " or leave them out with --unmasked skip"
        )


def _check_no_codes(request: Request, loaded: LoadedGenerator) -> None:
    """Raises UserError where a key or codes are given to a generator that takes none."""
    for option, given in (("--key", request.key), ("--codes", request.codes)):
        if given is not None:
            raise UserError(f"{option}: is for noise of codes, and generator {loaded.source} takes none; leave it out")


def _tints(
    request: Request, objects: Objects, loaded: LoadedGenerator, pool: Executor, progress: Progress
) -> dict[int, int] | None:
    """Returns the tint of every class of the set, and tells how many; None where classes are not told apart."""
    if not request.settings.rule.by_class or not isinstance(objects, ClassedObjects):
        return None
    available = getattr(loaded.network, "codes", 0)
    if not available:
        raise UserError(
            f"--objects by-class: generator {loaded.source} has no codes for classes; use --generator compact"
        )
    codes = class_codes(objects.areas(pool, progress).classes, available)
    shared = f"; classes beyond the {available} codes share one with a larger class" if len(codes) > available else ""
    progress.say(f"classes: {len(codes)}, codes by falling area{shared}")
    return codes


# --- what is no job


def _problems(inputs: Inputs, out: Path, last: str | None) -> tuple[Entry, ...]:
    """Returns a line for what cannot become a job. last: the name after which absent images are not told."""
    absent = [entry for entry in _absent(inputs, out) if last is None or entry.input <= last]
    unreadable = [Entry(problem.name, NO_ROOT, "failed", reason=problem.reason) for problem in inputs.found.problems]
    return (*unreadable, *absent)


def _absent(inputs: Inputs, out: Path) -> list[Entry]:
    """Returns a line for everything that is annotated without an image."""
    if inputs.opened is None:
        return []
    told = {problem.name for problem in inputs.found.problems}
    root = relative(_root_of(inputs.opened), out)
    return [
        Entry(problem.name, root, "failed", reason=f"annotated, but not protected: {problem.reason}")
        for problem in inputs.opened.reader.missing
        if problem.name not in told
    ]


def _lines_that_stay(known: Mapping[Key, Entry], opened: OpenAnnotations | None, out: Path) -> Mapping[Key, Entry]:
    """Returns the lines of earlier runs without those of no image; what is absent is told anew by every run."""
    annotated = NO_ROOT if opened is None else relative(_root_of(opened), out)
    return lines_of(
        entry
        for entry in known.values()
        if entry.input_root != NO_ROOT and not (entry.input_root == annotated and _is_absent(entry, out))
    )


def _root_of(opened: OpenAnnotations) -> Path:
    return opened.images_root or opened.path


def _is_absent(entry: Entry, out: Path) -> bool:
    """Returns whether a line speaks of an image that is annotated without being there."""
    return entry.status == "failed" and not entry.owned and not os.path.lexists(out / entry.input_root / entry.input)
