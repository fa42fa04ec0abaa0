"""Pictures of results.json, drawn with Pillow alone. Each is a pure function of its input and returns H×W×3 uint8."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unseg.evaluation.names import TRIVIAL, shown_name
from unseg.evaluation.results import grouped, spread, trivial_score
from unseg.report.panels import FAINT, INK, PAPER, font_of

GRID = (225, 225, 225)
COLOURS = {"clean": (31, 119, 180), "protected": (214, 39, 40), "random": (127, 127, 127), "pattern": (44, 160, 44), TRIVIAL: INK}
UNKNOWN = (148, 103, 189)  # conditions that this version does not know

# Drawn at twice the size and shrunk, since Pillow's lines are not antialiased.
ZOOM = 2
PANEL_WIDTH, PANEL_HEIGHT = 520 * ZOOM, 400 * ZOOM
LEFT, RIGHT, TOP, BOTTOM = 60 * ZOOM, 20 * ZOOM, 88 * ZOOM, 62 * ZOOM
TITLE, SMALL, GAP, LINE = 16 * ZOOM, 13 * ZOOM, 8 * ZOOM, 16 * ZOOM


def learning_curves(results: dict[str, Any]) -> np.ndarray:
    """mIoU on the clean test images over training, a row of panels for each task; dashed: the trivial answer.

    Strong lines are means over seeds; with several seeds, each has a faint line of its own.
    """
    picture, panels = _panels(results)
    for task, network, conditions, left, top in panels:
        trivial = trivial_score(results, task, conditions)
        curves = {condition: [_curve(run) for run in runs.values()] for condition, runs in conditions.items()}
        last = max(step for of_seeds in curves.values() for curve in of_seeds for step, _ in curve)
        axes = _Axes(ImageDraw.Draw(picture), left, top, last)
        axes.frame(f"{task}, {network}: mIoU on clean images")
        axes.line([(0, trivial), (last, trivial)], colour_of(TRIVIAL), dashed=True)
        for condition, of_seeds in curves.items():
            for curve in of_seeds if len(of_seeds) > 1 else ():
                axes.faint_line(curve, _faint(colour_of(condition)))
        for condition, of_seeds in curves.items():
            axes.line(_mean_curve(of_seeds), colour_of(condition))
        axes.legend([*curves, TRIVIAL])
    return np.asarray(picture.reduce(ZOOM))


def final_bars(results: dict[str, Any]) -> np.ndarray:
    """Final mIoU of every condition as bars, a row of panels for each task; dashed: the trivial answer.

    With several seeds a bar is as high as their mean, its whisker reaches one sample standard deviation up and down.
    """
    picture, panels = _panels(results)
    for task, network, conditions, left, top in panels:
        trivial = trivial_score(results, task, conditions)
        axes = _Axes(ImageDraw.Draw(picture), left, top, len(conditions))
        axes.frame(f"{task}, {network}: final mIoU", steps=False)
        for position, (condition, runs) in enumerate(conditions.items()):
            final = spread(run["final"] for run in runs.values())
            axes.bar(position, final.mean, final.sd, colour_of(condition), shown_name(condition))
        axes.line([(0, trivial), (len(conditions), trivial)], colour_of(TRIVIAL), dashed=True)
    return np.asarray(picture.reduce(ZOOM))


def colour_of(condition: str) -> tuple[int, int, int]:
    """A condition's colour: its base's, darker where the images are re-encoded, the more so the lower the quality."""
    base, _, suffix = condition.partition("+")
    colour = COLOURS.get(base, UNKNOWN)
    if not suffix:
        return colour
    quality = int(suffix.removeprefix("jpeg")) if re.fullmatch(r"jpeg\d+", suffix, re.ASCII) else 0
    return tuple(round(value * (0.4 + 0.3 * min(quality, 100) / 100)) for value in colour)


def _panels(results: dict[str, Any]) -> tuple[Image.Image, list[tuple[str, str, dict[str, dict[int, Any]], int, int]]]:
    """Blank paper with a row for each task, and its panels: task, network, condition → seed → result, left and top edge."""
    groups = grouped(results)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    filled = dict.fromkeys(tasks, 0)
    panels = []
    for (task, network), conditions in groups.items():
        panels.append((task, network, conditions, filled[task] * PANEL_WIDTH, tasks.index(task) * PANEL_HEIGHT))
        filled[task] += 1
    size = PANEL_WIDTH * max(filled.values(), default=1), PANEL_HEIGHT * max(1, len(tasks))
    return Image.new("RGB", size, PAPER), panels


def _curve(run: dict[str, Any]) -> list[tuple[float, float]]:
    return [(point["step"], point["score"]) for point in run["curve"]]


def _mean_curve(curves: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of curves that were tested at the same steps, as those of one results.json are."""
    return [(points[0][0], sum(miou for _, miou in points) / len(points)) for points in zip(*curves, strict=True)]


