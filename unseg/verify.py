"""Proof that protected files keep their promise: what is read back differs from the original by at most the budget."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unseg import images
from unseg.data.masks import MaskRule, box_mask, object_mask
from unseg.device import cores, single_threaded_pool
from unseg.errors import UserError
from unseg.images import ImageError
from unseg.manifest import MANIFEST, Entry, Manifest, read_manifest
from unseg.metrics import psnr
from unseg.protect import image_region

UNLIMITED_PIXELS = 2**40  # what was protected under some limit is verified under any


@dataclass(frozen=True)
class Finding:
    """What was found about one input or file. problem: None where all is well.

    max_object, max_background: the greatest change on the object's region and elsewhere, in grey levels (None where
    there is no such pixel or nothing could be compared).
    """

    name: str
    problem: str | None
    max_object: int | None = None
    max_background: int | None = None
    psnr: float | None = None


@dataclass(frozen=True)
class Verification:
    """findings: one a manifest line. missing: outputs that are gone. extra: files that no manifest line owns."""

    findings: tuple[Finding, ...]
    unprotected: tuple[Finding, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.problem]

    @property
    def exit_code(self) -> int:
        """0 where every input is protected, within its budget at every pixel, and the folder holds nothing else."""
        return int(bool(self.failures or self.unprotected or self.extra))

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.exit_code == 0, "verified": len(self.findings) - len(self.failures),
                "failures": [asdict(finding) for finding in self.failures],
                "unprotected": [asdict(finding) for finding in self.unprotected],
                "missing": list(self.missing), "extra": list(self.extra)}


def verify(folder: str | Path, *, originals: str | Path | None = None, masks: str | Path | None = None,
           workers: int | None = None,
           track: Callable[[Iterable, int], Iterable] = lambda items, total: items) -> Verification:
    """Check every file of an output folder against the manifest and the originals.

    originals, masks: where these lie now, if not where the manifest says. Nothing is written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no {MANIFEST} in it; give the --out folder of `unseg protect`")
    for option, given in (("--originals", originals), ("--masks", masks)):
        if given is not None and not Path(given).is_dir():
            raise UserError(f"{option} {given}: no such folder")
    entries = [manifest.entries[key] for key in sorted(manifest.entries)]
    protected = [entry for entry in entries if entry.status == "protected"]
    checker = _Checker(folder, manifest, originals and Path(originals), masks and Path(masks))
    with images.own_size_limit(), single_threaded_pool(workers or cores()) as pool:
        findings = tuple(track(pool.map(checker.finding, protected), len(protected)))
    unprotected = tuple(Finding(entry.input, _not_protected(entry)) for entry in entries if entry.status != "protected")
    missing = tuple(sorted(entry.output for entry in entries if entry.output and entry.status != "failed"
                           and not (folder / entry.output).is_file()))
    owned = {name for entry in entries for name in entry.owned} | {MANIFEST}
    extra = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                         if not path.is_dir() and path.relative_to(folder).as_posix() not in owned))
    return Verification(findings, unprotected, missing, extra)


def _not_protected(entry: Entry) -> str:
    return {"copied": f"copied without protection: {entry.reason}", "failed": f"failed: {entry.reason}",
            "started": "not finished: run the same `unseg protect` again"}[entry.status]


class _Broken(Exception):
    """Why a file does not keep its promise."""


class _Checker:
    def __init__(self, folder: Path, manifest: Manifest, originals: Path | None, masks: Path | None) -> None:
        self.folder, self.originals, self.masks = folder, originals, masks
        self.settings: Mapping[str, Any] = manifest.header["settings"]
        rule = self.settings["mask_rule"]
        self.rule = MaskRule(**{**rule, "objects": rule["objects"] and tuple(rule["objects"])}) if rule else None

    def finding(self, entry: Entry) -> Finding:
        try:
            return self._compare(entry)
        except (_Broken, ImageError) as error:
            return Finding(entry.output, str(error))

    def _compare(self, entry: Entry) -> Finding:
        path = self.folder / entry.output
        if not path.is_file():
            raise _Broken("missing")
        output = images.read_image(path, UNLIMITED_PIXELS)
        original = self._original(entry)
        if output.pixels.shape != original.pixels.shape:
            raise _Broken(f"its size {_size(output.pixels)} is not the original's {_size(original.pixels)}")
        region = self._region(entry)
        change = np.maximum(output.pixels, original.pixels) - np.minimum(output.pixels, original.pixels)
        largest = change.max(axis=2)
        on_object, elsewhere = (int(part.max()) if part.size else None for part in (largest[region], largest[~region]))
        problems = [f"changes {where} by {value}, budget {limit:g}"
                    for where, value, limit in (("the object", on_object, entry.object_budget),
                                                ("the background", elsewhere, entry.background_budget))
                    if value is not None and value > limit]
        if not _same(output.alpha, original.alpha):
            problems.append("its transparency is not the original's")
        if output.sha256 != entry.output_sha256:
            problems.append("changed since it was written (another sha256)")
        if original.sha256 != entry.input_sha256:
            problems.append("its original changed since (another sha256)")
        ratio = psnr(original.pixels, output.pixels)
        ratio = ratio if np.isfinite(ratio) else None
        return Finding(entry.output, "; ".join(problems) or None, on_object, elsewhere, ratio)

    def _original(self, entry: Entry) -> images.Image:
        path = self.folder / entry.input_root / entry.input if self.originals is None else self.originals / entry.input
        if not path.is_file():
            raise _Broken(f"its original {path} is not there: give --originals")
        return images.read_image(path, UNLIMITED_PIXELS)

    def _region(self, entry: Entry) -> np.ndarray:
        height, width = entry.height, entry.width
        if entry.boxes is not None:
            mask = box_mask(entry.boxes, height, width)
        elif self.rule is None:
            mask = np.ones((height, width), bool)
        else:
            mask = self._mask(entry)
        return image_region(mask, self.settings["region"], self.settings["image_size"], self.settings["mask_size"])

    def _mask(self, entry: Entry) -> np.ndarray:
        path = self.folder / entry.mask_root / entry.mask if self.masks is None else self.masks / entry.mask
        if not path.is_file():
            raise _Broken(f"its mask {path} is not there: give --masks")
        label = images.open_label(path, UNLIMITED_PIXELS)
        if label.sha256 != entry.mask_sha256:
            raise _Broken(f"its mask {path} changed since (another sha256)")
        return object_mask(label.values, self.rule)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is second if first is None or second is None else np.array_equal(first, second)
