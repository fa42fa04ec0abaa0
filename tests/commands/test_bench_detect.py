"""unseg bench --detect on a miniature: what it reads, what it tells, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.measuring_folders import write_image
from unseg import cli
from unseg.evaluation import time_to_detect as module
from unseg.evaluation.time_to_detect import Detecting, Question, Window


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs with two objects each and their protected versions, made once."""
    root = tmp_path_factory.mktemp("detect")
    for number in range(10):
        write_image(root / f"photos/{number}.png", 48, 70, seed=number)
        mask = np.zeros((48, 70), np.uint8)
        mask[4:20, 5 : 30 + number], mask[30:46, 40:66] = 255, 255
        (root / "masks").mkdir(exist_ok=True)
        Pillow.fromarray(mask).save(root / f"masks/{number}.png")
    assert cli.main(["protect", str(root / "photos"), "--masks", str(root / "masks"), "--out", str(root / "out")]) == 0
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """What would be asked of a network; its answers are those of one that finds the noise at once."""
    questions: list[Question] = []

    def answered(question: Question, options: Detecting, **more: object) -> list[Window]:
        questions.append(question)
        return [Window(50, 0.7, 0.7), Window(100, 0.88, 0.88), Window(150, 0.93, 0.93)]

    monkeypatch.setattr(module, "time_to_detect", answered)
    return questions


def test_the_folder_is_asked_about_and_the_verdict_told(
    folder: Path, asked: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--detect", str(folder / "out"), "--out", str(tmp_path / "found"), "--seeds", "3"]
    assert cli.main(command) == 0
    assert "would take the bait: it sees the noise" in capsys.readouterr().out
    content = json.loads((tmp_path / "found/detect.json").read_text())
    assert (content["answer"], content["images"], content["parts"], content["seed"]) == ("yes", 10, 20, 3)
    assert content["windows"][2] == {"step": 150, "accuracy": 0.93, "told": 0.93}
    (question,) = asked
    original, protected = (np.array(Pillow.open(folder / name / "4.png")) for name in ("photos", "out"))
    for seed in range(8):
        pixels, wanted = question.visit(4, np.random.default_rng(seed))
        for part in ((slice(4, 20), slice(5, 34)), (slice(30, 46), slice(40, 66))):
            (answer,) = set(wanted[part].ravel().tolist())
            assert np.array_equal(pixels[part], (protected if answer else original)[part])
        assert (wanted[24] == 255).all()
    assert cli.main(command) == 2
    assert "holds a detect.json already" in capsys.readouterr().err


def test_json_alone_is_on_standard_output(
    folder: Path, asked: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--detect", str(folder / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "yes"


def test_originals_may_have_moved(folder: Path, asked: list[Question], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos").rename(folder / "elsewhere")
    command = ["bench", "--detect", str(folder / "out")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # below the bar
    assert error.startswith("unseg: error: ") and "0.png" in error and "is not there: give --originals" in error
    assert cli.main([*command, "--originals", str(folder / "elsewhere")]) == 0 and len(asked) == 1


def test_an_interrupt_does_not_say_that_anything_is_kept(
    folder: Path, asked: list[Question], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(question: Question, *arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unseg.evaluation.time_to_detect.time_to_detect", interrupted)
    assert cli.main(["bench", "--detect", str(folder / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "unseg: interrupted; nothing is kept of a measurement that takes minutes, run the same command again"
    )


def test_what_cannot_be_measured_is_one_line(
    folder: Path, asked: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    manifest = folder / "out/unseg-manifest.jsonl"
    lines = manifest.read_text().splitlines()
    few = folder / "few"
    shutil.copytree(folder / "out", few)
    (few / manifest.name).write_text("\n".join(lines[:5]) + "\n")
    nothing = folder / "nothing"
    nothing.mkdir()
    (nothing / manifest.name).write_text(lines[0] + "\n")
    for arguments, told in (
        (["--detect", str(tmp_path / "gone")], "no such folder"),
        (["--detect", str(tmp_path / "empty")], "no unseg-manifest.jsonl in it"),
        (["--detect", str(nothing)], "no image in it is protected"),
        (["--detect", str(few)], "4 of 4 images show a part with noise, at least 8 are needed"),
        (["--detect", str(few), "--long-side", "10"], "--long-side 10: give at least 64"),
        (["--detect", str(few), "--data-root", str(folder)], "--data-root: is for the matrix"),
        (["--detect", str(few), "--dry-run"], "--dry-run: is for the matrix"),
        (["--detect", str(few), "--steps", "300"], "--steps: is for the matrix"),
        (["--data-root", str(folder), "--out", str(tmp_path / "o"), "--json"], "--json: is for --detect DIR"),
        (["--data-root", str(folder)], "--out: is needed, unless you give --detect DIR"),
        ([], "--data-root: is needed"),
    ):
        assert cli.main(["bench", *arguments]) == 2, arguments
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("unseg: error: ") and told in error, error
    assert not asked
