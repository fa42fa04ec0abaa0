"""What does not go with stores, tar files and shards ends in one line that names it, before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseg import cli

STORE = "s3://bucket/photos"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image and its mask, and no network: a store that was asked would be an error."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((21, 34, 3), 90, np.uint8)).save(tmp_path / name / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["photos", "--masks", "masks", "--out", "out", "--watch", "--shard", "1/2"], "--shard: is a part of a run"),
        (["photos", "--webdataset", "mask.png", "--out", "out", "--watch"], "--webdataset: takes tar files that are"),
        ([STORE, "--masks", "masks", "--out", "out", "--watch"], "s3://: is looked at once"),
        (["photos", "--masks", "masks", "--out", STORE, "--watch"], "s3://: is looked at once"),
        (["photos", "--masks", "auto", "--out", "out", "--shard", "plan/2"], "leave out --shard, or name masks"),
        ([STORE, "--masks", "auto", "--out", "out"], "leave out places in a store, or name masks"),
        (["photos", "--masks", "auto", "--out", STORE], "leave out places in a store, or name masks"),
        (["photos", "--masks", "auto", "--out", "out", "--webdataset", "png"], "--masks and --webdataset: give one"),
        (["photos/a.png", "--mask", "masks/a.png", "--out", "b.png", "--shard", "1/2"], "--shard: is for folders"),
        (["photos/a.png", "--webdataset", "mask.png", "--out", "b.png"], "--webdataset: is for folders"),
        ([f"{STORE}/a.png", "--mask", "masks/a.png", "--out", "b.png"], f"{STORE}/a.png: one image by itself"),
        (["photos/a.png", "--mask", "masks/a.png", "--out", f"{STORE}/b.png"], f"{STORE}/b.png: one image by itself"),
        (["photos/a.png", "--mask", f"{STORE}/m.png", "--out", "b.png"], "one image by itself is protected on this"),
    ],
)
def test_it_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str) -> None:
    assert cli.main(["protect", *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error.replace("s3:/bucket", "s3://bucket"), error
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "photos"]
