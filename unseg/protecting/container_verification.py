"""`unseg verify` for tars and tables: every image against its original, and all else in them against its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from unseg.compute.engine import Engine
from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError
from unseg.protecting.container_runs import CONTAINERS, LOOSE, outlines_in, written_images
from unseg.protecting.engine_findings import cluster_for, faults_of_actors
from unseg.protecting.findings import Finding, faults_in
from unseg.protecting.manifest import MANIFEST, Manifest, read_manifest
from unseg.protecting.opened_containers import Containers, facts_of, opened_at
from unseg.protecting.planning import NO_ROOT
from unseg.protecting.shards import refuse_unmerged
from unseg.protecting.verification import Verification
from unseg.storage.containers import Container, ContainerFolder
from unseg.storage.files import files_under, link_on_the_way, sha256_of
from unseg.storage.mirror import scratch_folder
from unseg.storage.mounts import in_words_of, mounted, telling


def holds_containers(folder: Path) -> bool:
    """Returns whether a folder was written by a run on tars or tables; UserError where that is not at its end."""
    manifest = read_manifest(folder) if os.path.isdir(folder) else None
    loose = read_manifest(folder / LOOSE) if manifest is None and os.path.isdir(folder / LOOSE) else None
    if loose is not None:
        refuse_unmerged(loose, folder)
        raise UserError(
            f"{folder}: its run was cut off, or had --limit; run the same command again without it, then verify"
        )
    return manifest is not None and CONTAINERS in manifest.header


def verify_containers(
    folder: Path, on_disk: Callable[..., Verification], originals: Path | None, masks: Path | None, **options: Any
) -> Verification:
    """Verifies a folder of tars or tables.

    originals: the folder of the source's files, if not where the manifest says. masks: of tables, the same of a folder
    of masks.
    """
    manifest = read_manifest(folder)
    assert manifest is not None, "only folders with a manifest hold protected files"
    folder = Path(os.path.realpath(folder))
    opened = _originals(manifest, folder, originals)
    written = [(container, written_images(manifest, container.place)) for container in opened.found]
    cluster = cluster_for(options.get("engine"), options.get("progress", SILENT))
    with cluster, scratch_folder() as scratch, ExitStack() as mounts:
        faults = _faults(written, folder, **options)
        here = ContainerFolder(scratch / "protected", folder)
        there = ContainerFolder(here.folder.with_name("originals"), opened.source)
        told = {os.fspath(mount.folder): os.fspath(mount.stands_for) for mount in (here, there)}
        mounts.enter_context(telling(told))
        for container, names in written:
            there.add(container, _names(container))
            faults += _named_in(here, container, names, {fault.name for fault in faults})
        mounts.enter_context(mounted(here))
        mounts.enter_context(mounted(there))
        here.folder.mkdir(exist_ok=True)
        shutil.copy(folder / MANIFEST, here.folder)
        masks = masks or _mask_folder(manifest, folder) or there.folder
        annotations = outlines_in(opened, there, SILENT)
        result = on_disk(here.folder, originals=there.folder, masks=masks, **{**options, "annotations": annotations})
        result = result.retold(partial(in_words_of, told))
    faults += _compared_beside(opened, folder)
    ours = {MANIFEST, *opened.facts["places"], *opened.beside}
    extra = sorted({path.relative_to(folder).as_posix() for path in files_under(folder)} - ours)
    return replace(result, extra=tuple(extra), other_files=(*result.other_files, *faults))


def _originals(manifest: Manifest, folder: Path, given: Path | None) -> Containers:
    """Returns the source's files, open; UserError where they are not there, or the manifest does not name them."""
    facts = facts_of(manifest.header[CONTAINERS])
    if facts is None or any(link_on_the_way(folder, place) is not None for place in (*facts[2], *facts[3])):
        raise UserError(f"{folder / MANIFEST}: not a manifest of unseg ({CONTAINERS})")
    kind, masks, places, beside = facts
    root = next((entry.input_root for entry in manifest.entries.values() if entry.input_root != NO_ROOT), ".")
    source = Path(os.path.realpath(folder / root if given is None else given))
    if not all((source / place).is_file() for place in places):
        what = "tar files" if kind == "tars" else kind
        raise UserError(f"{source}: the {what} are not there; name their folder with --originals")
    return replace(opened_at(source, kind, masks, places), beside=tuple(beside))


def _names(container: Container) -> Iterator[str]:
    return iter({name: None for pair in container.images() for name in pair if name is not None})


def _mask_folder(manifest: Manifest, folder: Path) -> Path | None:
    """Returns the folder of masks of its own that a manifest names; None where the files hold the masks."""
    roots = {(entry.input_root, entry.mask_root) for entry in manifest.entries.values() if entry.mask_root}
    return next((folder / masks for source, masks in roots if masks is not None and masks != source), None)


def _faults(
    written: list[tuple[Container, set[str]]],
    folder: Path,
    *,
    engine: Engine | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> list[Finding]:
    """Returns what is wrong with protected files but for their images. written: originals, and images with noise."""
    if engine is not None:
        return faults_of_actors(written, folder, engine, workers or 1, progress)
    return [fault for container, names in written for fault in faults_in(container, folder, names)]


def _named_in(here: ContainerFolder, container: Container, written: set[str], known: set[str]) -> Iterator[Finding]:
    """Gives the images of a protected file their names in a folder; yields why it cannot be read, if nobody knows."""
    place, path = container.place, here.stands_for / container.place
    if not path.is_file():
        return
    try:
        there = container.rewritten(path, written)
        here.add(there, (name for name in sorted(written) if there.holds(name)))
    except UserError as error:
        if not any(name == place or name.startswith(f"{place}/") for name in known):
            yield Finding(place, str(error))


def _compared_beside(opened: Containers, folder: Path) -> Iterator[Finding]:
    for name in opened.beside:
        there = sha256_of(folder / name)
        if there is None or there != sha256_of(opened.source / name):
            yield Finding(name, "missing" if there is None else "differs from its original")
