"""Makes one edition, from its settings to the finished folder: its images, then all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from unseg.compute.engine import Engine
from unseg.compute.progress import SILENT, Progress
from unseg.editions.carried import Carried
from unseg.editions.carry import Item, carry, evaluation_places, list_items
from unseg.editions.carry_to_store import carry_to_store
from unseg.editions.data_set import DataSet, by_city, open_data_set, place_sets
from unseg.editions.description import check_same, describe, read_edition, write_edition
from unseg.editions.inside import check_files, check_links
from unseg.editions.options import MERGE, EditionSettings
from unseg.errors import UserError
from unseg.protecting.manifest import EDITION, Manifest, read_manifest
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.stores import merge_anywhere
from unseg.storage.locks import FolderLock
from unseg.storage.mirror import Mirror, is_url, mirrored, url_of


@dataclass(frozen=True)
class Edition:
    """Tells what a run made.

    carried: what lies beside the images; None where the run brought nothing along. notes: what is missing for
    evaluation.
    """

    summary: Summary
    carried: list[Carried] | None
    notes: tuple[str, ...]


def make_edition(settings: EditionSettings, progress: Progress = SILENT) -> Edition:
    """Protects a data set and brings its annotations along.

    Whatever concerns one image is in the summary and the manifest; whatever concerns the run is a UserError, before
    anything is written where it can be known then.
    """
    _check(settings)
    if not is_url(settings.out):
        return _made(settings, None, progress)
    with mirrored() as mirror:
        return _made(replace(settings, out=mirror.listed(settings.out)), mirror, progress)


def _made(settings: EditionSettings, mirror: Mirror | None, progress: Progress) -> Edition:
    """Makes an edition. mirror: in which `settings.out` stands for a place in a store; None for a folder."""
    row = settings.row
    places = place_sets(row, settings.root, settings.split, settings.sets, settings.kind)
    check_links(
        (*places, *evaluation_places(row, settings.root, places, [])),
        settings.roots,
    )
    data = open_data_set(places, settings.sets if by_city(row) else (), settings.linked_roots)
    data.reader.check_rule(settings.rule, "OBJECTS")
    for place in places:
        progress.say(f"{place.set.title}: {place.path(place.source.images)}, {place.source.kind}")
    protected = frozenset(sample.name for sample in data.samples.samples)
    items, lacking = list_items(row, settings.root, places, protected, settings.untouched)
    check_files((item.name for item in items), settings.root)
    _check_names(settings, data, items)
    description, earlier = describe(settings, places), read_edition(settings.out)
    check_same(description, earlier, settings.out)
    target = Path((mirror and mirror.url(settings.out)) or settings.out)
    summary = merge_anywhere(target, of_edition=True) if settings.merge else _protect(settings, target, data, progress)
    if mirror is not None:
        mirror.listed(target)
    notes = tuple(f"note: {note}" for note in lacking)
    for note in (*notes, *_left_out(settings, items)):
        progress.say(note)
    if settings.dry_run or settings.shard is not None:
        return Edition(summary, None, notes)
    manifest = read_manifest(settings.out)
    assert manifest is not None, "a run that writes leaves a manifest"
    complete = settings.limit is None
    with FolderLock(settings.out) as lock:
        bring = carry if mirror is None else partial(carry_to_store, mirror)
        carried = bring(items if complete else (), settings.roots, lock.held, _renamed(manifest), progress)
        write_edition(settings.out, description, earlier, manifest, carried, complete, lock.held)
    if mirror is not None and mirror.is_written(settings.out / EDITION):
        mirror.send(settings.out / EDITION)
    return Edition(summary, carried if complete else None, notes)


def _protect(settings: EditionSettings, out: Path, data: DataSet, progress: Progress) -> Summary:
    gpus = _gpus(settings)
    place = data.places[0]
    return protect(
        data.folders,
        out,
        protect_settings(settings, gpus),
        samples=data.samples,
        annotations=OpenAnnotations(data.reader, place.path(place.source.annotations), settings.root),
        limit=settings.limit,
        dry_run=settings.dry_run,
        processes=1 if settings.engine is not None else gpus or settings.processes,
        key=settings.key,
        codes=settings.codes,
        shard=settings.shard,
        engine=_engine(settings, gpus),
        progress=progress,
    )


def _engine(settings: EditionSettings, gpus: int) -> Engine | None:
    """Returns the engine with as many actors as the settings name processes for; where they name none, with all."""
    named = gpus or (settings.processes if settings.processes > 1 else None)
    return None if settings.engine is None else replace(settings.engine, most=named)


def _renamed(manifest: Manifest) -> dict[str, str]:
    """Returns image name → the name of its protected version, where that is another."""
    return {
        entry.input: entry.output
        for entry in manifest.entries.values()
        if entry.is_written and entry.output is not None and entry.output != entry.input
    }


def _gpus(settings: EditionSettings) -> int:
    """Returns how many GPUs the noise is computed on; codes need none."""
    if settings.noise in (None, "codes") and settings.generator is None:
        return 0
    if settings.gpus is not None:
        return settings.gpus
    import torch

    return torch.cuda.device_count()


def protect_settings(settings: EditionSettings, gpus: int) -> ProtectSettings:
    """Returns an edition's settings as `unseg protect` has them."""
    return ProtectSettings(
        budget=settings.budget,
        noise=settings.noise,
        region=settings.region,
        generator=settings.generator,
        rule=settings.rule,
        auto_objects=settings.objects == "auto",
        format=settings.format,
        names="keep" if settings.names == "keep" else "suffix",
        unmasked="copy",  # evaluators want every image that the data set's lists name
        keep_frame=True,  # they pair images and labels as both lie on disk
        device="cuda" if gpus else "cpu",
    )


