"""The map of retained learning under defences: its numbers, its blanks, its place in the files of a report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from tests.support.report_results import TRIVIAL, run
from unseg.report.charts import WIDTH
from unseg.report.heat_map import grid_of, heat_panel, is_crossed
from unseg.report.model import Network
from unseg.report.sections import read_sections
from unseg.report.writing import write_report

# clean, clean+jpeg75, clean+grey; the trivial answer is 0.3
FINALS = {
    "clean": 0.9,
    "clean+jpeg75": 0.8,
    "clean+grey": 0.5,
    "protected": 0.42,
    "protected+jpeg75": 0.55,
    "lsp": 0.24,
    "lsp+grey": 0.5,
}


def write(folder: Path, finals: dict[str, float], networks: tuple[str, ...] = ("net",), seeds: int = 1) -> Path:
    runs = []
    for network in networks:
        for condition, final in finals.items():
            for seed in range(seeds):
                one = run(network, condition, seed, final=final + 0.02 * seed)
                one["settings"]["views"] = "practice"
                runs.append(one)
    facts = {"metric": "miou", "trivial": {"miou": TRIVIAL}, "train_images": 9, "test_images": 3}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"tasks": {"semantic": facts}, "runs": runs}))
    return folder


def network_of(folder: Path) -> Network:
    (section,) = read_sections(folder)
    return section.networks[0]


def texts(picture: Element) -> list[str]:
    return [node.text or "" for node in picture.iter("text")]


def test_clean_images_stand_above_what_is_divided_by_them(tmp_path: Path) -> None:
    grid = grid_of(network_of(write(tmp_path / "run", FINALS)), "mIoU")
    assert grid.rows[0] == "clean: mIoU" and grid.columns[0] == "none"
    assert sorted(grid.columns) == ["grey", "jpeg75", "none"]
    cells = {(grid.rows[row], grid.columns[column]): cell for (row, column), cell in grid.cells.items()}
    clean, protected = grid.rows[0], "protected"
    assert {key: cells[key].number for key in cells if key[0] == clean} == {
        (clean, "none"): "0.900",
        (clean, "jpeg75"): "0.800",
        (clean, "grey"): "0.500",
    }
    assert cells[clean, "none"].share is None
    assert cells[protected, "none"].number == "0.20"  # (0.42 - 0.3) / (0.9 - 0.3)
    assert cells[protected, "none"].share == pytest.approx(0.2)
    assert (protected, "grey") not in cells
    (lsp,) = (row for row in grid.rows if row.lower() == "lsp")
    assert cells[lsp, "none"].number == "-0.10" and cells[lsp, "none"].share == 0
    assert (lsp, "jpeg75") not in cells


def test_the_picture_shows_every_number_once_and_blanks_as_blanks(tmp_path: Path) -> None:
    grid = grid_of(network_of(write(tmp_path / "run", FINALS)), "mIoU")
    picture = heat_panel("net", grid)
    shown = texts(picture)
    assert [text for text in shown if "." in text and text[-1].isdigit()] == [
        cell.number for _, cell in sorted(grid.cells.items())
    ]
    filled = [node for node in picture.iter("rect") if node.get("fill-opacity")]
    assert len(filled) == len(grid.cells) - 3
    assert len(list(picture.iter("rect"))) - len(filled) == len(grid.rows) * len(grid.columns)
    assert picture.get("viewBox", "").split()[2] == str(WIDTH)


def test_many_defences_make_it_wider_and_tilt_their_names(tmp_path: Path) -> None:
    finals = {"clean": 0.9, **{f"clean+blur{number}+grey": 0.6 for number in range(1, 9)}}
    grid = grid_of(network_of(write(tmp_path / "run", finals)), "mIoU")
    picture = heat_panel("net", grid)
    assert float(picture.get("viewBox", "").split()[2]) > WIDTH and "wide" in picture.get("class", "")
    assert any("rotate(-45)" in node.get("transform", "") for node in picture.iter("text"))


def test_there_is_no_map_without_clean_images_under_a_defence(tmp_path: Path) -> None:
    finals = {"clean": 0.9, "protected": 0.4, "protected+jpeg75": 0.5}
    folder = write(tmp_path / "run", finals)
    assert not is_crossed(network_of(folder))
    assert "Under defences" not in write_report([folder]).paths[0].read_text(encoding="utf-8")


def test_the_map_is_on_the_page_and_a_file_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", FINALS, ("net", "other_net"), seeds=2)
    paths = {path.name: path for path in write_report([folder], charts=True).paths}
    svg = paths["report-defences.svg"].read_text(encoding="utf-8")
    picture = fromstring(svg.partition("\n")[2])
    names = [node.text for node in picture.iter() if node.tag.endswith("text") and node.get("class") == "heading"]
    assert names == ["net", "other_net"] and "<script" not in svg
    page = paths["report.html"].read_text(encoding="utf-8")
    assert "Under defences" in page and "(2 seeds)" in page and "Means over seeds." in page
    again = {path.name: path.read_bytes() for path in write_report([folder], charts=True).paths}
    assert again == {name: path.read_bytes() for name, path in paths.items()}
