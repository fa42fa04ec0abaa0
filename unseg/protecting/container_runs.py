"""Runs on files of many samples, tars of `webdataset` and tables of Hugging Face: the same files out, other images in.

The images of all files are one run of `protect`, into a folder of loose files (`.unseg-members`) in the output. Once it
is done, every file is written anew with them, the manifest last, and the loose images go. A run that is cut off goes
on with the same command. In shards, each one takes whole files, and writes them; merging makes the manifest.
"""

from __future__ import annotations

import json
import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress, track
from unseg.data.annotations.json_members import JsonMembers
from unseg.data.finding import pair_with_masks
from unseg.data.samples import Problem, SampleFile, SampleList, kept_samples, spooled_samples
from unseg.errors import UserError
from unseg.protecting.execution import Summary
from unseg.protecting.forecast import Forecast
from unseg.protecting.manifest import (
    AGREED,
    MANIFEST,
    UNFINISHED,
    Entry,
    Manifest,
    cannot_go_on,
    lines_of,
    read_manifest,
    write_manifest,
)
from unseg.protecting.merging import merge
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.opened_containers import Containers, facts_of, open_containers
from unseg.protecting.planning import NO_ROOT
from unseg.protecting.request import Request
from unseg.protecting.shards import SHARDS, Shard, earlier_manifest
from unseg.storage.containers import Container, ContainerFolder
from unseg.storage.files import (
    blocks_of,
    open_for_reading,
    read_text,
    remove_temporaries,
    write_blocks,
    write_bytes,
)
from unseg.storage.mirror import scratch_folder
from unseg.storage.mounts import mounted, telling
from unseg.storage.sequences import in_order

LOOSE = ".unseg-members"
CONTAINERS = "containers"  # in the first line of a manifest: what files there are, see `Containers.facts`
CLAIMS = "unseg-claims.json"  # beside a run's manifest: the names of files that it is about to write
FACTS = "unseg-containers.json"  # in the folder of loose files: the same, for whoever merges shards
Run = Callable[[Request, bool, Progress], Summary]


def protect_containers(request: Request, dry_run: bool, progress: Progress, run: Run) -> Summary:
    """Protects the images in tars or tables."""
    _check(request)
    opened = request.containers or opened_for(request)
    out, shard = Path(os.path.abspath(request.out)), request.shard
    anew = rewriting_of(opened, out / LOOSE, shard)
    _check_out(request, out, opened, anew)
    with scratch_folder() as scratch, ExitStack() as mounts:
        here = ContainerFolder(scratch / "samples", opened.source)
        here.folder.mkdir()
        told = {f"--out {out / LOOSE}": f"--out {request.out}", os.fspath(here.folder): os.fspath(opened.source)}
        mounts.enter_context(telling(told))
        done = None if shard is None or shard.is_plan else _done_already(shard, anew)
        if done is not None:
            return done
        samples, counts = _samples(opened, anew.own, here, request.masks)
        _check_samples(request, opened, samples)
        mounts.enter_context(mounted(here))
        mounts.enter_context(mounted(ContainerFolder(out / LOOSE, out)))
        inner = replace(
            request,
            inputs=(here.folder,),
            out=out / LOOSE,
            settings=replace(request.settings, names="keep"),
            masks=None if opened.has_outlines else request.masks or here.folder,
            annotations=outlines_in(opened, here, progress),
            samples=_without_masks(samples) if opened.has_outlines else samples,
            webdataset=None,
            huggingface=None,
            containers=None if request.engine is None else opened,
            parts=counts if shard is None else opened.parts(shard.count, counts),
        )
        summary = run(inner, dry_run, progress)
        if dry_run or request.limit is not None or request.engine is not None:  # whose actors write all anew
            return summary
        if shard is not None and shard.is_plan:
            write_facts(opened, out / LOOSE)
            return summary
        summary = anew.carry_out(inner.records, summary, progress)
        if shard is not None:
            anew.remove_loose()
            return summary
        manifest = read_manifest(inner.records)
        assert manifest is not None, "a run that came to its end has a manifest"
        _finish(out, manifest, opened.facts)
        return summary


def write_facts(opened: Containers, loose: Path) -> None:
    """Writes what containers there are beside a plan, for whoever merges its shards. loose: the folder of images."""
    write_bytes(loose / FACTS, json.dumps(opened.facts).encode(), durable=True)


def opened_for(request: Request) -> Containers:
    """Opens the files of a request; UserError where they cannot be protected."""
    return open_containers(request.inputs[0], request.webdataset, request.huggingface, request.masks is not None)


