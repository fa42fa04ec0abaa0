"""What a run with codes takes for a background, for classes that cover the images, and for noise that is all over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.coded_folders import NAMES, SETTINGS, draw_photos, masks_of, pixels, run, write
from tests.support.told_progress import Told
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.verification import verify

BY_CLASS = replace(SETTINGS, rule=ObjectRule(by_class=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_photos(tmp_path / "photos")


def relabelled(masks: Path, change: Callable[[np.ndarray], None]) -> Path:
    """Changes every mask of a folder."""
    for name in NAMES:
        values = np.asarray(Image.open(masks / name)).copy()
        change(values)
        write(masks, name, values)
    return masks


def coding(photos: Path, out: Path, **given: object) -> dict:
    run(photos, out, **given)
    assert verify(out).failures == []
    return read_manifest(out).header["codes"]


# --- a background, or a rim


def test_stray_pixels_of_class_0_are_no_background(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [1, 2, 3, 3, 7])

    def rim(values: np.ndarray) -> None:  # 423 of 7,503 pixels
        values[:, -2:], values[-1] = 0, 0

    codes = coding(photos, tmp_path / "out", masks=relabelled(masks, rim))
    assert codes["objects"] == "by-class" and codes["codes"]["0"] != 0
    assert [label for label, code in codes["codes"].items() if code == 0] == [codes["reason"].split("class ")[1][0]]
    assert codes["reason"].endswith("; class 0 has 5.6% of the pixels, too little for a background")
    assert coding(photos, tmp_path / "asked", masks=masks, settings=BY_CLASS)["codes"] == codes["codes"]


def test_one_mask_of_background_in_many_without_is_enough_where_it_is_large(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [1, 2, 3])
    write(masks, NAMES[1], np.zeros_like(np.asarray(Image.open(masks / NAMES[1]))))
    codes = coding(photos, tmp_path / "out", masks=masks)
    assert codes["codes"] == {"background": 0, "object": 1}


def test_a_little_background_around_one_class_stays_one(photos: Path, tmp_path: Path) -> None:
    """Else the object would be the class without noise."""

    def corner(values: np.ndarray) -> None:
        values[:] = 5
        values[:3, :9] = 0

    masks = relabelled(masks_of(photos, [5]), corner)
    assert coding(photos, tmp_path / "out", masks=masks)["codes"] == {"background": 0, "object": 1}
    assert coding(photos, tmp_path / "asked", masks=masks, settings=BY_CLASS)["codes"] == {"0": 0, "5": 1}


def test_mostly_unlabelled_maps_leave_no_class_without_noise(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [255, 255, 4, 255, 255, 9])
    codes = coding(photos, tmp_path / "out", masks=masks)
    assert set(codes["codes"]) == {"4", "9"} and 0 not in codes["codes"].values()
    assert codes["reason"] == "most pixels are unlabelled, and stay as they are"
    change = np.abs(pixels(tmp_path / "out" / "b.png") - pixels(photos / "b.png")).max(axis=2)
    labelled = pixels(masks / "b.png") != 255
    assert (change[labelled] == 8).all() and not change[~labelled].any()
    less = coding(photos, tmp_path / "less", masks=masks_of(photos, [255, 4, 9, 9, 255]))  # 40 %
    assert 0 in less["codes"].values()


# --- annotations whose class 0 is a class


def yolo(folder: Path, line: str = "0 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7\n1 0.7 0.2 0.95 0.2 0.95 0.9\n") -> Path:
    for name in NAMES:
        path = (folder / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)
    return folder


def coco(path: Path, class_id: int) -> Path:
    images = [{"id": n, "file_name": name, "height": 41, "width": 60 + n} for n, name in enumerate(NAMES)]
    box = [[5, 4, 44, 4, 44, 30, 5, 30]]
    objects = [
        {"id": n + 1, "image_id": n, "category_id": class_id, "segmentation": box, "area": 900, "bbox": [5, 4, 39, 26]}
        for n in range(len(NAMES))
    ]
    objects[0]["category_id"] = 3
    for one in objects:
        one["iscrowd"] = 0
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": objects,
                "categories": [{"id": class_id, "name": "x"}, {"id": 3, "name": "y"}],
            }
        )
    )
    return path


def panoptic(folder: Path) -> Path:
    """Three segments that cover each image, of classes 0, 5 and 9."""
    images, annotations = [], []
    for n, name in enumerate(NAMES):
        ids = np.zeros((41, 60 + n, 3), np.uint8)
        ids[..., 0] = 1 + (np.arange(60 + n)[None] // 23) % 3
        stem = Path(name).with_suffix(".png").as_posix()
        write(folder / "pan", stem, ids)
        images.append({"id": n, "file_name": name, "height": 41, "width": 60 + n})
        segments = [
            {"id": i + 1, "category_id": label, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
            for i, label in enumerate((0, 5, 9))
        ]
        annotations.append({"image_id": n, "file_name": stem, "segments_info": segments})
    kinds = [{"id": label, "name": f"c{label}", "isthing": 0} for label in (0, 5, 9)]
    (folder / "pan.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": kinds}), "utf-8"
    )
    return folder / "pan.json"


def test_class_0_of_annotations_is_a_class(photos: Path, tmp_path: Path) -> None:
    codes = coding(photos, tmp_path / "yolo", annotations=yolo(tmp_path / "labels"), settings=BY_CLASS)
    assert set(codes["codes"]) == {"0", "1"} and 0 not in codes["codes"].values()
    codes = coding(photos, tmp_path / "coco", annotations=coco(tmp_path / "coco.json", 0), settings=BY_CLASS)
    assert set(codes["codes"]) == {"0", "3"} and 0 not in codes["codes"].values()
    codes = coding(photos, tmp_path / "pan_out", annotations=panoptic(tmp_path))
    assert codes["objects"] == "by-class" and set(codes["codes"]) == {"0", "5", "9"}
    assert "background" not in codes["reason"]


@pytest.mark.parametrize("label", ["ignore_label", "background_label"])
def test_labels_of_maps_are_refused_beside_lists_of_objects(photos: Path, tmp_path: Path, label: str) -> None:
    option = f"--{label.replace('_', '-')}"
    with pytest.raises(UserError, match=rf"{option} 3: is for masks with class numbers, and these annotations \(coco"):
        run(photos, tmp_path / "out", annotations=coco(tmp_path / "c.json", 4), **{label: 3})
    assert not (tmp_path / "out" / MANIFEST).exists()
    run(photos, tmp_path / "none", annotations=coco(tmp_path / "c.json", 4), **{label: -1})
    assert (tmp_path / "none" / MANIFEST).exists()


def test_a_class_255_of_annotations_is_not_called_ignored(photos: Path, tmp_path: Path) -> None:
    told, annotations = Told(), coco(tmp_path / "c.json", 255)
    run(photos, tmp_path / "out", annotations=annotations, codes={255: 1, 3: 2}, progress=told)
    assert not [line for line in told.sentences if "ignore-label" in line]
    masks = masks_of(photos, [255, 3])
    run(photos, tmp_path / "map", masks=masks, codes={255: 1, 3: 2}, progress=told)
    assert [line for line in told.sentences if "ignore-label 255 leaves its pixels without noise" in line]


# --- the same noise everywhere


def test_one_pattern_for_all_classes_is_told(photos: Path, tmp_path: Path) -> None:
    note = "note: all classes have one pattern, and they cover the images"

    def told(masks: Path, out: str, **given: object) -> bool:
        progress = Told()
        run(photos, tmp_path / out, masks=masks, progress=progress, **given)
        return any(line.startswith(note) for line in progress.sentences)

    assert told(masks_of(photos, [3]), "mono", settings=BY_CLASS)
    assert told(masks_of(photos, [4, 7]), "given", codes={4: 4, 7: 4})
    assert not told(masks_of(photos, [4, 7]), "two", codes={4: 4, 7: 5})
    assert not told(masks_of(photos, [4, 7]), "absent", codes={4: 4, 7: 0})
    assert not told(masks_of(photos, [4, 255]), "open", codes={4: 4})


# --- folders and settings


def test_a_folder_of_another_noise_names_the_option_that_goes_on(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [0, 3, 9])
    for noise, option in (("compact", "--noise compact"), ("tint", "--noise tint")):
        run(photos, tmp_path / noise, masks=masks, noise=noise)
        with pytest.raises(UserError, match=f"holds images with the noise of a network; give {option}, or another"):
            run(photos, tmp_path / noise, masks=masks)
    run(photos, tmp_path / "codes", masks=masks)
    with pytest.raises(UserError, match="holds images with noise of codes; leave out --noise and --generator, or"):
        run(photos, tmp_path / "codes", masks=masks, noise="compact")
    with pytest.raises(UserError, match=r"\(--survive-grey: false, now true; --objects: all, now 3,9\)"):
        run(photos, tmp_path / "codes", masks=masks, objects="3,9", survive_grey=True)


def test_what_tints_need_is_told_as_theirs(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [0, 3, 9])
    with pytest.raises(UserError, match="--objects all: --noise tint tells classes apart; leave one of them out"):
        run(photos, tmp_path / "out", masks=masks, noise="tint", objects="all")
    with pytest.raises(UserError, match="--noise tint: needs class ids; name the masks' folder"):
        run(photos, tmp_path / "out", whole_image=True, noise="tint")
    binary = relabelled(masks, lambda values: np.copyto(values, (values > 0) * np.uint8(255)))
    with pytest.raises(UserError, match="--noise tint: the masks in .* hold no class ids"):
        run(photos, tmp_path / "out", masks=binary, noise="tint", mask_type="auto")


def test_codes_of_another_kind_name_their_file_and_a_remedy(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [0, 3, 9])
    run(photos, tmp_path / "one", masks=masks)
    one = tmp_path / "one" / MANIFEST
    with pytest.raises(UserError, match=r"--codes .*one/.*: holds one code for the object, .*; leave one of them out"):
        run(photos, tmp_path / "out", BY_CLASS, masks=masks, codes=one)
    run(photos, tmp_path / "tints", masks=masks, noise="tint")
    with pytest.raises(UserError, match="holds no codes, since its images have another noise; name that of a folder"):
        run(photos, tmp_path / "out", masks=masks, codes=tmp_path / "tints" / MANIFEST)


def test_shards_have_their_text_in_python_too(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(photos, [0, 3])
    assert run(photos, tmp_path / "out", masks=masks, shard="plan/2").planned
    assert run(photos, tmp_path / "out", masks=masks, shard="2/2").exit_code == 0
    with pytest.raises(UserError, match=r"shard 3/2: give plan/N once"):
        run(photos, tmp_path / "out", masks=masks, shard="3/2")


# --- boxes and points


def test_boxes_and_points_of_turned_images_say_how_they_are_taken(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(30, 220, (40, 70, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / "a.png", exif=exif)
    image.save(tmp_path / "photos" / "b.png")
    (tmp_path / "b.json").write_text(json.dumps({name: [[4, 5, 30, 33]] for name in ("a.png", "b.png")}))
    run(tmp_path / "photos", tmp_path / "out", boxes=tmp_path / "b.json")
    entries = {entry.input: entry.note for entry in read_manifest(tmp_path / "out").entries.values()}
    assert entries == {"a.png": "EXIF turns it (orientation 6): its boxes are taken as upright", "b.png": None}


def test_a_point_cannot_be_of_both_sides(photos: Path, tmp_path: Path) -> None:
    both = {"object": [[20, 20], [9.5, 8]], "background": [[2, 2], [9.5, 8]]}
    (tmp_path / "p.json").write_text(json.dumps({"a.png": both}))
    summary = run(photos / "a.png", tmp_path / "out", points=tmp_path / "p.json")
    assert [entry.reason for entry in summary.entries] == [
        "point (9.5, 8) is of its object and of its background; leave one out"
    ]
