"""Runs on stores such as S3, through a mirror: the same planning, the same images, the same manifest as on a disk.

Where the output is in a store, a run is one in shards (`unseg.protecting.shards`), of a thousand images or about 4 GiB
each: what a shard wrote goes into the store once the shard is done, and its manifest last, which is its mark that it
is. So a run that is killed loses one shard at most, and shards that are repeated, also by several machines at once,
write the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from unseg.compute.engine import Engine
from unseg.compute.progress import SILENT, Progress, Tick
from unseg.compute.ray_cluster import OPTION
from unseg.compute.threads import in_order, worker_threads
from unseg.data.samples import count_files
from unseg.errors import UserError
from unseg.protecting.container_runs import FACTS, LOOSE, merge_any, opened_for, rewriting_of
from unseg.protecting.container_verification import holds_containers, verify_containers
from unseg.protecting.execution import Summary
from unseg.protecting.image_folder_runs import holds_image_folder, is_image_folder, verify_image_folder
from unseg.protecting.manifest import (
    AGREED,
    MANIFEST,
    SHARDS,
    Manifest,
    read_manifest,
    refuse_published_key,
    write_manifest,
)
from unseg.protecting.open_annotations import OpenAnnotations, looked_through
from unseg.protecting.option_kinds import of_kinds
from unseg.protecting.request import Request
from unseg.protecting.shards import MOST, Shard, is_done
from unseg.protecting.verification import Verification, verify
from unseg.storage.files import files_under, sha256_of, walk_folders
from unseg.storage.image_limits import MAX_PIXELS
from unseg.storage.key_file import new_key, write_key
from unseg.storage.mirror import Mirror, is_url, mirrored, url_of
from unseg.storage.picture_kinds import is_picture_name, look_at, side_names, tells_by_name

IMAGES_A_SHARD = 1000
BYTES_A_SHARD = 2**32  # of the images: what they become lies on this disk until the shard is done
SENDERS = 8  # files that are sent at a time
Run = Callable[[Request, bool, Progress], Summary]
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Told:
    """A progress that names stores where it is told of their mirror."""

    progress: Progress
    mirror: Mirror

    def say(self, text: str) -> None:
        self.progress.say(self.mirror.told(text))

    def bar(self, what: str, total: int) -> AbstractContextManager[Tick]:
        return self.progress.bar(what, total)


# --- protect


def protect_in_stores(request: Request, dry_run: bool, progress: Progress, run: Run) -> Summary:
    """Carries out a run that reads from stores or writes to one. run: does so on folders."""
    with mirrored() as mirror:
        told = _Told(progress, mirror)
        places: dict[str, Any] = {
            name: _listed(mirror, str(place)) for name, place in request.places.items() if is_url(place)
        }
        inputs = tuple(mirror.listed(place) if is_url(place) else place for place in request.inputs)
        request = replace(request, inputs=inputs, **places)
        if not request.holds_containers:
            _look_ahead([place for place in inputs if mirror.url(place) is not None], told)
        if not is_url(request.out):
            return run(request, dry_run, told)
        given = request.out
        request = replace(_with_key(request, dry_run, progress), out=mirror.listed(given))
        if is_image_folder(request):
            raise UserError(
                f"--out {url_of(given)}: a folder of images with metadata comes out on this machine; name a folder"
            )
        if request.holds_containers and len(request.inputs) == 1 and request.inputs[0].exists():
            request = replace(request, containers=opened_for(request))  # once for all shards
        if dry_run or request.engine is not None:
            return run(request, dry_run, told)
        target = _Target(mirror, request, told, run)
        if request.shard is None:
            return target.all_shards()
        return target.plan(request.shard) if request.shard.is_plan else target.shard(request.shard)


def _listed(mirror: Mirror, url: str) -> Path:
    """Gives what says where objects are its names in the mirror, with what lies beside it and belongs to it."""
    place = Path(url_of(url))
    beside = side_names(place)
    if place.suffix.lower() == ".json":
        beside = [place.with_suffix("")]  # where COCO's panoptic PNG files lie
    for other in (*beside, looked_through(place)):
        if other is not None:
            mirror.listed(other)
    return mirror.listed(url)


def _look_ahead(places: list[Path], progress: Progress) -> None:
    """Looks at all files whose names do not tell what they are, several at a time; what was seen is remembered.

    UserError where one cannot be looked at that may be no image, or one that would be left out.
    """

    def look(path: Path) -> None:
        try:
            look_at(path)
        except OSError as error:
            if not is_picture_name(path):  # else its own line tells
                said = f"cannot be looked at: {error.strerror or error}"
                raise UserError(f"{path}: {said}; allow reading it, or move it away") from error

    unclear = [path for place in places for path in _files_at(place) if not tells_by_name(path)]
    if unclear:
        with worker_threads(SENDERS) as threads, progress.bar("look", len(unclear)) as tick:
            for _ in in_order(threads, look, unclear):
                tick()


def _files_at(place: Path) -> Iterator[Path]:
    """Yields a file, or those in a folder, as far as it can be looked into."""
    if place.is_file():
        yield place
    for parent, _, names in walk_folders(place, lambda error: None) if place.is_dir() else ():
        yield from (Path(parent) / name for name in names)


def _with_key(request: Request, dry_run: bool, progress: Progress) -> Request:
    """Returns the request with a key from this machine's disk; a plan makes the file where it is missing."""
    key = request.key
    if request.kind != "codes" or isinstance(key, bytes):
        return request
    if key is None or is_url(key):
        raise UserError(
            f"--out {url_of(request.out)}: a key does not lie in a store where others may read; name a file on this"
            " machine with --key, which is made where it is missing"
        )
    if os.path.lexists(key) or (request.shard is not None and not request.shard.is_plan):
        return request
    if dry_run:
        return replace(request, key=new_key())
    refuse_published_key(key)
    write_key(key, new_key())
    progress.say(f"key: drawn, and kept in {key}: keep it for later images, and do not publish it")
    return request


