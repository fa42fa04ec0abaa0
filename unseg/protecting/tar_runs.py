"""Runs on tar files of samples (`webdataset`): tars in, tars out, each member under its own name and in its own place.

The images of all tars are one run of `protect`, into a folder of loose files (`.unseg-members`) inside the output. Once
it is done, every tar is written anew with them, the manifest last, and the loose files go. A run that is cut off goes
on with the same command.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress, track
from unseg.data.samples import SampleFile, SampleList
from unseg.errors import UserError
from unseg.protecting.execution import Summary
from unseg.protecting.findings import Finding
from unseg.protecting.manifest import MANIFEST, Manifest, cannot_go_on, read_manifest, write_manifest
from unseg.protecting.request import Request
from unseg.protecting.verification import Verification
from unseg.storage.files import files_under, link_on_the_way, open_for_reading, stays_inside
from unseg.storage.mirror import is_url
from unseg.storage.mounts import mounted
from unseg.storage.picture_kinds import STACK_SUFFIXES, is_picture_name
from unseg.storage.tar_files import Member, TarFolder, content, members, rewrite, tars_at

LOOSE = ".unseg-members"
TARS = "tars"  # in the first line of a manifest: the names of all tar files
IMAGES = ("jpg", "jpeg", "png", "webp")
Run = Callable[[Request, bool, Progress], Summary]


def protect_tars(request: Request, dry_run: bool, progress: Progress, run: Run) -> Summary:
    """Protects the images in tar files. `request.webdataset`: the suffix of the members that hold masks."""
    _check(request)
    given, suffix = request.inputs[0], (request.webdataset or "").lower().lstrip(".")
    source = Path(os.path.realpath(given.parent if given.is_file() else given))
    out = Path(os.path.abspath(request.out))
    if Path(os.path.realpath(out)).is_relative_to(source):
        raise UserError(f"--out {request.out}: lies in the folder of the tar files; give a folder beside it")
    if os.path.lexists(out / MANIFEST):
        raise UserError(f"--out {request.out}: is finished, `unseg verify` proves it; give another folder")
    with tempfile.TemporaryDirectory(prefix="unseg-") as scratch, ExitStack() as mounts:
        tars = TarFolder(Path(os.path.realpath(scratch)), source)
        listed = {tar: members(tar) for tar in tars_at(Path(os.path.realpath(given)))}
        samples = [sample for tar, found in listed.items() for sample in _samples(tar, found, tars, suffix)]
        mounts.enter_context(mounted(tars))
        mounts.enter_context(mounted(TarFolder(out / LOOSE, out)))
        inner = replace(
            request,
            inputs=(tars.folder,),
            out=out / LOOSE,
            settings=replace(request.settings, names="keep"),
            masks=tars.folder,
            samples=SampleList(sorted(samples)),
            webdataset=None,
        )
        summary = run(inner, dry_run, progress)
        if not dry_run and request.limit is None:
            _pack(out, source, listed, progress)
    return summary


def _check(request: Request) -> None:
    if len(request.inputs) != 1:
        raise UserError("--webdataset: give one tar file, or one folder of them")
    if not request.inputs[0].exists():
        raise UserError(f"{request.inputs[0]}: no such file or folder")
    if request.shard is not None or is_url(request.out):
        raise UserError("--webdataset: writes into a folder of this machine, in one run; leave out --shard and s3://")
    if request.settings.unmasked != "skip":
        raise UserError(f"--unmasked {request.settings.unmasked}: leave it out; samples without an object are left out")


def _samples(tar: Path, found: list[Member], tars: TarFolder, suffix: str) -> Iterator[SampleFile]:
    """Yields the images of a tar with their masks, after both have a name in the folder of scratch files."""
    masks = {member.sample: member for member in found if member.suffix == suffix}
    images = [member for member in found if member.suffix in IMAGES and member.suffix != suffix]
    for member in found:
        if _is_unlike(member, suffix):
            raise UserError(
                f"{tar}: {member.name} is a picture, and in tar files only {', '.join(IMAGES)} are protected; convert"
                " it, or protect it outside of a tar"
            )
    several = {member.sample for member in images}
    if len(several) < len(images):
        raise UserError(f"{tar}: a sample holds two images ({', '.join(IMAGES)}); which one is meant is not known")
    tars.add(tar, [*images, *masks.values()])
    root, place = tars.folder, tar.relative_to(tars.stands_for).as_posix()
    for image in images:
        mask = masks.get(image.sample)
        name = f"{place}/{image.name}"
        if mask is None:
            yield SampleFile(name, root / name, root)
        else:
            yield SampleFile(name, root / name, root, root / place / mask.name, f"{place}/{mask.name}")


def _is_unlike(member: Member, suffix: str) -> bool:
    """Returns whether a member is a sample's image in a format that stays as it is, which would pass for protected."""
    whole = "." not in member.suffix or f".{member.suffix}" in STACK_SUFFIXES
    return whole and member.suffix not in (*IMAGES, suffix) and is_picture_name(f"name.{member.suffix}")


