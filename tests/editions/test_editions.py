"""Unlearnable editions: each script on a miniature of its data set, the drop-in promise, names, what is left alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.edition_sets import BUILDERS, HEIGHT, LEFT, RIGHT, RING, WIDTH, Mini, class_map
from tests.support.light_base import BLOCK
from unseg import cli
from unseg.data.edition_catalog import EDITIONS
from unseg.editions.audit import verify_edition
from unseg.editions.carried import CARRIED
from unseg.editions.description import EDITION
from unseg.protecting.manifest import MANIFEST, Entry, read_manifest
from unseg.storage.key_file import key_beside

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "DATA_ROOT",
    "DETECTRON2_DATASETS",
    "LINKED_ROOTS",
    "OUT",
    "SPLIT",
    "SET",
    "ANNOTATIONS",
    "OBJECTS",
    "EPSILON",
    "BACKGROUND_EPSILON",
    "REGION",
    "GENERATOR",
    "NAMES",
    "FORMAT",
    "VAL",
    "LIMIT",
    "DRY_RUN",
    "NGPU",
    "NPROC",
    "SHARD",
    "ENGINE",
)
BUDGETS = {name: (4, 0) if name == "medical" else (8, 0) for name in BUILDERS}


@dataclass(frozen=True)
class Made:
    mini: Mini
    out: Path
    code: int
    told: str


def environment(root: Path, out: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "DATA_ROOT": str(root), "OUT": str(out), "NGPU": "0", **settings}


def tree_of(name: str, folder: Path, python: str) -> Path:
    """Returns the real script in a tree of its own. python: what its environment, of install.sh's making, runs."""
    tree = folder / "tree"
    (tree / "scripts").mkdir(parents=True)
    (tree / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / f"generate_{name}.sh", tree / "scripts")
    (tree / "generate").symlink_to(ROOT / "generate")
    (tree / "install.sh").write_text("true\n")
    interpreter = tree / ".venv" / "bin" / "python"
    interpreter.write_text(f"#!/bin/sh\n{python}\n")
    interpreter.chmod(0o755)
    return tree / "scripts" / f"generate_{name}.sh"


