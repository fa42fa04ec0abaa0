"""unseg protect with codes: the key beside the folder, the choice by the masks, the same bytes by every way."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unseg
from tests.support.coded_folders import (
    NAMES,
    SETTINGS,
    draw_photos,
    masks_of,
    object_masks,
    pixels,
    run,
    tree,
    write,
)
from tests.support.told_progress import Told
from unseg import cli
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import verify
from unseg.storage.image_encoding import write_png
from unseg.storage.key_file import read_key


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_photos(tmp_path / "photos")


# --- the key


def test_the_key_is_kept_beside_the_folder_and_used_again(photos: Path, tmp_path: Path) -> None:
    masks, out = object_masks(photos), tmp_path / "out"
    assert run(photos / "a.png", out, masks=masks).exit_code == 0
    key = tmp_path / "out.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and not list(out.rglob("*.key"))
    assert read_key(key).hex() not in (out / MANIFEST).read_text()
    before = key.read_bytes()
    again = run(photos, out, masks=masks)
    assert again.exit_code == 0 and again.kept == 1 and key.read_bytes() == before
    assert verify(out).exit_code == 0 and verify(out).note is None


def test_a_key_that_is_gone_or_another_stops_the_run(photos: Path, tmp_path: Path) -> None:
    masks, out, key = object_masks(photos), tmp_path / "out", tmp_path / "out.key"
    run(photos / "a.png", out, masks=masks)
    written = tree(out)
    kept = key.rename(tmp_path / "elsewhere.key")
    with pytest.raises(UserError, match=r"out\.key: is not there, and the images in --out .* were made with a key"):
        run(photos, out, masks=masks)
    key.write_text("ab" * 32)
    with pytest.raises(UserError, match=r"out\.key: is not the key that the images"):
        run(photos, out, masks=masks)
    with pytest.raises(UserError, match=r"inside\.key: lies in --out"):
        run(photos, out, masks=masks, key=out / "inside.key")
    assert tree(out) == written
    key.unlink()
    assert run(photos, out, masks=masks, key=kept).exit_code == 0 and not key.exists()


def test_a_named_key_is_drawn_where_none_is_and_no_images_go_by_one(photos: Path, tmp_path: Path) -> None:
    masks, key, told = object_masks(photos), tmp_path / "keys" / "one.key", Told()
    assert run(photos, tmp_path / "dry", masks=masks, key=key, dry_run=True).exit_code == 0 and not key.exists()
    assert run(photos, tmp_path / "out", masks=masks, key=key, progress=told).exit_code == 0
    assert any(f"key: drawn, and kept in {key}" in sentence for sentence in told.sentences)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and not (tmp_path / "out.key").exists()
    drawn = key.read_bytes()
    assert run(photos, tmp_path / "more", masks=masks, key=key).exit_code == 0 and key.read_bytes() == drawn
    assert tree(tmp_path / "more")["a.png"] == tree(tmp_path / "out")["a.png"]
    written = tree(tmp_path / "out")
    with pytest.raises(UserError, match=r"other\.key: the key cannot be read"):
        run(photos, tmp_path / "out", masks=masks, key=tmp_path / "other.key")
    with pytest.raises(UserError, match=r"--key .*new\.key: lies in .*out, a protected folder"):
        run(photos, tmp_path / "third", masks=masks, key=tmp_path / "out" / "new.key")
    assert tree(tmp_path / "out") == written and not (tmp_path / "other.key").exists()


def test_a_dry_run_makes_no_key(photos: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", masks=object_masks(photos), dry_run=True).exit_code == 0
    assert not (tmp_path / "out.key").exists()


# --- what is told apart


def chosen(photos: Path, masks: Path, out: Path, **given: object) -> tuple[dict, str]:
    told = Told()
    run(photos, out, masks=masks, progress=told, **given)
    header = read_manifest(out).header
    sentence = next(line for line in told.sentences if line.startswith("codes: "))
    assert header["codes"]["reason"] in sentence
    return header["codes"], sentence


def test_masks_with_a_background_have_one_code(photos: Path, tmp_path: Path) -> None:
    codes, sentence = chosen(photos, masks_of(photos, [0, 3, 9]), tmp_path / "out")
    assert codes["codes"] == {"background": 0, "object": 1} and codes["objects"] == "all"
    assert "the masks have a background (class 0)" in sentence
    codes, _ = chosen(photos, object_masks(photos), tmp_path / "binary")
    assert codes["codes"] == {"background": 0, "object": 1}


def test_classes_that_cover_the_images_have_a_code_each_and_the_most_varied_none(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [4, 7, 7, 7, 2, 2])
    for name in NAMES:  # class 2 is the one whose colours vary; the others are flat
        values, image = pixels(masks / name), pixels(photos / name)
        write(photos, name, np.where((values == 2)[..., None], image, 100).astype(np.uint8))
    codes, _ = chosen(photos, masks, tmp_path / "out")
    assert codes["codes"] == {"7": 1, "2": 0, "4": 2} and codes["objects"] == "by-class"
    change = np.abs(pixels(tmp_path / "out" / "b.png") - pixels(photos / "b.png"))
    classes = pixels(masks / "b.png")
    assert not change[classes == 2].any() and (change[classes != 2] == 8).all()
    result = verify(tmp_path / "out")
    assert result.exit_code == 0 and result.largest_changes() == (8, 0)


def test_by_class_gives_absence_to_the_background(photos: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, rule=ObjectRule(by_class=True))
    run(photos, tmp_path / "out", settings, masks=masks_of(photos, [0, 5, 5, 6]))
    assert read_manifest(tmp_path / "out").header["codes"]["codes"] == {"0": 0, "5": 1, "6": 2}


def test_later_images_keep_the_codes_whatever_their_masks_hold(photos: Path, tmp_path: Path) -> None:
    masks, out = masks_of(photos, [4, 7, 7, 2]), tmp_path / "out"
    image, is_varied = pixels(photos / "a.png"), pixels(masks / "a.png") == 7
    write(photos, "a.png", np.where(is_varied[..., None], image // 2 + 60, 100).astype(np.uint8))
    before, _ = chosen(photos / "a.png", masks, out)
    for name in NAMES[1:]:  # now class 4 is by far the largest, and looks most varied
        write(masks, name, np.full_like(pixels(masks / name), 4, dtype=np.uint8))
    after, _ = chosen(photos, masks, out)
    assert after == before and verify(out).failures == []
    other, _ = chosen(photos, masks, tmp_path / "other")
    assert other["codes"] != before["codes"]
    shared, _ = chosen(photos, masks, tmp_path / "shared", codes=out / MANIFEST)
    assert shared == before
    by_hand, _ = chosen(photos, masks, tmp_path / "hand", codes={4: 2, 7: 0, 2: 1})
    assert by_hand["codes"] == {"2": 1, "4": 2, "7": 0}


def test_precision_is_no_setting_of_codes_which_no_network_computes(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [4, 7, 2])
    run(photos, tmp_path / "out", masks=masks)
    manifest = tmp_path / "out" / MANIFEST
    header, *lines = manifest.read_text().splitlines()
    assert '"precision"' not in header
    again = run(photos, tmp_path / "out", masks=masks, settings=replace(SETTINGS, precision="bfloat16"))
    assert again.kept == len(NAMES)
    first = json.loads(header)
    first["settings"]["precision"] = "bfloat16"  # as some manifests have it
    manifest.write_text("\n".join([json.dumps(first), *lines]) + "\n")
    assert run(photos, tmp_path / "out", masks=masks).kept == len(NAMES)


def test_a_class_without_a_code_is_told_with_its_image(photos: Path, tmp_path: Path) -> None:
    summary = run(photos, tmp_path / "out", masks=masks_of(photos, [4, 7, 2]), codes={4: 0, 7: 1})
    assert {entry.status for entry in summary.entries} == {"failed"}
    assert "class 2 has no code" in summary.entries[0].reason and "--codes" in summary.entries[0].reason
    masks = masks_of(photos, [4, 7, 2])
    assert run(photos, tmp_path / "out", masks=masks, codes={4: 0, 7: 1, 2: 5}).exit_code == 0
    with pytest.raises(UserError, match=r"codes\.7: 1, now 3"):
        run(photos, tmp_path / "out", masks=masks, codes={4: 0, 7: 3, 2: 5})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": "compact", "survive_grey": True}, "--survive-grey"),
        ({"noise": "codes", "generator": "x.pth"}, "--generator x.pth"),
        ({"noise": "sam"}, "--noise sam: name the weight file"),
        ({"noise": "tint", "generator": "x.pth"}, "leave out --generator x.pth"),
        ({"noise": "grating"}, "--noise grating: choose from codes, sam, compact, tint"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        ProtectSettings(**given)
    assert message in str(error.value)


def test_a_key_and_codes_are_for_codes(photos: Path, tmp_path: Path) -> None:
    masks = object_masks(photos)
    with pytest.raises(UserError, match="--key: is for noise of codes"):
        run(photos, tmp_path / "out", replace(SETTINGS, noise="compact"), masks=masks, key=bytes(32))
    with pytest.raises(UserError, match="^codes: holds codes of classes; give --objects by-class"):
        run(photos, tmp_path / "out", replace(SETTINGS, auto_objects=False), masks=masks, codes={1: 1})
    with pytest.raises(UserError, match="nothing here tells classes apart"):
        run(photos, tmp_path / "out", masks=masks, codes={1: 1})
    with pytest.raises(UserError, match="--region published: follows a network's prompt"):
        run(photos, tmp_path / "out", replace(SETTINGS, region="published"), masks=masks)
    assert not (tmp_path / "out").exists()


# --- statuses


def test_saturated_objects_are_weak_and_images_of_the_absent_class_uncoded(photos: Path, tmp_path: Path) -> None:
    masks, out = masks_of(photos, [4, 7, 7, 2]), tmp_path / "out"
    write(masks, "b.png", np.full_like(pixels(masks / "b.png"), 4, dtype=np.uint8))
    settings = replace(SETTINGS, budget=Budget(0.5, 0))  # less than a whole grey level
    weak = run(photos, tmp_path / "weak", settings, masks=masks, codes={4: 0, 7: 1, 2: 2})
    assert [entry.status for entry in weak.entries] == ["weak", "uncoded", "weak"] and weak.exit_code == 1
    assert "its object did not change; the budget is 0.5 grey levels" in weak.entries[0].reason
    summary = run(photos, out, masks=masks, codes={4: 0, 7: 1, 2: 2})
    assert [entry.status for entry in summary.entries] == ["protected", "uncoded", "protected"]
    assert summary.exit_code == 1 and np.array_equal(pixels(out / "b.png"), pixels(photos / "b.png"))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(photos, out, masks=masks).kept == 3
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    found = verify(out)
    assert found.failures == [] and found.extra == () and found.images == 3 and found.exit_code == 1
    assert [item.problem.split(":")[0] for item in found.unprotected] == ["uncoded"]
    write_png(out / "b.png", pixels(out / "b.png").astype(np.uint8) ^ 1)
    assert [item.name for item in verify(out).failures] == ["b.png"] and verify(out).images == 3


class Faint:
    """Noise that is a share of the budget everywhere."""

    image_size = 32

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, images: torch.Tensor, prompts: object) -> torch.Tensor:
        return torch.full_like(images, self.share)


@pytest.mark.parametrize(("share", "status"), [(0.12, "weak"), (0.25, "protected")])
def test_a_quarter_of_the_budget_is_the_least(photos: Path, tmp_path: Path, share: float, status: str) -> None:
    """1 of 8 grey levels is weak, 2 of 8 are not: also for a network's noise."""
    summary = run(photos, tmp_path / "out", masks=object_masks(photos), generator=Faint(share))
    assert {entry.status for entry in summary.entries} == {status}
    assert (
        status == "protected"
        or "changed by 1 grey levels on average, under a quarter of 8" in summary.entries[0].reason
    )


