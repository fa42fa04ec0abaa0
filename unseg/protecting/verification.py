"""Proof that protected files keep their promise: what is read back differs from the original by at most the budget."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unseg.compute.engine import Engine
from unseg.compute.progress import SILENT, Progress, track
from unseg.compute.threads import cores, single_threaded_pool
from unseg.errors import UserError
from unseg.protecting.engine_findings import findings_of_actors
from unseg.protecting.findings import Finding, findings_of, spooled_findings
from unseg.protecting.header import note_on_noise, recorded
from unseg.protecting.manifest import MANIFEST, UNFINISHED, Entry, Key, Manifest, read_manifest
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.originals import Originals
from unseg.protecting.shards import refuse_unmerged
from unseg.storage import image_limits
from unseg.storage.files import is_link, raised, walk_folders
from unseg.storage.locks import LOCK_FILE, holder_of
from unseg.storage.sequences import Made, Places, in_order

CUT_OFF = "the run, or this file, was cut off before its end, and images may be missing: run the same command again"


@dataclass(frozen=True)
class Verification:
    """Everything that was found about a folder.

    findings: one for each line of a protected image. unprotected: one for each other line. missing: outputs that are
    gone. extra: files that no manifest line owns. other_files: what is wrong with files that lie beside the images, as
    those of an edition; and a manifest whose run was cut off. note: says where
    an older version made the noise, or the default would hold better.
    """

    findings: Sequence[Finding]
    unprotected: Sequence[Finding]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    other_files: tuple[Finding, ...] = ()
    note: str | None = None

    @cached_property
    def failures(self) -> list[Finding]:
        """Returns the findings of images that do not keep their promise."""
        return [finding for finding in self.findings if finding.problem]

    @property
    def exit_code(self) -> int:
        """Returns 0 where every input is protected, within its budget at every pixel, and nothing else is there."""
        return int(bool(self.failures or self.unprotected or self.extra or self.other_files))

    @property
    def images(self) -> int:
        """Returns how many inputs the manifest speaks of."""
        return len(self.findings) + len(self.unprotected)

    def largest_changes(self) -> tuple[float | None, float | None]:
        """Returns the largest changes on objects and elsewhere, over the images that hold the bound, in grey levels.

        None stands for no image that was compared.
        """
        on_object = elsewhere = None
        for finding in self.findings:
            if not finding.problem:
                on_object = _larger(on_object, finding.max_object)
                elsewhere = _larger(elsewhere, finding.max_background)
        return on_object, elsewhere

    def retold(self, told: Callable[[str], str]) -> Verification:
        """Returns the same findings in other words. told: what a problem's text becomes."""

        def each(findings: Sequence[Finding]) -> Sequence[Finding]:
            return spooled_findings(
                finding if finding.problem is None else replace(finding, problem=told(finding.problem))
                for finding in findings
            )

        return replace(
            self,
            findings=each(self.findings),
            unprotected=each(self.unprotected),
            other_files=tuple(each(self.other_files)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the findings as `unseg verify --json` prints them."""
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
            "note": self.note,
        }


def verify(
    folder: str | Path,
    *,
    originals: str | Path | None = None,
    masks: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    workers: int | None = None,
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6,
    engine: Engine | str | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Checks every file of an output folder against the manifest and the originals. Nothing is written.

    originals, masks, annotations: where these lie now, if not where the manifest says; annotations may be open already.
    workers: threads; with an engine, of each actor. max_megapixels: larger images are not decoded. engine: whose actors
    share the work. progress: is told the bar "verify". Raises UserError where the folder cannot be verified at all.
    """
    folder, engine = Path(folder), Engine.named(engine)
    if not 0 < max_megapixels < math.inf:
        raise UserError(f"--max-megapixels {max_megapixels}: give a number over 0")
    manifest = finished_manifest(folder)
    kept = originals_of(
        manifest, folder, originals=originals, masks=masks, annotations=annotations, max_megapixels=max_megapixels
    )
    entries = in_order(manifest.entries)
    written = Made(array("q", (place for place, one in enumerate(entries) if one.is_written)), entries.__getitem__)
    compared: Sequence[Finding]
    with image_limits.own_size_limit(), single_threaded_pool(workers or cores()) as pool:
        kept = kept.opened(written, pool)
        if engine is None:
            compared = spooled_findings(track(progress, findings_of(written, kept, pool), len(written), "verify"))
    if engine is not None:
        compared = findings_of_actors(written, kept, engine, workers or 1, progress)
    told, damaged = array("q"), set[Key]()
    for place, (entry, finding) in enumerate(zip(written, compared, strict=True)):
        if entry.status == "protected" or finding.problem:  # what is weak can be damaged, too
            told.append(place)
        damaged |= {entry.key} if finding.problem else set()
    unprotected = spooled_findings(
        Finding(entry.input, _not_protected(entry))
        for entry in entries
        if entry.status != "protected" and entry.key not in damaged
    )
    gone = [entry.output for entry in entries if entry.output and _is_gone(entry, folder / entry.output)]
    cut_off = (Finding(MANIFEST, CUT_OFF),) if manifest.header.get(UNFINISHED) else ()
    return Verification(
        Made(told, compared.__getitem__),
        unprotected,
        tuple(sorted(gone)),
        _extra(folder, entries),
        cut_off,
        note_on_noise(manifest),
    )


def originals_of(
    manifest: Manifest,
    folder: Path,
    *,
    originals: str | Path | None = None,
    masks: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6,
) -> Originals:
    """Returns where the originals of a folder lie, and what says where their objects are; see `verify`."""
    _check_places(originals, masks, annotations)
    return Originals(
        folder,
        recorded(manifest, folder),
        None if originals is None else Path(originals),
        None if masks is None else Path(masks),
        annotations=annotations if isinstance(annotations, (OpenAnnotations, type(None))) else Path(annotations),
        max_pixels=int(max_megapixels * 1e6),
    )


def finished_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a folder that nobody writes to; UserError where there is none."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no {MANIFEST} in it; give the --out folder of `unseg protect`")
    refuse_unmerged(manifest, folder)
    writer = holder_of(folder)
    if writer is not None:
        raise UserError(f"{folder}: {writer} is writing there; wait until that has ended")
    return manifest


def _check_places(
    originals: str | Path | None, masks: str | Path | None, annotations: str | Path | OpenAnnotations | None
) -> None:
    for option, given in (("--originals", originals), ("--masks", masks)):
        if given is not None and not Path(given).is_dir():
            raise UserError(f"{option} {given}: no such folder")
    if isinstance(annotations, (str, Path)) and not Path(annotations).exists():
        raise UserError(f"--annotations {annotations}: no such file or folder")


def _is_gone(entry: Entry, output: Path) -> bool:
    return entry.status not in ("failed", "skipped") and not os.path.isfile(output)


def _extra(folder: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns the files that no line of the manifest owns, sorted."""
    owners = Places()
    for place, entry in enumerate(entries):
        for name in entry.owned:
            owners.add(name, place)

    start = len(os.path.join(folder, ""))

    def whole(parent: str, name: str) -> str:
        return os.path.join(parent, name)[start:].replace(os.sep, "/")

    def is_strange(parent: str, name: str) -> bool:
        name = whole(parent, name)
        return name not in (MANIFEST, LOCK_FILE) and not any(name in entries[place].owned for place in owners.of(name))

    extra = []
    try:
        for parent, folders, names in walk_folders(folder, raised, wanted=is_strange):
            linked = [name for name in folders if is_link(os.path.join(parent, name)) and is_strange(parent, name)]
            extra += [whole(parent, name) for name in (*names, *linked)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; verify needs the whole folder") from error
    return tuple(sorted(extra))


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _not_protected(entry: Entry) -> str:
    if entry.status == "copied":
        return f"copied without protection: {entry.reason}"
    if entry.status == "skipped":
        return f"left out: {entry.reason}"
    if entry.status == "failed":
        return f"failed: {entry.reason}"
    if entry.is_written:
        return f"{entry.status}: {entry.reason}"
    return "not finished: run the same `unseg protect` again"
