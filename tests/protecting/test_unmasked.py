"""Images that nothing shows an object in, and masks that are gone or cannot be read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg
from tests.support.fake_generator import loaded
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.annotation_objects import AnnotationObjects
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.image_decoding import Frame, read_image

SETTINGS = ProtectSettings(device="cpu", workers=1)
HEIGHT, WIDTH = 31, 44
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[4:19, 21:40] = 255
EMPTY = np.zeros_like(MASK)


def photo(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(40, 210, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """masked.png has a mask, bare.png none, and the mask of empty.png is black."""
    for name, mask in (("masked", MASK), ("bare", None), ("empty", EMPTY)):
        (tmp_path / "in").mkdir(exist_ok=True), (tmp_path / "masks").mkdir(exist_ok=True)
        Pillow.fromarray(photo(len(name))).save(tmp_path / "in" / f"{name}.png")
        if mask is not None:
            Pillow.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def run(place: Path, unmasked: str = "skip", **options: object) -> Summary:
    settings = replace(SETTINGS, unmasked=unmasked, **options.pop("settings", {}))
    given = {"masks": place / "masks", "generator": loaded(), **options}
    return protect([place / "in"], place / "out", settings, **given)


def states(summary: Summary) -> dict[str, str]:
    return {entry.input.partition(".")[0]: entry.status for entry in summary.entries}


def outputs(place: Path) -> set[str]:
    return {path.stem for path in (place / "out").glob("*.png")}


@pytest.mark.parametrize(
    ("unmasked", "status", "written"),
    [("skip", "skipped", False), ("copy", "copied", True), ("whole", "protected", True)],
)
def test_what_becomes_of_images_without_an_object(place: Path, unmasked: str, status: str, written: bool) -> None:
    foreseen = run(place, unmasked, dry_run=True)
    summary = run(place, unmasked)
    assert states(summary) == states(foreseen) == {"masked": "protected", "bare": status, "empty": status}
    assert outputs(place) == ({"masked", "bare", "empty"} if written else {"masked"})
    assert summary.exit_code == (0 if unmasked == "whole" else 1)
    result = verify(place / "out")
    assert result.failures == [] and not result.extra and not result.missing
    assert [finding.name for finding in result.unprotected] == (
        [] if unmasked == "whole" else ["bare.png", "empty.png"]
    )
    again = run(place, unmasked)
    assert again.kept == sum(state == "protected" for state in states(summary).values())
    if unmasked == "whole":
        entry = next(entry for entry in summary.entries if entry.input == "empty.png")
        assert entry.object == "whole image" and "no object in its mask (empty.png)" in (entry.note or "")
        change = np.abs(read_image(place / "out" / "empty.png").pixels.astype(int) - photo(5))
        assert (change.max(axis=2) > 2).mean() > 0.5


def test_fail_ends_a_run_before_it_writes(place: Path) -> None:
    with pytest.raises(UserError, match=r"--unmasked fail: images without mask, box or annotation: 1 \(bare.png\)"):
        run(place, "fail")
    assert not (place / "out" / "masked.png").exists()
    (place / "in" / "bare.png").unlink()
    assert states(run(place, "fail")) == {"masked": "protected", "empty": "failed"}  # shows only when it is read


def test_by_class_an_image_without_a_mask_has_no_class() -> None:
    with pytest.raises(UserError, match="--unmasked whole: "):
        replace(SETTINGS, rule=ObjectRule(by_class=True), unmasked="whole")


def test_a_class_that_no_mask_shows_copies_nothing_and_says_what_they_show(place: Path) -> None:
    (place / "in" / "bare.png").unlink()
    settings = {"rule": ObjectRule((77, 78)), "mask_type": "index"}
    mask = np.asarray(Pillow.open(place / "masks" / "masked.png"))
    Pillow.fromarray(np.where(mask > 0, 6, 0).astype(np.uint8)).save(place / "masks" / "beside.png")
    with pytest.raises(UserError, match="no image shows class 77, 78; all classes that they show: 0, 6$"):
        run(place, settings=settings)
    assert not (place / "out").exists()
    settings["rule"] = ObjectRule((6, 77))  # of a mask without an image here, as when a part of a set is protected
    assert set(states(run(place, settings=settings)).values()) == {"skipped"}


@pytest.mark.parametrize("unmasked", ["skip", "copy", "whole"])
def test_a_protected_file_is_never_replaced_by_less(place: Path, unmasked: str) -> None:
    run(place)
    before = (place / "out" / "masked.png").read_bytes()
    (place / "masks" / "masked.png").unlink()
    for _ in range(2):  # the second run finds the line of the first
        summary = run(place, unmasked)
        entry = next(entry for entry in summary.entries if entry.input == "masked.png")
        assert entry.status == "failed" and "an earlier run protected it: put back" in (entry.reason or "")
        assert (place / "out" / "masked.png").read_bytes() == before
    Pillow.fromarray(MASK).save(place / "masks" / "masked.png")
    assert states(run(place, unmasked))["masked"] == "protected"
    assert (place / "out" / "masked.png").read_bytes() == before
    (place / "masks" / "masked.png").unlink()
    (place / "out" / "masked.png").unlink()
    told = {"skip": "skipped", "copy": "copied", "whole": "protected"}
    assert states(run(place, unmasked))["masked"] == told[unmasked]


def test_what_was_protected_whole_may_be_so_again_after_a_failure(place: Path) -> None:
    run(place, "whole")
    before = (place / "out" / "bare.png").read_bytes()
    Pillow.fromarray(MASK[:9]).save(place / "masks" / "bare.png")
    assert states(run(place, "whole"))["bare"] == "failed"  # a mask of another size
    (place / "masks" / "bare.png").unlink()
    assert states(run(place, "whole"))["bare"] == "protected"
    assert (place / "out" / "bare.png").read_bytes() == before


def test_a_copy_of_an_earlier_run_goes_on_being_called_one(place: Path) -> None:
    run(place, "copy")
    assert states(run(place, "skip")) == {"masked": "protected", "bare": "copied", "empty": "copied"}


def test_a_folder_of_masks_without_any_is_an_error(place: Path) -> None:
    run(place)
    (place / "masks").rename(place / "elsewhere")
    (place / "masks").mkdir()  # where a share is not mounted
    with pytest.raises(UserError, match="--masks .*masks: holds no mask; name their folder"):
        run(place, "copy")
    assert outputs(place) == {"masked"}


@pytest.fixture
def unreadable(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """masks/deep cannot be listed; permissions mean nothing to the superuser, so listing it is what fails."""
    for kind in ("in", "masks"):
        (place / kind / "deep").mkdir()
        Pillow.fromarray(photo(9) if kind == "in" else MASK).save(place / kind / "deep" / "inner.png")
    closed, scandir = os.path.realpath(place / "masks" / "deep"), os.scandir

    def scan(folder: object = ".") -> object:
        if os.path.realpath(os.fspath(folder)) == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    return place


@pytest.mark.parametrize("given", ["masks", "annotations"])
def test_masks_that_cannot_be_listed_are_no_missing_masks(unreadable: Path, given: str) -> None:
    options = {"masks": None, "annotations": None, given: unreadable / "masks"}
    summary = run(unreadable, "copy", **options)
    reasons = {entry.input: entry.reason for entry in summary.of("failed")}
    for name in ("bare.png", "deep/inner.png"):  # whose mask may lie in there
        assert "found for it, but" in reasons[name] and "folder cannot be read: Permission denied" in reasons[name]
    assert states(summary)["masked"] == "protected" and not (unreadable / "out" / "bare.png").exists()


def test_a_masks_folder_that_cannot_be_listed_itself_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def scan(folder: object = ".") -> object:
        if os.path.realpath(os.fspath(folder)) == os.path.realpath(place / "masks"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(UserError, match="--masks .*masks: folder cannot be read: Permission denied; allow reading it"):
        run(place, "copy")


def test_annotations_that_cannot_be_listed_are_no_missing_annotations(unreadable: Path) -> None:
    """Of every format with a file for each image; here of LabelMe's."""
    for name in ("masked", "empty"):
        shape = {"label": "thing", "points": [[3, 2], [30, 20]], "shape_type": "rectangle"}
        content = {"shapes": [shape], "imagePath": f"{name}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        (unreadable / "masks" / f"{name}.json").write_text(json.dumps(content))
        (unreadable / "masks" / f"{name}.png").unlink()
    opened = OpenAnnotations.open(unreadable / "masks", unreadable / "in", "labelme")
    objects = AnnotationObjects(opened, ObjectRule(), "masks", 10**6)
    assert objects.unreadable is not None and "folder cannot be read" in objects.unreadable


# --- without an object ------------------------------------------------------------------------------------------------


def test_without_an_object_every_way_in_asks_for_one(place: Path) -> None:
    with pytest.raises(UserError, match="what is the object.*--whole-image, which cannot keep networks from learning"):
        protect([place / "in"], place / "out", SETTINGS, generator=loaded())
    assert not (place / "out").exists()
    for asked in (unseg.protect, unseg.Protector(loaded(), device="cpu")):
        with pytest.raises(UserError, match="what is the object.*whole_image=True, which cannot keep networks"):
            asked(photo(1))
        with pytest.raises(UserError, match="mask and whole_image: give one of them"):
            asked(photo(1), mask=MASK, whole_image=True)
    with pytest.raises(UserError, match="--masks and --whole-image: give one of them"):
        run(place, whole_image=True)


def test_whole_images_are_recorded_as_such_and_verified(place: Path) -> None:
    summary = run(place, masks=None, whole_image=True)
    assert {(entry.status, entry.object) for entry in summary.entries} == {("protected", "whole image")}
    assert verify(place / "out").exit_code == 0 and verify(place / "out").largest_changes() == (8, None)
    lines = (place / "out" / "unseg-manifest.jsonl").read_text().splitlines()[1:]
    assert all(json.loads(line)["object"] == "whole image" for line in lines)


def test_dry_runs_foresee_a_mask_of_another_size(place: Path) -> None:
    Pillow.fromarray(MASK[::2, ::2]).save(place / "masks" / "masked.png")
    entry = next(entry for entry in run(place, dry_run=True).entries if entry.input == "masked.png")
    assert entry.status == "failed" and "give --fit-masks, since the proportions are the same" in (entry.reason or "")
    fitted = run(place, settings={"fit_masks": True})
    entry = next(entry for entry in fitted.entries if entry.input == "masked.png")
    assert (entry.status, entry.mask_placed) == ("protected", "scaled") and "scaled from 22×16" in (entry.note or "")
    assert verify(place / "out").failures == []


def test_frames_of_masks_are_noted_recorded_and_done_anew(tmp_path: Path) -> None:
    """A photograph that EXIF turns by half: its mask fits both ways, and the run's choice is in its line."""
    (tmp_path / "in").mkdir(), (tmp_path / "masks").mkdir()
    exif = Pillow.Exif()
    exif[274] = 3
    Pillow.fromarray(photo(1)).save(tmp_path / "in" / "a.png", exif=exif)
    Pillow.fromarray(MASK).save(tmp_path / "masks" / "a.png")
    (first,) = run(tmp_path).entries
    assert first.mask_placed is None and "give --mask-frame stored" in (first.note or "")
    (kept,) = run(tmp_path, settings={"mask_frame": "upright"}).entries
    assert kept == first
    (anew,) = run(tmp_path, settings={"mask_frame": "stored"}).entries
    assert anew.mask_placed == "stored" and anew.output_sha256 != first.output_sha256 and not anew.note
    assert verify(tmp_path / "out").exit_code == 0
    assert run(tmp_path, settings={"mask_frame": "stored"}).kept == 1


def test_the_message_of_a_mask_that_lies_the_other_way_names_the_option() -> None:
    from unseg.protecting.mask_placing import Misfit, Placing
    from unseg.storage.label_decoding import Label

    label = Label(MASK, None, False, "")
    with pytest.raises(Misfit, match="is 44×31, the image \\(upright\\) is 31×44: .* or give --mask-frame stored"):
        Placing().place(MASK, label, Frame(WIDTH, HEIGHT, 6))
    with pytest.raises(Misfit, match="or give --mask-frame upright"):
        Placing("stored").place(MASK, label, Frame(HEIGHT, WIDTH, 6))
    assert Placing("stored").place(MASK, label, Frame(WIDTH, HEIGHT, 6)).placed == "stored"
