"""Runs on stores such as S3, through a mirror: the same planning, the same images, the same manifest as on a disk.

Where the output is in a store, a run is one in shards (`unseg.protecting.shards`), a thousand images each: what a shard
wrote goes into the store once the shard is done, and its manifest last, which is its mark that it is. So a run that is
killed loses one shard at most, and shards that are repeated, also by several machines at once, write the same bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unseg.compute.progress import Progress, Tick
from unseg.compute.threads import worker_threads
from unseg.data.samples import count_files
from unseg.errors import UserError
from unseg.protecting.container_runs import FACTS, LOOSE, files_of, merge_any, opened_for
from unseg.protecting.container_verification import holds_containers, verify_containers
from unseg.protecting.execution import Summary
from unseg.protecting.image_folder_runs import holds_image_folder, is_image_folder, verify_image_folder
from unseg.protecting.manifest import AGREED, MANIFEST, SHARDS, UNFINISHED, Manifest, read_manifest, write_manifest
from unseg.protecting.request import Request
from unseg.protecting.shards import MOST, Shard
from unseg.protecting.verification import Finding, Verification, verify
from unseg.storage.files import files_under, sha256_of
from unseg.storage.key_file import new_key, write_key
from unseg.storage.mirror import Mirror, is_url, url_of
from unseg.storage.mounts import mounted

IMAGES_A_SHARD = 1000
SENDERS = 8  # files that are sent at a time
Run = Callable[[Request, bool, Progress], Summary]


@contextmanager
def mirrored() -> Iterator[Mirror]:
    """Returns a mirror in a folder for temporary files, mounted; what is told of its files names the stores."""
    with tempfile.TemporaryDirectory(prefix="unseg-") as folder:
        mirror = Mirror(Path(os.path.realpath(folder)))
        with mounted(mirror):
            try:
                yield mirror
            except UserError as error:
                raise UserError(mirror.told(str(error))) from error


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
    if request.processes > 1 and is_url(request.annotations):
        raise UserError(f"--processes {request.processes}: with --annotations in a store, only 1; give more --workers")
    with mirrored() as mirror:
        told = _Told(progress, mirror)
        places: dict[str, Any] = {
            name: mirror.listed(str(place)) for name, place in request.places.items() if is_url(place)
        }
        inputs = tuple(mirror.listed(place) if is_url(place) else place for place in request.inputs)
        request = replace(request, inputs=inputs, **places)
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
        if dry_run:
            return run(request, True, told)
        target = _Target(mirror, request, told, run)
        if request.shard is None:
            return target.all_shards()
        return target.plan(request.shard) if request.shard.is_plan else target.shard(request.shard)


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
        count = self._count()
        self.plan(Shard(0, count))
        for number in range(1, count + 1):
            shard = Shard(number, count)
            if not self._is_there(shard):
                self.shard(shard)
        return merged_in_store(self.mirror, self.out)

    def _count(self) -> int:
        """Returns the number of shards: that of a plan which is there, else as many as there are images for."""
        there = read_manifest(self.records)
        agreed = None if there is None else there.header.get(AGREED)
        if isinstance(agreed, dict) and isinstance(agreed.get("count"), int):
            return agreed["count"]
        if self.request.containers is not None:
            return min(MOST, len(self.request.containers.found))
        images = sum(count_files(place, MOST * IMAGES_A_SHARD) for place in self.request.inputs)
        return max(1, min(MOST, -(-images // IMAGES_A_SHARD)))

    def _is_there(self, shard: Shard) -> bool:
        plan, part = read_manifest(self.records), read_manifest(shard.folder(self.records))
        if plan is None or part is None or part.header.get(UNFINISHED):
            return False
        return part.header.get(AGREED) == plan.header.get(AGREED)

    def plan(self, shard: Shard) -> Summary:
        """Settles what the shards go by, and puts it into the store."""
        manifest = self.records / MANIFEST
        before = sha256_of(manifest)
        summary = self.run(replace(self.request, shard=shard), False, self.progress)
        if self.request.containers is not None:
            self.mirror.send(self.records / FACTS)
        try:
            if before != sha256_of(manifest):
                self.mirror.send(manifest, is_new=before is None)
        except FileExistsError:
            raise UserError(
                f"--out {self.out}: another run planned there at the same time; run the same command again"
            ) from None
        return summary

    def shard(self, shard: Shard) -> Summary:
        """Protects the images of a shard, then puts them into the store: first what comes, its mark last."""
        folder, out = shard.folder(self.records), self.out
        earlier = read_manifest(folder)
        summary = self.run(replace(self.request, shard=shard), False, self.progress)
        part = read_manifest(folder)
        assert part is not None, "a shard that came to its end has a manifest"
        containers = self.request.containers
        outputs = _owned(part) if containers is None else sorted(files_of(containers, shard))
        self._mark(folder, part, finished=False)
        with worker_threads(SENDERS) as senders:
            list(senders.map(self._send, outputs))
        gone = set() if earlier is None or containers is not None else set(_owned(earlier)) - set(outputs)
        for name in sorted(gone):
            if not os.path.lexists(out / name):
                self.mirror.remove(out / name)
        self._mark(folder, part, finished=True)
        for name in outputs:
            self.mirror.give_up(out / name)
        return summary

    def _mark(self, folder: Path, part: Manifest, finished: bool) -> None:
        write_manifest(folder, part, finished=finished)
        self.mirror.send(folder / MANIFEST)

    def _send(self, name: str) -> None:
        if self.mirror.is_written(self.out / name):
            self.mirror.send(self.out / name)


def _records(out: Path, holds_containers: bool) -> Path:
    return out / LOOSE if holds_containers else out


def _owned(part: Manifest) -> list[str]:
    return sorted({name for entry in part.entries.values() for name in entry.owned})


# --- merge and verify


def merge_anywhere(out: Path) -> Summary:
    """Merges shards as `unseg.protecting.merging.merge` does, also in a store."""
    if not is_url(out):
        return merge_any(out)
    with mirrored() as mirror:
        return merged_in_store(mirror, mirror.listed(out))


def merged_in_store(mirror: Mirror, out: Path) -> Summary:
    """Merges shards that are in the mirror, and then in the store: first the whole, then away with the parts."""
    records = _records(out, os.path.isdir(out / LOOSE))
    parts = list(files_under(records / SHARDS)) if os.path.isdir(records / SHARDS) else []
    parts += [] if records == out else [records / MANIFEST, records / FACTS]
    summary = merge_any(out)
    if mirror.is_written(out / MANIFEST):
        mirror.send(out / MANIFEST)
    for part in parts:
        if not os.path.lexists(part):
            mirror.remove(part)
    return summary


def verify_anywhere(
    folder: Path,
    *,
    originals: Path | None,
    masks: Path | None,
    annotations: Path | None,
    workers: int | None,
    max_megapixels: float,
    progress: Progress,
    on_disk: Callable[..., Verification] = verify,
) -> Verification:
    """Verifies a folder as `unseg.protecting.verification.verify` does, also one in a store. on_disk: does so on disks.

    What a manifest in a store names is looked for in the same bucket only; originals elsewhere are to be named.
    """
    given = {"originals": originals, "masks": masks, "annotations": annotations}
    options: dict[str, Any] = {"workers": workers, "max_megapixels": max_megapixels}
    if not any(map(is_url, (folder, *given.values()))):
        return _verified(folder, on_disk, **given, **options, progress=progress)
    with mirrored() as mirror:
        there = {name: mirror.listed(str(place)) if is_url(place) else place for name, place in given.items()}
        place = mirror.listed(folder) if is_url(folder) else folder
        if is_url(folder):
            for url in _named_places(mirror, place):
                mirror.listed(url)
        result = _verified(place, on_disk, **there, **options, progress=_Told(progress, mirror))
        return _told_of_stores(result, mirror)


def _verified(
    folder: Path,
    on_disk: Callable[..., Verification],
    *,
    originals: Path | None,
    masks: Path | None,
    annotations: Path | None,
    **options: Any,
) -> Verification:
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


def _told_of_stores(result: Verification, mirror: Mirror) -> Verification:
    def told(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        return tuple(
            finding if finding.problem is None else replace(finding, problem=mirror.told(finding.problem))
            for finding in findings
        )

    return replace(
        result,
        findings=told(result.findings),
        unprotected=told(result.unprotected),
        other_files=told(result.other_files),
    )
