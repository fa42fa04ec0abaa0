"""Retained learning under defences on the page: against clean images that went through the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.report_results import results, run, write
from unseg.report import text
from unseg.report.model import Section
from unseg.report.sections import read_sections

FINALS = {"clean": 0.9, "clean+grey": 0.5, "protected+grey": 0.35, "protected+jpeg75": 0.45}  # trivial: 0.3


def section_of(folder: Path, settings: dict[str, object]) -> Section:
    runs = [run(condition=name, final=final) for name, final in FINALS.items()]
    for one in runs:
        one["settings"] |= settings
        if "views" in settings:
            del one["settings"]["size"]
    return read_sections(write(folder, results(runs)))[0]


def retained(section: Section) -> dict[str, float | None]:
    return {condition.name: condition.runs[0].retained for condition in section.networks[0].conditions}


def test_views_as_people_train_leave_a_cell_blank_without_its_clean_run(tmp_path: Path) -> None:
    section = section_of(tmp_path, {"views": "practice", "crop": 144, "distort": True})
    found = retained(section)
    assert found["protected+grey"] == pytest.approx(0.05 / 0.2) and found["protected+jpeg75"] is None
    assert "crops of 144 pixels" in section.subtitle and "and the same defences" in text.table_note(section)


def test_runs_of_before_keep_their_numbers(tmp_path: Path) -> None:
    section = section_of(tmp_path, {})
    found = retained(section)
    assert found["protected+grey"] == pytest.approx(0.05 / 0.2) and found["protected+jpeg75"] == pytest.approx(0.25)
    assert "128×96 pixels" in section.subtitle and "defences" not in text.table_note(section)
