"""unseg bench on a miniature: the plan, the run, the tables, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.measuring_folders import mini_camvid, mini_carparts, write_labels
from unseg import cli

SMALL = ["--networks", "unet_resnet18", "--steps", "2", "--batch", "2", "--crop", "32", "--device", "cpu"]


def command(root: Path, *more: str) -> list[str]:
    return ["bench", "--data-root", str(root), "--out", str(root / "out"), "--sets", "camvid-binary", *SMALL, *more]


def test_the_plan_is_told_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini_camvid(tmp_path)
    arguments = command(tmp_path, "--noises", "random", "--defences", "grey", "--dry-run")
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "4 trainings, 0 of them done" in told and "from a trial of a few steps" in told
    assert [line.split()[1] for line in told.splitlines() if line.startswith("camvid-binary")] == [
        "clean",
        "random",
        "clean+grey",
        "random+grey",
    ]
    assert not (tmp_path / "out").exists()


def test_the_matrix_is_trained_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini_camvid(tmp_path)
    arguments = command(tmp_path, "--noises", "random", "--defences", "grey")
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "4 of 4: camvid-binary" in told and "clean: mIoU" in told and "random noise" in told
    path = tmp_path / "out/camvid-binary/results.json"
    assert f"unseg report {path.parent}" in told
    before = path.read_bytes()
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "4 trainings, 4 of them done; the rest takes about 0.0 hours" in capsys.readouterr().out
    assert cli.main(arguments) == 0 and path.read_bytes() == before
    assert len(json.loads(before)["runs"]) == 4


def test_other_steps_are_refused_in_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini_camvid(tmp_path)
    assert cli.main(command(tmp_path, "--noises", "clean", "--defences", "none")) == 0
    capsys.readouterr()
    for noises in ("random", "clean"):  # also where nothing is left to train
        for more in ([], ["--dry-run"]):
            assert cli.main(command(tmp_path, "--noises", noises, "--defences", "none", "--steps", "3", *more)) == 2
            assert "steps" in capsys.readouterr().err


def test_other_labels_are_refused_in_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini_camvid(tmp_path)
    assert cli.main(command(tmp_path, "--noises", "clean", "--defences", "none")) == 0
    label = next((tmp_path / "camvid/labels/val").iterdir())
    write_labels(label, np.zeros((24, 48)))
    assert cli.main(command(tmp_path, "--noises", "clean", "--defences", "none")) == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--sets", "carparts,camvid-binary"], "Car Parts"),
        (["--sets", "voc"], "--sets: unknown set 'voc'"),
        (["--noises", "protected"], "--generator"),
        (["--noises", "codes-learned"], "--learned"),
        (["--noises", "codes-learned", "--learned", "no.safetensors"], "no.safetensors"),
        (["--defences", "jpeg75,rot13"], "--defences rot13: unknown defence 'rot13'"),
        (["--defences", "denoise"], "ccp, or leave denoise, which learns from its first images, out of --defences"),
        (["--networks", "maskrcnn_resnet50_fpn"], "maskrcnn_resnet50_fpn"),
        (["--limit-hours", "0"], "--limit-hours 0.0: give a number above 0"),
        (["--threads", "0"], "--threads 0: give a whole number from 1 to 1,024"),
        (["--threads", "99999999999"], "--threads 99999999999: give a whole number from 1 to 1,024"),
        (["--learned", "no.pt"], "--learned no.pt: makes the noise codes-learned, which is not among --noises"),
        (["--generator", "no.pt"], "--generator no.pt: makes the noise protected, which is not among --noises"),
        (["--freeze", "head"], "--freeze head: give encoder"),
        (["--crop", "8"], "--crop 8"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_trained(
    more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mini_camvid(tmp_path)
    assert cli.main(command(tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("unseg: error: ") and error.count("\n") == 1 and told in error
    assert not (tmp_path / "out").exists()


def test_car_parts_are_trained_with_outlines(tmp_path: Path) -> None:
    mini_carparts(tmp_path)
    arguments = command(tmp_path, "--sets", "carparts", "--noises", "lsp", "--defences", "none")
    assert cli.main(arguments) == 0
    content = json.loads((tmp_path / "out/carparts/results.json").read_text())
    assert [run["settings"]["condition"] for run in content["runs"]] == ["clean", "lsp"]
    quality = content["runs"][1]["result"]["quality"]
    assert 0 < quality["max_change_object"] <= 8 and quality["max_change_background"] <= 2
    assert content["tasks"]["semantic"]["train_images"] == 1
    assert len(content["runs"][0]["result"]["metrics"]["class_iou"]) == 19
