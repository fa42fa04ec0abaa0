"""unseg protect --objects by-class: every class has its own tint, exactly where its pixels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.fake_generator import loaded as without_codes
from tests.support.told_progress import Told
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.manifest import read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import verify
from unseg.storage.image_decoding import read_image
from unseg.storage.weights import load_generator

BY_CLASS = ObjectRule(by_class=True)
SETTINGS = ProtectSettings(noise="compact", device="cpu", workers=2, rule=BY_CLASS)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Grey photographs and their class maps: 7 below (the largest), 2 above it, 0 in a corner, 255 in the last row."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in (photos, masks):
        folder.mkdir()
    for name, level in (("a", 100), ("b", 180)):
        Image.fromarray(np.full((30, 40, 3), level, np.uint8)).save(photos / f"{name}.png")
        classes = np.full((30, 40), 7, np.uint8)
        classes[:10], classes[:3, :3], classes[-1] = 2, 0, 255
        Image.fromarray(classes).save(masks / f"{name}.png")
    return photos, masks


def refused(run) -> str:
    with pytest.raises(UserError) as error:
        run()
    return str(error.value)


def test_every_class_has_the_tint_of_its_rank_and_the_rest_is_untouched(folders, tmp_path: Path) -> None:
    photos, masks = folders
    said, out = Told(), tmp_path / "out"
    assert protect([photos], out, SETTINGS, masks=masks, progress=said).exit_code == 0
    tints = np.rint(8 * load_generator("compact").network.code_noise().numpy()).astype(int)
    for name, level in (("a", 100), ("b", 180)):
        change = read_image(out / f"{name}.png").pixels.astype(int) - level
        assert (change[12:29] == tints[0]).all()  # class 7, the largest
        assert (change[5:10] == tints[1]).all() and not change[5:10].any()  # class 2
        assert (change[:3, :3] == tints[2]).all() and change[:3, :3].any()  # class 0 is a class like any other
        assert not change[-1].any()
    assert "classes: 3, codes by falling area" in said.sentences
    manifest = read_manifest(out)
    assert manifest.header["settings"]["codes"] == {"0": 2, "2": 1, "7": 0}
    assert {entry.prompt for entry in manifest.entries.values()} == {"classes"}
    assert verify(out).exit_code == 0
    again = protect([photos], out, SETTINGS, masks=masks)
    assert again.kept == 2


def test_another_assignment_of_codes_is_not_mixed_in(folders, tmp_path: Path) -> None:
    photos, masks = folders
    protect([photos], tmp_path / "out", SETTINGS, masks=masks)
    Image.fromarray(np.full((90, 90), 2, np.uint8)).save(masks / "c.png")  # now class 2 is the largest
    assert "codes" in refused(lambda: protect([photos], tmp_path / "out", SETTINGS, masks=masks))


def test_classes_beyond_the_codes_share_and_the_run_says_so(folders, tmp_path: Path) -> None:
    photos, masks = folders
    classes = np.arange(1200, dtype=np.uint8).reshape(30, 40) % 14
    Image.fromarray(classes.astype(np.uint8)).save(masks / "a.png")
    said = Told()
    settings = ProtectSettings(noise="compact", device="cpu", workers=1, rule=BY_CLASS, mask_type="index")
    assert protect([photos / "a.png"], tmp_path / "out", settings, masks=masks, progress=said).exit_code == 0
    assert any("classes beyond the 12 codes share one with a larger class" in line for line in said.sentences)


def test_the_budget_scales_the_tints(folders, tmp_path: Path) -> None:
    photos, masks = folders
    settings = ProtectSettings(noise="compact", device="cpu", workers=1, rule=BY_CLASS, budget=Budget(4, 1))
    protect([photos], tmp_path / "out", settings, masks=masks)
    change = read_image(tmp_path / "out" / "a.png").pixels.astype(int) - 100
    assert np.abs(change).max() == round(4 * 0.8)


def test_what_by_class_cannot_do_is_said(folders, tmp_path: Path) -> None:
    photos, masks = folders
    out = tmp_path / "out"
    assert "--masks" in refused(lambda: protect([photos], out, SETTINGS))
    assert "no codes" in refused(lambda: protect([photos], out, SETTINGS, masks=masks, generator=without_codes()))
    assert "--region" in refused(lambda: ProtectSettings(rule=BY_CLASS, region="published"))
    assert "--mask-type binary" in refused(lambda: ProtectSettings(rule=BY_CLASS, mask_type="binary"))
    for path in masks.iterdir():
        Image.fromarray((np.arange(1200).reshape(30, 40) % 2 * 255).astype(np.uint8)).save(path)
    assert "hold no class ids" in refused(lambda: protect([photos], out, SETTINGS, masks=masks))
    assert not out.exists() or not list(out.glob("*.png"))


def test_the_command_takes_by_class(folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unseg.cli import main

    photos, masks = folders
    assert (
        main(
            [
                "protect",
                str(photos),
                "--masks",
                str(masks),
                "--objects",
                "by-class",
                "--noise",
                "compact",
                "--out",
                str(tmp_path / "out"),
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["protected"] == 2