def _check(request: Request) -> None:
    option = "--webdataset" if request.webdataset is not None else "--huggingface"
    if len(request.inputs) != 1:
        raise UserError(f"{option}: give one file, or one folder of them")
    if not request.inputs[0].exists():
        raise UserError(f"{request.inputs[0]}: no such file or folder")
    for parts, given in (("--shard", request.shard is not None), ("--engine ray", request.engine is not None)):
        if given and request.limit is not None:
            raise UserError(f"{option}: {parts} takes whole files; leave out --limit")
    if request.settings.unmasked != "skip":
        raise UserError(f"--unmasked {request.settings.unmasked}: leave it out; samples without an object are left out")


def _check_out(request: Request, out: Path, opened: Containers, anew: Rewriting) -> None:
    """Raises UserError where the output folder is no place for the files. anew: those that this run writes."""
    place = Path(os.path.realpath(out))  # below the folder of one file that was named, nothing is looked for
    if place == opened.source or (place.is_relative_to(opened.source) and request.inputs[0].is_dir()):
        raise UserError(f"--out {request.out}: lies in the folder of the {opened.what}; give a folder beside it")
    if os.path.lexists(out / MANIFEST):
        raise UserError(
            f"--out {request.out}: is finished; `unseg verify` says what is protected there. Give another folder, or"
            " remove this one"
        )
    shard = request.shard
    records = out / LOOSE if shard is None else shard.folder(out / LOOSE)
    if shard is None or not shard.is_plan:
        _check_free(out, anew.files, records)
    elif read_manifest(records) is None:  # else its shards may have written theirs
        _check_free(out, [*anew.files, *opened.beside], records)


def _check_free(out: Path, names: Sequence[str], records: Path) -> None:
    """Raises UserError where a file lies in the output that no run of ours claimed before it wrote it."""
    claimed = _claimed(records)
    there = next((name for name in names if name not in claimed and os.path.lexists(out / name)), None)
    if there is not None:
        raise UserError(f"--out {out}: {there} exists and was not written by unseg; give another folder")


def _claimed(records: Path) -> set[str]:
    """Returns the names that a run claimed, or the shards of one."""
    claimed = set[str]()
    for folder in (records, *sorted((records / SHARDS).glob("*"))):
        with suppress(OSError, ValueError, TypeError):  # there is none, or it was cut short: nothing is claimed
            claimed.update(json.loads(read_text(folder / CLAIMS)))
    return claimed


def _samples(
    opened: Containers, own: tuple[Container, ...], here: ContainerFolder, masks: Path | None
) -> tuple[SampleList, tuple[int, ...]]:
    """Returns all images with their masks, and how many there are in each container.

    Those of the own containers, and their masks, have a name in the folder of scratch files then.
    """
    counts: list[int] = []
    chosen = {container.place for container in own}

    def listed() -> Iterator[SampleFile]:
        for container in opened.found:
            root, place = here.folder, container.place
            found = list(container.images())
            counts.append(len(found))
            names = {name: None for image, mask in found for name in (image, mask) if name is not None}
            outlines = (mask for _, mask in found if mask is not None) if opened.has_outlines else ()
            here.add(container, iter(names if place in chosen else outlines))
            for image, mask in found:
                name = f"{place}/{image}"
                if mask is None:
                    yield SampleFile(name, root / name, root)
                else:
                    yield SampleFile(name, root / name, root, root / place / mask, f"{place}/{mask}")

    samples = kept_samples(listed())
    if masks is None:
        return SampleList(samples), tuple(counts)
    return _with_masks(samples, opened, masks), tuple(counts)


def _without_masks(samples: SampleList) -> SampleList:
    return SampleList(spooled_samples(SampleFile(one.name, one.image, one.root) for one in samples.samples))


def outlines_in(opened: Containers, here: ContainerFolder, progress: Progress) -> OpenAnnotations | None:
    """Returns the annotations that members of tars are; None where masks are pictures. here: has all their names."""
    if not opened.has_outlines:
        return None
    reader = JsonMembers.open(opened.outlines(here.folder), progress)
    return OpenAnnotations(reader, here.folder, here.folder)


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


