"""unseg protect with codes into a folder with an earlier run: what that run settled stays, where it wrote images."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unseg
from tests.support.coded_folders import NAMES, SETTINGS, draw_photos, masks_of, object_masks, pixels, run, tree, write
from tests.support.told_progress import Told
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.patterns import BOOK
from unseg.protecting import coding
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.verification import verify

BY_CLASS = replace(SETTINGS, rule=ObjectRule(by_class=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_photos(tmp_path / "photos")


def test_an_output_keeps_the_book_that_it_was_begun_with(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a version whose single code varied less: later images, single calls and `--codes` go on like it."""
    masks, key, out = object_masks(photos), bytes(range(32)), tmp_path / "out"
    with monkeypatch.context() as older:
        older.setattr(coding, "ONE_CODE_BOOK", BOOK)
        run(photos, tmp_path / "whole", masks=masks, key=key)
        run(photos / "a.png", out, masks=masks, key=key)
    assert run(photos, out, masks=masks, key=key).kept == 1 and tree(out) == tree(tmp_path / "whole")
    assert verify(out).note == "its codes are of the book gratings-1; by default they are of gratings-2"
    run(photos, tmp_path / "shared", masks=masks, key=key, codes=out / MANIFEST)
    run(photos, tmp_path / "today", masks=masks, key=key)
    assert verify(tmp_path / "today").note is None
    image, mask = np.asarray(Image.open(photos / "a.png")), pixels(masks / "a.png") > 0
    for folder, codes in ((tmp_path / "shared", out / MANIFEST), (tmp_path / "today", None)):
        for protector in (unseg.Protector(key=key, codes=codes), pickled(unseg.Protector(key=key, codes=codes))):
            assert np.array_equal(protector(image, mask), pixels(folder / "a.png"))
    assert np.array_equal(pixels(tmp_path / "shared" / "a.png"), pixels(out / "a.png"))
    assert not np.array_equal(pixels(tmp_path / "today" / "a.png"), pixels(out / "a.png"))
    image, classes = np.asarray(Image.open(photos / "a.png")), np.where(mask, 7, 3)
    of_manifest = tmp_path / "codes.json"
    of_manifest.write_text(json.dumps({"book": BOOK.version, "codes": {"3": 0, "7": 1}}))
    assert np.array_equal(
        pickled(unseg.Protector(key=key, codes=of_manifest))(image, classes=classes), pixels(out / "a.png")
    )


def pickled(protector: unseg.Protector) -> unseg.Protector:
    return pickle.loads(pickle.dumps(protector))


def codes_of(out: Path) -> dict[str, object]:
    return read_manifest(out).header["settings"]["codes"]


def test_a_run_without_an_image_settles_nothing(photos: Path, tmp_path: Path) -> None:
    """Neither the codes, nor their book, nor the kind of the masks: all are those of a new folder."""
    key, out = bytes(range(32)), tmp_path / "out"
    masks, whole = masks_of(photos, [4, 7, 2]), {4: 0, 7: 1, 2: 2}
    assert {entry.status for entry in run(photos, out, masks=masks, key=key, codes={4: 0, 7: 1}).entries} == {"failed"}
    assert run(photos, out, masks=masks, key=key, codes=whole).exit_code == 0
    run(photos, tmp_path / "fresh", masks=masks, key=key, codes=whole)
    assert tree(out) == tree(tmp_path / "fresh")
    broken, good = tmp_path / "broken", {name: (masks / name).read_bytes() for name in NAMES}
    for name in NAMES:
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        (broken / name).write_bytes(good[name][:60])
    assert {entry.status for entry in run(photos, tmp_path / "mended", masks=broken, key=key).entries} == {"failed"}
    for name in NAMES:
        (broken / name).write_bytes(good[name])
    assert run(photos, tmp_path / "mended", masks=broken, key=key).exit_code == 0
    assert len(codes_of(tmp_path / "mended")) == 3