def run_script(name: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs the script with this interpreter, from a folder that has nothing to do with it."""
    script = tree_of(name, folder, f'exec "{sys.executable}" "$@"')
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return subprocess.run(["bash", script], env=variables, cwd=elsewhere, capture_output=True, text=True, timeout=600)


def run_script_here(name: str, folder: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Runs the script up to its interpreter, and what that was to run in this process, which has torch already."""
    script = tree_of(name, folder, f'printf "%s\\n" "$@" > "{folder}/arguments"; env -0 > "{folder}/variables"')
    subprocess.run(["bash", script], env=variables, cwd=folder, check=True, timeout=60)
    arguments = (folder / "arguments").read_text().splitlines()
    passed = dict(line.split("=", 1) for line in (folder / "variables").read_text().split("\0") if line)
    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setattr(sys, "argv", arguments)
        for variable in SETTINGS:
            patch.delenv(variable, raising=False)
            if variable in passed:
                patch.setenv(variable, passed[variable])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(arguments[0], run_name="__main__")
    return end.value.code, told.buffer.getvalue().decode()


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the script of a data set made of its miniature, with everything at its default."""
    folder = tmp_path_factory.mktemp(request.param)
    mini = BUILDERS[request.param](folder / "data")
    for path in (folder / "data").rglob("*.json"):  # read-only sources work
        path.chmod(0o444)
    variables = environment(folder / "data", folder / "out")
    if request.param == "pascal":  # one by a real interpreter is enough: a start takes seconds
        result = run_script(request.param, folder, variables)
        return Made(mini, folder / "out", result.returncode, result.stdout + result.stderr)
    return Made(mini, folder / "out", *run_script_here(request.param, folder, variables))


every_set = pytest.mark.parametrize("made", list(BUILDERS), indirect=True, scope="module")


def name_of(made: Made) -> str:
    return json.loads((made.out / EDITION).read_text())["dataset"]


def files_in(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}


def entries_of(out: Path) -> dict[str, Entry]:
    return {entry.input: entry for entry in read_manifest(out).entries.values()}


def pixels(path: Path) -> np.ndarray:
    """H×W×C int; read by content, whatever the name says."""
    values = np.asarray(Pillow.open(path)).astype(int)
    return values if values.ndim == 3 else values[..., None]


def check_bound(
    mini: Mini, out: Path, name: str, mask: np.ndarray, budget: tuple[int, int], output: str | None = None
) -> None:
    original, changed = pixels(mini.root / name), pixels(out / (output or name))
    change = np.abs(changed - original).max(axis=2)
    assert original.shape == changed.shape
    assert 0 < change[mask].max() <= budget[0] and change[~mask].max(initial=0) <= budget[1], name
    if original.shape[2] == 3:  # grey levels hardly show a tint
        assert change[mask].max() == budget[0], name


@every_set
@pytest.mark.slow
def test_a_script_writes_the_edition(made: Made) -> None:
    mini, out = made.mini, made.out
    assert made.code == 1, made.told  # an image without an object, and one that is not there
    assert set(files_in(out)) == {*mini.objects, *mini.bare, *mini.untouched, *mini.carried, MANIFEST, EDITION, CARRIED}
    entries = entries_of(out)
    assert {name: entry.status for name, entry in entries.items()} == {
        **dict.fromkeys(mini.objects, "protected"),
        **dict.fromkeys(mini.bare, "copied"),
        **dict.fromkeys(mini.absent, "failed"),
    }
    budget = BUDGETS[name_of(made)]
    for name, mask in mini.objects.items():
        check_bound(mini, out, name, mask, budget)
        if entries[name].prompt != "classes":  # whose hash is that of the class map
            assert entries[name].mask_sha256 == hashlib.sha256(np.packbits(mask)).hexdigest(), name
        assert (entries[name].object_budget, entries[name].background_budget) == budget
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    for name in {*mini.bare, *mini.untouched, *mini.carried}:
        assert (out / name).read_bytes() == (mini.root / name).read_bytes(), name
        assert (out / name).stat().st_ino != (mini.root / name).stat().st_ino and not (out / name).is_symlink()
    for name in mini.absent:
        assert name in made.told


# Which sets' own masks leave no pixel open, so that one pattern on all of them would tell a network nothing.
COVERED = {"ade20k", "camvid", "cityscapes", "coco"}


@every_set
def test_classes_are_told_apart_where_they_cover_the_images(made: Made) -> None:
    header = json.loads((made.out / MANIFEST).read_text().splitlines()[0])
    covered = name_of(made) in COVERED
    assert header["codes"]["objects"] == ("by-class" if covered else "all"), header["codes"]["reason"]
    assert not covered or set(header["codes"]["codes"].values()) >= {1, 2}


@every_set
@pytest.mark.slow
def test_a_second_run_does_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> dict[str, tuple]:
        return {
            name: (path.stat().st_mtime_ns, path.stat().st_ino) if name != MANIFEST else path.read_bytes()
            for name, path in files_in(made.out).items()
        }

    before = state()
    assert run(made.mini.root, made.out, name_of(made), monkeypatch) == 1
    assert state() == before


@every_set
@pytest.mark.slow
def test_verify_proves_the_edition(made: Made, tmp_path: Path) -> None:
    result = verify_edition(made.out)
    assert (result.failures, result.extra, result.missing, result.other_files) == ([], (), (), ())
    assert len(result.findings) == len(made.mini.objects)
    assert {item.name for item in result.unprotected} == made.mini.bare | made.mini.absent
    on_object, elsewhere = result.largest_changes()
    assert (on_object, elsewhere) == BUDGETS[name_of(made)]
    copy = tmp_path / "out"  # elsewhere, with other contents
    shutil.copytree(made.out, copy)
    label = sorted(made.mini.carried)[0]
    (copy / label).chmod(0o644)
    (copy / label).write_bytes(b"changed")
    lost = sorted(made.mini.untouched | made.mini.carried)[-1]
    (copy / lost).unlink()
    (copy / "stranger.txt").touch()
    result = verify_edition(copy, originals=made.mini.root)
    assert {item.name: item.problem.split(" ")[0] for item in result.other_files} == {label: "changed", lost: "missing"}
    assert result.extra == ("stranger.txt",) and lost in result.missing and result.exit_code == 1


def run(root: Path, out: Path, name: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> int:
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"DATA_ROOT": str(root), "OUT": str(out), "NGPU": "0", **settings}.items():
        monkeypatch.setenv(variable, value)
    return cli.main(["edition", name])


def loads(name: str) -> object:
    return pytest.mark.parametrize("made", [name], indirect=True, scope="module")


@pytest.mark.parametrize("variable", ["DATA_ROOT", "KEY", "CODES", "LINKED_ROOTS"])
def test_a_place_in_a_store_is_one_line(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(tmp_path, tmp_path / "out", "camvid", monkeypatch, **{variable: "s3://bucket/set"})
    assert code == 2 and not list(tmp_path.iterdir())
    told = f"unseg: error: {variable}=s3://bucket/set: editions read folders of this machine"
    assert told in " ".join(capsys.readouterr().err.split())


@loads("pascal")
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_torchvision_reads_the_voc_edition_from_a_changed_root(made: Made, split: str) -> None:
    from torchvision.datasets import VOCSegmentation

    clean, changed = (VOCSegmentation(root, "2012", split) for root in (made.mini.root, made.out))
    assert [Path(path).name for path in changed.images] == [Path(path).name for path in clean.images]
    there = [index for index, path in enumerate(clean.images) if Path(path).is_file()]
    assert len(there) == (4 if split == "train" else 1)
    for index in there:
        (image, labels), (new_image, new_labels) = clean[index], changed[index]
        assert image.size == new_image.size and image.mode == new_image.mode
        assert np.array_equal(np.asarray(labels), np.asarray(new_labels)) and new_labels.mode == "P"


@loads("coco")
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_the_coco_edition_from_a_changed_root(made: Made, split: str) -> None:
    compare_coco(made.mini.root, made.out, split)


def compare_coco(source: Path, edition: Path, split: str) -> None:
    from torchvision.datasets import CocoDetection

    clean, changed = (
        CocoDetection(root / f"coco/{split}2017", root / f"coco/annotations/instances_{split}2017.json")
        for root in (source, edition)
    )
    assert clean.ids == changed.ids
    there = [
        index
        for index, number in enumerate(clean.ids)
        if (source / f"coco/{split}2017" / clean.coco.loadImgs(number)[0]["file_name"]).is_file()
    ]
    assert len(there) == (4 if split == "train" else 1)
    for index in there:
        (image, targets), (new_image, new_targets) = clean[index], changed[index]
        assert image.size == new_image.size == (WIDTH, HEIGHT) and targets == new_targets
        for target in new_targets:
            assert np.array_equal(clean.coco.annToMask(target), changed.coco.annToMask(target))


@loads("cityscapes")
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_torchvision_reads_the_cityscapes_edition_from_a_changed_root(made: Made, split: str) -> None:
    from torchvision.datasets import Cityscapes

    clean, changed = (
        Cityscapes(root / "cityscapes", split, target_type=["instance", "semantic", "polygon", "color"])
        for root in (made.mini.root, made.out)
    )
    order = {Path(path).name: index for index, path in enumerate(changed.images)}
    assert len(clean) == len(changed) == (3 if split == "train" else 1)
    for index, path in enumerate(clean.images):
        (image, targets), (new_image, new_targets) = clean[index], changed[order[Path(path).name]]
        assert image.size == new_image.size and targets[2] == new_targets[2]
        for place in (0, 1, 3):
            assert np.array_equal(np.asarray(targets[place]), np.asarray(new_targets[place]))


@loads("interactive")
@pytest.mark.slow
def test_training_reads_the_interactive_edition_from_a_changed_root(made: Made) -> None:
    from unseg.data.catalog import HQSEG_TRAIN, pair_set

    for row in HQSEG_TRAIN:
        clean, changed = pair_set(made.mini.root, row), pair_set(made.out, row)
        assert [pair.name for pair in changed.pairs] == [pair.name for pair in clean.pairs] and clean.pairs


@loads("coco")
@pytest.mark.slow
def test_two_processes_write_the_same_bytes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    out = made.out.parent / "two"
    assert run(made.mini.root, out, "coco", monkeypatch, NPROC="2", KEY=str(key_beside(made.out))) == 1
    one, two = files_in(made.out), files_in(out)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name].read_bytes() != two[name].read_bytes()] == []


# --- settings, in this process ---------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path: Path) -> Mini:
    return BUILDERS["coco"](tmp_path / "data")


def test_new_names_reach_lists_that_name_files_with_their_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With columns, byte order marks, other line ends and a suffix in another case; names without suffix stay."""
    mini, out = BUILDERS["pascal"](tmp_path / "data"), tmp_path / "out"
    home = "VOCdevkit/VOC2012/ImageSets/Segmentation"
    lists = mini.root / home
    before = (
        "\ufeff/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\r\n2007_000039.JPG \r\n2007_000063\r\n"
        "2007_000068.jpg\r\n\r\nJPEGImages\\2007_000121.jpg"
    )
    after = before.replace("2007_000032.jpg", "2007_000032.png").replace("2007_000039.JPG", "2007_000039.png")
    (lists / "train.txt").write_bytes(before.encode("utf-16-le"))
    assert run(mini.root, out, "pascal", monkeypatch, NAMES="png") == 1
    assert (out / home / "train.txt").read_bytes() == after.encode("utf-16-le")  # 2007_000068 has no object
    assert (out / home / "val.txt").read_bytes() == (lists / "val.txt").read_bytes()
    assert list(json.loads((out / EDITION).read_text())["rewritten"]) == [f"{home}/train.txt"]
    assert verify_edition(out).failures == []
    assert run(mini.root, tmp_path / "again", "pascal", monkeypatch, KEY=str(key_beside(out))) == 1
    assert (tmp_path / "again" / home / "train.txt").read_bytes() == before.encode("utf-16-le")


@pytest.mark.slow
def test_new_names_reach_the_json_and_nothing_else_changes(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(coco.root, out, "coco", monkeypatch, NAMES="png", ANNOTATIONS="instances", VAL="link") == 1
    mini = BUILDERS["coco"](tmp_path / "again", annotations="instances")  # stuff is no instance
    for name, mask in mini.objects.items():
        check_bound(coco, out, name, mask, (8, 2), str(Path(name).with_suffix(".png")))
        assert not (out / name).exists()
    renamed = {Path(name).name: Path(name).with_suffix(".png").name for name in mini.objects}
    assert len(renamed) == 2
    for kind in ("instances", "panoptic"):
        path = Path("coco/annotations") / f"{kind}_train2017.json"
        before, after = (json.loads((root / path).read_text()) for root in (coco.root, out))
        for image in before["images"]:
            image["file_name"] = renamed.get(image["file_name"], image["file_name"])
        assert after == before
    compare_coco(coco.root, out, "train")
    compare_coco(coco.root, out, "val")
    edition = json.loads((out / EDITION).read_text())
    assert edition["rewritten"] == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("coco/annotations/instances_train2017.json", "coco/annotations/panoptic_train2017.json")
    }
    assert (out / "coco/val2017/000000000139.jpg").is_symlink() and edition["carried"]["linked"] == 1
    result = verify_edition(out)
    assert (result.failures, result.extra, result.other_files) == ([], (), ())
    before = {name: path.lstat().st_mtime_ns for name, path in files_in(out).items() if name != MANIFEST}
    assert run(coco.root, out, "coco", monkeypatch, NAMES="png", ANNOTATIONS="instances", VAL="link") == 1
    assert {name: path.lstat().st_mtime_ns for name, path in files_in(out).items() if name != MANIFEST} == before


def test_a_dry_run_writes_nothing_and_finds_the_problems(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in files_in(tmp_path).items()}
    assert run(coco.root, tmp_path / "out", "coco", monkeypatch, DRY_RUN="1") == 1
    told = capsys.readouterr().out
    assert "000000000999.jpg" in told and "000000000034.jpg: no object" in told and "nothing was written" in told
    assert "10 annotation files and untouched images come along" in told
    assert {name: path.stat().st_mtime_ns for name, path in files_in(tmp_path).items()} == before


def test_a_limited_run_is_a_try_and_the_whole_goes_on_from_it(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, first = tmp_path / "out", min(coco.objects)
    assert run(coco.root, out, "coco", monkeypatch, LIMIT="1") == 0
    assert set(files_in(out)) == {first, MANIFEST, EDITION, CARRIED}
    assert "run it without LIMIT to complete it" in capsys.readouterr().out
    assert not json.loads((out / EDITION).read_text())["complete"]
    tried = verify_edition(out)
    assert tried.exit_code == 1 and [finding.name for finding in tried.other_files] == [EDITION]
    assert "made with LIMIT, which brings no annotations" in tried.other_files[0].problem
    time_ns = (out / first).stat().st_mtime_ns
    assert run(coco.root, out, "coco", monkeypatch) == 1
    assert (out / first).stat().st_mtime_ns == time_ns and json.loads((out / EDITION).read_text())["complete"]
    assert coco.carried <= set(files_in(out))


def test_a_set_that_was_only_tried_keeps_an_edition_from_being_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini, out = BUILDERS["medical"](tmp_path / "data"), tmp_path / "out"
    first, second = (row.name for row in EDITIONS["medical"].trained_on)
    run(mini.root, out, "medical", monkeypatch, SET=first)
    assert json.loads((out / EDITION).read_text())["complete"]
    run(mini.root, out, "medical", monkeypatch, SET=second, LIMIT="1")
    found = json.loads((out / EDITION).read_text())
    assert (found["complete"], found["tried"]) == (False, [second])
    assert any(f"{second}: made with LIMIT" in finding.problem for finding in verify_edition(out).other_files)
    for told in (5, [[1], second], None):  # of a stranger
        (out / EDITION).write_text(json.dumps({**found, "tried": told}))
        assert verify_edition(out).exit_code == 1
    (out / EDITION).write_text(json.dumps(found))
    run(mini.root, out, "medical", monkeypatch, SET=first, LIMIT="1")  # whole already
    assert json.loads((out / EDITION).read_text())["tried"] == [second]
    run(mini.root, out, "medical", monkeypatch, SET=second)
    found = json.loads((out / EDITION).read_text())
    assert found["complete"] and "tried" not in found


def test_shards_and_a_limit_are_refused_together(coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(coco.root, tmp_path / "out", "coco", monkeypatch, SHARD="plan/2", LIMIT="1") == 2
    assert not (tmp_path / "out").exists()


def test_jpeg_on_request_says_how_far_it_breaks_the_bound(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(coco.root, out, "coco", monkeypatch, OBJECTS="all", FORMAT="jpeg", VAL="none") == 1
    name, mask = next(iter(coco.objects.items()))
    entry = entries_of(out)[name]
    image = Pillow.open(out / name)
    assert image.format == "JPEG" and image.layer[0][1:3] == image.layer[1][1:3]  # every channel at full resolution
    assert all(value <= 2 for table in image.quantization.values() for value in table)  # quality 100
    over = np.abs(pixels(out / name) - pixels(coco.root / name)) - np.where(mask, 8, 0)[..., None]
    assert entry.over_budget == pytest.approx((over > 0).mean()) and entry.max_over == max(0, over.max())
    assert not any("val2017/" in name and name.endswith(".jpg") for name in files_in(out))


def test_the_medical_sets_take_the_other_budget_by_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, out = BUILDERS["medical"](tmp_path / "data"), tmp_path / "out"
    assert run(mini.root, out, "medical", monkeypatch, SET="Kvasir", EPSILON="8", BACKGROUND_EPSILON="2") == 1
    name = next(name for name in mini.objects if name.startswith("Kvasir"))
    check_bound(mini, out, name, mini.objects[name], (8, 2))
    assert not any(name.startswith("Lung") for name in files_in(out))


def test_cities_can_follow_one_another_into_one_edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, out = BUILDERS["cityscapes"](tmp_path / "data"), tmp_path / "out"
    assert run(mini.root, out, "cityscapes", monkeypatch, SET="bochum") == 1  # one of its images has no object
    assert {name for name in mini.objects if (out / name).exists()} == {
        name for name in mini.objects if "bochum" in name
    }
    assert run(mini.root, out, "cityscapes", monkeypatch, SET="aachen") == 1
    assert all((out / name).exists() for name in mini.objects)
    assert verify_edition(out).failures == [] and verify_edition(out).extra == ()
    assert run(mini.root, out, "cityscapes", monkeypatch, SET="ulm") == 2


def test_the_region_of_the_objects_budget_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini, out = BUILDERS["medical"](tmp_path / "data"), tmp_path / "out"
    assert (
        run(mini.root, out, "medical", monkeypatch, SET="Kvasir", NOISE="compact", REGION="published") == 1
    )  # one has no object
    assert read_manifest(out).header["settings"]["region"] == "published"
    assert json.loads((out / EDITION).read_text())["region"] == "published"
    assert verify_edition(out).failures == []
    capsys.readouterr()
    assert run(mini.root, out, "medical", monkeypatch, SET="Kvasir", NOISE="compact") == 2
    assert "region" in error_of(capsys)
    assert run(mini.root, tmp_path / "b", "coco", monkeypatch, OBJECTS="by-class", REGION="published") == 2


# --- what the user has stays -----------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unseg: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_what_lies_in_the_output_already_stays(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    theirs = out / "coco/annotations/instances_val2017.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert run(coco.root, out, "coco", monkeypatch) == 2
    assert (
        "instances_val2017.json exists and was not written by unseg" in error_of(capsys)
        and theirs.read_text() == "mine"
    )
    theirs.unlink()
    assert run(coco.root, out, "coco", monkeypatch) == 1  # goes on from where it stopped
    theirs.write_text("changed")
    capsys.readouterr()
    assert run(coco.root, out, "coco", monkeypatch) == 2
    assert "changed since it was written" in error_of(capsys) and theirs.read_text() == "changed"
    theirs.unlink()
    (coco.root / "coco/annotations/instances_val2017.json").write_text(
        (coco.root / "coco/annotations/instances_val2017.json").read_text() + "\n"
    )  # the user's own new version
    assert run(coco.root, out, "coco", monkeypatch) == 1
    assert theirs.read_text().endswith("}\n")


def test_a_changed_annotation_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, out = BUILDERS["pascal"](tmp_path / "data"), tmp_path / "out"
    assert run(mini.root, out, "pascal", monkeypatch) == 1
    stem, before = "2007_000039", {name: path.stat().st_mtime_ns for name, path in files_in(out).items()}
    label = mini.label(f"VOCdevkit/VOC2012/SegmentationClass/{stem}.png", class_map(0, (LEFT, 20)), palette=True)
    assert verify_edition(out).exit_code == 1
    assert run(mini.root, out, "pascal", monkeypatch) == 1
    image = f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg"
    check_bound(mini, out, image, LEFT, (8, 2))
    assert (out / label).read_bytes() == (mini.root / label).read_bytes() and verify_edition(out).failures == []
    changed = {name for name, path in files_in(out).items() if before[name] != path.stat().st_mtime_ns}
    assert changed == {image, label, MANIFEST, CARRIED}


def test_by_class_every_class_gets_a_noise_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, out = BUILDERS["pascal"](tmp_path / "data"), tmp_path / "out"
    run(mini.root, out, "pascal", monkeypatch, OBJECTS="by-class", VAL="none")
    name = "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg"
    change = pixels(out / name) - pixels(mini.root / name)
    values = class_map(0, (LEFT, 1), (RIGHT, 15), (RING, 255))
    tints = [np.median(change[values == label], axis=0) for label in (0, 1, 15)]  # the background is a class as well
    assert len({tuple(tint) for tint in tints}) == 3, tints
    strengths = [np.abs(change[values == label]).max() for label in (0, 1, 15)]
    assert max(strengths) <= 8 and sum(strength > 2 for strength in strengths) >= 2  # one of the tints may be none
    assert np.abs(change[values == 255]).max() <= 2
    assert verify_edition(out).failures == []


def test_another_edition_is_not_mixed_in(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    BUILDERS["pascal"](coco.root)
    out = tmp_path / "out"
    assert run(coco.root, out, "coco", monkeypatch, LIMIT="1") == 0
    for name, settings, told in (
        ("pascal", {}, "dataset: coco, now pascal"),
        ("coco", {"OBJECTS": "multi"}, "OBJECTS: auto, now multi"),
        ("coco", {"EPSILON": "6"}, "EPSILON: 8, now 6.0"),
        ("coco", {"NAMES": "png"}, "NAMES: keep, now png"),
        ("coco", {"SPLIT": "val"}, "SPLIT: train, now val"),
    ):
        capsys.readouterr()
        assert run(coco.root, out, name, monkeypatch, **settings) == 2
        assert f"holds another edition ({told})" in error_of(capsys)


@pytest.mark.parametrize("content", [b"", b'{"edition": 1, "sets"', b"[]"])
def test_a_torn_description_says_what_helps(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini, out = BUILDERS["pascal"](tmp_path / "data"), tmp_path / "out"
    code = run(mini.root, out, "pascal", monkeypatch)
    before = (out / EDITION).read_bytes()
    (out / EDITION).write_bytes(content)
    capsys.readouterr()
    assert run(mini.root, out, "pascal", monkeypatch) == 2
    assert "; remove it: the command that made the edition writes it anew" in error_of(capsys)
    (out / EDITION).unlink()
    assert run(mini.root, out, "pascal", monkeypatch) == code
    assert (out / EDITION).read_bytes() == before and verify_edition(out).failures == []


def test_an_edition_without_its_manifest_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini, out = BUILDERS["camvid"](tmp_path / "data"), tmp_path / "out"
    run(mini.root, out, "camvid", monkeypatch)
    (out / MANIFEST).unlink()
    capsys.readouterr()
    assert cli.main(["verify", str(out)]) == 2
    assert f"{out}: no {MANIFEST} in it" in error_of(capsys)


def test_images_of_both_splits_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini, out = BUILDERS["pascal"](tmp_path / "data"), tmp_path / "out"
    lists = mini.root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    first = (lists / "train.txt").read_text().split()[0]
    with (lists / "val.txt").open("a") as file:
        file.write(f"{first}\n")
    run(mini.root, out, "pascal", monkeypatch)
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "note: 1 image of VOC2012 for evaluation (val) with noise, since the protected split lists them, too:"
        f" VOCdevkit/VOC2012/JPEGImages/{first}.jpg" in told
    )


def test_a_list_that_names_no_image_is_the_one_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini = BUILDERS["pascal"](tmp_path / "data")
    (mini.root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("z1\nz2\n")
    assert run(mini.root, tmp_path / "out", "pascal", monkeypatch) == 2
    assert "Segmentation/train.txt: none of the images that it names is in " in error_of(capsys)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"EPSILON": "many", "STRENGTH": "strong"}, "EPSILON=many: "),
        ({"EPSILON": "4", "STRENGTH": "loud"}, "STRENGTH loud: "),
        ({"NOISE": "codes", "KEY": "/"}, "name the file that holds it with KEY, or leave KEY out"),
        ({"NOISE": "codes", "CODES": "nowhere.json"}, "CODES=nowhere.json: "),
        ({"NOISE": "codes", "REGION": "published"}, "REGION=published: follows a network's prompt"),
        ({"SHARD": "1/2"}, "SHARD=1/2: nothing in OUT="),
    ],
)
def test_messages_name_variables(
    variables: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    mini = BUILDERS["camvid"](tmp_path / "data")
    assert run(mini.root, tmp_path / "out", "camvid", monkeypatch, **variables) == 2
    error = error_of(capsys)
    assert told in error and "--" not in error


def test_the_line_of_an_image_names_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini = BUILDERS["camvid"](tmp_path / "data")
    (tmp_path / "codes.json").write_text('{"codes": {"0": 1, "3": 2}}')  # class 1 has none
    variables = {"CODES": str(tmp_path / "codes.json")}
    assert run(mini.root, tmp_path / "out", "camvid", monkeypatch, **variables) == 1
    line = capsys.readouterr().out.replace("\n", " ").split("class 1 has no code")[1].split("Manifest:")[0]
    assert "or of CODES; give a file with a code for every class (0: no noise) with CODES" in line and "--" not in line


def test_an_output_that_is_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini, out = BUILDERS["camvid"](tmp_path / "data"), tmp_path / "out"
    out.write_text("mine")
    assert run(mini.root, out, "camvid", monkeypatch) == 2
    assert "is no folder; give another one" in error_of(capsys) and out.read_text() == "mine"


def test_a_mask_beside_its_image_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mini = BUILDERS["interactive"](tmp_path / "data")
    assert run(mini.root, tmp_path / "out", "interactive", monkeypatch, SET="DUTS-TR", NAMES="png") == 2
    assert "cascade_psp/DUTS-TR/003.png is a file of the data set already; use NAMES=keep" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_through_a_link(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (out / "coco").mkdir(parents=True)
    (out / "coco" / "annotations").symlink_to(outside)
    assert run(coco.root, out, "coco", monkeypatch) == 2
    assert "is a link, which is not followed" in error_of(capsys) and list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda text: text.replace("000000000025.jpg", "../../025.jpg"),
            "images[1].file_name: '../../025.jpg' leads out of",
        ),
        (
            lambda text: text.replace('"000000000025.jpg"', '"/etc/25.jpg"'),
            "images[1].file_name: '/etc/25.jpg' is absolute",
        ),
        (
            lambda text: text.replace("000000000025.jpg", "000000000009.jpg"),
            "images[1]: the image '000000000009.jpg' is there twice",
        ),
        (
            lambda text: text.replace('"category_id": 18', '"category_id": 77'),
            "the category 77 is not among the file's categories",
        ),
        (lambda text: text[:-40], "not usable JSON at byte"),
    ],
    ids=["out", "absolute", "twice", "category", "truncated"],
)
def test_hostile_annotations_stop_before_anything_is_written(
    change: Callable[[str], str],
    told: str,
    coco: Mini,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    path = coco.root / "coco/annotations/panoptic_train2017.json"
    path.write_text(change(path.read_text()))
    before = set(files_in(tmp_path))
    assert run(coco.root, tmp_path / "out", "coco", monkeypatch, NAMES="png") == 2
    message = error_of(capsys)
    assert told in message and "panoptic_train2017.json" in message
    assert set(files_in(tmp_path)) == before


def test_errors_of_the_engine_name_the_variable(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(coco.root, tmp_path / "out", "coco", monkeypatch, GENERATOR=str(tmp_path / "none.safetensors")) == 2
    assert "none.safetensors: no such file" in error_of(capsys)
    assert run(coco.root, coco.root / "coco/train2017/out", "coco", monkeypatch) == 2
    assert f"OUT={coco.root / 'coco/train2017/out'}: lies in the input folder" in error_of(capsys)


def test_a_record_that_leads_out_is_refused(
    coco: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert run(coco.root, out, "coco", monkeypatch, LIMIT="1") == 0
    line = {"name": "../x", "how": "copied", "sha256": "0", "source_bytes": 1, "source_time_ns": 1}
    (out / CARRIED).write_text(json.dumps(line) + "\n")
    capsys.readouterr()
    assert run(coco.root, out, "coco", monkeypatch) == 2
    assert "not a record of unseg (line 1" in error_of(capsys)
    assert cli.main(["verify", str(out)]) == 2


# --- what is installed for it


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_script_installs_what_its_noise_needs(name: str, tmp_path: Path) -> None:
    script = tree_of(name, tmp_path, "true")
    (tmp_path / "tree" / "install.sh").write_text('echo "${PROFILE:-full}"\n')
    path = {"PATH": os.environ["PATH"]}
    light: list[dict[str, str]] = [{}, {"NOISE": ""}, {"NOISE": "codes"}]
    full = [{"NOISE": "compact"}, {"NOISE": "tint"}, {"GENERATOR": "w.pth"}, {"PROFILE": "full"}]
    for profile, settings in [*(("light", one) for one in light), *(("full", one) for one in full)]:
        asked = subprocess.run(["bash", script], env=path | settings, capture_output=True, text=True, timeout=60)
        assert asked.stdout == f"{profile}\n", (settings, asked.stderr)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_noise_of_codes_needs_the_light_base_alone(name: str, tmp_path: Path) -> None:
    mini = BUILDERS[name](tmp_path / "data")
    code = f"{BLOCK}\nfrom unseg import cli\nsys.exit(cli.main(['edition', {name!r}]))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(mini.root, tmp_path / "out", PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode in (0, 1), told.stderr  # some of the miniatures have images without an object
    assert any(entry.status == "protected" for entry in entries_of(tmp_path / "out").values())
