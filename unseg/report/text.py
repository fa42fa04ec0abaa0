"""Numbers and names in words, the same on the page and in the Markdown table."""
from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from unseg.evaluation.results import Spread
from unseg.report.model import Condition, Run, Section

TITLE = "What segmentation networks learn from protected images"
NONE = "–"
METRIC_NAMES = {
    "miou": "mIoU", "iou": "IoU", "mean_iou": "mIoU", "ap": "AP", "ap50": "AP50", "ap75": "AP75", "mask_ap": "mask AP", "box_ap": "box AP",
    "pq": "PQ", "sq": "SQ", "rq": "RQ", "dice": "Dice", "box_iou": "IoU from boxes", "point_iou": "IoU from points",
    "iou_boxes": "IoU from boxes", "iou_points": "IoU from points", "boundary_iou": "boundary IoU", "pixel_accuracy": "pixel accuracy",
}
GROUPS = ("class", "size")


@dataclass(frozen=True)
class Column:
    """A column of the table of results. cell: of a condition; what: said once below the table."""

    title: str
    cell: Callable[[Condition], str]
    what: str = ""


def heading(section: Section) -> str:
    """Where the section's numbers are from, and which task they are about."""
    return section.task if section.source == section.task else f"{section.source}: {section.task}"


def metric_name(key: str) -> str:
    """`miou` as mIoU, `class_iou` as IoU by class; what this version does not know, as it is."""
    group, _, rest = key.partition("_")
    if group in GROUPS and rest:
        return f"{metric_name(rest)} by {group}"
    return METRIC_NAMES.get(key, key.replace("_", " "))


def grouping(key: str) -> str:
    """What the rows of a metric are that has several numbers: `class` of class_iou."""
    group = key.partition("_")[0]
    return group if group in GROUPS else ""


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def with_sd(value: Spread | None, digits: int = 3) -> str:
    """`0.952 ± 0.004`, or the mean alone where there is one seed."""
    if value is None:
        return NONE
    return number(value.mean, digits) + ("" if value.sd is None else f" ± {number(value.sd, digits)}")


def mean(condition: Condition, pick: Callable[[Run], float | None], digits: int = 3) -> str:
    """A number that is not a run's own but its images', over seeds."""
    found = condition.spread(pick)
    return NONE if found is None else number(found.mean, digits)


def duration(seconds: float | None) -> str:
    """`12 s`, `7.6 min` or `2.1 h`."""
    if seconds is None:
        return NONE
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def bound(condition: Condition) -> str:
    """The largest change on objects and elsewhere, grey levels, over all runs; none where no image was changed."""
    def largest(pick: Callable[[Run], float | None]) -> float | None:
        return max((value for value in map(pick, condition.runs) if value is not None), default=None)

    on_object, elsewhere = largest(lambda run: run.quality.max_change_object), largest(lambda run: run.quality.max_change_background)
    if not on_object and not elsewhere:
        return NONE
    return f"{NONE if on_object is None else f'{on_object:g}'} / {NONE if elsewhere is None else f'{elsewhere:g}'}"


def columns(section: Section) -> list[Column]:
    """The columns of the section's table of results: those that no run has a number for are left out."""
    unit = metric_name(section.metric)
    several = len(section.seeds()) > 1
    found = [
        Column(f"final {unit}", lambda c: with_sd(c.spread(lambda run: run.final)), "final: after the last step"),
        Column(f"best {unit}", lambda c: with_sd(c.spread(lambda run: run.best)), "best: the highest of all tests of a run on the test images"),
        Column("retained learning", lambda c: with_sd(c.spread(lambda run: run.retained), 2),
               f"retained learning: (final {unit} − trivial) / (clean final {unit} − trivial), each seed against the clean run of that seed "
               "(0: nothing was learnt, 1: protection changed nothing)"),
        Column("PSNR (dB)", lambda c: mean(c, lambda run: run.quality.psnr, 1), "PSNR: mean over the training images that were changed"),
        Column("SSIM", lambda c: mean(c, lambda run: run.quality.ssim)),
        Column("LPIPS", lambda c: mean(c, lambda run: run.quality.lpips)),
        Column("largest change", bound, "largest change: measured, on objects / elsewhere, grey levels of 255"),
        Column("time", lambda c: duration(None if (t := c.spread(lambda run: run.seconds)) is None else t.mean),
               "time: wall time of training and testing one network" + (", mean over seeds" if several else "")),
        Column("seeds", lambda c: str(len(c.runs))),
    ]
    conditions = [condition for network in section.networks for condition in network.conditions]
    return [column for column in found if any(column.cell(condition) != NONE for condition in conditions)]


def not_measured(section: Section) -> str | None:
    """Which measures of the images' quality the JSON does not have."""
    missing = [name for name, pick in (("PSNR", lambda run: run.quality.psnr), ("SSIM", lambda run: run.quality.ssim),
                                       ("LPIPS", lambda run: run.quality.lpips))
               if all(pick(run) is None for run in section.runs())]
    return f"Not measured: {', '.join(missing)}." if missing else None


def table_note(section: Section) -> str:
    """What stands below the table of results: what its columns mean."""
    parts = [column.what for column in columns(section) if column.what]
    if len(section.seeds()) > 1:
        parts.append("±: one sample standard deviation over seeds")
    return f"{'; '.join(parts)}."


def common_means(section: Section, pick: Callable[[Run], float | None]) -> dict[str, float]:
    """Means over networks (and seeds) for those conditions that every network was trained on, but mixtures and re-encoded images."""
    names = dict.fromkeys(c.name for network in section.networks for c in network.conditions if c.base == c.name)
    found = {name: [s for network in section.networks if (c := network.find(name)) and (s := c.spread(pick)) is not None] for name in names}
    return {name: statistics.fmean(s.mean for s in spreads) for name, spreads in found.items() if len(spreads) == len(section.networks)}


def finding(section: Section) -> str | None:
    """What was found, in a sentence; None where clean and protected were not both run on every network."""
    means, unit = common_means(section, lambda run: run.final), metric_name(section.metric)
    protected = [name for name in dict.fromkeys(c.name for network in section.networks for c in network.protected()) if name in means]
    if "clean" not in means or not protected:
        return None
    found = []
    for name in protected:
        retained = [s.mean for network in section.networks if (s := network.find(name).spread(lambda run: run.retained)) is not None]
        ends = " to ".join(dict.fromkeys((number(min(retained), 2), number(max(retained), 2)))) if retained else NONE
        found.append(f"{number(means[name])} after {'protected images' if name == 'protected' else name} (retained learning {ends})")
    levels = " to ".join(dict.fromkeys((number(min(n.trivial for n in section.networks)), number(max(n.trivial for n in section.networks)))))
    who = "One network" if len(section.networks) == 1 else f"Means over {len(section.networks)} networks"
    return (f"{who}: final {unit} on clean test images is {number(means['clean'])} after training on clean images, {', '.join(found)}; "
            f"the trivial answer has {levels}.")
