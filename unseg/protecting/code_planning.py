"""What a run with codes settles before its first image: its key, whether classes are told apart, and their codes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unseg.compute.progress import Progress, track
from unseg.compute.threads import in_order
from unseg.data.fixed_choice import fixed_choice
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.method.codes import ABSENT_SHARE, LOOKS_IMAGES, Areas, Looks, absent_class
from unseg.method.patterns import ABSENCE, BOOKS
from unseg.protecting.coded_source import CodedSource
from unseg.protecting.coding import Coding, coding_from, coding_of, coding_of_mapping, one_object, read_coding
from unseg.protecting.inputs import Inputs
from unseg.protecting.manifest import MANIFEST, Manifest, protected_around, refuse_published_key
from unseg.protecting.objects import ClassedObjects, Objects, Refused
from unseg.protecting.request import Request
from unseg.protecting.settings import ProtectSettings
from unseg.protecting.stack_looks import stack_look
from unseg.storage import image_decoding
from unseg.storage.image_limits import ImageError
from unseg.storage.key_file import KEY_BYTES, key_beside, key_hash, new_key, read_key
from unseg.storage.mounts import place_of, url_of_file
from unseg.storage.places import lies_in
from unseg.storage.stacks.stack_kinds import stack_kind_of

MOSTLY = 0.5  # share of unlabelled pixels from which on it is they that go without noise, and no class
LOOKS_PIXELS = 2**18  # of an image, about, that say how varied its classes look


@dataclass(frozen=True)
class RunKey:
    """The key of a run. path: where it is, or will be, kept. is_new: it was drawn just now and is in no file yet."""

    key: bytes
    path: Path
    is_new: bool = False


@dataclass(frozen=True)
class CodedPlan:
    """Holds what a run with codes goes by. objects: with the rule that the coding needs."""

    objects: Objects
    source: CodedSource
    key: RunKey


def plan_codes(
    request: Request, inputs: Inputs, objects: Objects, earlier: Manifest | None, pool: Executor, progress: Progress
) -> CodedPlan:
    """Returns objects, noise and key of a run with codes; tells what was chosen, and why.

    What an earlier run into the folder settled stays. UserError where the key is gone or another one.
    """
    before: Mapping[str, Any] = {} if earlier is None else earlier.header
    key = _key(request, before.get("settings", {}))
    coding = _given_coding(request, before)
    if coding is not None:
        source, settled = f"--codes {request.codes}" if isinstance(request.codes, Path) else "codes", ""
        if request.codes is None:
            source, settled = f"--out {request.out}", f"; so it was settled for the images in {request.out}"
        progress.say(f"{coding.sentence()}{settled}")
        objects = objects if coding.codes is None else _by_class(request, objects, source)
        ignored = request.settings.rule.ignore_label if _is_map(objects) else None
        if ignored is not None and (coding.codes or {}).get(ignored, ABSENCE) != ABSENCE:
            progress.say(
                f"note: {source} gives class {ignored} a code, but --ignore-label {ignored} leaves its pixels without"
                " noise; give another --ignore-label where it is a class"
            )
    else:
        coding = _decided(request, inputs, objects, pool, progress)
        progress.say(coding.sentence())
        objects = objects if coding.codes is None else _by_class(request, objects, "--objects by-class")
    if coding.is_alike and isinstance(objects, ClassedObjects) and objects.areas_of_some(pool).covers:
        progress.say(
            "note: all classes have one pattern, and they cover the images; noise that is all over cannot keep networks"
            " from learning: give --codes with another pattern, or 0 (no noise), for some of them"
        )
    settings = request.settings
    noise = CodedSource(
        key.key,
        coding,
        settings.budget,
        mask_by_contrast=settings.mask_by_contrast,
        survive_grey=settings.survive_grey,
    )
    return CodedPlan(objects, noise, key)


# --- the key


def _key(request: Request, before: Mapping[str, Any]) -> RunKey:
    """Returns the key of a run. before: the settings of an earlier run into the folder."""
    known, out = before.get("key"), Path(place_of(os.path.abspath(request.out)))
    if isinstance(request.key, bytes):
        if len(request.key) != KEY_BYTES:
            raise UserError(f"key: has {len(request.key)} bytes; give {KEY_BYTES}")
        key = RunKey(request.key, key_beside(out))
    else:
        path = key_beside(out) if request.key is None else request.key
        _refuse_published(request.key, out)
        if known is None and not os.path.lexists(path):
            return _drawn(request.key, path, out)
        key = RunKey(_read(request.key, path, out), path)
    if known is not None and key_hash(key.key) != known:
        raise UserError(
            f"{key.path}: is not the key that the images in --out {out} were made with; name that one with --key, or"
            " give another --out"
        )
    return key


def _drawn(given: Path | None, path: Path, out: Path) -> RunKey:
    """Returns a new key for a file that is not there; UserError where it would be published with images."""
    if given is not None:
        refuse_published_key(given)
    else:
        around = protected_around(out)
        if around is not None:
            raise UserError(
                f"--out {out}: lies in {around}, a protected folder, with which its key would be published; give"
                " another --out, or a file with --key"
            )
    return RunKey(new_key(), path, is_new=True)


def _read(given: Path | None, path: Path, out: Path) -> bytes:
    """Returns the key in a file that is named or lies beside `out`; UserError where it is not there."""
    if given is None and not os.path.lexists(path):
        raise UserError(
            f"{path}: is not there, and the images in --out {out} were made with a key; put it there, name it with"
            " --key, or give another --out"
        )
    return read_key(path)


def _refuse_published(given: Path | None, out: Path) -> None:
    """Raises UserError where the file of a key lies in `out`, or beside it in a store."""
    if given is None and url_of_file(out) is not None:
        raise UserError(f"--out {out}: a key does not lie in a store where others may read; name its file with --key")
    if given is not None and lies_in(given, out):
        raise UserError(f"--key {given}: lies in --out {out}, with which it would be published; move it away")


# --- the codes


def _given_coding(request: Request, before: Mapping[str, Any]) -> Coding | None:
    """Returns the coding that the user gives, else the one of an earlier run, where it is of the kind asked for."""
    rule, given = request.settings.rule, request.codes
    book = BOOKS.get(str(before.get("settings", {}).get("book")))  # further classes do not change it
    if given is not None:
        named = f"--codes {given}" if isinstance(given, Path) else "codes"
        coding = read_coding(given, book) if isinstance(given, Path) else coding_of_mapping(given, book)
        if rule.by_class and coding.codes is None:
            raise UserError(
                f"{named}: holds one code for the object, but --objects by-class asks for codes of classes; leave one"
                " of them out"
            )
        if not rule.by_class and coding.codes is not None and not _is_free(request):
            raise UserError(f"{named}: holds codes of classes; give --objects by-class, or leave --objects out")
        return coding
    if before.get("codes") is None or "book" not in before.get("settings", {}):  # else they are of tints
        return None
    if isinstance(before["settings"].get("codes"), dict) and not any(before["settings"]["codes"].values()):
        return None  # the images showed the class without noise alone
    coding = coding_from(before["codes"], str(request.out / MANIFEST))
    return coding if _is_free(request) or (coding.codes is not None) == rule.by_class else None


def _is_free(request: Request) -> bool:
    """Returns whether the run itself may decide if classes are told apart."""
    rule = request.settings.rule
    return request.settings.auto_objects and rule.which == "all" and not rule.by_class


def _decided(request: Request, inputs: Inputs, objects: Objects, pool: Executor, progress: Progress) -> Coding:
    """Returns the coding that the masks suggest, or that the user's rule asks for."""
    if not isinstance(objects, ClassedObjects):
        return one_object("nothing tells classes apart")
    if not request.settings.rule.by_class:
        if not _is_free(request):
            return one_object("--objects asks for it")
        if not objects.tiles():
            return one_object("the masks show objects and leave the rest open")
    classed = _by_class(request, objects, "--objects by-class")
    background = request.settings.rule.background_label if _is_map(objects) else None
    with_background = one_object(f"the masks have a background (class {background})")
    may_be = _is_free(request) and background is not None
    if may_be and classed.areas_of_some(pool).share_of(background) >= ABSENT_SHARE:
        return with_background
    areas = classed.areas(pool, progress)
    if may_be and areas.has_background(background):
        return with_background
    if _is_free(request) and len(areas.classes) < 2:
        return one_object("the masks hold one class")
    return _told_apart(request, inputs, classed, areas, background, pool=pool, progress=progress)


