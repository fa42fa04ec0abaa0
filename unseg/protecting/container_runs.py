"""Runs on files of many samples, tars of `webdataset` and tables of Hugging Face: the same files out, other images in.

The images of all files are one run of `protect`, into a folder of loose files (`.unseg-members`) in the output. Once it
is done, every file is written anew with them, the manifest last, and the loose images go. A run that is cut off goes
on with the same command. In shards, each one takes whole files, and writes them; merging makes the manifest.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress, track
from unseg.data.finding import pair_with_masks
from unseg.data.samples import Problem, SampleFile, SampleList, kept_samples
from unseg.errors import UserError
from unseg.protecting.execution import Summary
from unseg.protecting.forecast import Forecast
from unseg.protecting.manifest import (
    AGREED,
    MANIFEST,
    UNFINISHED,
    Entry,
    Key,
    Manifest,
    cannot_go_on,
    lines_of,
    read_manifest,
    spooled_lines,
    write_manifest,
)
from unseg.protecting.merging import merge
from unseg.protecting.opened_containers import Containers, facts_of, open_containers
from unseg.protecting.request import Request
from unseg.protecting.shards import Shard, earlier_manifest
from unseg.storage.containers import Container, ContainerFolder
from unseg.storage.files import blocks_of, open_for_reading, read_text, write_blocks, write_bytes
from unseg.storage.mounts import mounted
from unseg.storage.sequences import in_order

LOOSE = ".unseg-members"
CONTAINERS = "containers"  # in the first line of a manifest: what files there are, see `Containers.facts`
FACTS = "unseg-containers.json"  # in the folder of loose files: the same, for whoever merges shards
Run = Callable[[Request, bool, Progress], Summary]


def protect_containers(request: Request, dry_run: bool, progress: Progress, run: Run) -> Summary:
    """Protects the images in tars or tables."""
    _check(request)
    opened = request.containers or opened_for(request)
    out, shard = Path(os.path.abspath(request.out)), request.shard
    own = opened.found if shard is None else tuple(shard.of(opened.found))
    _check_out(request, out, opened, own)
    with tempfile.TemporaryDirectory(prefix="unseg-") as scratch, ExitStack() as mounts:
        here = ContainerFolder(Path(os.path.realpath(scratch)), opened.source)
        told = {f"--out {out / LOOSE}": f"--out {request.out}", os.fspath(here.folder): os.fspath(opened.source)}
        mounts.enter_context(_telling(told))
        done = None if shard is None or shard.is_plan else _done_already(out, shard, own)
        if done is not None:
            return done
        samples, parts = _samples(opened, own, here, request.masks, shard)
        _check_samples(request, opened, samples)
        mounts.enter_context(mounted(here))
        mounts.enter_context(mounted(ContainerFolder(out / LOOSE, out)))
        inner = replace(
            request,
            inputs=(here.folder,),
            out=out / LOOSE,
            settings=replace(request.settings, names="keep"),
            masks=request.masks or here.folder,
            samples=samples,
            webdataset=None,
            huggingface=None,
            containers=None,
            parts=parts,
        )
        summary = run(inner, dry_run, progress)
        if dry_run or request.limit is not None:
            return summary
        if shard is not None and shard.is_plan:
            write_bytes(out / LOOSE / FACTS, json.dumps(opened.facts).encode(), durable=True)
            return summary
        return _packed(inner, own, opened, progress, summary)


@contextmanager
def _telling(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, errors name what the user gave. names: what they say → what they are to say."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for here, given in names.items():
            text = text.replace(here, given)
        raise UserError(text) from error


def opened_for(request: Request) -> Containers:
    """Opens the files of a request; UserError where they cannot be protected."""
    return open_containers(request.inputs[0], request.webdataset, request.huggingface, request.masks is not None)


def _check(request: Request) -> None:
    option = "--webdataset" if request.webdataset is not None else "--huggingface"
    if len(request.inputs) != 1:
        raise UserError(f"{option}: give one file, or one folder of them")
    if not request.inputs[0].exists():
        raise UserError(f"{request.inputs[0]}: no such file or folder")
    if request.shard is not None and request.limit is not None:
        raise UserError(f"{option}: --shard takes whole files; leave out --limit")
    if request.settings.unmasked != "skip":
        raise UserError(f"--unmasked {request.settings.unmasked}: leave it out; samples without an object are left out")


def _check_out(request: Request, out: Path, opened: Containers, own: tuple[Container, ...]) -> None:
    """Raises UserError where the output folder is no place for the files. own: those that this run writes."""
    place = Path(os.path.realpath(out))  # below the folder of one file that was named, nothing is looked for
    if place == opened.source or (place.is_relative_to(opened.source) and request.inputs[0].is_dir()):
        raise UserError(f"--out {request.out}: lies in the folder of the {opened.what}; give a folder beside it")
    if os.path.lexists(out / MANIFEST):
        raise UserError(f"--out {request.out}: is finished, `unseg verify` proves it; give another folder")
    shard = request.shard
    records = out / LOOSE if shard is None else shard.folder(out / LOOSE)
    if read_manifest(records) is not None:
        return  # an earlier run of ours was cut off: its manifest was there before any file of its
    beside = opened.beside if shard is None or shard.number <= 1 else ()
    names = (*(container.place for container in own), *beside)
    there = next((name for name in names if os.path.lexists(out / name)), None)
    if there is not None:
        raise UserError(f"--out {request.out}: {there} exists and was not written by unseg; give another folder")


def _samples(
    opened: Containers, own: tuple[Container, ...], here: ContainerFolder, masks: Path | None, shard: Shard | None
) -> tuple[SampleList, tuple[int, ...] | None]:
    """Returns all images with their masks, and how many there are in each shard, where there are shards.

    Those of the own containers, and their masks, have a name in the folder of scratch files then.
    """
    counts: dict[str, int] = {}
    chosen = {container.place for container in own}

    def listed() -> Iterator[SampleFile]:
        for container in opened.found:
            root, place = here.folder, container.place
            found = list(container.images())
            counts[place] = len(found)
            names = {name: None for image, mask in found for name in (image, mask) if name is not None}
            here.add(container, iter(names if place in chosen else ()))
            for image, mask in found:
                name = f"{place}/{image}"
                if mask is None:
                    yield SampleFile(name, root / name, root)
                else:
                    yield SampleFile(name, root / name, root, root / place / mask, f"{place}/{mask}")

    samples = kept_samples(listed())
    parts = None if shard is None else opened.parts(shard.count, counts)
    return (SampleList(samples) if masks is None else _with_masks(samples, opened, masks)), parts


def _check_samples(request: Request, opened: Containers, samples: SampleList) -> None:
    """Raises UserError where the files hold no image, or are to hold the masks and hold none."""
    if not samples.samples:
        raise UserError(f"{request.inputs[0]}: no image in its {opened.what}")
    if request.masks is not None or any(sample.mask_file is not None for sample in samples.samples):
        return
    if request.webdataset is not None:
        said = f"--webdataset {request.webdataset}: no image in {request.inputs[0]} has a member {opened.masks}"
    else:
        said = f"--huggingface {opened.masks}: no image in {request.inputs[0]} has a mask in this column"
    raise UserError(f"{said}; name what holds the masks")


def _with_masks(samples: Sequence[SampleFile], opened: Containers, masks: Path) -> SampleList:
    """Returns images with masks of a folder: those called as an image's cell calls it, or as the image is called."""
    if not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder")
    called = {name: there for name, there in opened.named() if there is not None}
    if len(set(called.values())) < len(called):
        called = {}  # names that are there twice tell nothing
    wanted = {
        called.get(sample.name, sample.name): sample for sample in samples
    }  # with the place, no name is one of another table
    problems: list[Problem] = []
    asked = [SampleFile(name, sample.file, sample.root) for name, sample in wanted.items()]
    paired, unused = pair_with_masks(asked, masks, problems)
    found = (replace(wanted[one.name], mask_file=one.mask_file, mask_name=one.mask_name) for one in paired)
    return SampleList(kept_samples(found), problems, unused)


