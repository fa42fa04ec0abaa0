"""Numbers and names in words, the same on the page and in the Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unseg.evaluation.results import Spread
from unseg.report.model import Condition, Run, Section

TITLE = "What segmentation networks learn from protected images"
NONE = "–"
METRIC_NAMES = {
    "miou": "mIoU",
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "pixel_accuracy": "pixel accuracy",
    "dice": "Dice",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
}
# What the end of a metric's key says it was measured with, or over.
ENDINGS = {"box": "from boxes", "points": "from points", "set": "of the whole set"}
GROUPS = ("class", "size")


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    cell: returns a condition's words. what: what the column means, said once below.
    """

    title: str
    cell: Callable[[Condition], str]
    what: str = ""


def heading(section: Section) -> str:
    """Returns where the section's numbers are from, and which task they are about."""
    return section.task if section.source == section.task else f"{section.source}: {section.task}"


def metric_name(key: str) -> str:
    """Returns `miou` as mIoU, `class_iou` as IoU by class, `iou_box` as IoU from boxes, and an unknown key as it is."""
    group, _, rest = key.partition("_")
    if group in GROUPS and rest:
        return f"{metric_name(rest)} by {group}"
    front, _, ending = key.rpartition("_")
    if front in METRIC_NAMES and ending in ENDINGS:
        return f"{METRIC_NAMES[front]} {ENDINGS[ending]}"
    return METRIC_NAMES.get(key, key.replace("_", " "))


def grouping(key: str) -> str:
    """Returns what the rows of a metric with several numbers are: `class` for class_iou."""
    group = key.partition("_")[0]
    return group if group in GROUPS else ""


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with so many digits; a dash for none."""
    return NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def is_count(values: Mapping[str, float | None]) -> bool:
    """Returns whether these count things: whole numbers, not all of them shares from 0 to 1."""
    known = [value for value in values.values() if value is not None]
    return all(value == round(value) for value in known) and max(known, default=2) > 1


def with_sd(value: Spread | None, digits: int = 3) -> str:
    """Returns `0.952 ± 0.004`, or the mean alone if there is one seed."""
    if value is None:
        return NONE
    return number(value.mean, digits) + ("" if value.sd is None else f" ± {number(value.sd, digits)}")


def mean(condition: Condition, pick: Callable[[Run], float | None], digits: int = 3) -> str:
    """Returns the mean over seeds of a number that describes the images, not the run."""
    found = condition.spread(pick)
    return NONE if found is None else number(found.mean, digits)


def duration(seconds: float | None) -> str:
    """Returns `12 s`, `7.6 min` or `2.1 h`; a dash for none."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def bound(condition: Condition) -> str:
    """Returns the largest change on objects and elsewhere over all runs, in grey levels; a dash if no image was
    changed.
    """

    def largest(pick: Callable[[Run], float | None]) -> float | None:
        return max((value for value in map(pick, condition.runs) if value is not None), default=None)

    on_object = largest(lambda run: run.quality.max_change_object)
    elsewhere = largest(lambda run: run.quality.max_change_background)
    if not on_object and not elsewhere:
        return NONE
    return f"{NONE if on_object is None else f'{on_object:g}'} / {NONE if elsewhere is None else f'{elsewhere:g}'}"


