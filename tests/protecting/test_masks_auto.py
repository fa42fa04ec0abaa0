"""Runs with --masks auto: masks are found by a small network in rembg's format, kept, used again, and never lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg
from tests.support.acting_progress import Acting
from tests.support.foreground_network import write_red_network
from tests.support.red_pictures import HEIGHT, SMALL, TALL, WIDTH, picture
from tests.support.told_progress import Told
from tests.support.watched_folders import watched
from unseg.errors import UserError
from unseg.protecting import watching
from unseg.protecting.kept_masks import RECORD, masks_beside
from unseg.protecting.manifest import read_manifest
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.storage.files import files_under
from unseg.storage.image_decoding import read_image

SETTINGS = ProtectSettings(workers=2)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")  # of rembg before 2.0.70, which looks at files that are there
    write_red_network(tmp_path / "models")
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Pillow.fromarray(picture(TALL)).save(folder / "one.jpg", quality=97)
    Pillow.fromarray(picture(TALL, SMALL, seed=1)).save(folder / "two.png")
    Pillow.fromarray(picture(seed=2)).save(folder / "sub" / "wall.png")
    return folder


def run(
    photos: Path, out: Path, model: str | None = "u2netp", *, with_: ProtectSettings = SETTINGS, **more: Any
) -> Summary:
    return protect(photos, out, replace(with_, auto_model=model), masks="auto", **more)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def reasons(summary: Summary) -> dict[str, str | None]:
    return {entry.input: entry.reason for entry in summary.entries if entry.status != "protected"}


def test_masks_are_found_kept_and_used(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(photos, out)
    masks = masks_beside(out)
    assert sorted(tree(masks)) == ["one.png", "sub/wall.png", "two.png", RECORD]
    assert [entry.input for entry in summary.of("protected")] == ["one.jpg", "two.png"]
    assert list(reasons(summary)) == ["sub/wall.png"]
    assert "no clear foreground" in str(reasons(summary)["sub/wall.png"])
    assert str(masks / "sub" / "wall.png") in str(reasons(summary)["sub/wall.png"])
    assert not (out / "sub").exists() and summary.exit_code == 1

    levels = np.asarray(Pillow.open(masks / "two.png"))
    assert levels.shape == (HEIGHT, WIDTH)
    left, top, right, bottom = TALL
    assert (levels[top + 3 : bottom - 3, left + 3 : right - 3] == 255).all()
    left, top, right, bottom = SMALL
    assert (levels[top + 3 : bottom - 3, left + 3 : right - 3] == 235).all()
    assert not levels[:, 126:174].any()

    changed = read_image(out / "two.png").samples.astype(int) - read_image(photos / "two.png").samples
    assert (changed[levels == 0] == 0).all() and np.abs(changed[levels > 0]).mean() > 2
    assert [finding.name for finding in unseg.verify(out).unprotected] == ["sub/wall.png"]


def test_next_run_keeps_every_byte_and_asks_no_network(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    before = tree(tmp_path)
    shutil.rmtree(tmp_path / "models")  # whoever asked for it would be told that it is gone
    summary = run(photos, out, None)
    after = tree(tmp_path)
    assert {name: data for name, data in before.items() if not name.startswith("models/")} == after
    assert summary.kept == 2 and "no clear foreground" in str(reasons(summary)["sub/wall.png"])


def test_changed_mask_counts_and_stays(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    masks = masks_beside(out)
    levels = np.array(Pillow.open(masks / "two.png"))
    levels[levels == 235] = 0  # leaves the smaller one out
    Pillow.fromarray(levels).save(masks / "two.png")
    Pillow.fromarray(np.pad(np.full((30, 50, 3), 255, np.uint8), ((20, 160), (40, 210), (0, 0)))).save(
        masks / "sub" / "wall.png"
    )
    own = tree(masks)
    summary = run(photos, out, with_=replace(SETTINGS, unmasked="fail"))  # what was unclear is so no more
    assert tree(masks) == own
    assert summary.exit_code == 0 and summary.kept == 1
    changed = read_image(out / "two.png").samples.astype(int) - read_image(photos / "two.png").samples
    assert not changed[:, 170:].any() and changed[50:150, 40:110].any()
    assert unseg.verify(out).exit_code == 0


def test_image_that_changed_gets_a_new_mask_unless_its_mask_is_a_persons(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    masks = masks_beside(out)
    Pillow.fromarray(picture(SMALL, seed=4)).save(photos / "two.png")
    run(photos, out)
    assert not np.asarray(Pillow.open(masks / "two.png"))[:, :170].any()
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    white[:, 250:] = 0
    Pillow.fromarray(white).save(masks / "two.png")
    Pillow.fromarray(picture(TALL, seed=5)).save(photos / "two.png")
    before = (masks / "two.png").read_bytes()
    run(photos, out)
    assert (masks / "two.png").read_bytes() == before


def test_another_model_finds_masks_anew_but_for_changed_ones(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    masks = masks_beside(out)
    Pillow.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(masks / "two.png")
    before = tree(masks)
    write_red_network(tmp_path / "models", "isnet-general-use")
    run(photos, out, "isnet-general-use")
    after = tree(masks)
    assert after["two.png"] == before["two.png"]
    lines = [json.loads(line) for line in (masks / RECORD).read_text().splitlines()]
    assert {line["input"]: line["model"] for line in lines} == {
        "one.jpg": "isnet-general-use",
        "two.png": "u2netp",
        "sub/wall.png": "isnet-general-use",
    }


def test_masks_a_person_put_there_first_are_used(photos: Path, tmp_path: Path) -> None:
    masks = masks_beside(tmp_path / "out")
    masks.mkdir()
    Pillow.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(masks / "one.png")
    before = (masks / "one.png").read_bytes()
    summary = run(photos, tmp_path / "out")
    assert (masks / "one.png").read_bytes() == before
    assert next(entry for entry in summary.entries if entry.input == "one.jpg").object_share == 1


def test_masks_of_inputs_of_one_name_are_kept_apart(photos: Path, tmp_path: Path) -> None:
    Pillow.fromarray(picture(SMALL, seed=6)).save(photos / "two.bmp")
    run(photos, tmp_path / "out")
    masks = masks_beside(tmp_path / "out")
    assert not np.asarray(Pillow.open(masks / "two.bmp.png"))[:, :170].any()
    assert np.asarray(Pillow.open(masks / "two.png"))[:, :170].any()
    assert len(read_manifest(tmp_path / "out").entries) == 4


def test_damaged_image_and_limit(photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    summary = run(photos, tmp_path / "out", limit=2)
    assert [entry.status for entry in summary.entries] == ["failed", "protected"]
    assert sorted(tree(masks_beside(tmp_path / "out"))) == ["one.png", RECORD]


def test_unmasked_says_what_becomes_of_unclear_images(photos: Path, tmp_path: Path) -> None:
    summary = run(photos, tmp_path / "whole", with_=ProtectSettings(unmasked="whole"))
    assert summary.exit_code == 0
    with pytest.raises(UserError, match=r"--unmasked fail: images without mask.* 1 \(.*wall"):
        run(photos, tmp_path / "fail", with_=ProtectSettings(unmasked="fail"))
    assert not (tmp_path / "fail").exists()


def test_dry_run_writes_nothing_and_fetches_nothing(photos: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "models")
    before, told = tree(tmp_path), Told()
    summary = run(photos, tmp_path / "out", dry_run=True, progress=told)
    assert tree(tmp_path) == before
    assert any("would look for 3 more" in sentence for sentence in told.sentences)
    assert {entry.note for entry in summary.entries} == {"its mask is found when the run begins"}


def test_orientation_of_a_photograph_turns_its_mask_too(photos: Path, tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(picture(TALL, seed=8)).save(photos / "turned.jpg", quality=97, exif=exif)
    run(photos, tmp_path / "out")
    mask = np.asarray(Pillow.open(masks_beside(tmp_path / "out") / "turned.png"))
    assert mask.shape == (WIDTH, HEIGHT)
    assert mask[35:115, 55:165].all()  # a quarter to the right: (x, y) → (209 − y, x)
    entry = next(line for line in read_manifest(tmp_path / "out").entries.values() if line.input == "turned.jpg")
    assert entry.status == "protected" and entry.note is None


def test_photograph_upside_down_leaves_no_doubt_how_its_mask_lies(photos: Path, tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 3  # its mask would fit either way
    Pillow.fromarray(picture(TALL, seed=9)).save(photos / "turned.jpg", quality=97, exif=exif)
    run(photos, tmp_path / "out")
    assert np.asarray(Pillow.open(masks_beside(tmp_path / "out") / "turned.png"))[55:165, 185:265].all()
    entry = next(line for line in read_manifest(tmp_path / "out").entries.values() if line.input == "turned.jpg")
    assert entry.status == "protected" and entry.note is None


# --- what cannot be


def test_network_that_cannot_be_fetched_is_one_line(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import pooch

    tries = []

    def offline(*arguments: Any, **options: Any) -> str:
        tries.append(arguments)
        raise ConnectionError("HTTPSConnectionPool(host='example'): Max retries exceeded with url: /a/b (Caused by …)")

    monkeypatch.setattr(pooch, "retrieve", offline)
    told = Told()
    with pytest.raises(UserError) as found:
        run(photos, tmp_path / "out", "silueta", progress=told)
    line = str(found.value)
    assert len(tries) == 1, "every thread waited for the network"
    assert "\n" not in line and "Max retries exceeded);" in line and "silueta.onnx where there is a network" in line
    assert str(tmp_path / "models") in line.rpartition("put it here: ")[2]
    assert any(
        "silueta is not on this machine; rembg downloads it now, once (44 MB)" in said for said in told.sentences
    )
    assert not (tmp_path / "out").exists()


def test_damaged_network_is_one_line(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "u2netp.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"u2netp\.onnx cannot be opened as rembg's model u2netp; remove it") as found:
        run(photos, tmp_path / "out")
    assert "\n" not in str(found.value)


def test_network_of_another_shape_is_one_line(photos: Path, tmp_path: Path) -> None:
    write_red_network(tmp_path / "models", "isnet-general-use").rename(tmp_path / "models" / "u2netp.onnx")
    with pytest.raises(UserError, match="rembg's model u2netp cannot be asked") as found:
        run(photos, tmp_path / "out")
    assert "\n" not in str(found.value)


def test_options_that_do_not_go_together_are_told(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="--auto-model u2net: is for --masks auto"):
        protect(photos, tmp_path / "out", replace(SETTINGS, auto_model="u2net"), masks=photos)
    with pytest.raises(UserError, match="--auto-model nothing: choose from isnet-general-use, u2net"):
        run(photos, tmp_path / "out", "nothing")
    with pytest.raises(UserError, match="--mask-type index: is for masks of your own"):
        run(photos, tmp_path / "out", with_=ProtectSettings(mask_type="index"))
    with pytest.raises(UserError, match="--masks and --whole-image: give one of them"):
        run(photos, tmp_path / "out", whole_image=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto").mkdir()
    with pytest.raises(UserError, match="a folder of that name lies here"):
        run(photos, tmp_path / "out")


def test_watched_folders_get_masks_as_images_come_and_masks_a_person_changes_count(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAUSE", 0.02)
    monkeypatch.setattr(watching, "SETTLED", 0.15)
    (photos / "two.png").rename(tmp_path / "two.png")
    out = tmp_path / "out"
    masks = masks_beside(out)
    with watched(photos, out, monkeypatch, masks="auto", auto_model="u2netp", workers=2) as told:
        told.wait_for("1 protected, 1 not: ")
        (photos / "half.png").write_bytes((tmp_path / "two.png").read_bytes()[:999])
        told.wait_for("half.png: failed: ")
        (photos / "half.png").unlink()
        (tmp_path / "two.png").rename(photos / "two.png")
        told.wait_for("two.png: protected")
        assert sorted(tree(masks)) == ["one.png", "sub/wall.png", "two.png", RECORD]
        before = {name: data for name, data in tree(out).items() if name.endswith(".png")}
        Pillow.fromarray(np.pad(np.full((30, 50), 255, np.uint8), ((20, 160), (40, 210)))).save(masks / "sub/wall.png")
        told.wait_for("sub/wall.png: protected")
        Pillow.fromarray(picture(SMALL, seed=3)).save(photos / "one.jpg", quality=97)
        told.wait_for("one.jpg: protected")
    assert told.sentences.count("two.png: protected") == told.sentences.count("one.jpg: protected") == 1
    after = tree(out)
    assert after["two.png"] == before["two.png"] and after["one.png"] != before["one.png"]
    changed = read_image(out / "one.png").samples.astype(int) - read_image(photos / "one.jpg").samples
    assert not changed[:, :170].any() and changed[40:110, 190:230].any()
    monkeypatch.undo()  # of what ends whatever sleeps; no network is asked from here on
    own = tree(masks)
    summary = run(photos, out, None)  # an ordinary run finds nothing left to do
    assert summary.kept == 3 and tree(masks) == own


def test_record_that_is_none_is_told(photos: Path, tmp_path: Path) -> None:
    masks = masks_beside(tmp_path / "out")
    masks.mkdir()
    for text in ("[1]\n", '{"input": "a"}\n', "no\n"):
        (masks / RECORD).write_text(text)
        with pytest.raises(UserError, match=r"no record of masks that were found \(line 1"):
            run(photos, tmp_path / "out")
    line = dict.fromkeys(("input", "input_root", "input_sha256", "mask_sha256", "model"), "x")
    (masks / RECORD).write_text(json.dumps({**line, "mask": "../x.png", "objects": 1}) + "\n")
    with pytest.raises(UserError, match="no record"):
        run(photos, tmp_path / "out")


def test_line_that_was_cut_short_is_left_out(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out")
    record = masks_beside(tmp_path / "out") / RECORD
    whole = record.read_bytes()
    record.write_bytes(whole[:-10])
    before = tree(masks_beside(tmp_path / "out"))
    run(photos, tmp_path / "out")
    after = tree(masks_beside(tmp_path / "out"))
    assert {name: after[name] for name in after if name != RECORD} == {
        name: before[name] for name in before if name != RECORD
    }


def test_mask_that_a_person_paints_meanwhile_stays(photos: Path, tmp_path: Path) -> None:
    masks, white = masks_beside(tmp_path / "out"), np.full((HEIGHT, WIDTH), 255, np.uint8)

    def paint() -> None:
        Pillow.fromarray(white).save(masks / "two.png")  # the last of three that are found

    summary = run(photos, tmp_path / "out", with_=ProtectSettings(workers=1), progress=Acting(1, paint, of="masks"))
    assert (np.asarray(Pillow.open(masks / "two.png")) == 255).all()
    assert next(entry for entry in summary.entries if entry.input == "two.png").object_share == 1


def test_kill_between_the_line_and_the_mask_of_a_changed_image(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, masks = tmp_path / "out", masks_beside(tmp_path / "out")
    run(photos, out)
    Pillow.fromarray(picture(SMALL, seed=4)).save(photos / "two.png")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr("unseg.protecting.mask_finding.write_bytes", killed)
        run(photos, out)
    run(photos, out)
    assert not np.asarray(Pillow.open(masks / "two.png"))[:, :170].any()


@pytest.mark.parametrize("count", [1, 2])
def test_run_that_stops_among_the_masks_goes_on(photos: Path, tmp_path: Path, count: int) -> None:
    run(photos, tmp_path / "unbroken")
    out, masks = tmp_path / "out", masks_beside(tmp_path / "out")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, out, progress=Acting(count, stop, of="masks"))
    assert not out.exists() and len(tree(masks)) >= 1 + count
    (masks / ".unseg-0123456789abcdef.tmp").touch()  # as a kill leaves it
    run(photos, out)
    found, expected = tree(masks), tree(masks_beside(tmp_path / "unbroken"))
    assert sorted(found.pop(RECORD).splitlines()) == sorted(expected.pop(RECORD).splitlines())
    assert found == expected


def test_linked_folder_among_the_masks_is_not_followed(photos: Path, tmp_path: Path) -> None:
    masks, other = masks_beside(tmp_path / "out"), tmp_path / "other"
    masks.mkdir()
    other.mkdir()
    (masks / "sub").symlink_to(other)
    with pytest.raises(UserError, match="is a link, which is not followed"):
        run(photos, tmp_path / "out")
    assert not list(other.iterdir())


def test_rembg_is_imported_when_it_is_used_and_without_its_matting(photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys, unseg.protecting.run, unseg.protecting.auto_masks as m\n"
        "assert not {'rembg', 'onnxruntime', 'pooch'} & set(sys.modules)\n"
        "import unseg\n"
        "from unseg.protecting.settings import ProtectSettings\n"
        "settings = ProtectSettings(auto_model='u2netp')\n"
        f"unseg.protect_folder({str(photos)!r}, {str(tmp_path / 'out')!r}, settings, masks='auto')\n"
        "assert 'onnxruntime' in sys.modules and not {'torch', 'numba', 'pymatting', 'rembg.bg'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_missing_extra_is_one_line(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    needs = r"needs rembg, which is not installed; run: pip install 'unseg\[auto\]'; or name a folder of masks"
    with pytest.raises(UserError, match=f"^--masks auto: {needs}$"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out.masks").exists()
    (tmp_path / "out.masks").mkdir()
    with pytest.raises(UserError, match="needs rembg"):
        run(photos, tmp_path / "out")
    assert list((tmp_path / "out.masks").iterdir()) == []  # a folder of the user's, who may fill it
