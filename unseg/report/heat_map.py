"""A heat map of retained learning: what images were changed by in rows, what was done against it in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from unseg.evaluation.condition_names import shown_name
from unseg.evaluation.results import Spread
from unseg.report.charts import LETTER, WIDTH
from unseg.report.markup import el
from unseg.report.model import Network

NO_DEFENCE = "none"
CLEAN = "clean"
LEFT, CELL, ROW, EDGE = 124, 44, 26, 8  # units: room for names of rows, a cell, and the margin at the right and bottom
DARKEST = 0.75  # opacity of a cell that retains all; numbers must stay readable on it
COLOUR, BORDER = "var(--vermillion)", "var(--grid)"  # of palette.css
SLOPE = 0.71  # of names that are too long to stand over their column: the sine of 45°


@dataclass(frozen=True)
class Square:
    """A number of the map. words: what a pointer that rests on it is told. share: 0 to 1, how strong its colour is;
    None: it has none."""

    number: str
    words: str
    share: float | None = None


@dataclass(frozen=True)
class Grid:
    """The map of one network. rows: names. columns: names of defences. cells: by place; what was not measured is
    missing."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: dict[tuple[int, int], Square]


def is_crossed(network: Network) -> bool:
    """Returns whether a network was trained on clean images under a defence, so that a map has something to tell."""
    return any(base == CLEAN and defence != NO_DEFENCE for base, defence in map(_parts, _names(network)))


def grid_of(network: Network, unit: str) -> Grid:
    """Returns the map of a network.

    The first row holds the metric of clean images, which the others are divided by. unit: what the metric is called.
    """
    conditions = {_parts(condition.name): condition for condition in network.main()}
    columns = sorted(dict.fromkeys(defence for _, defence in conditions), key=lambda name: name != NO_DEFENCE)
    bases = [CLEAN, *dict.fromkeys(base for base, _ in conditions if base != CLEAN)]
    cells: dict[tuple[int, int], Square] = {}
    for row, base in enumerate(bases):
        for column, defence in enumerate(columns):
            condition = conditions.get((base, defence))
            if condition is None:
                continue
            cell = (
                _score(condition.final(), unit)
                if base == CLEAN
                else _retained(condition.spread(lambda run: run.retained))
            )
            if cell is not None:
                words = f"{shown_name(base)}, {defence}: {cell.words}"
                cells[row, column] = Square(cell.number, words, cell.share)
    names = [f"{CLEAN}: {unit}", *(shown_name(base) for base in bases[1:])]
    return Grid(names, columns, cells)


def heat_panel(title: str, grid: Grid) -> Element:
    """Returns the map as a picture; it is wider than other charts where the columns need it."""
    longest = max(map(len, grid.columns)) * LETTER
    slanted = longest > CELL - 4
    top = (longest * SLOPE if slanted else 0) + 20
    right = LEFT + CELL * len(grid.columns)
    width = max(WIDTH, right + (longest * SLOPE if slanted else 0) + EDGE)
    height = top + ROW * len(grid.rows) + EDGE
    said = "; ".join(cell.words for cell in grid.cells.values())
    wide = "chart wide" if width > WIDTH else "chart"
    label = f"{title}, retained learning: {said}"
    picture = el("svg", viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=wide)
    for column, name in enumerate(grid.columns):
        picture.append(_column_name(name, LEFT + CELL * (column + 0.5), top - 7, slanted=slanted))
    for row, name in enumerate(grid.rows):
        middle = top + ROW * row + ROW / 2
        picture.append(el("text", name, x=LEFT - 8, y=middle + 4, class_="label", text_anchor="end"))
        for column in range(len(grid.columns)):
            cell = grid.cells.get((row, column))
            picture.append(_cell(cell, LEFT + CELL * column, top + ROW * row))
    return picture


def _names(network: Network) -> list[str]:
    return [condition.name for condition in network.main()]


def _parts(name: str) -> tuple[str, str]:
    """Returns a condition's base and its chain of defences."""
    base, _, defences = name.partition("+")
    return base, defences or NO_DEFENCE


def _score(final: Spread, unit: str) -> Square:
    return Square(f"{final.mean:.3f}", f"{unit} {final.mean:.3f}{_beside(final)}")


def _retained(spread: Spread | None) -> Square | None:
    if spread is None:
        return None
    share = min(max(spread.mean, 0.0), 1.0)
    return Square(f"{spread.mean:.2f}", f"retained {spread.mean:.2f}{_beside(spread)}", share)


def _beside(spread: Spread) -> str:
    return "" if spread.sd is None else f" ± {spread.sd:.3f} ({spread.count} seeds)"


def _column_name(name: str, x: float, y: float, *, slanted: bool) -> Element:
    if not slanted:
        return el("text", name, x=x, y=y, class_="label", text_anchor="middle")
    return el("text", name, transform=f"translate({x:.2f} {y:.2f}) rotate(-45)", class_="label")


def _cell(cell: Square | None, x: float, y: float) -> Element:
    box = {"x": x + 1, "y": y + 1, "width": CELL - 2, "height": ROW - 2}
    if cell is None:
        return el("rect", fill="none", stroke=BORDER, **box)
    group = el("g", el("title", cell.words))
    group.append(el("rect", fill="none", stroke=BORDER, **box))
    if cell.share is not None:
        group.append(el("rect", fill=COLOUR, fill_opacity=f"{DARKEST * cell.share:.3f}", **box))
    group.append(el("text", cell.number, x=x + CELL / 2, y=y + ROW / 2 + 4, class_="value", text_anchor="middle"))
    return group
