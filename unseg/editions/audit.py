"""`unseg verify` for an edition: the images against their originals, and everything that came along with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unseg.data.edition_catalog import READER, edition_row
from unseg.data.edition_layout import locate
from unseg.editions.carried import Carried, read_carried
from unseg.editions.data_set import open_data_set
from unseg.editions.description import is_described, not_complete, read_edition
from unseg.errors import UserError
from unseg.protecting.findings import Finding
from unseg.protecting.manifest import CARRIED, EDITION, Manifest, read_manifest
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.originals import LOOKED_AT, LOOKED_AT_A_LINE, looked_at
from unseg.protecting.verification import CUT_OFF, Verification, finished_manifest, verify
from unseg.storage.files import link_on_the_way, sha256_of


def verify_edition(folder: str | Path, *, originals: str | Path | None = None, **options: Any) -> Verification:
    """Verifies a folder as `unseg.protecting.verification.verify` does, and an edition with all that came along.

    An edition knows its annotations by itself. originals: where the data set's root lies now, if not where the edition
    says. Folders that hold no edition are verified as they are.
    """
    folder = Path(folder)
    edition = read_edition(folder)
    finished_manifest(folder)  # of an edition that has lost it nothing can be said
    if edition is None:
        return _without_description(folder, verify(folder, originals=originals, **options))
    for name in ("masks", "annotations"):
        if options.pop(name, None) is not None:
            raise UserError(
                f"--{name}: {folder} is an edition of {edition['dataset']} and knows its annotations; if the data set"
                " lies elsewhere now, name its folder with --originals"
            )
    result = verify(folder, originals=originals, annotations=edition_annotations(folder, edition, originals), **options)
    carried = read_carried(folder)
    faults = (*result.other_files, *_faults(folder, carried))
    if not is_described(edition, _manifest(folder), carried.values()):
        faults = (*faults, Finding(EDITION, CUT_OFF))
    elif (tried := not_complete(edition)) is not None:
        faults = (*faults, Finding(EDITION, tried))
    extra = tuple(name for name in result.extra if name not in carried and name not in (EDITION, CARRIED))
    missing = tuple(sorted({*result.missing, *(fault.name for fault in faults if fault.problem == "missing")}))
    return replace(result, extra=extra, missing=missing, other_files=faults)


def _without_description(folder: Path, result: Verification) -> Verification:
    """Adds the missing description to what was found where the manifest tells that an edition was begun."""
    annotated = _manifest(folder).header["settings"].get("annotations")
    if annotated is None or annotated["format"] != READER:
        return result
    return replace(result, other_files=(*result.other_files, Finding(EDITION, CUT_OFF)))


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, "a folder without a manifest is refused before"
    return manifest


def edition_annotations(folder: Path, edition: dict[str, Any], originals: str | Path | None) -> OpenAnnotations:
    """Returns the annotations of an edition's data set. originals: see `verify_edition`."""
    root = folder / edition["root"] if originals is None else Path(originals)
    row = edition_row(edition["dataset"])
    places = []
    for set_row in row.trained_on:
        if set_row.name in edition["sets"]:
            place = locate(root, row, set_row, edition["split"], edition["sets"][set_row.name].get("annotations"))
            if place is None:
                raise UserError(
                    f"{folder}: the annotations of {set_row.name} are not in {root}; name the folder that holds the"
                    " data set now with --originals"
                )
            places.append(place)
    if not places:
        raise UserError(f"{folder / EDITION}: names no set of {row.name}")
    if originals is None:
        left = LOOKED_AT + LOOKED_AT_A_LINE * len(_manifest(folder).entries)
        for place in places:
            for path in (place.source.images, place.source.annotations, place.source.segments):
                at = None if path is None else place.path(path)
                left = looked_at(at if at is not None and os.path.isdir(at) else None, left, "--originals")
    reader = open_data_set(places).reader
    return OpenAnnotations(reader, places[0].path(places[0].source.annotations), root)


def _faults(folder: Path, carried: dict[str, Carried]) -> Iterator[Finding]:
    for name, line in sorted(carried.items()):
        problem = _fault(folder, line)
        if problem is not None:
            yield Finding(name, problem)


def _fault(folder: Path, line: Carried) -> str | None:
    link = link_on_the_way(folder, line.name)
    if link is not None and not (line.how == "linked" and link == line.name):
        return f"{link} is a link, which is not followed"
    there = sha256_of(folder / line.name)
    if there is None:
        return "missing"
    if line.how == "linked" and link is None:
        return "is no link to the original any more"
    return None if there == line.sha256 else "changed since it was written (another sha256)"