# --- written anew


def _packed(
    inner: Request, own: tuple[Container, ...], opened: Containers, progress: Progress, summary: Summary
) -> Summary:
    """Writes every container anew, then the manifest, unless shards are to be merged; removes the loose images."""
    loose, records = inner.out, inner.records
    out = loose.parent
    manifest = read_manifest(records)
    assert manifest is not None, "a run that came to its end has a manifest"
    try:
        left = _without_lost(manifest, own)
        if left is not manifest:
            write_manifest(records, left, finished=True)
        for container in track(progress, own, len(own), opened.kind):
            written = written_images(left, container.place)
            files = {name: loose / container.place / name for name in written}
            container.rewrite(out / container.place, files, out)
        if inner.shard is None or inner.shard.number == 1:
            for name in opened.beside:
                with open_for_reading(opened.source / name) as file:
                    write_blocks(out / name, blocks_of(file), durable=True, within=out)
        if inner.shard is None:
            _finish(out, left, opened.facts)
        else:
            for container in own:
                shutil.rmtree(loose / container.place, ignore_errors=True)
    except OSError as error:
        raise cannot_go_on(out, error) from error
    return replace(summary, entries=spooled_lines(left.entries.get(entry.key, entry) for entry in summary.entries))


def _finish(out: Path, manifest: Manifest, facts: Mapping[str, Any]) -> None:
    write_manifest(out, replace(manifest, header={**manifest.header, CONTAINERS: facts}), finished=True)
    shutil.rmtree(out / LOOSE)