def _check(settings: EditionSettings) -> None:
    if settings.sets and len(settings.row.trained_on) == 1 and not by_city(settings.row):
        raise UserError(f"SET={','.join(settings.sets)}: {settings.row.name} is one set; leave it out")
    if settings.rule.by_class and settings.region != "mask":
        raise UserError(f"OBJECTS=by-class REGION={settings.region}: by class there is no prompt; leave REGION out")
    if settings.merge and (settings.dry_run or settings.limit is not None):
        raise UserError("SHARD=merge: makes whole what the shards wrote; leave out DRY_RUN and LIMIT")
    if settings.shard is not None and settings.limit is not None:
        raise UserError(f"SHARD={settings.shard}: shards make an edition whole; leave out LIMIT")
    if settings.engine is not None and (settings.merge or settings.shard is not None):
        word = MERGE if settings.merge else settings.shard
        raise UserError(f"SHARD={word}: ENGINE=ray makes all shards and merges them; leave out one of the two")
    if settings.untouched == "link" and is_url(settings.out):
        raise UserError(f"VAL=link: OUT={url_of(settings.out)} is in a store, which has no links; use VAL=copy")
    if settings.format == "jpeg" and settings.names == "png":
        raise UserError("FORMAT=jpeg NAMES=png: the files are JPEG then; use NAMES=keep")
    if settings.gpus:
        import torch

        if settings.gpus > torch.cuda.device_count():
            raise UserError(
                f"NGPU={settings.gpus}: {torch.cuda.device_count()} are visible; give at most that, or NGPU=0"
            )


def _check_names(settings: EditionSettings, data: DataSet, items: Sequence[Item]) -> None:
    """Raises UserError where a protected image's new name is that of something that belongs beside it."""
    if settings.names != "png":
        return
    taken = {item.name.casefold() for item in items}
    for sample in data.samples.samples:
        name = str(PurePosixPath(sample.name).with_suffix(".png"))
        if name.casefold() in taken:
            raise UserError(f"NAMES=png: {name} is a file of the data set already; use NAMES=keep")


def _left_out(settings: EditionSettings, items: Sequence[Item]) -> list[str]:
    """Returns what a try of the run, or a part of it, leaves out, in a sentence."""
    if settings.shard is not None:
        return [f"SHARD={settings.shard}: annotations and untouched images come along with SHARD=merge, the last step"]
    if settings.dry_run:
        size = sum((settings.root / item.name).stat().st_size for item in items if item.how == "copied")
        return [f"besides, {len(items):,} annotation files and untouched images come along ({decimal(size)})"]
    if settings.limit is not None:
        return [
            f"note: LIMIT={settings.limit}: annotations and untouched images are not brought along, so no evaluator can"
            " use this yet; run it without LIMIT to complete it"
        ]
    return []
