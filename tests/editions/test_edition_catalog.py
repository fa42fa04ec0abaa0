"""What editions know of data sets: where they lie, what their objects are, which settings they take."""

from __future__ import annotations

import json
import re
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.edition_sets import BUILDERS, LEFT, RIGHT, class_map
from unseg import cli
from unseg.commands.datasets import edition
from unseg.data.annotations import ObjectRule
from unseg.data.annotations.json_stream import open_json
from unseg.data.annotations.names import ImagesFolder
from unseg.data.edition_catalog import EDITIONS
from unseg.data.edition_layout import candidates, locate
from unseg.editions.data_set import open_data_set, place_sets
from unseg.editions.options import settings_from
from unseg.editions.renamed_files import Renaming, rewritten_blocks
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.storage.image_decoding import read_image

ROOT = Path(__file__).parents[2]


def masks_of(
    name: str, root: Path, objects: str, kind: str | None = None, split: str = "train"
) -> dict[str, np.ndarray]:
    """Image → what OBJECTS takes of it, H×W bool; images without any left out."""
    row = EDITIONS[name]
    chosen = settings_from(row, {"DATA_ROOT": str(root), "OBJECTS": objects})
    data = open_data_set(place_sets(row, root, split, (), kind))
    data.reader.check_rule(chosen.rule)
    masks = {}
    for sample in data.samples.samples:
        height, width = read_image(sample.image).pixels.shape[:2]
        mask = data.reader.read(sample.name, height, width).object_mask(chosen.rule)
        if mask.any():
            masks[sample.name] = mask
    return masks


@pytest.mark.parametrize(
    ("name", "objects", "kind"),
    [
        ("pascal", "multi", None),
        ("pascal", "15", None),
        ("ade20k", "multi", None),
        ("coco", "multi", None),
        ("cityscapes", "multi", None),
    ],
)
def test_objects_are_the_ones_asked_for(name: str, objects: str, kind: str | None, tmp_path: Path) -> None:
    mini = BUILDERS[name](tmp_path, objects=objects)
    found = masks_of(name, tmp_path, objects, kind)
    assert found.keys() == mini.objects.keys() and mini.objects
    for image, mask in mini.objects.items():
        assert np.array_equal(found[image], mask), image


@pytest.mark.parametrize(("name", "kind"), [("coco", "instances"), ("cityscapes", "labelIds")])
def test_other_annotations_by_option(name: str, kind: str, tmp_path: Path) -> None:
    mini = BUILDERS[name](tmp_path, annotations=kind)
    for path in tmp_path.rglob("*panoptic*"):
        if path.is_file():
            path.unlink()
    found = masks_of(name, tmp_path, "all", kind)
    assert found.keys() == mini.objects.keys() and mini.objects
    for image, mask in mini.objects.items():
        assert np.array_equal(found[image], mask), image
    with pytest.raises(UserError, match=f"panoptic.*; prepare them, or use what is there: ANNOTATIONS={kind}"):
        place_sets(EDITIONS[name], tmp_path, "train", (), None)


@pytest.mark.parametrize(
    "lines",
    [
        "2007_000032\n2007_000039\n",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
        "/JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png\n",
    ],
)
def test_the_augmented_voc_list_takes_the_augmented_labels(lines: str, tmp_path: Path) -> None:
    mini = BUILDERS["pascal"](tmp_path)
    home = tmp_path / "VOCdevkit/VOC2012"
    (home / "ImageSets/Segmentation/train_aug.txt").write_text(lines)
    for stem, mask in (("2007_000032", LEFT), ("2007_000039", RIGHT)):
        mini.label(f"VOCdevkit/VOC2012/SegmentationClassAug/{stem}.png", class_map(0, (mask, 2)))
    found = masks_of("pascal", tmp_path, "all", split="train_aug")
    assert [name[-15:] for name in found] == ["2007_000032.jpg", "2007_000039.jpg"]
    assert all(np.array_equal(mask, expected) for mask, expected in zip(found.values(), (LEFT, RIGHT), strict=True))