@dataclass(frozen=True)
class _Target:
    """An output folder in a store, with the request of the whole run, in the mirror."""

    mirror: Mirror
    request: Request
    progress: Progress
    run: Run

    @property
    def out(self) -> Path:
        return self.request.out

    @property
    def records(self) -> Path:
        """Returns the folder of the plan, in which those of shards lie."""
        return _records(self.out, self.request.holds_containers)

    def all_shards(self) -> Summary:
        """Plans, protects all shards that are not in the store yet, one after the other, and merges them."""
        count = shards_for(self.request)
        self.plan(Shard(0, count))
        plan = read_manifest(self.records)
        assert plan is not None, "a plan was just written"
        for number in range(1, count + 1):
            shard = Shard(number, count)
            if not is_done(shard, self.records, plan.header):
                self.shard(shard)
        return merged_in_store(self.mirror, self.out, of_edition=True)

    def plan(self, shard: Shard) -> Summary:
        """Settles what the shards go by, and puts it into the store."""
        before = sha256_of(self.records / MANIFEST)
        summary = self.run(replace(self.request, shard=shard), False, self.progress)
        if self.request.containers is not None:
            self.mirror.send(self.records / FACTS)
        send_plan(self.mirror, self.out, before, self.records)
        return summary

    def shard(self, shard: Shard) -> Summary:
        """Protects the images of a shard, and puts them into the store."""
        request = replace(self.request, shard=shard)
        opened = request.containers
        files = None if opened is None else rewriting_of(opened, self.records, shard).files
        return shard_in_store(
            self.mirror, self.out, shard, lambda: self.run(request, False, self.progress), self.records, files
        )