def written_images(manifest: Manifest, place: str) -> set[str]:
    """Returns the names of the images of a container that have their noise."""
    lines = in_order(manifest.entries)
    first = bisect_left(lines, f"{place}/", key=lambda entry: entry.input)
    own = takewhile(lambda entry: entry.input.startswith(f"{place}/"), lines[first:])
    return {entry.input.removeprefix(f"{place}/") for entry in own if entry.is_written}


def _without_lost(manifest: Manifest, own: tuple[Container, ...]) -> Manifest:
    """Returns a manifest in which images are not protected whose sample goes, since others in it are not."""
    changed: dict[Key, Entry] = {}
    for container in own:
        written = written_images(manifest, container.place)
        lost = {f"{container.place}/{name}" for name in written - container.staying(written)}
        for key, entry in manifest.entries.items() if lost else ():
            if entry.input in lost:
                reason = "its row is left out, since another image in it could not be protected"
                changed[key] = Entry(*key, "failed", reason=reason)
    if not changed:
        return manifest
    return replace(manifest, entries=lines_of(chain(manifest.entries.values(), changed.values())))


# --- shards


def _done_already(out: Path, shard: Shard, own: tuple[Container, ...]) -> Summary | None:
    """Returns what a shard did, where it is finished and all its files are there; UserError where it has no plan."""
    earlier_manifest(out / LOOSE, shard)
    part = read_manifest(shard.folder(out / LOOSE))
    if part is None or part.header.get(UNFINISHED) or AGREED not in part.header:
        return None
    if not all(os.path.isfile(out / container.place) for container in own):
        return None
    entries = in_order(part.entries)
    return Summary(entries, len(entries), 0.0, Forecast(len(entries), len(entries), 0))


def merge_any(out: Path) -> Summary:
    """Merges shards as `unseg.protecting.merging.merge` does, also those that wrote tars or tables."""
    loose = out / LOOSE
    if os.path.lexists(out / MANIFEST) or read_manifest(loose) is None:
        return merge(out)
    try:
        facts = json.loads(read_text(loose / FACTS))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{loose / FACTS}: cannot be read; run --shard plan/N again") from error
    known = facts_of(facts)
    if known is None:
        raise UserError(f"{loose / FACTS}: says nothing of files; run --shard plan/N again")
    lacking = next((place for place in known[2] if not os.path.isfile(out / place)), None)
    if lacking is not None:
        raise UserError(f"{out}: {lacking} is not there; the shard that writes it has not run; run it, then merge")
    try:
        summary = merge(loose)
    except UserError as error:
        raise UserError(str(error).replace(os.fspath(loose), os.fspath(out))) from error
    manifest = read_manifest(loose)
    assert manifest is not None, "merging leaves a manifest"
    _finish(out, manifest, facts)
    return summary


def files_of(opened: Containers, shard: Shard) -> Iterator[str]:
    """Yields the names of the files that a shard writes."""
    yield from (container.place for container in shard.of(opened.found))
    yield from opened.beside if shard.number == 1 else ()
