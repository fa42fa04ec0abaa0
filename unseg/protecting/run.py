"""A run of `protect`, from what a caller asks for to its summary: read, plan, then carry the plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.data.samples import SampleList
from unseg.errors import UserError
from unseg.protecting.execution import Summary, execute, foresee, settle
from unseg.protecting.inputs import read_inputs
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.planning import as_planned, plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import DEFAULTS, ProtectSettings
from unseg.protecting.shards import Shard, check_alone
from unseg.protecting.stores import is_in_stores, protect_in_stores
from unseg.protecting.tar_runs import protect_tars
from unseg.storage import image_limits
from unseg.storage.locks import FolderLock

if TYPE_CHECKING:  # a network's noise needs torch, noise of codes does not
    from unseg.protecting.generators import AnyGenerator

__all__ = ["ProtectSettings", "Summary", "protect"]


def protect(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: ProtectSettings = DEFAULTS,
    *,
    masks: str | Path | None = None,
    boxes: str | Path | None = None,
    refine_boxes: bool = False,
    points: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    annotations_format: str = "auto",
    whole_image: bool = False,
    webdataset: str | None = None,
    samples: SampleList | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    processes: int = 1,
    generator: AnyGenerator | None = None,
    key: str | Path | bytes | None = None,
    codes: str | Path | Mapping[int, int] | None = None,
    shard: Shard | None = None,
    progress: Progress = SILENT,
) -> Summary:
    """Protects images on disk and returns what was done.

    What concerns an image is in the summary and the manifest; what concerns the run is a UserError before any writing.
    inputs: folders (recursive) and files, or one of them; none where annotations hold the images. out: the output
    folder, locked meanwhile. Places may be a store's (s3://…). One of these says what the object is. masks: a folder,
    paired by relative name without suffix. boxes: a JSON file, {"relative/name.jpg": [[x1, y1, x2, y2], …]};
    refine_boxes: what GrabCut finds in them. points: see `unseg.protecting.points`. annotations: of
    `annotations_format` (one of `unseg.data.annotations.FORMATS`), or open ones. whole_image: all of it, which cannot
    keep networks from learning the objects in it. webdataset: the suffix of masks in the inputs, which are tar files.

    samples: the images, in place of those under `inputs`, each its name under its root, as its output is under `out`.
    limit: only the first so many by name. dry_run: writes nothing, and tells what a run would do. processes: how many
    share the work; on GPUs each has its own. generator: one of any kind, in place of `settings.generator`. key: 32
    bytes, or the file that holds them, or is made; without it the one beside `out`. codes: class → code, or the file
    that says so; without it that is decided over all masks. shard: see `unseg.protecting.shards`.
    """
    request = Request(
        tuple(map(Path, [inputs] if isinstance(inputs, (str, Path)) else inputs)),
        Path(out),
        settings,
        masks=_path(masks, "masks"),
        boxes=_path(boxes, "boxes"),
        refine_boxes=refine_boxes,
        points=_path(points, "points"),
        annotations=annotations if isinstance(annotations, OpenAnnotations) else _path(annotations, "annotations"),
        annotations_format=annotations_format,
        samples=samples,
        limit=limit,
        processes=processes,
        generator=generator,
        key=key if isinstance(key, bytes) else _path(key, "key"),
        codes=codes if isinstance(codes, Mapping) else _path(codes, "codes"),
        whole_image=whole_image,
        webdataset=webdataset,
        shard=shard,
    )
    return _carried_out(request, dry_run, progress)


def _carried_out(request: Request, dry_run: bool, progress: Progress) -> Summary:
    request.check()
    if is_in_stores(request):
        return protect_in_stores(request, dry_run, progress, _on_disk)
    return _on_disk(request, dry_run, progress)


def _on_disk(request: Request, dry_run: bool, progress: Progress) -> Summary:
    if request.webdataset is not None:
        return protect_tars(request, dry_run, progress, _on_disk)
    if request.kind != "codes":
        import_module("torch")  # before the threads that call it are made
    workers = request.settings.workers or cores()
    with image_limits.own_size_limit(), alone(), single_threaded_pool(workers) as pool:
        request = as_planned(request)
        found = read_inputs(request, pool, progress)
        if dry_run:
            return foresee(plan_run(request, found, pool, progress), pool, progress)
        with FolderLock(request.records) as lock:  # what lies in the folder is read once nobody else writes there
            check_alone(request.out, request.shard)
            if lock.stale:
                progress.say(f"note: an earlier run ({lock.stale}) was cut off; this one goes on from there")
            plan = plan_run(request, found, pool, progress, lock.held)
            if request.shard is not None and request.shard.is_plan:
                return settle(plan, request.shard.count, pool, progress)
            return execute(plan, pool, progress)


def _path(given: str | Path | None, name: str) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, (str, Path)):
        raise UserError(f"{name}: give the path of a file or folder, not a {type(given).__name__}")
    return Path(given)