def _faint(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour mixed half and half with the paper's."""
    return tuple((own + paper) // 2 for own, paper in zip(colour, PAPER, strict=True))


@dataclass(frozen=True)
class _Axes:
    """A panel whose corner is at `left`, `top`: x from 0 to `last`, y from 0 to 1."""

    draw: ImageDraw.ImageDraw
    left: int
    top: int
    last: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The picture's pixel for a point of the plot."""
        return (self.left + LEFT + x / self.last * (PANEL_WIDTH - LEFT - RIGHT),
                self.top + TOP + (1 - y) * (PANEL_HEIGHT - TOP - BOTTOM))

    def frame(self, title: str, steps: bool = True) -> None:
        """Title, grid and tick labels; steps: whether the x axis counts training steps."""
        self.draw.text((self.left + LEFT, self.top + LINE), title, INK, font_of(TITLE), anchor="lm")
        for tenth in range(0, 11, 2):
            y = tenth / 10
            self.draw.line([self.at(0, y), self.at(self.last, y)], GRID, ZOOM)
            self.draw.text((self.left + LEFT - GAP, self.at(0, y)[1]), f"{y:.1f}", FAINT, font_of(SMALL), anchor="rm")
        for quarter in range(5 if steps else 0):
            x, y = self.at(self.last * quarter / 4, 0)
            self.draw.text((x, y + GAP), f"{round(self.last * quarter / 4)}", FAINT, font_of(SMALL), anchor="mt")
        if steps:
            below = self.at(self.last / 2, 0)[0], self.top + PANEL_HEIGHT - 2 * GAP
            self.draw.text(below, "training steps", FAINT, font_of(SMALL), anchor="mb")

    def line(self, points: list[tuple[float, float]], colour: tuple[int, int, int], dashed: bool = False) -> None:
        """A curve with a dot at each point; a dashed one is level and has none."""
        places = self._places(points)
        if dashed:
            (first, y), (last, _) = places
            for start in np.arange(first, last, 10 * ZOOM):
                self.draw.line([(start, y), (min(start + 5 * ZOOM, last), y)], colour, ZOOM)
            return
        self.draw.line(places, colour, 2 * ZOOM, joint="curve")
        for x, y in places:
            self.draw.ellipse([x - 3 * ZOOM, y - 3 * ZOOM, x + 3 * ZOOM, y + 3 * ZOOM], colour)

    def faint_line(self, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        """A thin curve without dots."""
        self.draw.line(self._places(points), colour, ZOOM, joint="curve")

    def _places(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [self.at(*point) for point in points]

    def bar(self, position: int, height: float, reach: float | None, colour: tuple[int, int, int], caption: str) -> None:
        """The bar number `position`, with its value above and its name below, and a whisker of ±`reach` where given."""
        (x0, top), (x1, bottom) = self.at(position + 0.2, height), self.at(position + 0.8, 0)
        self.draw.rectangle([x0, top, x1, bottom], colour)
        middle, above = (x0 + x1) / 2, top
        if reach is not None:
            above, below = (self.at(0, min(max(height + way * reach, 0), 1))[1] for way in (1, -1))
            self.draw.line([(middle, above), (middle, below)], INK, 2 * ZOOM)
            for y in (above, below):
                self.draw.line([(middle - GAP, y), (middle + GAP, y)], INK, 2 * ZOOM)
        self.draw.text((middle, above - GAP / 2), f"{height:.3f}", INK, font_of(SMALL), anchor="mb")
        # A word a line, in letters that leave the neighbours' captions alone; "JPEG 75" is one word.
        words = re.sub(r",? (?!\d)", "\n", caption)
        room, size = self.at(1, 0)[0] - self.at(0, 0)[0], SMALL
        while size > SMALL // 2 and self.draw.multiline_textbbox((0, 0), words, font_of(size))[2] > room - GAP / 2:
            size -= 1
        self.draw.multiline_text((middle, bottom + GAP), words, FAINT, font_of(size), anchor="ma", align="center")

    def legend(self, names: list[str]) -> None:
        """Names in their colours, from the left, below the title, in as many lines as they need (there is room for three)."""
        x, y = self.left + LEFT, self.top + 2.5 * LINE
        for name in names:
            width = self.draw.textlength(shown_name(name), font_of(SMALL))
            if x + width > self.left + PANEL_WIDTH:
                x, y = self.left + LEFT, y + LINE
            self.draw.text((x, y), shown_name(name), colour_of(name), font_of(SMALL), anchor="lm")
            x += width + 2 * GAP
