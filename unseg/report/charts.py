"""Charts as inline SVG: bars with whiskers, and lines over steps or shares. Each is a pure function of its numbers.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Each series has a marker of its own as well,
and dashes or hatching if its images are re-encoded. The style sheet (palette.css) says what the classes look like, in
light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from unseg.report.markup import el, raw

WIDTH = 360  # of a panel, in units that are pixels on a phone
LABEL_END, PLOT_END = 124, 308  # of a bar's name, and of the longest bar; behind it there is room for its value
LETTER = 6.4  # mean width of a letter, units
BAR, ROW, HATCH = 15, 27, 6
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_HEIGHT = 40, 346, 12, 190
GAP = 20  # around panels on one sheet
AXIS = 40  # room below a plot of lines, for its ticks and their name
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Style:
    """The looks of a series in every chart.

    colour: a class of palette.css. marker: a key of MARKERS. dashed: whether lines are dashed and bars hatched.
    """

    colour: str
    marker: str
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar. sd: half the whisker; None: no whisker. seeds: single values, shown as dots if there are several."""

    name: str
    style: Style
    value: float
    sd: float | None
    seeds: Sequence[float] = ()


@dataclass(frozen=True)
class Line:
    """A line. mean: the thick one. seeds: thin ones. sd: empty, or a whisker for each point of the mean."""

    name: str
    style: Style
    mean: Points
    seeds: Sequence[Points] = ()
    sd: Sequence[float | None] = ()


def scale_top(values: Sequence[float]) -> float:
    """Returns the end of an axis from 0 that holds the values: 1, 0.5 or 0.2 times a power of ten, at least 0.01."""
    highest = max([0.01, *values])
    power = 10.0 ** math.ceil(math.log10(highest))
    return min(round(step * power, 12) for step in (0.2, 0.5, 1.0) if step * power >= highest * (1 - 1e-9))


def bar_panel(title: str, bars: Sequence[Bar], level: tuple[str, float] | None, top: float, unit: str) -> Element:
    """Returns bars from the left, one below the other.

    level: name and value of a dashed line across. top: the end of the axis. unit: what the bars measure.
    """
    height = 10 + ROW * len(bars)

    def x(value: float) -> float:
        return LABEL_END + 6 + max(0.0, min(value / top, 1)) * (PLOT_END - LABEL_END - 6)

    said = [f"{bar.name} {_with_sd(bar)}" for bar in bars] + ([f"{level[0]} {level[1]:.3f}"] if level else [])
    picture = _panel(height + 34, f"{title}, {unit}: {'; '.join(said)}")
    for tick in _ticks(top):
        picture.append(el("line", x1=x(tick), x2=x(tick), y1=4, y2=height, class_="grid"))
        picture.append(el("text", f"{tick:g}", x=x(tick), y=height + 15, class_="tick", text_anchor="middle"))
    for i, bar in enumerate(bars):
        picture.append(_bar(bar, x, 8 + i * ROW))
    if level:
        picture.append(el("line", x1=x(level[1]), x2=x(level[1]), y1=4, y2=height, class_="level"))
        picture.append(
            el(
                "text",
                f"{level[0]} {level[1]:.3f}",
                x=x(level[1]),
                y=height + 29,
                class_="tick strong",
                text_anchor=_anchor(level[1] / top),
            )
        )
    return picture


def _anchor(place: float) -> str:
    """Returns how a name is anchored so that it stays inside the chart.

    place: 0 at the left end of the axis, 1 at the right.
    """
    if place < 0.25:
        return "start"
    return "middle" if place < 0.75 else "end"


def _bar(bar: Bar, x: Callable[[float], float], top: int) -> Element:
    middle, end = top + BAR / 2, x(bar.value)
    group = el("g", el("title", f"{bar.name}: {_with_sd(bar)}"), class_=bar.style.colour)
    group.append(el("text", _cut(bar.name, LABEL_END), x=LABEL_END, y=middle + 4, class_="label", text_anchor="end"))
    group.append(el("rect", x=x(0), y=top, width=end - x(0), height=BAR, class_="bar"))
    if bar.style.dashed:
        for left in range(round(x(0)), int(end), HATCH):
            wide = min(HATCH, end - left)
            group.append(
                el("line", x1=left, x2=left + wide, y1=top + BAR, y2=top + BAR * (1 - wide / HATCH), class_="hatch")
            )
    if len(bar.seeds) > 1:
        group.extend(el("circle", cx=x(value), cy=middle, r=2.2, class_="seed") for value in bar.seeds)
    furthest = end
    if bar.sd is not None:
        low, furthest = x(bar.value - bar.sd), x(bar.value + bar.sd)
        line = f"M{low:.2f} {middle - 4}v8M{low:.2f} {middle}H{furthest:.2f}M{furthest:.2f} {middle - 4}v8"
        group.append(el("path", d=line, class_="whisker"))
    group.append(el("text", f"{bar.value:.3f}", x=max(end, furthest) + 5, y=middle + 4, class_="value"))
    return group


