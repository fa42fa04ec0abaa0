"""The figures of a section: which conditions a chart shows, in which colour and with which marker."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from unseg.evaluation.condition_names import shown_name
from unseg.report.charts import Bar, Line, Style, bar_panel, line_panel, scale_top
from unseg.report.heat_map import grid_of, heat_panel, is_crossed
from unseg.report.model import Condition, Network, Section

FIXED = {
    "clean": Style("blue", "circle"),
    "protected": Style("vermillion", "square"),
    "random": Style("grey", "triangle"),
    "pattern": Style("green", "diamond"),
}
FREE = (
    Style("purple", "down"),
    Style("sky", "cross"),
    Style("orange", "triangle"),
    Style("green", "square"),
    Style("vermillion", "diamond"),
    Style("blue", "down"),
)
ALONE = Style("blue", "circle", dashed=True)
TRIVIAL = "trivial answer"


@dataclass(frozen=True)
class Figure:
    """A figure: a small chart for each network.

    kind: a word for file names. panels: a network's name and its chart. legend: name → style, None for the dashed
    level.
    """

    kind: str
    heading: str
    panels: Sequence[tuple[str, Element]]
    legend: dict[str, Style | None]
    caption: str


def figures(section: Section, unit: str, styles: dict[str, Style]) -> list[Figure]:
    """Returns final bars, learning curves, the sweep over shares and the map of defences, as far as there are numbers.

    All but the map share one scale.
    """
    found = [
        _bars(section, unit, styles),
        _curves(section, unit, styles),
        _sweep(section, unit, styles),
        _heat(section, unit),
    ]
    return [figure for figure in found if figure.panels]


def style_of(section: Section) -> dict[str, Style]:
    """Returns a style for each condition: one for each base, dashed if its images are re-encoded."""
    styles: dict[str, Style] = {}
    free, bases = itertools.cycle(FREE), dict(FIXED)
    for condition in (condition for network in section.networks for condition in network.conditions):
        if condition.base not in bases:
            bases[condition.base] = next(free)
        styles[condition.name] = replace(bases[condition.base], dashed="+" in condition.name)
    return styles


def _bars(section: Section, unit: str, styles: dict[str, Style]) -> Figure:
    top, panels = _top(section), []
    for network in section.networks:
        bars = [_bar(condition, styles) for condition in network.main()]
        if bars:
            panels.append((network.name, bar_panel(network.name, bars, _level(network), top, f"final {unit}")))
    seeds = "One seed."
    if _several(section):
        seeds = "Bars: mean over seeds; whiskers: one sample standard deviation up and down; dots: single seeds."
    return Figure(
        "final",
        f"Final {unit}",
        panels,
        {},
        f"Final {unit} on clean test images, by what the network was trained on. {seeds} Dashed: the trivial answer.",
    )


def _bar(condition: Condition, styles: dict[str, Style]) -> Bar:
    final = condition.final()
    return Bar(condition.shown, styles[condition.name], final.mean, final.sd, [run.final for run in condition.runs])


def _curves(section: Section, unit: str, styles: dict[str, Style]) -> Figure:
    top, last = _top(section), max((x for run in section.runs() for x, _ in run.curve), default=0)
    panels, legend = [], {}
    for network in section.networks:
        lines = [line for condition in network.main() if (line := _curve(condition, styles)).mean]
        if lines and last > 0:
            legend.update({line.name: line.style for line in lines})
            panels.append(
                (network.name, line_panel(network.name, lines, _level(network), top, unit, "training steps", last))
            )
    seeds = " Thick: mean over seeds; thin: single seeds." if _several(section) else ""
    return Figure(
        "curves",
        "Learning curves",
        panels,
        {**legend, TRIVIAL: None},
        f"{unit} on clean test images while the networks train.{seeds}",
    )


def _curve(condition: Condition, styles: dict[str, Style]) -> Line:
    """Returns the mean at those steps at which every seed was tested."""
    curves = [dict(run.curve) for run in condition.runs]
    common = sorted(set.intersection(*map(set, curves)))
    mean = [(step, sum(curve[step] for curve in curves) / len(curves)) for step in common]
    return Line(condition.shown, styles[condition.name], mean, [run.curve for run in condition.runs])


def _sweep(section: Section, unit: str, styles: dict[str, Style]) -> Figure:
    top, panels, legend = _top(section), [], {}
    for network in section.networks:
        lines = sweep_lines(network, styles)
        if lines:
            legend.update({line.name: line.style for line in lines})
            panels.append(
                (
                    network.name,
                    line_panel(
                        network.name,
                        lines,
                        _level(network),
                        top,
                        f"final {unit}",
                        "share of the training images that is changed, %",
                        100,
                    ),
                )
            )
    whiskers = " Whiskers: one sample standard deviation up and down." if _several(section) else ""
    return Figure(
        "shares",
        "Where only a share is protected",
        panels,
        {**legend, TRIVIAL: None},
        f"Final {unit} where a share of the training images is protected and the rest clean, beside training on that "
        f"clean rest alone. What lies between the two lines is what networks still draw from the protected images."
        f"{whiskers}",
    )


def sweep_lines(network: Network, styles: dict[str, Style]) -> list[Line]:
    """Returns lines of the final metric over the share of changed images.

    There is a line for each kind of changed images mixed with the clean rest, and one for that rest alone. They begin
    at clean images and end at those that are all changed.
    """
    whole = {condition.name: condition for condition in network.main()}
    kinds: dict[str, list[tuple[int, Condition]]] = {}
    for condition in network.conditions:
        if condition.share is not None and "+" not in condition.name:
            kinds.setdefault(condition.base, []).append((condition.share, condition))
    start = [(0, whole["clean"])] if "clean" in whole else []
    lines = []
    for base in sorted(kinds, key=lambda base: base == "clean"):  # the clean rest last
        end = [(100, whole[base])] if base in whole and base != "clean" else []
        between = sorted(kinds[base], key=lambda pair: pair[0])
        named = "clean rest alone" if base == "clean" else f"{shown_name(base)} and clean rest"
        lines.append(
            _share_line(named, ALONE if base == "clean" else styles[between[0][1].name], [*start, *between, *end])
        )
    return lines


def _share_line(name: str, style: Style, conditions: Iterable[tuple[int, Condition]]) -> Line:
    spreads = [(share, condition.final()) for share, condition in conditions]
    return Line(
        name, style, [(share, spread.mean) for share, spread in spreads], sd=[spread.sd for _, spread in spreads]
    )


def _heat(section: Section, unit: str) -> Figure:
    crossed = [network for network in section.networks if is_crossed(network)]
    panels = [(network.name, heat_panel(network.name, grid_of(network, unit))) for network in crossed]
    several = " Means over seeds." if _several(section) else ""
    return Figure(
        "defences",
        "Under defences",
        panels,
        {},
        "Share of what networks learn from clean images that they still learn from changed ones, by what is done "
        f"against the change. First row: final {unit} of clean images under the same defence, which the other rows are "
        f"compared with. 0: nothing is learned; 1: all. Blank: not measured.{several}",
    )


def _top(section: Section) -> float:
    """Returns the end of the axis that all charts of a section share, so that they can be compared."""
    return scale_top(
        [
            *(network.trivial for network in section.networks),
            *(value for run in section.runs() for value in (run.final, *(score for _, score in run.curve))),
        ]
    )


def _level(network: Network) -> tuple[str, float]:
    return "trivial", network.trivial


def _several(section: Section) -> bool:
    return len(section.seeds()) > 1
