"""Runs on imagefolders of Hugging Face's `datasets`: protected images under their own names, with their metadata.

Images become those of an ordinary run with `--names keep`. Then the metadata come along, without the rows of images
that are not protected, and with the masks that they name, which stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress
from unseg.data.annotations.image_folder import MetadataRow, metadata_files, metadata_rows
from unseg.data.annotations.image_tables import table_files
from unseg.errors import UserError
from unseg.protecting.execution import Summary
from unseg.protecting.manifest import MANIFEST, Manifest, cannot_go_on, read_manifest, write_manifest
from unseg.protecting.opened_containers import AUTO
from unseg.protecting.request import Request
from unseg.protecting.verification import Finding, Verification
from unseg.storage.files import (
    blocks_of,
    link_on_the_way,
    open_for_reading,
    sha256_of,
    sha256_of_blocks,
    stays_inside,
    write_blocks,
)

IMAGE_FOLDER = "imagefolder"  # in the first line of a manifest: which metadata come along, and by which column
Run = Callable[[Request, bool, Progress], Summary]


def is_image_folder(request: Request) -> bool:
    """Returns whether a request is for a folder of images with metadata, and not for tables."""
    if request.huggingface is None or len(request.inputs) != 1 or not request.inputs[0].is_dir():
        return False
    return not table_files(request.inputs[0], []) and bool(metadata_files(request.inputs[0], []))


def protect_image_folder(request: Request, dry_run: bool, progress: Progress, run: Run) -> Summary:
    """Protects the images of a folder, and brings its metadata along."""
    for option, given in (("--shard", request.shard), ("--engine ray", request.engine)):
        if given is not None:
            raise UserError(
                f"{option}: a folder of images with metadata is written in one run; leave out --huggingface"
            )
    folder, has_masks = request.inputs[0], request.masks is None
    column = None if request.huggingface == AUTO else request.huggingface
    found = [path.relative_to(folder).as_posix() for path in metadata_files(folder, [])]
    facts = {"masks": column, "has_masks": has_masks, "metadata": found}
    for name in found:
        for _ in metadata_rows(folder / name, folder, column, has_masks):
            break  # its columns are checked before anything is written
    inner = replace(
        request,
        annotations=folder if has_masks else None,
        annotations_format="huggingface" if column is None else f"huggingface:{column}",
        settings=replace(request.settings, names="keep"),
        huggingface=None,
    )
    summary = run(inner, dry_run, progress)
    if not dry_run and request.limit is None:
        _carry(folder, request.out, facts)
    return summary


def _carry(folder: Path, out: Path, facts: dict[str, Any]) -> None:
    manifest = read_manifest(out)
    assert manifest is not None, "a run that came to its end has a manifest"
    owned = {name for entry in manifest.entries.values() for name in entry.owned}
    try:
        for name, blocks in _wanted(folder, manifest, facts):
            content = b"".join(blocks)
            if link_on_the_way(out, name) is not None or name in owned:
                raise UserError(f"--out {out}: {name} is in the way of the metadata or a mask of that name; remove it")
            if os.path.lexists(out / name) and sha256_of(out / name) != sha256_of_blocks([content]):
                raise UserError(f"--out {out}: {name} exists and is another file; move it away, and run again")
            write_blocks(out / name, [content], durable=True, within=out)
        write_manifest(out, replace(manifest, header={**manifest.header, IMAGE_FOLDER: facts}), finished=True)
    except OSError as error:
        raise cannot_go_on(out, error) from error


def _wanted(folder: Path, manifest: Manifest, facts: dict[str, Any]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields name and content of every file that comes along: metadata, and the masks that their rows name."""
    written = {entry.input for entry in manifest.entries.values() if entry.is_written}
    masks: set[str] = set()
    for name in facts["metadata"]:
        rows = metadata_rows(folder / name, folder, facts["masks"], facts["has_masks"])
        kept = [row for row in rows if row.image is None or row.image in written]
        masks.update(row.mask for row in kept if row.mask is not None)
        yield name, _texts(kept)
    for name in sorted(masks):
        with open_for_reading(folder / name) as file:
            yield name, blocks_of(file)


def _texts(rows: list[MetadataRow]) -> Iterator[bytes]:
    yield from (row.text.encode() for row in rows)


def holds_image_folder(folder: Path) -> bool:
    """Returns whether a folder was written by a run on an imagefolder."""
    manifest = read_manifest(folder) if os.path.isdir(folder) else None
    return manifest is not None and IMAGE_FOLDER in manifest.header


def verify_image_folder(
    folder: Path, on_disk: Callable[..., Verification], originals: Path | None, **options: Any
) -> Verification:
    """Verifies a folder of images, and its metadata and masks against those of the original."""
    manifest = read_manifest(folder)
    assert manifest is not None, "only folders with a manifest are imagefolders"
    facts = manifest.header[IMAGE_FOLDER]
    if not _are_facts(facts):
        raise UserError(f"{folder / MANIFEST}: not a manifest of unseg ({IMAGE_FOLDER})")
    result = on_disk(folder, originals=originals, **options)
    root = next((entry.input_root for entry in manifest.entries.values()), ".")
    source = folder / root if originals is None else originals
    faults: list[Finding] = []
    names: set[str] = set()
    try:
        for name, blocks in _wanted(source, manifest, facts):
            names.add(name)
            there = None if link_on_the_way(folder, name) else sha256_of(folder / name)
            if there != sha256_of_blocks(blocks):
                faults.append(Finding(name, "missing" if there is None else "is not what its original says"))
    except OSError as error:
        raise UserError(f"{source}: its metadata or masks cannot be read; name it with --originals") from error
    extra = tuple(name for name in result.extra if name not in names)
    return replace(result, extra=extra, other_files=(*result.other_files, *faults))


def _are_facts(value: Any) -> bool:
    """Returns whether a manifest, which may come from anyone, holds what `protect_image_folder` writes."""
    if not isinstance(value, dict) or not isinstance(value.get("masks"), (str, type(None))):
        return False
    found = value.get("metadata")
    named = isinstance(found, list) and all(isinstance(name, str) and stays_inside(name) for name in found)
    return named and isinstance(value.get("has_masks"), bool)