@dataclass(frozen=True)
class _Plot:
    """The area of a plot of lines. last: the largest x. top: the end of the y axis."""

    last: float
    top: float
    bottom: float = PLOT_TOP + PLOT_HEIGHT

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Returns where (x, y) lies on the picture. What lies above or below the axis is drawn at its end."""
        x = PLOT_LEFT + point[0] / self.last * (PLOT_RIGHT - PLOT_LEFT)
        return x, self.bottom - max(0.0, min(point[1] / self.top, 1)) * PLOT_HEIGHT


def line_panel(
    title: str,
    lines: Sequence[Line],
    level: tuple[str, float] | None,
    top: float,
    unit: str,
    x_name: str,
    last: float | None = None,
) -> Element:
    """Returns lines over x from 0 to `last` (default: the largest x).

    level: name and value of a dashed line across. top: the end of the y axis. unit, x_name: what the axes measure.
    """
    if last is None:
        last = max((point[0] for line in lines for point in line.mean), default=1) or 1
    plot = _Plot(last, top)
    said = [f"{line.name} from {line.mean[0][1]:.3f} to {line.mean[-1][1]:.3f}" for line in lines if line.mean]
    said += [f"{level[0]} {level[1]:.3f}"] if level else []
    picture = _panel(plot.bottom + AXIS, f"{title}, {unit} over {x_name}: {'; '.join(said)}")
    picture.extend(_axes(plot, x_name))
    if level:
        y = plot.at((0, level[1]))[1]
        picture.append(el("line", x1=PLOT_LEFT, x2=PLOT_RIGHT, y1=y, y2=y, class_="level"))
    for line in lines:  # the thin ones first, so that no mean is hidden
        if len(line.seeds) > 1:
            thin = [_path(map(plot.at, seed), "thin") for seed in line.seeds if seed]
            picture.append(el("g", thin, class_=line.style.colour))
    picture.extend(_mean(line, plot) for line in lines)
    return picture


def _axes(plot: _Plot, x_name: str) -> Iterator[Element]:
    """Yields the grid, the ticks of both axes, and the name of the x axis."""
    for tick in _ticks(plot.top):
        y = plot.at((0, tick))[1]
        yield el("line", x1=PLOT_LEFT, x2=PLOT_RIGHT, y1=y, y2=y, class_="grid")
        yield el("text", f"{tick:g}", x=PLOT_LEFT - 6, y=y + 4, class_="tick", text_anchor="end")
    for quarter in range(5):
        value = plot.last * quarter / 4
        words = f"{value:,.0f}" if plot.last >= 8 else f"{value:g}"
        anchor = "end" if quarter == 4 else "middle"
        yield el("text", words, x=plot.at((value, 0))[0], y=plot.bottom + 16, class_="tick", text_anchor=anchor)
    middle = (PLOT_LEFT + PLOT_RIGHT) / 2
    yield el("text", x_name, x=middle, y=plot.bottom + 33, class_="tick", text_anchor="middle")


def _mean(line: Line, plot: _Plot) -> Element:
    """Returns a line's thick mean with its whiskers and markers."""
    group = el("g", el("title", line.name), class_=line.style.colour)
    places = [plot.at(point) for point in line.mean]
    if places:
        group.append(_path(places, "mean dashed" if line.style.dashed else "mean"))
    for point, sd in zip(line.mean, line.sd, strict=bool(line.sd)):
        if sd is not None:
            x, low = plot.at((point[0], point[1] - sd))
            high = plot.at((point[0], point[1] + sd))[1]
            whisker = f"M{x - 3:.2f} {high:.2f}h6M{x:.2f} {high:.2f}V{low:.2f}M{x - 3:.2f} {low:.2f}h6"
            group.append(el("path", d=whisker, class_="whisker"))
    group.extend(marker(line.style, x, y) for x, y in places)
    return group


