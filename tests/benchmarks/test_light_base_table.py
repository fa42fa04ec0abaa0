"""The benchmark of the light base runs through, and its rows are what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import light_base


@pytest.mark.slow
def test_a_quick_run_fills_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert light_base.main(["--quick", "--rounds", "1", "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert list(figures["rows"]) == [*light_base.ROWS, light_base.PLAIN]
    assert {row: list(usages) for row, usages in figures["growth"].items()} == {
        row: ["3", "6"] for row in light_base.GROWING
    }
    assert all(value > 0 for row in figures["rows"].values() for value in row.values())
    without = figures["rows"]["compact, onnxruntime"]["photograph_mib"]
    assert without < figures["rows"]["compact, torch"]["photograph_mib"] - 100  # so that torch was not there
    printed = capsys.readouterr().out
    assert "codes, 6 images of 96×96" in printed and printed.count("(goal ") == 10
    assert "| compact, the plain way " in printed


def test_goals_are_told_apart() -> None:
    row = {"help_seconds": 0.31, "photograph_seconds": 1.5, "photograph_mib": 351, "images_per_second": 119.0}
    growth = {"100": {"peak_mib": 100.0}, "10000": {"peak_mib": 110.0}}
    better = {"help_seconds": 0.2, "photograph_seconds": 1.6, "photograph_mib": 300, "images_per_second": 60.0}
    grown = {"100": {"peak_mib": 100.0}, "10000": {"peak_mib": 111.0}}
    small = "compact, onnxruntime"
    told = light_base.goals({"rows": {"codes": row, small: better}, "growth": {"codes": growth, small: grown}})
    assert [line.partition(":")[0] for line in told] == [
        *("MISSED", "met", "MISSED", "MISSED", "met"),
        *("met", "MISSED", "met", "met", "MISSED"),
    ]
    assert told[0] == "MISSED: codes: help_seconds 0.31 (goal ≤ 0.3)"


def test_rates_are_of_what_the_longer_run_has_beyond_the_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    usages = {"one": (3.0, 2.0, 200.0), "short": (5.0, 4.0, 90.0), "long": (15.0, 24.0, 110.0)}
    monkeypatch.setattr(light_base, "protected", lambda row, folder: light_base.Usage(*usages[folder.name]))
    monkeypatch.setattr(light_base, "command", lambda row, arguments: light_base.Usage(0.5, 0.25, 50.0))
    found = light_base._round("codes", light_base.Size(short=40, long=240), Path("x"))
    assert found["images_per_second"] == 20 and found["on_two_cores"] == 20 and found["mib"] == 110
    assert (found["photograph_seconds"], found["photograph_processor"], found["photograph_mib"]) == (3, 2, 200)
    assert (found["help_seconds"], found["help_processor"]) == (0.5, 0.25)
