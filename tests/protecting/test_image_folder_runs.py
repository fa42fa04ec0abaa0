"""Image folders: class folders, and those with metadata, come out as torchvision and `datasets` read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tests.support.told_progress import Told
from unseg import cli
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.stores import verify_anywhere
from unseg.storage.files import files_under

SETTINGS = ProtectSettings(workers=2)
KEY = bytes(range(32))


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(20, 230, (33, 47, 3)).astype(np.uint8)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def label() -> np.ndarray:
    values = np.zeros((33, 47), np.uint8)
    values[4:20, 7:30] = 255
    return values


def is_noised(number: int, after: Image.Image) -> bool:
    change = np.abs(np.asarray(after.convert("RGB")).astype(int) - pixels(number))
    return bool(change[4:20, 7:30].max() == 8 and change[:4].max() == 0)


def found(folder: Path, **given: Any) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 2, "max_megapixels": 200.0}
    return verify_anywhere(folder, **{**options, **given}, progress=Told())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def test_class_folders_stay(tmp_path: Path) -> None:
    for number, name in enumerate(("dog/b.png", "cat/x.png", "cat/a.png", "dog/c.png")):
        write(tmp_path / "in" / name, pixels(number))
        write(tmp_path / "masks" / name, label())
    protect(tmp_path / "in", tmp_path / "out", SETTINGS, masks=tmp_path / "masks", key=KEY)
    loaded, before = ImageFolder(tmp_path / "out"), ImageFolder(tmp_path / "in")
    assert (loaded.classes, loaded.targets) == (before.classes, before.targets) == (["cat", "dog"], [0, 0, 1, 1])
    assert [is_noised(number, loaded[place][0]) for place, number in enumerate((2, 1, 0, 3))] == [True] * 4
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(rows["label"]) == [0, 0, 1, 1] and rows.features["label"].names == ["cat", "dog"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four rows; the third has no mask, and its cell in the CSV two lines."""
    for split in ("train", "test"):
        for number in range(4):
            write(tmp_path / "in" / split / f"{number}.png", pixels(number))
            if number != 2:
                write(tmp_path / "in" / split / "masks" / f"{number}.png", label())
    rows = [{"file_name": f"{n}.png", "mask_file_name": f"masks/{n}.png", "text": f"é{n}"} for n in range(4)]
    rows[2]["mask_file_name"] = ""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "in" / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cells = [f'{n}.png,{"" if n == 2 else f"masks/{n}.png"},"two\nlines {n}"' for n in range(4)]
    (tmp_path / "in" / "test" / "metadata.csv").write_text("file_name,mask_file_name,text\n" + "\n".join(cells) + "\n")
    return tmp_path / "in"


def test_metadata_and_masks_come_along(source: Path, tmp_path: Path) -> None:
    made = protect(source, tmp_path / "out", SETTINGS, huggingface="mask", key=KEY)
    assert [entry.input for entry in made.entries if entry.status != "protected"] == ["test/2.png", "train/2.png"]
    out = tree(tmp_path / "out")
    numbers = (0, 1, 3)
    assert out.keys() == {
        MANIFEST,
        "test/metadata.csv",
        "train/metadata.jsonl",
        *(f"{split}/{folder}{n}.png" for split in ("train", "test") for folder in ("", "masks/") for n in numbers),
    }
    before = tree(source)
    assert out["train/metadata.jsonl"] == b"".join(
        line for n, line in enumerate(before["train/metadata.jsonl"].splitlines(keepends=True)) if n != 2
    )
    assert out["test/metadata.csv"].decode() == before["test/metadata.csv"].decode().replace(
        '2.png,,"two\nlines 2"\n', ""
    )
    loaded = {
        split: datasets.load_dataset(
            "imagefolder", data_dir=str(tmp_path / "out" / split), split="train", cache_dir=str(tmp_path / "cache")
        )
        for split in ("train", "test")
    }
    assert loaded["train"]["text"] == ["é0", "é1", "é3"] and loaded["test"]["text"][1] == "two\nlines 1"
    for row, number in zip(loaded["train"], numbers, strict=True):
        assert is_noised(number, row["image"]) and np.array_equal(np.asarray(row["mask"]), label())
    result = found(tmp_path / "out")
    assert (result.failures, result.other_files, result.extra, len(result.findings)) == ([], (), (), 6)
    (tmp_path / "out" / "train" / "metadata.jsonl").write_text("")
    (tmp_path / "out" / "test" / "masks" / "1.png").unlink()
    (tmp_path / "out" / "notes.txt").write_text("?")
    result = found(tmp_path / "out")
    assert {(fault.name, fault.problem) for fault in result.other_files} == {
        ("train/metadata.jsonl", "is not what its original says"),
        ("test/masks/1.png", "missing"),
    }
    assert result.extra == ("notes.txt",)


def test_nothing_is_overwritten_and_no_image_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "metadata.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"train/metadata\.jsonl exists and is another file"):
        protect(source, tmp_path / "out", SETTINGS, huggingface="auto", key=KEY)
    assert (tmp_path / "out" / "train" / "metadata.jsonl").read_text() == "mine"
    text = (source / "train" / "metadata.jsonl").read_text(encoding="utf-8")
    (source / "train" / "metadata.jsonl").write_text(text.replace('"text"', '"small_file_name": "s.png", "text"'))
    with pytest.raises(UserError, match="the column small_file_name names images, too, which would stay"):
        protect(source, tmp_path / "out2", SETTINGS, huggingface="mask", key=KEY)
    assert not (tmp_path / "out2").exists()


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["protect", str(source), "--huggingface", "auto", "--out", out]) == 1
    assert cli.main(["protect", str(source), "--huggingface", "auto", "--out", out]) == 1
    assert cli.main(["verify", out]) == 1
    assert "6 of 8 images hold the bound at every pixel" in capsys.readouterr().out