def _pack(out: Path, source: Path, listed: dict[Path, list[Member]], progress: Progress) -> None:
    """Writes every tar anew, then the manifest; removes the loose files."""
    loose = out / LOOSE
    manifest = read_manifest(loose)
    assert manifest is not None, "a run that came to its end has a manifest"
    places = [tar.relative_to(source).as_posix() for tar in listed]
    try:
        for tar, found in track(progress, listed.items(), len(listed), "tars"):
            place = tar.relative_to(source).as_posix()
            written = _written(manifest, place)
            stay = _that_stay(found, written)
            rewrite(tar, out / place, stay, {name: loose / place / name for name in written}, out)
        write_manifest(out, replace(manifest, header={**manifest.header, TARS: places}), finished=True)
        shutil.rmtree(loose)
    except OSError as error:
        raise cannot_go_on(out, error) from error


def _written(manifest: Manifest, place: str) -> set[str]:
    """Returns the names of the images of a tar that have their noise."""
    return {
        entry.input.removeprefix(f"{place}/")
        for entry in manifest.entries.values()
        if entry.is_written and entry.input.startswith(f"{place}/")
    }


def _that_stay(found: list[Member], written: set[str]) -> set[str]:
    """Returns the members of a protected tar: those of samples whose image has its noise, or that have no image."""
    gone = {member.sample for member in found if member.suffix in IMAGES}
    gone -= {member.sample for member in found if member.name in written}
    return {member.name for member in found if member.sample not in gone}


# --- verify


def holds_tars(folder: Path) -> bool:
    """Returns whether a folder was written by a run on tar files."""
    manifest = read_manifest(folder) if os.path.isdir(folder) else None
    return manifest is not None and TARS in manifest.header


def verify_tars(
    folder: Path, on_disk: Callable[..., Verification], originals: Path | None, **options: Any
) -> Verification:
    """Verifies a folder of tars: every image against its original, and every other member against its own.

    originals: the folder of the source's tars, if not where the manifest says.
    """
    if options.get("engine") is not None:
        raise UserError(f"--engine ray: {folder} holds tar files, which processes of this machine verify; leave it out")
    manifest = read_manifest(folder)
    assert manifest is not None, "only folders with a manifest hold protected tars"
    folder = Path(os.path.realpath(folder))
    places = _recorded(manifest, folder)
    root = next((entry.input_root for entry in manifest.entries.values()), ".")
    source = Path(os.path.realpath(folder / root if originals is None else originals))
    if not all((source / place).is_file() for place in places):
        raise UserError(f"{source}: the tar files are not there; name their folder with --originals")
    outputs = {entry.output for entry in manifest.entries.values() if entry.output}
    faults: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="unseg-") as scratch, ExitStack() as mounts:
        here = TarFolder(Path(os.path.realpath(scratch)) / "protected", folder)
        there = TarFolder(here.folder.with_name("originals"), source)
        for place in places:
            old = members(source / place)
            there.add(source / place, old)
            faults += _compared(place, old, _written(manifest, place), folder, source)
            if (folder / place).is_file():
                here.add(folder / place, [one for one in members(folder / place) if f"{place}/{one.name}" in outputs])
        mounts.enter_context(mounted(here))
        mounts.enter_context(mounted(there))
        shutil.copy(folder / MANIFEST, here.folder)
        result = on_disk(here.folder, originals=there.folder, **{**options, "masks": there.folder})
    extra = sorted({path.relative_to(folder).as_posix() for path in files_under(folder)} - {MANIFEST, *places})
    return replace(result, extra=tuple(extra), other_files=(*result.other_files, *faults))


def _recorded(manifest: Manifest, folder: Path) -> list[str]:
    """Returns the names of the tar files that a manifest speaks of, which may come from anyone."""
    places = manifest.header[TARS]
    good = isinstance(places, list) and all(isinstance(place, str) and stays_inside(place) for place in places)
    if not good or _link_in(folder, places):
        raise UserError(f"{folder / MANIFEST}: not a manifest of unseg ({TARS})")
    return places


def _link_in(folder: Path, places: list[str]) -> bool:
    """Returns whether one of the places in a folder is reached through a link."""
    return any(link_on_the_way(folder, place) is not None for place in places)


def _compared(place: str, old: list[Member], written: set[str], folder: Path, source: Path) -> Iterator[Finding]:
    """Yields what is wrong with the members of a protected tar that are no protected images."""
    if not (folder / place).is_file():
        yield Finding(place, "missing")
        return
    new = members(folder / place)
    stay = _that_stay(old, written)
    expected = [member for member in old if member.name in stay]
    if [member.name for member in new] != [member.name for member in expected]:
        yield Finding(place, "its members are not those of its original, in their order")
        return
    with open_for_reading(source / place) as before, open_for_reading(folder / place) as after:
        for one, other in zip(expected, new, strict=True):
            if one.name not in written and _hash(before, one) != _hash(after, other):
                yield Finding(f"{place}/{one.name}", "differs from its original")


def _hash(file: Any, member: Member) -> str:
    digest = hashlib.sha256()
    for block in content(file, member):
        digest.update(block)
    return digest.hexdigest()
