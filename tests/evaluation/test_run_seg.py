"""eval/run_seg.sh: VOC's lists as folders, the table of classes, and the real script on a miniature VOC."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.mini_voc import TEST, TRAIN, write_voc
from unseg.commands import link_voc
from unseg.commands.class_table import class_tables
from unseg.data.voc import find_voc, link_splits, listed
from unseg.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "run_seg.sh"


# --- VOC's lists -----------------------------------------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("home", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_where_it_usually_lies(tmp_path: Path, home: str) -> None:
    voc = write_voc(tmp_path / "data" / home)
    assert find_voc(tmp_path / "data") == voc
    assert find_voc(tmp_path) is None


def test_lists_become_folders_of_links(tmp_path: Path) -> None:
    voc, out = write_voc(tmp_path / "voc"), tmp_path / "out" / "voc"
    assert link_splits(voc, out) == {"train": 6, "test": 3}
    assert names_in(out / "images/train") == [f"{name}.jpg" for name in TRAIN]
    assert names_in(out / "labels/test") == [f"{name}.png" for name in TEST]
    link = out / "labels/train" / f"{TRAIN[0]}.png"
    assert link.is_symlink() and link.resolve() == (voc / "SegmentationClass" / link.name).resolve()
    (voc / "ImageSets/Segmentation/train.txt").write_text(f"{TRAIN[2]}\n")
    assert link_splits(voc, out) == {"train": 1, "test": 3}
    assert names_in(out / "images/train") == [f"{TRAIN[2]}.jpg"]  # nothing of the longer list is left


def test_list_files_of_every_form(tmp_path: Path) -> None:
    voc, file = write_voc(tmp_path / "voc"), tmp_path / "mine.txt"
    file.write_text(
        "\n2007_000001\n/JPEGImages/2007_000003.jpg /SegmentationClassAug/2007_000003.png\n"
        "2007_000001\n2007_000000.png\n"
    )
    assert listed(voc, str(file)) == ["2007_000001", "2007_000003", "2007_000000"]
    assert listed(voc, "val") == list(TEST)
    assert listed(voc, "none") is None
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="mine.txt: cannot be read as a list"):
        listed(voc, str(file))


def test_the_augmented_list_is_made_of_the_labels_that_are_not_tested_on(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc")
    with pytest.raises(UserError, match="train_aug.txt: no such file"):
        link_splits(voc, tmp_path / "out", "train_aug")
    (voc / "SegmentationClassAug").mkdir()
    for name in (*TRAIN[:4], *TEST):
        (voc / "SegmentationClassAug" / f"{name}.png").write_bytes(
            (voc / "SegmentationClass" / f"{name}.png").read_bytes()
        )
    assert link_splits(voc, tmp_path / "out", "train_aug") == {"train": 4, "test": 3}
    link = tmp_path / "out/labels/train" / f"{TRAIN[0]}.png"
    assert link.resolve().parent.name == "SegmentationClassAug"
    assert (tmp_path / "out/labels/test" / f"{TEST[0]}.png").resolve().parent.name == "SegmentationClass"


def test_what_is_missing_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    voc, out = write_voc(tmp_path / "voc"), tmp_path / "out"
    lists = voc / "ImageSets/Segmentation"
    with pytest.raises(UserError, match=r"trainval.txt: no such file; .*TRAIN_LIST"):
        link_splits(voc, out, train_list="trainval")
    with pytest.raises(UserError, match=r"test.txt: no such file; .*TEST_LIST"):
        link_splits(voc, out, test_list="test")
    (lists / "both.txt").write_text(f"{TRAIN[0]}\n{TEST[1]}\n")
    with pytest.raises(UserError, match=f"{TEST[1]} is in the training list both and in the test list val"):
        link_splits(voc, out, train_list="both")
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="empty.txt: names no image"):
        link_splits(voc, out, train_list="empty")
    (voc / "JPEGImages" / f"{TRAIN[1]}.jpg").unlink()
    with pytest.raises(
        UserError, match=rf"{TRAIN[1]}.jpg: no such file, but the train list names it \(1 are missing\)"
    ):
        link_splits(voc, out)
    assert not out.exists()


def test_links_find_files_whose_names_are_written_in_another_way(tmp_path: Path) -> None:
    """A list of Windows with a byte order mark, an image .JPG, a label .PNG, and a name with a space."""
    voc, out = write_voc(tmp_path / "voc"), tmp_path / "out"
    images, labels = voc / "JPEGImages", voc / "SegmentationClass"
    (images / f"{TRAIN[0]}.jpg").rename(images / f"{TRAIN[0]}.JPG")
    (labels / f"{TRAIN[1]}.png").rename(labels / f"{TRAIN[1]}.PNG")
    (images / f"{TRAIN[2]}.jpg").rename(images / "a b.jpg")
    (labels / f"{TRAIN[2]}.png").rename(labels / "a b.png")
    names = [TRAIN[0], f"{TRAIN[1]} 1", "a b", TRAIN[3]]
    (voc / "ImageSets/Segmentation/odd.txt").write_text("\r\n".join(names), "utf-16")
    assert link_splits(voc, out, train_list="odd") == {"train": 4, "test": 3}
    linked = {path.name for path in (out / "images/train").iterdir()}
    assert linked == {f"{TRAIN[0]}.JPG", f"{TRAIN[1]}.jpg", "a b.jpg", f"{TRAIN[3]}.jpg"}
    assert f"{TRAIN[1]}.PNG" in {path.name for path in (out / "labels/train").iterdir()}


def test_a_folder_that_is_not_ours_stays(tmp_path: Path) -> None:
    voc, out = write_voc(tmp_path / "voc"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="out: is in the way"):
        link_splits(voc, out)
    assert (out / "thesis.txt").read_text() == "mine"
    link_splits(voc, tmp_path / "made")
    (tmp_path / "link").symlink_to(tmp_path / "made")
    with pytest.raises(UserError, match="link: is in the way"):
        link_splits(voc, tmp_path / "link")
    assert len(names_in(tmp_path / "made/images/train")) == 6


def test_another_set_is_read_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in link_voc.SPLITS:
        (tmp_path / "set" / folder).mkdir(parents=True)
    arguments = [str(tmp_path / "set"), str(tmp_path / "out"), "train", "val", ""]
    assert link_voc.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'set'}\n"
    (tmp_path / "set/labels/test").rmdir()
    assert link_voc.main(arguments) == 2
    assert "neither JPEGImages (Pascal VOC) nor labels/test" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- the table of classes --------------------------------------------------------------------------------------------


def run_of(condition: str, seed: int, iou: dict[str, float | None]) -> dict:
    known = [value for value in iou.values() if value is not None]
    return {
        "settings": {"task": "semantic", "network": "net", "condition": condition, "seed": seed},
        "result": {"metrics": {"miou": sum(known) / len(known), "class_iou": iou}},
    }


def test_classes_stand_beside_each_other() -> None:
    results = {
        "tasks": {},
        "runs": [
            run_of("protected", 0, {"sky": 0.25, "road": 0.05, "bus": None}),
            run_of("clean", 0, {"sky": 0.5, "road": 0.7, "bus": None}),
            run_of("clean", 1, {"sky": 0.7, "road": 0.9, "bus": None}),
        ],
    }
    ((heading, table),) = class_tables(results).items()
    assert heading == "semantic, net: IoU on clean test images, in percent"
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns == {
        "class": ["sky", "road", "bus", "mean"],
        "clean": ["60.0±14.1", "80.0±14.1", "–", "70.0±14.1"],  # sd of two values: their distance / √2
        "protected": ["25.0", "5.0", "–", "15.0"],
    }


def test_other_tasks_have_no_table_of_classes() -> None:
    results = {
        "tasks": {},
        "runs": [
            {
                "settings": {"task": "interactive", "network": "net", "condition": "clean", "seed": 0},
                "result": {"metrics": {"iou": 0.5}},
            }
        ],
    }
    assert class_tables(results) == {}


# --- the script ------------------------------------------------------------------------------------------------------


def run_script(folder: Path, **settings: object) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in ("DATA_ROOT", "DETECTRON2_DATASETS")}
    return subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**kept, **{name: str(value) for name, value in settings.items()}},
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "DATA_ROOT is not set"),
        ({"DATA_ROOT": "x", "EPOCHS": "many"}, "EPOCHS=many: give a whole number from 1"),
        ({"DATA_ROOT": "x", "BATCH": "1"}, "BATCH=1: give a whole number from 2"),
        ({"DATA_ROOT": "x", "BATCH": "08"}, "BATCH=08: give a whole number from 2"),
        ({"DATA_ROOT": "x", "EPOCHS": "9" * 20}, f"EPOCHS={'9' * 20}: give a whole number from 1"),
        ({"DATA_ROOT": "x", "STEPS": "0"}, "STEPS=0: give a whole number from 1"),
        ({"DATA_ROOT": "x", "NPROC": "0"}, "NPROC=0: give a whole number from 1"),
        ({"DATA_ROOT": "x", "PROTECTED": "y"}, "PROTECTED=y: no such folder"),
        ({"DATA_ROOT": "x", "WEIGHTS": "y.params"}, "WEIGHTS=y.params: no such file"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    ended = run_script(tmp_path, **settings)
    assert ended.returncode == 2 and said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and not names_in(tmp_path)


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_clean_and_protected_voc_are_compared(tmp_path: Path) -> None:
    """The whole way: protects, trains a narrow network for four steps on each, tests, prints."""
    voc = write_voc(tmp_path / "data/VOCdevkit/VOC2012")
    before = bytes_of(tmp_path / "data")
    ended = run_script(
        tmp_path,
        DETECTRON2_DATASETS=tmp_path / "data",
        OUT="out",
        NGPU=0,
        WIDTH=0.0625,
        SIZE="49x49",
        BATCH=2,
        EPOCHS=1,
        COLUMNS=100,
    )
    assert ended.returncode == 0, ended.stderr
    assert bytes_of(tmp_path / "data") == before
    out = tmp_path / "out"
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [run["settings"]["condition"] for run in runs] == ["clean", "protected"]
    for run in runs:
        settings, result = run["settings"], run["result"]
        assert (
            settings["network"],
            settings["steps"],
            settings["batch"],
            settings["optimizer"],
            settings["decay"],
        ) == ("deeplabv1_resnet38", 3, 2, "sgd", "poly")
        assert (settings["momentum"], settings["weight_decay"], settings["learning_rate"]) == (0.9, 1e-5, 7e-4)
        iou = result["metrics"]["class_iou"]
        present = [name for name, value in iou.items() if value is not None]
        assert present == ["background", "cat", "person"] and len(iou) == 21
        assert result["metrics"]["miou"] == pytest.approx(np.mean([iou[name] for name in present]))
        example = result["examples"][0]
        assert Pillow.open(out / example["prediction"]).size == Pillow.open(voc / "JPEGImages" / f"{TEST[0]}.jpg").size
    assert runs[1]["result"]["quality"]["max_change_object"] == 8
    assert runs[1]["result"]["quality"]["max_change_background"] <= 2
    shown = {
        name: f"{100 * runs[0]['result']['metrics']['class_iou'][name]:.1f}" for name in ("background", "cat", "person")
    }
    for name, value in shown.items():
        assert re.search(rf"^{name} +{re.escape(value)} ", ended.stdout, re.MULTILINE), ended.stdout
    assert re.search(r"^mean +[\d.]+ +[\d.]+", ended.stdout, re.MULTILINE)
    assert "starts from random weights" in ended.stdout