@pytest.mark.parametrize(
    ("home", "shown"), [("VOCdevkit/VOC2012", ""), ("VOCdevkit", "VOC2012/"), ("", "VOCdevkit/VOC2012/")]
)
def test_the_root_may_be_the_set_or_a_folder_above(home: str, shown: str, tmp_path: Path) -> None:
    BUILDERS["pascal"](tmp_path)
    data = open_data_set(place_sets(EDITIONS["pascal"], tmp_path / home, "train", (), None))
    assert data.samples.samples[0].name == f"{shown}JPEGImages/2007_000032.jpg"


def test_budgets_are_the_papers() -> None:
    assert {name: row.budget for name, row in EDITIONS.items()} == {
        **dict.fromkeys(EDITIONS, Budget(8, 2)),
        "medical": Budget(4, 1),
    }
    chosen = settings_from(EDITIONS["medical"], {"DATA_ROOT": ".", "EPSILON": "8", "BACKGROUND_EPSILON": "2"})
    assert chosen.budget == Budget(8, 2)


def test_the_evaluators_own_variable_names_the_root_too(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    variables = {"DETECTRON2_DATASETS": str(tmp_path)}
    assert settings_from(EDITIONS["coco"], variables).root == tmp_path
    assert (
        settings_from(EDITIONS["coco"], {**variables, "DATA_ROOT": str(tmp_path / "other")}).root == tmp_path / "other"
    )


def test_by_class_the_background_is_still_known() -> None:
    assert settings_from(EDITIONS["pascal"], {"DATA_ROOT": ".", "OBJECTS": "by-class"}).rule == ObjectRule(
        "all", True, 255, 0
    )


@pytest.mark.parametrize(
    ("name", "variables", "told"),
    [
        ("pascal", {"DATA_ROOT": ""}, "DATA_ROOT is not set"),
        ("pascal", {"DATA_ROOT": "nowhere"}, "DATA_ROOT=nowhere: no such folder"),
        ("pascal", {"SPLIT": "test"}, "SPLIT=test: choose from train, val, trainval, train_aug"),
        ("pascal", {"OBJECTS": "cats"}, "OBJECTS cats: give `all` or class ids"),
        ("interactive", {"OBJECTS": "3"}, "OBJECTS=3: the masks of interactive tell object from background only"),
        ("medical", {"OBJECTS": "multi"}, "OBJECTS=multi: medical has one kind of object"),
        ("coco", {"EPSILON": "much"}, "EPSILON=much: give a number"),
        ("coco", {"BACKGROUND_EPSILON": "-1"}, "BACKGROUND_EPSILON=-1"),
        ("coco", {"NAMES": "jpg"}, "NAMES=jpg: choose from keep, png"),
        ("coco", {"FORMAT": "webp"}, "FORMAT=webp: choose from"),
        ("coco", {"REGION": "all"}, "REGION=all: choose from mask, published"),
        ("coco", {"LIMIT": "0"}, "LIMIT=0: give a whole number from 1"),
        ("coco", {"NPROC": "two"}, "NPROC=two"),
        ("coco", {"ENGINE": "spark"}, "ENGINE=spark: choose from ray"),
        ("coco", {"DRY_RUN": "yes"}, "DRY_RUN=yes: choose from 0, 1"),
        ("coco", {"VAL": "move"}, "VAL=move: choose from"),
        ("coco", {"ANNOTATIONS": "boxes"}, "ANNOTATIONS=boxes: choose from panoptic, instances"),
        ("coco", {"SET": "train"}, "SET=train: coco is one set"),
        ("interactive", {"SET": "DUTS"}, "SET=DUTS: interactive has DIS5K-TR"),
        ("coco", {"FORMAT": "jpeg", "NAMES": "png"}, "use NAMES=keep"),
        ("coco", {"NGPU": "99"}, "NGPU=99"),
        ("remote", {}, "not on disk: NWPU"),
        ("coco", {}, "not on disk: COCO"),
    ],
)
def test_wrong_settings_are_one_line_and_nothing_is_written(
    name: str,
    variables: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("DETECTRON2_DATASETS", "NGPU"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"DATA_ROOT": ".", "OUT": "out", **variables}.items():
        monkeypatch.setenv(variable, value)
    assert cli.main(["edition", name]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("unseg: error: ") and captured.err.count("\n") == 1 and told in captured.err
    assert list(tmp_path.iterdir()) == []


def test_missing_sets_are_named_with_what_can_be_done(tmp_path: Path) -> None:
    BUILDERS["interactive"](tmp_path)
    (tmp_path / "DIS5K/DIS-TR/gt").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"DIS5K-TR \(.*DIS-TR/gt\).*SET=ThinObject5K-TR,FSS,DUTS-TR,DUTS-TE,ECSSD,MSRA_10K"
    ):
        place_sets(EDITIONS["interactive"], tmp_path, "train", (), None)
    assert len(place_sets(EDITIONS["interactive"], tmp_path, "train", ("duts-tr", "ECSSD"), None)) == 2


@pytest.mark.parametrize("line", ["../../../secret", "a/../../b", "/etc/../../x"])
def test_a_list_that_leads_out_is_refused(line: str, tmp_path: Path) -> None:
    BUILDERS["pascal"](tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text(f"2007_000032\n{line}\n")
    with pytest.raises(UserError, match="train.txt: line 2: .*leads out of its folder"):
        open_data_set(place_sets(EDITIONS["pascal"], tmp_path, "train", (), None))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_finds_images_with_other_suffixes(encoding: str, tmp_path: Path) -> None:
    mini = BUILDERS["pascal"](tmp_path)
    home = tmp_path / "VOCdevkit/VOC2012"
    first = min(mini.objects)
    (home / "JPEGImages" / Path(first).name).rename(home / "JPEGImages" / f"{Path(first).stem}.JPG")
    path = home / "ImageSets/Segmentation/train.txt"
    path.write_bytes(f"  {Path(first).stem}\r\nnot_there 1\r\n".encode(encoding))
    data = open_data_set(place_sets(EDITIONS["pascal"], tmp_path, "train", (), None))
    assert [sample.name for sample in data.samples.samples] == [first.replace(".jpg", ".JPG")]
    assert [problem.name[-13:] for problem in data.reader.missing] == ["not_there.jpg"]
    (sample,) = data.samples.samples
    height, width = next(iter(mini.objects.values())).shape
    assert np.array_equal(data.reader.read(sample.name, height, width).object_mask(ObjectRule()), mini.objects[first])


@pytest.mark.parametrize("name", list(EDITIONS))
def test_every_source_can_be_found(name: str, tmp_path: Path) -> None:
    """Each way that a row knows is located once its files are there; what is not there is not."""
    row = EDITIONS[name]
    for set_row in row.sets:
        for number, source in enumerate(set_row.sources):
            split = (source.splits or tuple(row.splits) or ("train",))[0]
            root = tmp_path / set_row.name / str(number)
            root.mkdir(parents=True)
            assert locate(root, row, set_row, split, source.kind) is None
            place = next(
                place for place in candidates(root, row, set_row, split, source.kind) if place.source == source
            )
            for path in place.needed:
                if path.suffix:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                else:
                    path.mkdir(parents=True, exist_ok=True)
            assert locate(root, row, set_row, split, source.kind).source == source


def test_datasets_lists_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    BUILDERS["cityscapes"](tmp_path)
    BUILDERS["medical"](tmp_path)
    assert cli.main(["datasets", "--root", str(tmp_path), "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["datasets"]}
    assert list(listed) == list(EDITIONS) and all(
        (ROOT / row["command"].split()[1]).is_file() for row in listed.values()
    )
    state = {(name, part["name"], part["split"]): part for name, row in listed.items() for part in row["sets"]}
    assert state["cityscapes", "Cityscapes", "train"]["found"] and state["cityscapes", "Cityscapes", "val"]["found"]
    assert state["medical", "Kvasir", ""]["found"] and not state["coco", "COCO", "train"]["found"]
    assert "coco/train2017" in state["coco", "COCO", "train"]["missing"]
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert cli.main(["datasets"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"Cityscapes train +found \(panoptic\)", told) and "missing: coco/train2017" in told
    monkeypatch.setenv("DATA_ROOT", "")
    assert cli.main(["datasets"]) == 0 and "no folder given" in capsys.readouterr().out
    assert cli.main(["datasets", "--root", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize("name", list(EDITIONS))
def test_a_script_documents_its_settings(name: str) -> None:
    row, path = EDITIONS[name], ROOT / "scripts" / f"generate_{name}.sh"
    text = path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert all(f"# {part}: " in header for part in ("Needs", "Takes", "Leaves", "Settings"))
    wanted = {
        "DATA_ROOT",
        "LINKED_ROOTS",
        "OUT",
        "NOISE",
        "GENERATOR",
        "KEY",
        "CODES",
        "STRENGTH",
        "OBJECTS",
        "EPSILON",
        "BACKGROUND_EPSILON",
        "REGION",
        "NAMES",
        "FORMAT",
        "LIMIT",
        "DRY_RUN",
        "NGPU",
        "NPROC",
        "SHARD",
        "ENGINE",
        *(["SPLIT"] if row.splits else []),
        *(["SET"] if len(row.trained_on) > 1 else []),
    }
    assert {word for word in wanted if not re.search(rf"\b{word}\b", header)} == set()
    assert f"EPSILON={row.budget.object:g} on the object, BACKGROUND_EPSILON={row.budget.background:g}" in header
    said = {"the command's help": edition.__doc__ or "", "the guide": (ROOT / "docs/guide/editions.md").read_text()}
    lacking = {where: {word for word in wanted if not re.search(rf"\b{word}\b", text)} for where, text in said.items()}
    assert lacking == {where: set() for where in said}


# --- json with new names ---------------------------------------------------------------------------------------------


class Upper(Renaming):
    """Every name that starts with an a becomes capitals."""

    def __init__(self) -> None:
        super().__init__(None, {"a": "A"}, "x")

    def of(self, file_name: object, where: str) -> str | None:
        return file_name.upper() if isinstance(file_name, str) and file_name.startswith("a") else None


@pytest.mark.parametrize(
    ("written", "renamed"),
    [
        ("city\\x.jpg", "city\\x.png"),
        ("city/x.jpg", "city/x.png"),
        ("./city//x.JPG", "./city//x.png"),
        ("images\\city/x.jpg", "images\\city/x.png"),
        ("x.jpg", "x.png"),
        ("city/other.jpg", None),
        ("../x.jpg", None),
        (7, None),
    ],
)
def test_a_new_name_keeps_its_folder_as_it_is_written(written: object, renamed: str | None, tmp_path: Path) -> None:
    folder = ImagesFolder(tmp_path / "images", ["city/x.jpg"])
    assert Renaming(folder, {"city/x.jpg": "images/city/x.png"}, "").of(written, "a.json") == renamed


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["a.jpg", "b.jpg", "aß.jpg"]) | st.none()
image = st.fixed_dictionaries({"id": st.integers(0, 9), "file_name": names}, optional={"more": anything}) | anything
others = st.dictionaries(st.sampled_from(["info", "annotations", "categories", "zz"]), anything)
contents = (
    st.tuples(others, st.lists(image, max_size=5))
    .flatmap(lambda parts: st.permutations([*parts[0].items(), ("images", parts[1])]))
    .map(dict)
)


def rewritten(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as original, open_json(path) as stream:
        yield from rewritten_blocks(stream, original, Upper())


@given(contents, st.sampled_from([None, 0, 3]), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_only_the_names_change(
    tmp_path_factory: pytest.TempPathFactory, content: dict, indent: int | None, escaped: bool, marked: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "images.json"
    text = json.dumps(content, indent=indent, ensure_ascii=escaped)
    data = ("\ufeff" if marked else "").encode() + text.encode("utf-8", "surrogatepass" if escaped else "strict")
    path.write_bytes(data)
    changed = b"".join(rewritten(path))
    expected = json.loads(text)
    touched = False
    for item in expected["images"]:
        if isinstance(item, dict) and isinstance(item.get("file_name"), str) and item["file_name"].startswith("a"):
            item["file_name"], touched = item["file_name"].upper(), True
    assert json.loads(changed.decode("utf-8-sig")) == expected
    assert touched or changed == data


def test_a_large_json_is_rewritten_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    entry = json.dumps({"id": 1, "image_id": 1, "segmentation": {"size": [9, 9], "counts": "x" * 6000}})
    with open(path, "w") as file:
        file.write('{"annotations": [' + ",".join([entry] * 5_000) + '], "images": [')
        file.write(",".join(json.dumps({"id": number, "file_name": f"a{number}.jpg"}) for number in range(5_000)))
        file.write('], "categories": []}')
    size = path.stat().st_size
    assert size > 30e6
    tracemalloc.start()
    written = sum(len(block) for block in rewritten(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written == size and peak < 16e6, peak
