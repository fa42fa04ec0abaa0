"""Proof that protected files keep their promise: what is read back differs from the original by at most the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unseg.compute.threads import cores, single_threaded_pool
from unseg.data.annotations import FORMATS, Looking, ObjectRule
from unseg.data.edition_catalog import READER
from unseg.data.masks import MaskRule, box_mask, object_mask
from unseg.errors import UserError
from unseg.method import noise
from unseg.method.metrics import psnr
from unseg.protecting.manifest import MANIFEST, UNFINISHED, Entry, Manifest, read_manifest
from unseg.protecting.objects import OpenAnnotations, found_in
from unseg.protecting.protector import image_region
from unseg.storage import image_decoding, image_limits
from unseg.storage.files import files_under, link_on_the_way
from unseg.storage.image_limits import ImageError
from unseg.storage.locks import LOCK_FILE, holder_of


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= 2**16


def _is_id(value: Any) -> bool:
    """Whether it can be a class id: a 32-bit number."""
    return isinstance(value, int) and abs(value) < 2**31


def _is_rule(value: Any) -> bool:
    """None, or the fields of a MaskRule."""
    if value is None or not isinstance(value, dict):
        return value is None
    objects = value.get("objects")
    return (
        value.keys() == {field.name for field in fields(MaskRule)}
        and value["kind"] in ("binary", "index")
        and (objects is None or value["kind"] == "index" and isinstance(objects, list) and all(map(_is_id, objects)))
        and all(value[name] is None or _is_id(value[name]) for name in ("ignore_label", "background_label"))
    )


def _is_annotated(value: Any) -> bool:
    """None, or what `unseg.protecting.objects.AnnotatedImages` puts into the settings."""
    if value is None or not isinstance(value, dict):
        return value is None
    rule = value.get("rule")
    if (
        value.get("format") not in (*FORMATS, READER)
        or not isinstance(value.get("holds_images"), bool)
        or not isinstance(rule, dict)
    ):
        return False
    which = rule.get("which")
    return (
        rule.keys() == {field.name for field in fields(ObjectRule)}
        and isinstance(rule["by_class"], bool)
        and (
            which in ("all", "things")
            if isinstance(which, str)
            else isinstance(which, list) and all(map(_is_id, which))
        )
        and all(rule[name] is None or _is_id(rule[name]) for name in ("ignore_label", "background_label"))
    )


CUT_OFF = "the run was cut off before its end, and may have left images out: run the same command again"
# What the bound is computed from, and what it must look like.
SETTINGS: dict[str, Callable[[Any], bool]] = {
    "mask_rule": _is_rule,
    "annotations": _is_annotated,
    "image_size": _is_size,
    "mask_size": _is_size,
    "region": lambda value: value in ("mask", "published"),
    "metadata": lambda value: value in ("keep", "icc", "none"),
}


@dataclass(frozen=True)
class Finding:
    """What was found about one input or file. problem: None where all is well.

    max_object, max_background: the greatest change on the object's region and elsewhere, in grey levels of 255, a
    fraction where a channel has 16 bits (None where there is no such pixel or nothing could be compared).
    """

    name: str
    problem: str | None
    max_object: float | None = None
    max_background: float | None = None
    psnr: float | None = None


@dataclass(frozen=True)
class Verification:
    """findings: one a manifest line. missing: outputs that are gone. extra: files that no manifest line owns. other_files:
    what is wrong with files that lie beside the images, as those of an edition; and a manifest whose run was cut off.
    """

    findings: tuple[Finding, ...]
    unprotected: tuple[Finding, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    other_files: tuple[Finding, ...] = ()

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.problem]

    @property
    def exit_code(self) -> int:
        """0 where every input is protected, within its budget at every pixel, and the folder holds nothing else."""
        return int(bool(self.failures or self.unprotected or self.extra or self.other_files))

    @property
    def images(self) -> int:
        return len(self.findings) + len(self.unprotected)

    def largest_changes(self) -> tuple[float | None, float | None]:
        """On objects and elsewhere, over the images that hold the bound, in grey levels; None where nothing was compared."""
        good = [finding for finding in self.findings if not finding.problem]
        on_object, elsewhere = (
            max((value for value in values if value is not None), default=None)
            for values in ([finding.max_object for finding in good], [finding.max_background for finding in good])
        )
        return on_object, elsewhere

    def as_dict(self) -> dict[str, Any]:
        on_object, elsewhere = self.largest_changes()
        return {
            "ok": self.exit_code == 0,
            "images": self.images,
            "verified": len(self.findings) - len(self.failures),
            "max_object": on_object,
            "max_background": elsewhere,
            "failures": [asdict(finding) for finding in self.failures],
            "unprotected": [asdict(finding) for finding in self.unprotected],
            "other_files": [{"name": item.name, "problem": item.problem} for item in self.other_files],
            "missing": list(self.missing),
            "extra": list(self.extra),
        }


def verify(
    folder: str | Path,
    *,
    originals: str | Path | None = None,
    masks: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    workers: int | None = None,
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6,
    track: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Verification:
    """Check every file of an output folder against the manifest and the originals.

    originals, masks, annotations: where these lie now, if not where the manifest says; annotations also open ones. max_megapixels: larger images are not
    decoded. Nothing is written.
    """
    folder = Path(folder)
    if not 0 < max_megapixels < math.inf:
        raise UserError(f"--max-megapixels {max_megapixels}: give a number over 0")
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no {MANIFEST} in it; give the --out folder of `unseg protect`")
    writer = holder_of(folder)
    if writer is not None:
        raise UserError(f"{folder}: {writer} is writing there; verify it once that has ended")
    for option, given in (("--originals", originals), ("--masks", masks)):
        if given is not None and not Path(given).is_dir():
            raise UserError(f"{option} {given}: no such folder")
    if isinstance(annotations, (str, Path)) and not Path(annotations).exists():
        raise UserError(f"--annotations {annotations}: no such file or folder")
    entries = [manifest.entries[key] for key in sorted(manifest.entries)]
    protected = [entry for entry in entries if entry.status == "protected"]
    checker = _Checker(
        folder, manifest, originals and Path(originals), masks and Path(masks), annotations, int(max_megapixels * 1e6)
    )
    with image_limits.own_size_limit(), single_threaded_pool(workers or cores()) as pool:
        checker.open_annotations(protected, pool)
        findings = tuple(track(pool.map(checker.finding, protected), len(protected)))
    unprotected = tuple(Finding(entry.input, _not_protected(entry)) for entry in entries if entry.status != "protected")
    missing = tuple(
        sorted(
            entry.output
            for entry in entries
            if entry.output and entry.status != "failed" and not (folder / entry.output).is_file()
        )
    )
    owned = {name for entry in entries for name in entry.owned} | {MANIFEST, LOCK_FILE}
    try:
        found = {path.relative_to(folder).as_posix() for path in files_under(folder)}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; verify needs the whole folder") from error
    extra = tuple(sorted(found - owned))
    cut_off = (Finding(MANIFEST, CUT_OFF),) if manifest.header.get(UNFINISHED) else ()
    return Verification(findings, unprotected, missing, extra, cut_off)


def _not_protected(entry: Entry) -> str:
    return {
        "copied": f"copied without protection: {entry.reason}",
        "failed": f"failed: {entry.reason}",
        "started": "not finished: run the same `unseg protect` again",
    }[entry.status]


class _Broken(Exception):
    """Why a file does not keep its promise."""


class _Checker:
    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        originals: Path | None,
        masks: Path | None,
        annotations: str | Path | OpenAnnotations | None,
        max_pixels: int,
    ) -> None:
        self.folder, self.originals, self.masks, self.max_pixels = folder, originals, masks, max_pixels
        self.annotations = annotations
        self.settings: Mapping[str, Any] = manifest.header.get("settings", {})
        wrong = [name for name, is_good in SETTINGS.items() if not is_good(self.settings.get(name))]
        if wrong:
            raise UserError(f"{folder / MANIFEST}: not a manifest of unseg (settings: {', '.join(wrong)})")
        rule = self.settings.get("mask_rule")
        self.rule = MaskRule(**{**rule, "objects": rule["objects"] and tuple(rule["objects"])}) if rule else None

        annotated = self.settings.get("annotations")
        self.object_rule = None
        if annotated:
            rule = annotated["rule"]
            which = rule["which"] if isinstance(rule["which"], str) else tuple(rule["which"])
            self.object_rule = ObjectRule(**{**rule, "which": which})
            self.holds_images = annotated["holds_images"]
            self.named_format = manifest.header.get("annotations_format", "auto")
        self._opened: dict[tuple[Path, Path | None], OpenAnnotations | UserError] = {}

    def open_annotations(self, entries: Iterable[Entry], pool: Executor) -> None:
        """Open all that the lines speak of, once each; what cannot be opened is told with every image that needs it."""
        if self.object_rule is None or isinstance(self.annotations, OpenAnnotations):
            return
        for place, root in dict.fromkeys(self._place_of(entry) for entry in entries):
            try:
                self._opened[place, root] = OpenAnnotations.open(place, root, self.named_format, Looking(pool))
            except UserError as error:
                self._opened[place, root] = error

    def _place_of(self, entry: Entry) -> tuple[Path, Path | None]:
        """Where an image's annotations lie, and the folder that the names in them are relative to."""
        place = self.folder / (entry.mask_root or "") if self.annotations is None else Path(self.annotations)
        if self.holds_images:
            return place, None
        parts, name = self._original_path(entry).parts, PurePosixPath(entry.mask or "").parts
        return place, Path(*parts[: len(parts) - len(name)]) if parts[len(parts) - len(name) :] == name else None

    def _annotations_of(self, entry: Entry) -> OpenAnnotations:
        if isinstance(self.annotations, OpenAnnotations):
            return self.annotations
        opened = self._opened[self._place_of(entry)]
        if isinstance(opened, UserError):
            raise _Broken(f"its annotations cannot be read; give --annotations ({opened})") from opened
        return opened

    def finding(self, entry: Entry) -> Finding:
        try:
            return self._compare(entry)
        except (_Broken, ImageError) as error:
            return Finding(entry.output or entry.input, str(error))
        except MemoryError:
            return Finding(entry.output or entry.input, "not enough memory to decode it")

    def _compare(self, entry: Entry) -> Finding:
        if None in (entry.output, entry.object_budget, entry.background_budget):
            raise _Broken("its line in the manifest has no output or no budget")
        link = link_on_the_way(self.folder, entry.output)
        if link is not None:
            raise _Broken(f"{link} is a link, which is not followed")
        path = self.folder / entry.output
        if not path.is_file():
            raise _Broken("missing")
        output = image_decoding.read_image(path, self.max_pixels)
        original = self._original(entry)
        changed = _like(output.samples, original.samples)
        on_object, elsewhere = self._greatest_changes(entry, original.samples, changed)
        problems = [
            f"changes {where} by {value:g}, budget {limit:g}"
            for where, value, limit in (
                ("the object", on_object, entry.object_budget),
                ("the background", elsewhere, entry.background_budget),
            )
            if value is not None and value > limit
        ]
        problems += self._other_differences(entry, output, original)
        ratio = psnr(original.samples, changed)
        return Finding(
            entry.output, "; ".join(problems) or None, on_object, elsewhere, ratio if np.isfinite(ratio) else None
        )

    def _greatest_changes(
        self, entry: Entry, original_HWC: np.ndarray, changed_HWC: np.ndarray
    ) -> tuple[float | None, float | None]:
        """On the object's region and elsewhere, in grey levels of 255; None where there is no pixel."""
        largest = (np.maximum(changed_HWC, original_HWC) - np.minimum(changed_HWC, original_HWC)).max(axis=2)
        region = self._region(entry, *largest.shape)
        values = noise.VALUES_A_GREY_LEVEL[largest.dtype]
        levels = [int(part.max()) if part.size else None for part in (largest[region], largest[~region])]
        on_object, elsewhere = (level if level is None or values == 1 else level / values for level in levels)
        return on_object, elsewhere

    def _other_differences(
        self, entry: Entry, output: image_decoding.Image, original: image_decoding.Image
    ) -> Iterator[str]:
        policy = self.settings["metadata"]
        if not _same_transparency(output.alpha, original.alpha):
            yield "its transparency is not the original's"
        as_rgb = output.samples.shape[2] != original.samples.shape[2]  # a profile for grey does not fit then
        if output.metadata.icc_profile != (None if as_rgb else original.metadata.select(policy).icc_profile):
            yield f"its colour profile is not what --metadata {policy} leaves"
        if policy != "keep" and output.tells:
            yield f"it carries {' and '.join(output.tells)}, which --metadata {policy} leaves out"
        if output.sha256 != entry.output_sha256:
            yield "changed since it was written (another sha256)"
        if original.sha256 != entry.input_sha256:
            yield "its original changed since (another sha256)"

    def _original_path(self, entry: Entry) -> Path:
        return self.folder / entry.input_root / entry.input if self.originals is None else self.originals / entry.input

    def _original(self, entry: Entry) -> image_decoding.Image:
        path = self._original_path(entry)
        if self.object_rule is not None and self.holds_images:
            data = self._annotations_of(entry).reader.image_bytes(entry.input)
            if data is None:
                raise _Broken(f"its original is not in {self._annotations_of(entry).path}")
            return image_decoding.decode_image(path, data, self.max_pixels)
        if not path.is_file():
            raise _Broken(f"its original {path} is not there: give --originals")
        return image_decoding.read_image(path, self.max_pixels)

    def _region(self, entry: Entry, height: int, width: int) -> np.ndarray:
        if entry.boxes is not None:
            mask = box_mask(entry.boxes, height, width)
        elif self.object_rule is not None:
            mask = self._annotated(entry, height, width)
        elif self.rule is None:
            mask = np.ones((height, width), bool)
        else:
            mask = self._mask(entry)
            if mask.shape != (height, width):
                raise _Broken(f"its mask {entry.mask} is {_size(mask)}, the image is {width}×{height}")
        return image_region(mask, self.settings["region"], self.settings["image_size"], self.settings["mask_size"])

    def _annotated(self, entry: Entry, height: int, width: int) -> np.ndarray:
        opened = self._annotations_of(entry)
        if entry.mask is None:
            raise _Broken("its line in the manifest does not say what it is called in the annotations")
        found = found_in(opened.reader.read(entry.mask, height, width), self.object_rule)
        if found.facts["mask_sha256"] != entry.mask_sha256:
            raise _Broken(f"its annotations in {opened.path} changed since (the object is another)")
        return found.mask_HW

    def _mask(self, entry: Entry) -> np.ndarray:
        if entry.mask is None or (entry.mask_root is None and self.masks is None):
            raise _Broken("its line in the manifest names no mask")
        path = self.folder / entry.mask_root / entry.mask if self.masks is None else self.masks / entry.mask
        if not path.is_file():
            raise _Broken(f"its mask {path} is not there: give --masks")
        label = image_decoding.open_label(path, self.max_pixels)
        if label.sha256 != entry.mask_sha256:
            raise _Broken(f"its mask {path} changed since (another sha256)")
        return object_mask(label.values, self.rule)


def _like(output_HWC: np.ndarray, original_HWC: np.ndarray) -> np.ndarray:
    """The output's samples in the original's layout: a grey original may have three equal channels (WebP)."""
    if output_HWC.shape[2] == 3 and original_HWC.shape[2] == 1 and (output_HWC == output_HWC[..., :1]).all():
        output_HWC = output_HWC[..., :1]
    if output_HWC.shape[:2] != original_HWC.shape[:2]:
        raise _Broken(f"its size {_size(output_HWC)} is not the original's {_size(original_HWC)}")
    if output_HWC.shape != original_HWC.shape or output_HWC.dtype != original_HWC.dtype:
        raise _Broken(f"it is {_kind(output_HWC)}, its original is {_kind(original_HWC)}")
    return output_HWC


def _kind(samples_HWC: np.ndarray) -> str:
    return f"{8 * samples_HWC.itemsize}-bit {'grey' if samples_HWC.shape[2] == 1 else 'colour'}"


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"


def _same_transparency(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Without alpha everything is opaque: WebP stores none where it says no more than that."""
    if first is None or second is None:
        return all(alpha is None or (alpha == np.iinfo(alpha.dtype).max).all() for alpha in (first, second))
    return np.array_equal(first, second)