def _told_apart(
    request: Request,
    inputs: Inputs,
    objects: ClassedObjects,
    areas: Areas,
    background: int | None,
    *,
    pool: Executor,
    progress: Progress,
) -> Coding:
    """Returns the coding of classes with these areas. background: what the background's class is, where it is one."""
    if areas.has_background(background):
        return coding_of(areas.classes, background, f"class {background} is the background")
    if len(areas.classes) < 2 or not objects.tiles():
        why = "the masks hold one class" if objects.tiles() else "the rest has no class"
        return coding_of(areas.classes, None, why)
    if areas.unlabelled_share > MOSTLY:
        return coding_of(areas.classes, None, "most pixels are unlabelled, and stay as they are")
    looks = _looks(objects, inputs.found.samples, request.settings, pool, progress=progress)
    absent = absent_class(areas.classes, looks.variances())
    why = f"classes cover the images, and class {absent} is large and looks most varied"
    if background is not None and background in areas.classes:
        share = areas.share_of(background)
        told = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
        why += f"; class {background} has {told} of the pixels, too little for a background"
    return coding_of(areas.classes, absent, why)


def _is_map(objects: Objects) -> bool:
    return isinstance(objects, ClassedObjects) and objects.is_map


def _by_class(request: Request, objects: Objects, source: str) -> ClassedObjects:
    """Returns the objects with their classes told apart, the background among them. source: what asks for it."""
    if not isinstance(objects, ClassedObjects) or not objects.has_classes:
        other = ", or another --out" if source.startswith("--out") else ""
        raise UserError(
            f"{source}: asks for codes of classes, but nothing here tells classes apart; give masks of class ids{other}"
        )
    rule: ObjectRule = replace(request.settings.rule, by_class=True, background_label=None)
    return objects.ruled(rule)