def test_the_closing_table_names_what_is_weak(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["protect", str(photos), "--masks", str(object_masks(photos)), "--out", str(tmp_path / "out"), "-q"]
    assert cli.main([*arguments, "--epsilon", "0.5"]) == 1
    shown = capsys.readouterr().out
    assert "│ weak " in shown and "a.png: its object did not change" in shown


def test_tints_and_networks_stay(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The noise of before by its names; a generator that is not derived from SAM is not called so."""
    masks = masks_of(photos, [4, 7, 7, 2])
    arguments = ["protect", str(photos), "--masks", str(masks), "-q", "--out"]
    assert cli.main([*arguments, str(tmp_path / "tint"), "--noise", "tint"]) == 0
    assert cli.main([*arguments, str(tmp_path / "same"), "--generator", "compact", "--objects", "by-class"]) == 0
    assert tree(tmp_path / "tint") == tree(tmp_path / "same") and not (tmp_path / "tint.key").exists()
    shipped = str(files("unseg") / "weights" / "compact.safetensors")
    assert cli.main([*arguments, str(tmp_path / "sam"), "--noise", "sam", "--generator", shipped]) == 2
    assert "--noise sam: compact.safetensors is a compact generator" in capsys.readouterr().err


@pytest.mark.parametrize(("strength", "largest"), [("subtle", 4), ("standard", 8), ("strong", 12)])
def test_strengths_are_budgets_and_the_background_stays(
    photos: Path, tmp_path: Path, strength: str, largest: int
) -> None:
    masks, out = object_masks(photos), tmp_path / "out"
    arguments = ["protect", str(photos), "--masks", str(masks), "--out", str(out), "--strength", strength, "-q"]
    assert cli.main([*arguments, "--background-epsilon", "3"]) == 0
    change = np.abs(pixels(out / "a.png") - pixels(photos / "a.png"))
    inside = pixels(masks / "a.png") > 0
    assert (change[inside] == largest).all() and not change[~inside].any()
    assert verify(out).largest_changes() == (largest, 0)


def test_epsilon_overrides_strength(photos: Path, tmp_path: Path) -> None:
    masks = object_masks(photos)
    (tmp_path / "c.yaml").write_text("strength: subtle\n")
    arguments = ["protect", str(photos), "--masks", str(masks), "--epsilon", "6", "-q", "--out"]
    for name, options in (("a", ["--strength", "strong"]), ("b", ["--config", str(tmp_path / "c.yaml")])):
        assert cli.main([*arguments, str(tmp_path / name), *options]) == 0
        assert verify(tmp_path / name).largest_changes() == (6, 0)


# --- the same bytes by every way


def test_bytes_depend_on_key_codes_and_settings_alone(photos: Path, tmp_path: Path) -> None:
    masks, key = masks_of(photos, [4, 7, 7, 2]), bytes(range(32))
    given = {"masks": masks, "key": key, "codes": {4: 0, 7: 1, 2: 2}}
    run(photos, tmp_path / "whole", **given)
    expected = tree(tmp_path / "whole")
    run(photos / "sub" / "c.png", tmp_path / "parts", **{**given, "masks": masks / "sub"})
    assert (tmp_path / "parts" / "c.png").read_bytes() == expected["sub/c.png"]
    run(photos, tmp_path / "limited", limit=1, **given)
    run(photos, tmp_path / "limited", **given)
    assert tree(tmp_path / "limited") == expected
    run(photos, tmp_path / "shared", processes=2, **given)
    assert tree(tmp_path / "shared") == expected
    protector = unseg.Protector(key=key, codes={4: 0, 7: 1, 2: 2})
    options = {"survive_grey": True, "mask_by_contrast": True}
    run(photos, tmp_path / "options", replace(SETTINGS, **options), **given)
    image, classes = np.asarray(Image.open(photos / "a.png")), pixels(masks / "a.png")
    optional = unseg.Protector(key=key, codes={4: 0, 7: 1, 2: 2}, **options)(image, classes=classes)
    assert np.array_equal(optional, pixels(tmp_path / "options" / "a.png"))
    assert not np.array_equal(optional, pixels(tmp_path / "whole" / "a.png"))
    made = protector(np.asarray(Image.open(photos / "a.png")), classes=pixels(masks / "a.png"))
    assert np.array_equal(made, pixels(tmp_path / "whole" / "a.png"))


def test_one_image_in_memory_is_what_the_command_writes(photos: Path, tmp_path: Path) -> None:
    masks, out = object_masks(photos), tmp_path / "out"
    run(photos, out, masks=masks)
    key = tmp_path / "out.key"
    image, mask = Image.open(photos / "a.png"), Image.open(masks / "a.png")
    for made in (unseg.protect(image, mask=mask, key=key), unseg.Protector(key=read_key(key))(image, mask)):
        assert np.array_equal(np.asarray(made), pixels(out / "a.png"))
    numbers = {np.int64(1): np.uint8(1), np.int32(0): 0}
    of_numpy = unseg.Protector(key=bytearray(range(32)), codes=numbers, epsilon=np.float32(8))
    assert of_numpy.key == bytes(range(32)) and of_numpy.codes == {0: 0, 1: 1} and of_numpy.budget.object == 8
    drawn = unseg.Protector()
    assert len(drawn.key) == 32 and drawn.key != unseg.Protector().key
    pixels_of = np.asarray(image)
    again = unseg.Protector(key=drawn.key)(pixels_of, whole_image=True)
    assert np.array_equal(drawn(pixels_of, whole_image=True), again)


@pytest.mark.parametrize(
    ("given", "call", "message"),
    [
        ({"key": b"short"}, {}, "key: has 5 bytes"),
        ({"key": 7}, {}, "key: is of type int; give 32 bytes, or the file that holds them"),
        ({"codes": {1: True}}, {}, "'1': True: give class ids"),
        ({"codes": [1, 2]}, {}, "codes: is of type list; give {class: code}, or the file that holds them"),
        ({"generator": "compact", "key": bytes(32)}, {}, "key, codes, survive_grey and mask_by_contrast: are for"),
        ({"region": "published"}, {}, "region: 'published'"),
        ({"codes": {1: 99}}, {}, "'1': 99"),
        ({}, {"classes": np.zeros((41, 60), int)}, "classes: need codes"),
        ({"codes": {1: 1}}, {"classes": np.zeros((41, 60), int)}, "class 0 has no code"),
        ({"codes": {1: 1}}, {"classes": np.ones((4, 6), int)}, "expected 41×60"),
        ({"codes": {1: 1}}, {"classes": np.ones((41, 60))}, "whole numbers"),
        ({"codes": {1: 1}}, {"classes": np.ones((41, 60), int), "mask": np.ones((41, 60), bool)}, "leave out mask"),
        (
            {"codes": {1: 1}},
            {"classes": np.ones((41, 60), int), "points": [[9, 4]]},
            "leave out mask, boxes, points and whole_image",
        ),
    ],
)
def test_what_python_callers_get_wrong_is_one_line(given: dict, call: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        unseg.Protector(**given)(np.zeros((41, 60, 3), np.uint8), **call)
    assert message in str(error.value)


def test_class_maps_mean_the_same_as_masks_and_as_annotations(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [4, 7, 7, 2])
    of_masks, of_annotations = tmp_path / "of_masks", tmp_path / "of_annotations"
    assert protect(photos, of_masks, SETTINGS, masks=masks, key=bytes(32)).exit_code == 0
    assert protect(photos, of_annotations, SETTINGS, annotations=masks, key=bytes(32)).exit_code == 0
    assert read_manifest(of_annotations).header["codes"] == read_manifest(of_masks).header["codes"]
    pictures = [name for name in tree(of_masks) if name.endswith(".png")]
    assert pictures and all(tree(of_annotations)[name] == tree(of_masks)[name] for name in pictures)


def test_no_key_is_drawn_into_a_protected_folder(photos: Path, tmp_path: Path) -> None:
    masks, out = object_masks(photos), tmp_path / "out"
    assert protect(photos, out, SETTINGS, masks=masks).exit_code == 0
    with pytest.raises(UserError, match=r"--out .*out/more: lies in .*out, a protected folder, with which its key"):
        protect(photos, out / "more", SETTINGS, masks=masks)
    assert not (out / "more.key").exists() and verify(out).exit_code == 0


def test_noise_of_codes_needs_no_torch(photos: Path, tmp_path: Path) -> None:
    command = ["protect", str(photos), "--masks", str(object_masks(photos)), "--out", "out"]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from unseg import cli\n"
        f"assert cli.main({command!r}) == 0\n"
        "assert cli.main(['verify', 'out']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_prints_choice_and_codes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    masks = masks_of(photos, [4, 7, 7, 2])
    arguments = ["protect", str(photos), "--masks", str(masks), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert "codes: a pattern for each of 2 classes, none for class" in capsys.readouterr().out
    header = json.loads((tmp_path / "out" / MANIFEST).read_text().split("\n", 1)[0])
    assert header["settings"]["codes"] == header["codes"]["codes"]
