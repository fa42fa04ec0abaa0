"""Pictures: what stands where."""
from __future__ import annotations

import numpy as np
import pytest

from unseg import report
from unseg.report import plots
from unseg.evaluation.names import BASES


def panels(picture: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The four photographs of a picture, found by its layout: equal gaps at the sides, between them and below."""
    gap = (picture.shape[1] - 4 * width) // 5
    top = picture.shape[0] - gap - height
    return [picture[top:top + height, gap + i * (width + gap):][:, :width] for i in range(4)]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (200, 90)])
def test_photograph_noise_and_mask_stand_side_by_side(height: int, width: int) -> None:
    draw = np.random.default_rng(0)
    original = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = draw.random((height, width)) < 0.5
    change = draw.integers(-8, 9, original.shape)
    unlearnable = (original + change).clip(0, 255).astype(np.uint8)
    first, second, noise, white = panels(report.before_after_noise_mask(original, unlearnable, mask), height, width)
    assert np.array_equal(first, original)
    assert np.array_equal(second, unlearnable)
    real = unlearnable.astype(int) - original
    expected = np.where(real == 0, 128, np.clip(128 + 16 * real, 0, 255))
    assert np.array_equal(noise, expected)
    assert np.array_equal(white, np.where(mask[..., None], 255, 0) * np.ones(3, int))


def test_captions_are_drawn_above_the_photographs() -> None:
    white = np.full((64, 128, 3), 255, np.uint8)
    picture = report.before_after_noise_mask(white, white, np.ones((64, 128), bool))
    gap = (picture.shape[1] - 4 * 128) // 5
    above = picture[:picture.shape[0] - 64 - gap]
    for i in range(4):
        assert above[:, gap + i * (128 + gap):][:, :128].min() < 100


def results(**final: float | tuple[float, ...]) -> dict:
    """Level curves: for each condition the value of its one seed, or those of several."""
    runs = [{"settings": {"task": "binary", "network": "net", "condition": condition, "seed": seed},
             "result": {"final": value, "curve": [{"step": 5, "score": value}, {"step": 10, "score": value}]}}
            for condition, values in final.items()
            for seed, value in enumerate(values if isinstance(values, tuple) else (values,))]
    return {"tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.3}}}, "runs": runs}


def rows_of(picture: np.ndarray, colour: tuple[int, int, int], columns: slice) -> np.ndarray:
    """The rows in which `colour` appears, below the legend."""
    rows = np.flatnonzero((np.abs(picture[:, columns].astype(int) - colour).max(2) < 8).any(1))
    return rows[rows > plots.TOP // plots.ZOOM - 5]


def test_curves_lie_at_their_values() -> None:
    picture = report.learning_curves(results(clean=0.9, protected=0.4))
    top, bottom = plots.TOP / plots.ZOOM, (plots.PANEL_HEIGHT - plots.BOTTOM) / plots.ZOOM
    middle = slice(380, 390)  # between the two points, where only the curves are
    for condition, value in (("clean", 0.9), ("protected", 0.4)):
        rows = rows_of(picture, plots.COLOURS[condition], middle)
        assert rows.mean() == pytest.approx(top + (1 - value) * (bottom - top), abs=2)


def test_bars_are_as_high_as_their_values() -> None:
    picture = report.final_bars(results(clean=0.9, protected=0.4))
    top, bottom = plots.TOP / plots.ZOOM, (plots.PANEL_HEIGHT - plots.BOTTOM) / plots.ZOOM
    for condition, value in (("clean", 0.9), ("protected", 0.4)):
        rows = rows_of(picture, plots.COLOURS[condition], slice(None))
        assert len(rows) == pytest.approx(value * (bottom - top), abs=3)


def test_several_seeds_give_a_strong_mean_and_faint_lines() -> None:
    picture = report.learning_curves(results(clean=(0.8, 0.5)))
    top, bottom = plots.TOP / plots.ZOOM, (plots.PANEL_HEIGHT - plots.BOTTOM) / plots.ZOOM
    strip = picture[:, 383:387].astype(int)  # between the two points, where only the curves are
    coloured = np.flatnonzero((strip.max(2) - strip.min(2) > 20).all(1))
    lines = [line for line in np.split(coloured, np.flatnonzero(np.diff(coloured) > 1) + 1) if line[0] > top - 5]
    expected = [top + (1 - value) * (bottom - top) for value in (0.8, 0.65, 0.5)]
    assert [line.mean() for line in lines] == pytest.approx(expected, abs=2)
    darkest = [strip[line].sum(2).min() for line in lines]
    assert darkest[1] == sum(plots.COLOURS["clean"]) and min(darkest[0], darkest[2]) > darkest[1] + 200


def test_whiskers_reach_a_standard_deviation_from_the_mean() -> None:
    """Of 0.4 and 0.6: 0.5 ± 0.141."""
    picture = report.final_bars(results(clean=(0.4, 0.6)))
    top, bottom = plots.TOP / plots.ZOOM, (plots.PANEL_HEIGHT - plots.BOTTOM) / plots.ZOOM
    bar = np.flatnonzero(np.abs(picture[round(bottom) - 3].astype(int) - plots.COLOURS["clean"]).max(1) < 8)
    beside = round(bar.mean()) - 6  # where only the two ends of the whisker are dark
    high, low = (top + (1 - value) * (bottom - top) for value in (0.5 + 0.1 * 2 ** 0.5, 0.5 - 0.1 * 2 ** 0.5))
    dark = np.flatnonzero(picture[:, beside].max(1) < 100)
    dark = dark[(dark > high - 4) & (dark < low + 10)]  # between the digits of the value and the trivial answer
    assert (dark.min(), dark.max()) == (pytest.approx(high, abs=2), pytest.approx(low, abs=2))


def test_every_condition_has_a_colour_of_its_own_and_can_be_drawn() -> None:
    names = [base + suffix for base in BASES for suffix in ("", "+jpeg75", "+jpeg10")] + ["new", "trivial"]
    assert len({plots.colour_of(name) for name in names}) == len(names)
    shown = {"clean": 0.9, "pattern": 0.5, "protected+jpeg75": 0.4, "new+blur2": 0.2, "random+jpeg75": 0.7}
    for draw in (report.learning_curves, report.final_bars):
        picture = draw(results(**shown))
        for name in shown:
            assert (picture == plots.colour_of(name)).all(2).sum() > 20


def test_a_row_of_panels_for_each_task() -> None:
    one = results(clean=0.9)
    run = one["runs"][0]
    other = {**run, "settings": {**run["settings"], "task": "classes"}, "result": {**run["result"], "final": 0.5}}
    facts = {"binary": {"metric": "miou", "trivial": {"miou": 0.3}}, "classes": {"metric": "miou", "trivial": {"miou": 0.1}}}
    picture, alone = report.final_bars({"tasks": facts, "runs": [run, other]}), report.final_bars(one)
    assert np.array_equal(picture[:len(alone)], alone) and picture.shape == (2 * len(alone), alone.shape[1], 3)
    first, second = (rows_of(half, plots.COLOURS["clean"], slice(None)).min() for half in (alone, picture[len(alone):]))
    assert second > first + 50  # the second task's bar is lower


def test_a_panel_for_each_task_and_network() -> None:
    one, two = results(clean=0.9), results(clean=0.9)
    two["runs"][0]["settings"] = {**two["runs"][0]["settings"], "network": "other"}
    both = {"tasks": one["tasks"], "runs": one["runs"] + two["runs"]}
    assert report.learning_curves(both).shape[1] == 2 * report.learning_curves(one).shape[1]
