"""A run of `protect`, from what a caller asks for to its summary: read, plan, then carry the plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.data.samples import SampleList
from unseg.errors import UserError
from unseg.protecting.execution import Summary, execute, foresee
from unseg.protecting.generators import AnyGenerator, load_library
from unseg.protecting.inputs import read_inputs
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.planning import plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import DEFAULTS, ProtectSettings
from unseg.storage import image_limits
from unseg.storage.locks import FolderLock

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
    samples: SampleList | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    processes: int = 1,
    generator: AnyGenerator | None = None,
    key: str | Path | bytes | None = None,
    codes: str | Path | Mapping[int, int] | None = None,
    progress: Progress = SILENT,
) -> Summary:
    """Protects images on disk and returns what was done.

    What concerns an image is in the summary and the manifest; what concerns the run is a UserError before any writing.
    inputs: folders (recursive) and files, or one of them; none where annotations hold the images themselves. out: the
    output folder, locked meanwhile; `unseg.protecting.manifest` and `unseg.protecting.outputs` say what is found there.
    One of these says what the object is. masks: a folder, paired by relative name without suffix. boxes: a JSON file,
    {"relative/name.jpg": [[x1, y1, x2, y2], …]}; refine_boxes: the object is what GrabCut finds in them. points: a JSON
    file, see `unseg.protecting.points`. annotations: a file or folder of `annotations_format` (one of
    `unseg.data.annotations.FORMATS`), or open ones. `settings.rule`: which part of masks or annotations. whole_image:
    the object is the whole image, which cannot keep networks from learning the objects in it.

    samples: the images, in place of those under `inputs`; each is the file of its name under its root, and its output
    has that name under `out`. limit: protects only the first so many by name. dry_run: writes nothing, not even `out`,
    and tells from headers, masks and annotations what a run would do. processes: how many share the work; on GPUs each
    has its own. generator: one of any kind (see `unseg.protecting.generators`), in place of `settings.generator`. key:
    32 bytes, or the file that holds them; without it the one beside `out`, which is made where it is missing. codes:
    which class has which code, or the file that says so (a manifest, or JSON as its first line has it); without it that
    is decided over all masks. progress: is told sentences and bars.
    """
    request = Request(
        tuple(Path(path) for path in ([inputs] if isinstance(inputs, (str, Path)) else inputs)),
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
    )
    request.check()
    return _carried_out(request, dry_run, progress)


def _carried_out(request: Request, dry_run: bool, progress: Progress) -> Summary:
    if request.kind != "codes":  # before the threads that call it are made
        load_library(request.network, request.settings.device, request.option)
    workers = request.settings.workers or cores()
    with image_limits.own_size_limit(), alone(), single_threaded_pool(workers) as pool:
        found = read_inputs(request, pool, progress)
        if dry_run:
            return foresee(plan_run(request, found, pool, progress), pool, progress)
        with FolderLock(request.out) as lock:  # what lies in the folder is read once nobody else writes there
            if lock.stale:
                progress.say(f"note: an earlier run ({lock.stale}) was cut off; this one goes on from there")
            return execute(plan_run(request, found, pool, progress, lock.held), pool, progress)


def _path(given: str | Path | None, name: str) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, (str, Path)):
        raise UserError(f"{name}: give the path of a file or folder, not a {type(given).__name__}")
    return Path(given)