def _looks(
    objects: ClassedObjects,
    samples: Sequence[SampleFile],
    settings: ProtectSettings,
    pool: Executor,
    *,
    progress: Progress,
) -> Looks:
    """Returns how varied the classes look, over a fixed choice of the images: those whose names hash lowest."""
    chosen = fixed_choice(samples, LOOKS_IMAGES, lambda sample: sample.name)
    looks = Looks()

    def read(sample: SampleFile) -> tuple[Any, Any, int | None] | None:
        try:
            kind = None if settings.keep_frame else stack_kind_of(sample.image)
            if kind is not None:
                return _sampled(*stack_look(kind, sample, objects, settings))
            data = objects.image_bytes(sample)
            if data is None:
                image = image_decoding.read_image(sample.image, objects.max_pixels)
            else:
                image = image_decoding.decode_image(sample.image, data, objects.max_pixels)
            height, width = image.samples.shape[:2]
            found = objects.find(sample, image_decoding.Frame(height, width, image.orientation))
        except (ImageError, Refused):
            return None  # its own line tells
        samples_HWC, classes_HW, no_class = _sampled(image.samples, found.classes_HW, found.no_class)
        return image_decoding.eight_bit_rgb(samples_HWC), classes_HW, no_class

    for seen in track(progress, in_order(pool, read, chosen), len(chosen), "looks"):
        if seen is not None:
            looks.add(*seen)
    return looks


def _sampled(
    samples_HWC: np.ndarray, classes_HW: np.ndarray | None, no_class: int | None
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Returns a regular choice of an image's pixels, with their classes."""
    assert classes_HW is not None, "a rule by class finds classes"
    step = max(1, math.isqrt(max(1, classes_HW.size // LOOKS_PIXELS)))
    return samples_HWC[::step, ::step], classes_HW[::step, ::step], no_class
