"""A run of `protect`, from what a caller asks for to its summary: read, plan, then carry the plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseg.compute.engine import Engine
from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import alone, cores, single_threaded_pool
from unseg.data.samples import SampleList
from unseg.errors import UserError
from unseg.protecting.container_runs import protect_containers
from unseg.protecting.engine_runs import protect_on_engine
from unseg.protecting.execution import Summary, execute, foresee, settle
from unseg.protecting.generators import AnyGenerator
from unseg.protecting.image_folder_runs import is_image_folder, protect_image_folder
from unseg.protecting.inputs import load_libraries, read_inputs
from unseg.protecting.mask_finding import with_masks
from unseg.protecting.named_settings import RunOptions, named_settings
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.option_kinds import of_kinds
from unseg.protecting.planning import RunPlan, as_planned, plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import DEFAULTS, ProtectSettings
from unseg.protecting.shards import Shard, check_alone
from unseg.protecting.stores import protect_in_stores
from unseg.protecting.watching import check_watched, watched
from unseg.storage import image_limits
from unseg.storage.locks import FolderLock, told_of_stale
from unseg.storage.mirror import as_written

if TYPE_CHECKING:
    from typing_extensions import Unpack

KINDS: dict[str, Any] = {
    **dict.fromkeys(("refine_boxes", "whole_image", "dry_run", "watch"), bool),
    "limit": int | None,
    "processes": int,
    "gpus": int | None,
}
GIVEN_THEMSELVES: dict[str, type] = {"annotations": OpenAnnotations, "key": bytes, "codes": Mapping}
__all__ = ["ProtectSettings", "Summary", "protect"]


def protect(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: ProtectSettings = DEFAULTS,
    *,
    masks: str | Path | None = None,
    mask: str | Path | None = None,
    boxes: str | Path | None = None,
    refine_boxes: bool = False,
    points: str | Path | None = None,
    annotations: str | Path | OpenAnnotations | None = None,
    annotations_format: str = "auto",
    whole_image: bool = False,
    webdataset: str | None = None,
    huggingface: str | None = None,
    samples: SampleList | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    watch: bool = False,
    processes: int = 1,
    gpus: int | None = None,
    generator: AnyGenerator | None = None,
    key: str | Path | bytes | None = None,
    codes: str | Path | Mapping[int, int] | None = None,
    shard: Shard | str | None = None,
    engine: Engine | str | None = None,
    progress: Progress = SILENT,
    **options: Unpack[RunOptions],
) -> Summary:
    """Protects images on disk, or in a store, and returns what was done.

    What concerns an image is in the summary and the manifest; what concerns the run is a UserError before any writing.
    inputs: folders (recursive) and files, or one of them; none where annotations hold the images themselves. out: the
    output folder, locked meanwhile; see `unseg.protecting.manifest` and `outputs`. All else is as the command's option
    of that name (`unseg protect --help`); `options` come on top of `settings`. One of masks ("auto": they are found),
    mask, boxes, points, annotations, whole_image, webdataset and huggingface, which masks may go with, says what the
    object is. samples: the images, in place of those of `inputs`. Of watch, shard, engine tell their own modules.
    """
    of_kinds(locals(), KINDS)
    if isinstance(generator, (str, Path)):
        settings, generator = replace(settings, generator=generator), None
    settings, processes = _on_gpus(named_settings(settings, **options), processes, gpus, engine)
    request = Request(
        tuple(map(Path, [inputs] if isinstance(inputs, (str, Path)) else inputs)),
        Path(out),
        settings,
        **_paths(masks=masks, mask=mask, boxes=boxes, points=points, annotations=annotations, key=key, codes=codes),
        refine_boxes=refine_boxes,
        annotations_format=annotations_format,
        samples=samples,
        limit=limit,
        processes=processes,
        generator=generator,
        whole_image=whole_image,
        webdataset=webdataset,
        huggingface=huggingface,
        shard=Shard.parse(shard, "shard ") if isinstance(shard, str) else shard,
        engine=Engine.named(engine),
    )
    return _carried_out(request, dry_run, watch, progress)


def _carried_out(request: Request, dry_run: bool, watch: bool, progress: Progress) -> Summary:
    request.check()
    if watch:
        check_watched(request, dry_run)
        load_libraries(request)
        with image_limits.own_size_limit(), alone():
            return watched(request, progress)
    if request.is_in_stores:
        summary = protect_in_stores(request, dry_run, progress, _on_disk)
    else:
        summary = _on_disk(request, dry_run, progress)
    if summary.planned and request.shard is not None:  # as the user gave it: other plans are carried out at once
        progress.say(_next_step(request, request.shard, summary.forecast.images))
    return summary


def _on_disk(
    request: Request, dry_run: bool, progress: Progress, hand_out: Callable[[RunPlan], None] | None = None
) -> Summary:
    """Carries out a run on folders. hand_out: has others do what a plan for shards settles."""
    if is_image_folder(request):
        return protect_image_folder(request, dry_run, progress, _on_disk)
    if request.holds_containers:
        return protect_containers(request, dry_run, progress, _on_disk)
    if request.engine is not None and not dry_run:
        return protect_on_engine(request, request.engine, progress, _on_disk)
    load_libraries(request)
    workers = request.settings.workers or cores()
    with image_limits.own_size_limit(), alone(), single_threaded_pool(workers) as pool:
        request = as_planned(request)
        found = read_inputs(request, pool, progress)
        if dry_run:
            found = with_masks(request, found, pool, progress, writes=False)
            return foresee(plan_run(request, found, pool, progress), pool, progress)
        with FolderLock(request.records) as lock:  # what lies in the folder is read once nobody else writes there
            check_alone(request.out, request.shard)
            if lock.stale:
                progress.say(told_of_stale(lock.stale))
            found = with_masks(request, found, pool, progress, writes=True)
            plan = plan_run(request, found, pool, progress, lock.held)
            if request.shard is not None and request.shard.is_plan:
                return _settled(plan, request.shard.count, pool, progress, hand_out)
            return execute(plan, pool, progress)


def _settled(
    plan: RunPlan, shards: int, pool: Executor, progress: Progress, hand_out: Callable[[RunPlan], None] | None
) -> Summary:
    summary = settle(plan, shards, pool, progress, tried=hand_out is None)
    if hand_out is not None:
        hand_out(plan)
    return summary


def _next_step(request: Request, shard: Shard, images: int) -> str:
    """Returns what whoever planned shards is to do now."""
    return (
        f"planned: {images:,} images in {shard.count:,} shards; run the same command with --shard 1/{shard.count} to"
        f" {shard.count}/{shard.count}, in any order and on any machines, then `unseg merge {as_written(request.out)}`"
    )


def _on_gpus(
    settings: ProtectSettings, processes: int, gpus: int | None, engine: Engine | str | None
) -> tuple[ProtectSettings, int]:
    """Returns the settings with the device of so many GPUs, and how many processes there are then."""
    if gpus is None:
        return settings, processes
    if engine is not None:
        raise UserError(f"--gpus {gpus}: is for one machine; with --engine ray give --device cuda and --processes")
    from unseg.compute.device import device_of_gpus

    return replace(settings, device=device_of_gpus(gpus, processes)), gpus or processes


def _paths(**given: Any) -> dict[str, Any]:
    """Returns what lies in files as paths, by its name; what may be given itself, and is, stays as it is."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or isinstance(value, GIVEN_THEMSELVES.get(name, ())):
            found[name] = value
        elif isinstance(value, (str, Path)):
            found[name] = Path(value)
        else:
            raise UserError(f"{name}: give the path of a file or folder, not a {type(value).__name__}")
    return found
