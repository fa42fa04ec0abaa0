"""What a run with codes settles before its first image: its key, whether classes are told apart, and their codes."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy as np

from unseg.compute.progress import Progress, track
from unseg.compute.threads import in_order
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.method.codes import LOOKS_IMAGES, Looks, absent_class
from unseg.method.patterns import ABSENCE, BOOKS
from unseg.protecting.coded_source import CodedSource
from unseg.protecting.coding import Coding, coding_from, coding_of, coding_of_mapping, one_object, read_coding
from unseg.protecting.inputs import Inputs
from unseg.protecting.manifest import MANIFEST, Manifest
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
        ignored = request.settings.rule.ignore_label
        if ignored is not None and (coding.codes or {}).get(ignored, ABSENCE) != ABSENCE:
            progress.say(
                f"note: {source} gives class {ignored} a code, but --ignore-label {ignored} leaves its pixels without"
                " noise; give another --ignore-label where it is a class"
            )
    else:
        coding = _decided(request, inputs, objects, pool, progress)
        progress.say(coding.sentence())
        objects = objects if coding.codes is None else _by_class(request, objects, "--objects by-class")
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
    elif request.key is not None:
        if lies_in(request.key, out):
            raise UserError(f"--key {request.key}: lies in --out {out}, with which it would be published; move it away")
        key = RunKey(read_key(request.key), request.key)
    elif url_of_file(out) is not None:
        raise UserError(f"--out {out}: a key does not lie in a store where others may read; name its file with --key")
    elif os.path.lexists(key_beside(out)):
        key = RunKey(read_key(key_beside(out)), key_beside(out))
    elif known is not None:
        raise UserError(
            f"{key_beside(out)}: is gone, and the images in --out {out} were made with it; put it back, name it with"
            " --key, or give another --out"
        )
    else:
        around = next((folder for folder in out.parents if os.path.lexists(folder / MANIFEST)), None)
        if around is not None:
            raise UserError(
                f"--out {out}: lies in {around}, a protected folder, with which its key would be published; give"
                " another --out, or a file with --key"
            )
        return RunKey(new_key(), key_beside(out), is_new=True)
    if known is not None and key_hash(key.key) != known:
        raise UserError(
            f"{key.path}: is not the key that the images in --out {out} were made with; name that one with --key, or"
            " give another --out"
        )
    return key


# --- the codes


def _given_coding(request: Request, before: Mapping[str, Any]) -> Coding | None:
    """Returns the coding that the user gives, else the one of an earlier run, where it is of the kind asked for."""
    rule, given = request.settings.rule, request.codes
    book = BOOKS.get(str(before.get("settings", {}).get("book")))  # further classes do not change it
    if given is not None:
        coding = read_coding(given, book) if isinstance(given, Path) else coding_of_mapping(given, book)
        if rule.by_class and coding.codes is None:
            raise UserError("--codes: holds one code for the object, but --objects by-class asks for codes of classes")
        if not rule.by_class and coding.codes is not None and not _is_free(request):
            raise UserError("--codes: holds codes of classes; give --objects by-class, or leave --objects out")
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
    background = request.settings.rule.background_label
    if not isinstance(objects, ClassedObjects):
        return one_object("nothing tells classes apart")
    if not request.settings.rule.by_class:
        if not _is_free(request):
            return one_object("--objects asks for it")
        if not objects.tiles():
            return one_object("the masks show objects and leave the rest open")
    classed = _by_class(request, objects, "--objects by-class")
    if _is_free(request) and background is not None and classed.shows([background], pool):
        return one_object(f"the masks have a background (class {background})")
    areas = classed.class_areas(pool, progress)
    if _is_free(request) and len(areas) < 2:
        return one_object("the masks hold one class")
    if background in areas:
        return coding_of(areas, background, f"class {background} is the background")
    if len(areas) < 2 or not objects.tiles():
        return coding_of(areas, None, "the masks hold one class" if objects.tiles() else "the rest has no class")
    looks = _looks(classed, inputs.found.samples, request.settings, pool, progress=progress)
    absent = absent_class(areas, looks.variances())
    return coding_of(areas, absent, f"classes cover the images, and class {absent} is large and looks most varied")


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
    chosen = nsmallest(LOOKS_IMAGES, samples, key=lambda sample: (_hash_of(sample.name), sample))
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


def _hash_of(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
