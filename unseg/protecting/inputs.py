"""What a run is to protect, read from the disk: images, annotations, boxes and the generator. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unseg.compute.device import device_name
from unseg.compute.progress import Progress
from unseg.data.annotations.label_files import LabelFiles
from unseg.data.finding import find_samples
from unseg.data.samples import OF_MASKS, SampleFile, SampleList, kept_samples
from unseg.errors import UserError
from unseg.protecting.generators import fastest_generator, load_library
from unseg.protecting.given_images import Boxes
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.outputs import check_folders
from unseg.protecting.points import Points
from unseg.protecting.prompt_files import name_alone, of_images, read_boxes, read_points
from unseg.protecting.request import AUTO, Request
from unseg.protecting.segment_pairing import paired_by_reference
from unseg.storage.files import stays_inside
from unseg.storage.loaded_generator import LoadedGenerator

if TYPE_CHECKING:  # masks that are found need another library
    from unseg.protecting.kept_masks import KeptMasks


@dataclass(frozen=True)
class Inputs:
    """Everything that a run works on.

    found: its images, and what else lies beside them. opened, boxes, points: what says where objects are; at most one
    is there. loaded, device: the generator and where it runs; None where noise needs none. kept: the masks that a run
    found itself, which the samples name.
    """

    found: SampleList
    opened: OpenAnnotations | None
    boxes: Mapping[str, Boxes] | None
    points: Mapping[str, Points] | None
    loaded: LoadedGenerator | None = None
    device: str | None = None
    kept: KeptMasks | None = None


def load_libraries(request: Request) -> None:
    """Loads what the noise of a request needs, before the threads are made that call it."""
    if request.kind != "codes":
        load_library(request.network, request.settings.device, request.option)


def read_inputs(request: Request, pool: Executor, progress: Progress, before: Inputs | None = None) -> Inputs:
    """Returns everything that a run reads before its images; UserError where something is not there or does not fit.

    pool: threads that look at files where a format needs it. progress: is told what was detected and what is left over.
    before: what the same request read earlier, whose network is loaded already.
    """
    if request.finds_masks and os.path.isdir(AUTO):
        raise UserError(
            f"--masks {AUTO}: finds the objects itself, but a folder of that name lies here, too; to use its masks give"
            f" {os.path.abspath(AUTO)}, else rename it"
        )
    opened = _opened(request, pool, progress)
    found = _find(request, opened, pool)
    roots = request.inputs or sorted({sample.root for sample in found.samples})
    check_folders(roots, request.out, request.mask_folder or (opened.path if opened else None))
    alone = None if any(path.is_dir() for path in request.inputs) else name_alone(found.samples)
    boxes = None if request.boxes is None else of_images(read_boxes(request.boxes, alone), found.samples)
    points = None if request.points is None else of_images(read_points(request.points, alone), found.samples)
    if before is not None:
        loaded, device = before.loaded, before.device
    else:
        loaded, device = (None, None) if request.kind == "codes" else _network(request)
    if any(path.is_dir() for path in request.inputs):  # for single files, most of a folder of masks has no image
        _tell_leftovers(found, boxes or {}, points or {}, progress)
    return Inputs(found, opened, boxes, points, loaded, device)


def _network(request: Request) -> tuple[LoadedGenerator, str]:
    device = device_name(request.settings.device)
    loaded = fastest_generator(request.network, device)
    if request.kind == "sam" and not _is_sam_derived(loaded):
        raise UserError(
            f"--noise sam: {loaded.source} is a {loaded.name} generator; name one that is derived from SAM (vit_b,"
            " vit_l, vit_h), or leave --noise out"
        )
    return loaded, device


def _is_sam_derived(loaded: LoadedGenerator) -> bool:
    from segment_anything_training.build import is_sam_derived  # of torch, as these networks are

    return is_sam_derived(loaded.network)


def _opened(request: Request, pool: Executor, progress: Progress) -> OpenAnnotations | None:
    annotations = request.annotations
    if annotations is None:
        return None
    if not isinstance(annotations, OpenAnnotations):
        root = _images_root(request, annotations)
        annotations = OpenAnnotations.open(annotations, root, request.annotations_format, pool=pool, progress=progress)
    progress.say(f"annotations: {annotations.reader.statement}")
    annotations.reader.check_rule(request.settings.rule)
    if request.settings.rule.by_class and getattr(annotations.reader, "kind", "index") != "index":
        raise UserError(
            f"--objects by-class: the masks in {annotations.path} hold no class ids; leave it out, or give"
            " --annotations-format index"
        )
    return annotations


def _images_root(request: Request, annotations: Path) -> Path | None:
    """Returns the one folder that names in the annotations are relative to; None where they hold the images."""
    given = request.inputs
    if not given and request.samples is not None:
        given = tuple(sample.root for sample in request.samples.samples)
    roots = sorted({path.parent if path.is_file() else path for path in given})
    if len(roots) > 1:
        raise UserError(
            f"--annotations {annotations}: name images relative to one folder, not to"
            f" {', '.join(map(str, roots))}; give one folder at a time"
        )
    return roots[0] if roots else None


def _find(request: Request, opened: OpenAnnotations | None, pool: Executor) -> SampleList:
    """Returns the images of the run, with what is left of the folders."""
    if request.samples is not None:
        _check_places(request.samples, opened)
        return request.samples if request.mask is None else _with_mask(request.samples, request.mask)
    if opened is None and request.mask is not None:
        return _with_mask(find_samples(request.inputs, None, request.out), request.mask)
    if opened is None:
        masks = request.mask_folder
        found = find_samples(request.inputs, masks, request.out)
        return found if masks is None else paired_by_reference(found, masks, request.settings.max_pixels, pool)
    if opened.images_root is None:
        held = opened.samples()
        if not held.samples and not opened.reader.missing:
            raise UserError(f"--annotations {opened.path}: holds no image; name the images' folder, or another file")
        return held
    of_labels = isinstance(opened.reader, LabelFiles) and opened.reader.format != "huggingface"
    found = find_samples(request.inputs, opened.path if of_labels else None, request.out)
    own = {os.path.realpath(path) for path in opened.reader.own_images()}
    kept = kept_samples(
        SampleFile(sample.name, sample.file, sample.root)
        for sample in found.samples
        if not own or not _is_among(sample.image, own)
    )
    problems = [problem for problem in found.problems if not problem.name.startswith(OF_MASKS)]
    return SampleList(kept, problems, (), found.other_files, found.into_output)


def _with_mask(found: SampleList, mask: Path) -> SampleList:
    """Returns the one image with its mask; UserError where there are more, or no such mask."""
    if len(found.samples) != 1:
        raise UserError(
            f"--mask {mask}: is of one image, and there are {len(found.samples)}; name the folder of their masks with"
            " --masks"
        )
    if not mask.is_file():
        raise UserError(f"--mask {mask}: no such file; give the mask of the image")
    return replace(found, samples=[replace(found.samples[0], mask_file=mask, mask_name=mask.name)])


def _check_places(samples: SampleList, opened: OpenAnnotations | None) -> None:
    """Raises ValueError where a caller's samples lie elsewhere than they say, so that nobody finds their originals."""
    root = None if opened is None else opened.images_root
    for sample in samples.samples:
        if not _is_below(sample.image, sample.root, sample.name):
            raise ValueError(f"{sample.image} is not {sample.name} in {sample.root}")
        if root is not None and root not in sample.image.parents:
            raise ValueError(f"{sample.image} does not lie in {root}, where the annotations' images are")


def _is_below(path: Path, root: Path, name: str) -> bool:
    return os.path.normpath(root / name) == os.path.normpath(path) or not stays_inside(name)  # that is told by its name


def _is_among(image: Path, own: set[str]) -> bool:
    """Returns whether a file is one of the annotations' own, or lies in a folder of theirs. own: real paths."""
    real = Path(os.path.realpath(image))
    return any(str(path) in own for path in (real, *real.parents))


def _tell_leftovers(
    found: SampleList, boxes: Mapping[str, Boxes], points: Mapping[str, Points], progress: Progress
) -> None:
    """Tells what was given and is not used, since it may be a mistake."""
    hints = {**boxes, **points}
    names = {sample.name for sample in found.samples if sample.name in hints}
    for what, left in (
        ("left out, since they are no images", found.other_files),
        ("left out, since they are links into the output folder", found.into_output),
        ("masks without an image", found.unused_masks),
        ("boxes without an image", sorted(set(boxes) - names)),
        ("points without an image", sorted(set(points) - names)),
    ):
        if left:
            progress.say(f"note: {what}: {len(left)} ({', '.join(left[:3])}{', …' if len(left) > 3 else ''})")