@dataclass(frozen=True)
class Rewriting:
    """Containers that are written anew once their images are made.

    loose: the folder of these images, in that of the output. source: of the originals. own: the containers. beside:
    other files that come along, by their names. kind: what the containers are called.
    """

    loose: Path
    source: Path
    own: tuple[Container, ...]
    beside: tuple[str, ...]
    kind: str

    @property
    def files(self) -> list[str]:
        """Returns the names of what is written, in the output folder."""
        return sorted([*(container.place for container in self.own), *self.beside])

    @property
    def is_done(self) -> bool:
        """Returns whether all files are there."""
        return all(os.path.isfile(self.loose.parent / name) for name in self.files)

    @property
    def originals(self) -> list[Path]:
        """Returns the files that are read."""
        return [*(container.path for container in self.own), *(self.source / name for name in self.beside)]

    def carry_out(self, records: Path, summary: Summary, progress: Progress) -> Summary:
        """Writes every container anew. records: of the manifest, whose images are then done or left out for good."""
        out = self.loose.parent
        manifest = read_manifest(records)
        assert manifest is not None, "a run that came to its end has a manifest"
        _check_free(out, self.files, records)  # again: images take hours, and files may have come meanwhile
        try:
            write_bytes(records / CLAIMS, json.dumps(self.files).encode(), durable=True)
            left = _without_left_out(manifest, self.own)
            if left is not manifest:
                write_manifest(records, left, finished=True)
            for container in track(progress, self.own, len(self.own), self.kind):
                written = written_images(left, container.place)
                files = {name: self.loose / container.place / name for name in written}
                container.rewrite(out / container.place, files, out)
            for name in self.beside:
                with open_for_reading(self.source / name) as file:
                    write_blocks(out / name, blocks_of(file), durable=True, within=out)
        except OSError as error:
            raise cannot_go_on(out, error) from error
        new = (entry for key, entry in left.entries.items() if key not in manifest.entries)
        told = (left.entries.get(entry.key, entry) for entry in summary.entries)
        return replace(summary, entries=in_order(lines_of(chain(told, new))))

    def remove_loose(self) -> None:
        """Removes the images, which lie in their containers now."""
        for container in self.own:
            shutil.rmtree(self.loose / container.place, ignore_errors=True)


def rewriting_of(opened: Containers, loose: Path, shard: Shard | None) -> Rewriting:
    """Returns what a run, or a shard of it, writes anew."""
    own = opened.found if shard is None else tuple(shard.of(opened.found))
    beside = opened.beside if shard is None or shard.number == 1 else ()
    return Rewriting(loose, opened.source, own, beside, opened.kind)


def _finish(out: Path, manifest: Manifest, facts: Mapping[str, Any]) -> None:
    try:
        remove_temporaries(out)  # of files that a killed run was writing anew
        write_manifest(out, replace(manifest, header={**manifest.header, CONTAINERS: facts}), finished=True)
        shutil.rmtree(out / LOOSE)
    except OSError as error:
        raise cannot_go_on(out, error) from error


def written_images(manifest: Manifest, place: str) -> set[str]:
    """Returns the names of the images of a container that have their noise."""
    lines = in_order(manifest.entries)
    first = bisect_left(lines, f"{place}/", key=lambda entry: entry.input)
    own = takewhile(lambda entry: entry.input.startswith(f"{place}/"), lines[first:])
    return {entry.input.removeprefix(f"{place}/") for entry in own if entry.is_written}


def _without_left_out(manifest: Manifest, own: tuple[Container, ...]) -> Manifest:
    """Returns a manifest in which images are not protected whose sample goes, and samples without an image that go have
    a line; the same manifest where there are none."""
    changed: list[Entry] = []
    for container in own:
        left_out = container.left_out(written_images(manifest, container.place))
        reasons = {f"{container.place}/{name}": reason for name, reason in left_out.items()}
        for key, entry in manifest.entries.items() if reasons else ():
            if entry.is_written and entry.input in reasons:
                changed.append(Entry(*key, "failed", reason=reasons.pop(entry.input)))
        changed += (Entry(name, NO_ROOT, "failed", reason=why) for name, why in reasons.items())
    if not changed:
        return manifest
    return replace(manifest, entries=lines_of(chain(manifest.entries.values(), changed)))


# --- shards


def _done_already(shard: Shard, anew: Rewriting) -> Summary | None:
    """Returns what a shard did, where it is finished and all its files are there; UserError where it has no plan."""
    earlier_manifest(anew.loose, shard)
    part = read_manifest(shard.folder(anew.loose))
    if part is None or part.header.get(UNFINISHED) or AGREED not in part.header or not anew.is_done:
        return None
    entries = in_order(part.entries)
    return Summary(entries, len(entries), 0.0, Forecast(len(entries), len(entries), 0))


def merge_any(out: Path, of_edition: bool = False) -> Summary:
    """Merges shards as `unseg.protecting.merging.merge` does, also those that wrote tars or tables."""
    loose = out / LOOSE
    if os.path.lexists(out / MANIFEST) or read_manifest(loose) is None:
        return merge(out, of_edition)
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