def columns(section: Section) -> list[Column]:
    """Returns the columns of the section's table of results, without those for which no run has a number."""
    unit = metric_name(section.metric)
    several = len(section.seeds()) > 1
    same = " and the same defences" if "views" in section.settings else ""  # older runs: see clean_beside
    found = [
        Column(f"final {unit}", lambda c: with_sd(c.final()), "final: after the last step"),
        Column(
            f"best {unit}",
            lambda c: with_sd(c.spread(lambda run: run.best)),
            "best: the highest of all tests of a run on the test images",
        ),
        Column(
            "retained learning",
            lambda c: with_sd(c.spread(lambda run: run.retained), 2),
            f"retained learning: (final {unit} − trivial) / (clean final {unit} − trivial), each seed against the "
            f"clean run of that seed{same} (0: nothing was learned, 1: protection changed nothing)",
        ),
        Column(
            "PSNR (dB)",
            lambda c: mean(c, lambda run: run.quality.psnr, 1),
            "PSNR: mean over the training images that were changed",
        ),
        Column("SSIM", lambda c: mean(c, lambda run: run.quality.ssim)),
        Column("LPIPS", lambda c: mean(c, lambda run: run.quality.lpips)),
        Column(
            "ΔE2000",
            lambda c: mean(c, lambda run: run.quality.delta_e, 1),
            "ΔE2000: mean colour difference on objects, by pixel",
        ),
        Column(
            "S-CIELAB",
            lambda c: mean(c, lambda run: run.quality.s_cielab, 1),
            "S-CIELAB: the same after the blur of the eye, at 40 pixels a degree",
        ),
        Column("largest change", bound, "largest change: measured, on objects / elsewhere, grey levels of 255"),
        Column(
            "time",
            lambda c: duration(_mean_of(c, lambda run: run.seconds)),
            "time: wall time of training and testing one network" + (", mean over seeds" if several else ""),
        ),
        Column("seeds", lambda c: str(len(c.runs))),
    ]
    conditions = [condition for network in section.networks for condition in network.conditions]
    return [column for column in found if any(column.cell(condition) != NONE for condition in conditions)]


def not_measured(section: Section) -> str | None:
    """Returns which measures of the images' quality the JSON does not have; None if it has all."""
    missing = [
        name
        for name, pick in (
            ("PSNR", lambda run: run.quality.psnr),
            ("SSIM", lambda run: run.quality.ssim),
            ("LPIPS", lambda run: run.quality.lpips),
        )
        if all(pick(run) is None for run in section.runs())
    ]
    return f"Not measured: {', '.join(missing)}." if missing else None


def table_note(section: Section) -> str:
    """Returns what stands below the table of results: what its columns mean."""
    parts = [column.what for column in columns(section) if column.what]
    if len(section.seeds()) > 1:
        parts.append("±: one sample standard deviation over seeds")
    return f"{'; '.join(parts)}."


def common_means(section: Section, pick: Callable[[Run], float | None]) -> dict[str, float]:
    """Returns condition → mean over networks and seeds, for conditions that every network was trained on.

    Mixtures and re-encoded images are left out.
    """
    names = dict.fromkeys(c.name for network in section.networks for c in network.conditions if c.base == c.name)
    means = {}
    for name in names:
        found = [_mean_of(network.find(name), pick) for network in section.networks]
        known = [value for value in found if value is not None]
        if len(known) == len(found):
            means[name] = statistics.fmean(known)
    return means


def _mean_of(condition: Condition | None, pick: Callable[[Run], float | None]) -> float | None:
    """Returns the mean of a number over seeds; None if there is no such condition, or no run that has it."""
    found = None if condition is None else condition.spread(pick)
    return None if found is None else found.mean


def finding(section: Section) -> str | None:
    """Returns what was found, in a sentence; None if clean and protected were not both run on every network."""
    means, unit = common_means(section, lambda run: run.final), metric_name(section.metric)
    protected = [
        name for name in means if any(c.name == name for network in section.networks for c in network.protected())
    ]
    if "clean" not in means or not protected:
        return None
    found = []
    for name in protected:
        shares = [_mean_of(network.find(name), lambda run: run.retained) for network in section.networks]
        retained = [share for share in shares if share is not None]
        what = "protected images" if name == "protected" else name
        found.append(
            f"{number(means[name])} after {what}" + (f" (retained learning {_ends(retained, 2)})" if retained else "")
        )
    levels = _ends([network.trivial for network in section.networks], 3)
    who = "One network" if len(section.networks) == 1 else f"Means over {len(section.networks)} networks"
    return (
        f"{who}: final {unit} on clean test images is {number(means['clean'])} after training on clean images, "
        f"{', '.join(found)}; the trivial answer has {levels}."
    )


def _ends(values: Sequence[float], digits: int) -> str:
    """Returns `0.00 to 0.73`, or the one value that all are."""
    return " to ".join(dict.fromkeys((number(min(values), digits), number(max(values), digits))))