def test_one_class_by_class_has_a_pattern(photos: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert run(photos, tmp_path / "out", BY_CLASS, masks=masks_of(photos, [255, 3])).exit_code == 0
    assert codes_of(tmp_path / "out") == {"3": 1}


def test_images_of_the_absent_class_alone_settle_no_codes(photos: Path, tmp_path: Path) -> None:
    masks, out = masks_of(photos, [0]), tmp_path / "out"
    for _ in range(2):
        assert {entry.status for entry in run(photos, out, BY_CLASS, masks=masks).entries} == {"uncoded"}
    before = {name: (out / name).read_bytes() for name in NAMES}
    write(photos, "d.png", pixels(photos / "a.png").astype(np.uint8))
    write(masks, "d.png", np.repeat(np.array([[0, 6]], np.uint8), 41, 0).repeat(30, 1))
    summary = run(photos, out, BY_CLASS, masks=masks)
    assert [entry.status for entry in summary.entries if entry.input == "d.png"] == ["protected"]
    assert codes_of(out) == {"0": 0, "6": 1} and all((out / name).read_bytes() == before[name] for name in NAMES)


def test_what_was_settled_is_told_as_such(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos / "a.png", out, masks=masks_of(photos, [0, 3]))
    told = Told()
    run(photos, out, masks=masks_of(photos, [0, 3]), progress=told)
    assert any(
        "(class 0); so it was settled for the images in" in sentence and str(out) in sentence
        for sentence in told.sentences
    )


def test_masks_that_tell_no_classes_apart_are_refused_by_the_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, masks=masks_of(photos, [4, 7, 2]))
    with pytest.raises(UserError, match=r"--out .*out: asks for codes of classes, but nothing .* or another --out"):
        run(photos, out, masks=object_masks(photos))
    (tmp_path / "codes.json").write_text(json.dumps({"codes": {"4": 0, "7": 1}}))
    with pytest.raises(UserError, match=r"--codes .*codes\.json: asks for codes of classes, but nothing here"):
        run(photos, tmp_path / "new", masks=object_masks(photos), codes=tmp_path / "codes.json")


def test_the_rest_of_annotated_objects_has_no_noise(photos: Path, tmp_path: Path) -> None:
    """Two classes of outlines that leave most of the images open: each has a pattern, and none has the open part."""
    images = [{"id": place, "file_name": name, "height": 41, "width": 60 + place} for place, name in enumerate(NAMES)]
    outlines = {5: [3, 2, 20, 2, 20, 15, 3, 15], 1: [30, 20, 50, 20, 50, 37, 30, 37]}
    annotations = [
        {"id": 10 * image["id"] + label, "image_id": image["id"], "category_id": label, "segmentation": [outline]}
        | {"iscrowd": 0, "area": 200, "bbox": [0, 0, 1, 1]}
        for image in images
        for label, outline in outlines.items()
    ]
    categories = [{"id": label, "name": f"class {label}"} for label in outlines]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    told = Told()
    summary = run(photos, tmp_path / "out", BY_CLASS, annotations=path, progress=told)
    assert summary.exit_code == 0 and codes_of(tmp_path / "out") == {"1": 1, "5": 2}
    assert "codes: a pattern for each of 2 classes, none elsewhere: the rest has no class" in told.sentences
    change = np.abs(pixels(tmp_path / "out" / "a.png") - pixels(photos / "a.png")).max(axis=2)
    assert change[4:14, 5:18].min() > 0 and change[22:35, 32:48].min() > 0 and not change[:, 52:].any()


def test_a_dry_run_calls_nothing_protected_that_the_run_will_not(photos: Path, tmp_path: Path) -> None:
    """An image of a class without a code, one that shows the class without noise alone, and one with an object."""
    masks, codes = masks_of(photos, [4, 7]), {4: 0, 7: 1}
    write(masks, "a.png", np.full((41, 60), 4, np.uint8))
    write(masks, "b.png", np.where(np.arange(61) < 9, 2, 7).astype(np.uint8)[None].repeat(41, 0))
    foreseen = run(photos, tmp_path / "out", masks=masks, codes=codes, dry_run=True)
    assert not (tmp_path / "out").exists()
    done = run(photos, tmp_path / "out", masks=masks, codes=codes)
    assert [entry.status for entry in done.entries] == ["uncoded", "failed", "protected"]
    for before, after in zip(foreseen.entries, done.entries, strict=True):
        assert (before.input, before.status, before.reason) == (after.input, after.status, after.reason)


@pytest.mark.parametrize(("label", "is_told"), [(7, True), (4, False), (255, False), (None, False)])
def test_a_code_of_the_ignored_class_is_told(photos: Path, tmp_path: Path, label: int | None, is_told: bool) -> None:
    told, settings = Told(), replace(SETTINGS, rule=ObjectRule(by_class=True, ignore_label=label))
    run(photos, tmp_path / "out", settings, masks=masks_of(photos, [4, 7, 2]), codes={4: 0, 7: 1, 2: 1}, progress=told)
    notes = [sentence for sentence in told.sentences if sentence.startswith("note: ")]
    assert len(notes) == int(is_told)
    assert all("codes gives class 7 a code, but --ignore-label 7 leaves its pixels without" in note for note in notes)
