"""The jobs of a run, in the order of their keys; each is made when it is asked for, so that memory holds none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unseg.data.samples import SampleFile
from unseg.protecting.coded_source import CodedSource
from unseg.protecting.manifest import Entry, Key, relative
from unseg.protecting.one_image import Job
from unseg.protecting.outputs import plan_outputs
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.request import Request
from unseg.protecting.shards import begun
from unseg.storage.mounts import is_in_a_file
from unseg.storage.sequences import Made, order_of
from unseg.storage.stacks.stack_kinds import KINDS, stack_kind_of

OF_BANDS = "GeoTIFF"  # the one format whose bands `--bands` chooses
NO_BANDS = f"--bands is for {OF_BANDS} with noise of codes, and chooses nothing here"


class KeyedSamples:
    """Samples in the order of their keys, each key once. keys: what tells the inputs of a manifest apart."""

    def __init__(self, samples: Sequence[SampleFile], out: Path) -> None:
        roots = {root: relative(root, out) for root in {sample.root for sample in samples}}

        def key_of(sample: SampleFile) -> Key:
            return sample.name, roots[sample.root]

        order = order_of(samples, key_of, last_only=True)
        self.samples = Made(order, samples.__getitem__)
        self.keys = Made(order, lambda place: key_of(samples[place]))


def planned_jobs(
    inputs: KeyedSamples, chosen: int, pipeline: Pipeline, before: Mapping[Key, Entry], request: Request
) -> Sequence[Job]:
    """Returns the jobs of the first inputs; names are planned for all, so that they do not depend on the choice.

    chosen: how many of them.
    """
    settings, shard, samples, keys = pipeline.settings, request.shard, inputs.samples, inputs.keys
    own = None if shard is None else range(chosen)[shard.part(chosen, request.parts)]
    if shard is not None and shard.is_plan and begun(pipeline.out):
        own = range(0)  # shards look to their own
    wanted = range(chosen) if own is None else own
    numbers, names = {name: number for number, name in enumerate(KINDS, 1)}, (None, *KINDS)
    kinds, inside = bytearray(len(samples)), bytearray(len(samples))  # of each: which kind, 0 of pictures
    for place, sample in enumerate(samples):
        inside[place] = is_in_a_file(sample.image)
        if not inside[place] or place in wanted:  # contents of tars and tables are brought for this run's alone
            kinds[place] = numbers.get(_kind_of(sample, pipeline) or "", 0)
    planned = plan_outputs(
        keys,
        pipeline.out,
        settings.format,
        before,
        names=settings.names,
        own_format=lambda place: bool(kinds[place]) and not inside[place],
        own=own,
    )

    def job(place: int) -> Job:
        key, plan, kind = keys[place], planned[place], names[kinds[place]]
        if settings.bands is not None and kind != OF_BANDS:
            plan = replace(plan, note="; ".join(filter(None, (plan.note, NO_BANDS))))
        return Job(samples[place], plan, key, before.get(key), kind)

    return Made(range(chosen), job)


def _kind_of(sample: SampleFile, pipeline: Pipeline) -> str | None:
    """Returns the name of the format of planes that an image stays in; None where it becomes a picture.

    A picture with a place on earth becomes one where its pixels are turned to be kept with others as they lie, and
    where a network, which sees pictures alone, makes the noise.
    """
    kind = stack_kind_of(sample.image)
    as_picture = pipeline.settings.keep_frame or not isinstance(pipeline.source, CodedSource)
    return None if kind is None or (as_picture and kind.is_picture(sample.image)) else kind.name