def shards_for(request: Request, images_a_shard: Callable[[int], int] = lambda images: IMAGES_A_SHARD) -> int:
    """Returns the number of shards: that of a plan which is there, else as many as there are images for.

    images_a_shard: of so many images in all.
    """
    there = read_manifest(_records(request.out, request.holds_containers))
    agreed = None if there is None else there.header.get(AGREED)
    if isinstance(agreed, dict) and isinstance(agreed.get("count"), int):
        return agreed["count"]
    if request.containers is not None:
        return min(MOST, len(request.containers.found))
    if request.samples is not None:
        images = len(request.samples.samples)
        size = _size_of(sample.image for sample in request.samples.samples)
    else:
        images = sum(count_files(place, MOST * IMAGES_A_SHARD) for place in request.inputs)
        size = sum(_size_of(_files_at(place)) for place in request.inputs)
    return max(1, min(MOST, max(-(-images // images_a_shard(images)), -(-size // BYTES_A_SHARD))))


def _size_of(paths: Iterable[Path]) -> int:
    """Returns the bytes of files, of those that can be looked at: what cannot is told later."""
    size = 0
    for path in paths:
        with suppress(OSError):
            size += os.path.getsize(path)
    return size


def send_plan(mirror: Mirror, out: Path, before: str | None, records: Path | None = None) -> None:
    """Puts what shards go by into the store. before: sha256 of what was there; None where there was nothing.

    records: the folder of the plan, where that is not the output folder.
    """
    manifest = (records or out) / MANIFEST
    try:
        if before != sha256_of(manifest):
            mirror.send(manifest, is_new=before is None)
    except FileExistsError:
        raise UserError(
            f"--out {out}: another run planned there at the same time; run the same command again"
        ) from None


def shard_in_store(
    mirror: Mirror,
    out: Path,
    shard: Shard,
    run: Callable[[], Made],
    records: Path | None = None,
    files: list[str] | None = None,
) -> Made:
    """Carries out a shard, then puts what it wrote into the store: first what comes, its mark last.

    records: the folder of the plan, where that is not the output folder. files: what the shard writes, where that is
    not what its manifest names.
    """
    folder = shard.folder(records or out)
    earlier = read_manifest(folder)
    made = run()
    part = read_manifest(folder)
    assert part is not None, "a shard that came to its end has a manifest"
    outputs = _owned(part) if files is None else files
    _mark(mirror, folder, part, finished=False)
    with worker_threads(SENDERS) as senders:
        list(senders.map(lambda name: _send(mirror, out / name), outputs))
    gone = set() if earlier is None or files is not None else set(_owned(earlier)) - set(outputs)
    for name in sorted(gone):
        if not os.path.lexists(out / name):
            mirror.remove(out / name)
    _mark(mirror, folder, part, finished=True)
    for name in outputs:
        mirror.give_up(out / name)
    return made


def _mark(mirror: Mirror, folder: Path, part: Manifest, finished: bool) -> None:
    write_manifest(folder, part, finished=finished)
    mirror.send(folder / MANIFEST)


def _send(mirror: Mirror, path: Path) -> None:
    if mirror.is_written(path):
        mirror.send(path)


def _records(out: Path, holds_containers: bool) -> Path:
    return out / LOOSE if holds_containers else out


def _owned(part: Manifest) -> list[str]:
    return sorted({name for entry in part.entries.values() for name in entry.owned})


# --- merge and verify


def merge_anywhere(out: Path, of_edition: bool = False) -> Summary:
    """Merges shards as `unseg.protecting.merging.merge` does, also in a store."""
    if not is_url(out):
        return merge_any(out, of_edition)
    with mirrored() as mirror:
        return merged_in_store(mirror, mirror.listed(out), of_edition)


def merged_in_store(mirror: Mirror, out: Path, of_edition: bool = False) -> Summary:
    """Merges shards that are in the mirror, and then in the store: first the whole, then away with the parts."""
    records = _records(out, os.path.isdir(out / LOOSE))
    parts = list(files_under(records / SHARDS)) if os.path.isdir(records / SHARDS) else []
    parts += [] if records == out else [records / MANIFEST, records / FACTS]
    summary = merge_any(out, of_edition)
    if mirror.is_written(out / MANIFEST):
        mirror.send(out / MANIFEST)
    for part in parts:
        if not os.path.lexists(part):
            mirror.remove(part)
    return summary


def verify_anywhere(
    folder: str | Path,
    *,
    originals: str | Path | None = None,
    masks: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    workers: int | None = None,
    max_megapixels: float = MAX_PIXELS / 1e6,
    progress: Progress = SILENT,
    engine: Engine | str | None = None,
    on_disk: Callable[..., Verification] = verify,
) -> Verification:
    """Checks every file of an output folder, of tars, tables or images, on a disk or in a store; nothing is written.

    originals, masks, annotations: where these lie now, if not where the manifest says; annotations may be open already.
    What a manifest in a store names is looked for in the same bucket only. workers: threads; with an engine, of each
    actor. max_megapixels: larger images are not decoded. engine: whose actors share the work. progress: is told the bar
    "verify". on_disk: verifies folders of images on a disk. UserError where the folder cannot be verified at all.
    """
    kinds = {"workers": int | None, "max_megapixels": float}
    options = of_kinds({"workers": workers, "max_megapixels": max_megapixels}, kinds)
    folder, engine = Path(folder), Engine.named(engine)
    given: dict[str, Any] = {"originals": originals, "masks": masks, "annotations": annotations}
    given = {name: Path(place) if isinstance(place, str) else place for name, place in given.items()}
    options["engine"] = engine
    if not any(map(is_url, (folder, *given.values()))):
        return _verified(folder, on_disk, **given, **options, progress=progress)
    with mirrored() as mirror:
        there = {name: _listed(mirror, str(place)) if is_url(place) else place for name, place in given.items()}
        place = mirror.listed(folder) if is_url(folder) else folder
        if is_url(folder):
            for url in _named_places(mirror, place):
                _listed(mirror, url)
        result = _verified(place, on_disk, **there, **options, progress=_Told(progress, mirror))
        return result.retold(mirror.told)


def _verified(
    folder: Path,
    on_disk: Callable[..., Verification],
    *,
    originals: Path | None,
    masks: Path | None,
    annotations: Path | None,
    **options: Any,
) -> Verification:
    if options.get("engine") is not None and holds_image_folder(folder):
        raise UserError(f"{OPTION}: {folder} holds files that processes of this machine verify; leave it out")
    if holds_containers(folder):
        return verify_containers(folder, on_disk, originals, masks, **options)
    given = {"masks": masks, "annotations": annotations}
    if holds_image_folder(folder):
        return verify_image_folder(folder, on_disk, originals, **given, **options)
    return on_disk(folder, originals=originals, **given, **options)


def _named_places(mirror: Mirror, folder: Path) -> list[str]:
    """Returns the places in the folder's bucket that its manifest names."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    bucket = "/".join((mirror.url(folder) or "").split("/")[:3])
    roots = {root for entry in manifest.entries.values() for root in (entry.input_root, entry.mask_root) if root}
    urls = filter(None, (mirror.url(folder / root) for root in sorted(roots)))
    return [url for url in urls if url.startswith(bucket + "/")]