# A marker's outline around (0, 0).
MARKERS = {
    "circle": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",
    "square": "M-3.3-3.3h6.6v6.6h-6.6z",
    "triangle": "M0-4.2L4 3.2H-4z",
    "down": "M0 4.2L4-3.2H-4z",
    "diamond": "M0-4.6L4.6 0L0 4.6L-4.6 0z",
    "cross": "M-1.3-4h2.6v2.7H4v2.6H1.3V4h-2.6V1.3H-4v-2.6h2.7z",
}


def marker(style: Style, x: float, y: float) -> Element:
    """Returns the series' marker at (x, y), hollow if its lines are dashed."""
    class_ = "marker hollow" if style.dashed else "marker"
    return el("path", d=MARKERS[style.marker], transform=f"translate({x:.2f} {y:.2f})", class_=class_)


def swatch(style: Style | None) -> Element:
    """Returns a piece of line with its marker, for a legend; for None the dashed line of a level."""
    key = el("svg", viewBox="0 0 30 12", class_="swatch", aria_hidden="true")
    if style is None:
        key.append(el("line", x1=0, x2=30, y1=6, y2=6, class_="level"))
    else:
        line = el("path", d="M0 6H30", class_="mean dashed" if style.dashed else "mean")
        key.append(el("g", line, marker(style, 15, 6), class_=style.colour))
    key.tail = None
    return key


def sheet(
    panels: Sequence[tuple[str, Element]], legend: dict[str, Style | None], style: str, columns: int = 2
) -> Element:
    """Returns charts with their titles and the legend below them on one picture. style: the palette's style sheet.

    Where a chart is wider than others, each stands in a row of its own.
    """
    wide = max([float(WIDTH), *(_side(chart, 2) for _, chart in panels)])
    columns = 1 if wide > WIDTH else columns
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    width, y = GAP + (wide + GAP) * max(map(len, rows), default=1), float(GAP)
    picture = el("svg", raw("style", style), class_="chart", role="img")
    picture.append(el("rect", width="100%", height="100%", fill="var(--paper)"))
    for row in rows:
        for column, (title, chart) in enumerate(row):
            left = GAP + column * (wide + GAP)
            picture.append(el("text", title, x=left, y=y + 14, class_="heading"))
            chart = copy(chart)
            size = {"width": f"{_side(chart, 2):g}", "height": f"{_side(chart, 3):g}"}
            chart.attrib |= {"x": f"{left:g}", "y": f"{y + 22:g}", **size}
            picture.append(chart)
        y += 22 + max(_side(chart, 3) for _, chart in row) + GAP
    x = float(GAP)
    for name, key in legend.items():
        entry = 40 + LETTER * len(name) + GAP
        if x > GAP and x + entry > width:
            x, y = float(GAP), y + 20
        mark = swatch(key)
        mark.attrib |= {"x": f"{x:g}", "y": f"{y:g}", "width": "30", "height": "12"}
        picture.extend([mark, el("text", name, x=x + 36, y=y + 10)])
        x += entry
    height = y + (12 + GAP if legend else 0)
    picture.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
        "aria-label": "; ".join(chart.get("aria-label", "") for _, chart in panels),
    }
    return picture


def _side(chart: Element, place: int) -> float:
    """Returns the width (2) or the height (3) of a chart's view box."""
    return float(chart.get("viewBox", "").split()[place])


def _panel(height: float, description: str) -> Element:
    return el("svg", viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=description, class_="chart")


def _path(places: Iterable[tuple[float, float]], class_: str) -> Element:
    return el("path", d="M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places), class_=class_)


def _ticks(top: float) -> list[float]:
    """Returns four or five steps to the top: of 0.2 to 1, of 0.1 to 0.5, of 0.05 to 0.2, and these by powers of ten."""
    steps = 4 if f"{top:e}".startswith("2") else 5
    return [round(top * i / steps, 12) for i in range(steps + 1)]


def _with_sd(bar: Bar) -> str:
    return f"{bar.value:.3f}" + ("" if bar.sd is None else f" ± {bar.sd:.3f}")


def _cut(text: str, width: float) -> str:
    """Returns the text, or as much of its start as fits and an ellipsis. The bar's title holds the whole."""
    room = int(width / LETTER)
    return text if len(text) <= room else text[: room - 1] + "…"
