"""Masks of training and test images are read by one reading; copies among protected images are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.told_progress import Told
from unseg.data.annotations.label_files import LabelFiles
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.evaluation.folders import _copies_among
from unseg.evaluation.sets import CleanImages, open_alike

HEIGHT, WIDTH = 40, 56
ROWS, COLUMNS = np.mgrid[0 : 2 * HEIGHT, 0 : 2 * WIDTH]
DISC = ((ROWS - 33) / 25) ** 2 + ((COLUMNS - 44) / 37) ** 2 <= 1
SHARES = DISC.reshape(HEIGHT, 2, WIDTH, 2).mean((1, 3))
HARD, SOFT = np.where(SHARES >= 0.5, 255, 0).astype(np.uint8), (SHARES * 255).round().astype(np.uint8)
CLASSES = np.where(SHARES >= 0.5, 4, 2).astype(np.uint8)
CLASSES[-9:] = 255
TRIMAP = np.where(SHARES >= 0.5, 255, 0).astype(np.uint8)
TRIMAP[:8, 30:] = 128


def folder(place: Path, *masks: np.ndarray | Pillow.Image) -> Path:
    for number, mask in enumerate(masks):
        image = mask if isinstance(mask, Pillow.Image) else Pillow.fromarray(mask)
        for kind in ("images", "masks"):
            (place / kind).mkdir(parents=True, exist_ok=True)
        image.save(place / "masks" / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Pillow.fromarray(pixels).save(place / "images" / f"{number}.png")
    return place


def opened(root: Path, train: list, test: list, form: str = "auto") -> tuple[CleanImages, CleanImages, list[str]]:
    told = Told()
    (first, _), (second, _) = open_alike(
        ("--clean", folder(root / "train", *train), None), ("--test", folder(root / "test", *test), None), form, told
    )
    return first, second, told.sentences


def kinds(*parts: CleanImages) -> list[str]:
    found = [part.annotations for part in parts]
    assert all(isinstance(reader, LabelFiles) for reader in found)
    return [reader.kind for reader in found if isinstance(reader, LabelFiles)]


WHITE_FIRST = Pillow.fromarray((HARD == 0).astype(np.uint8), "P")
WHITE_FIRST.putpalette([255, 255, 255, 0, 0, 0])


@pytest.mark.parametrize(
    ("train", "test", "kind", "note"),
    [
        ([HARD], [HARD], "binary", False),
        ([HARD // 255], [HARD], "binary", True),  # 0 and 1 beside 0 and 255
        ([HARD], [HARD // 255], "binary", True),
        ([HARD // 255], [HARD // 255], "index", False),
        ([HARD], [SOFT], "soft", True),
        ([SOFT], [HARD // 255 * 0], "soft", True),
        ([WHITE_FIRST], [HARD], "binary", False),
        ([CLASSES], [CLASSES * 0], "index", True),  # black all over: anything
    ],
)
def test_both_are_read_alike(tmp_path: Path, train: list, test: list, kind: str, note: bool) -> None:
    first, second, told = opened(tmp_path, train, test)
    assert kinds(first, second) == [kind, kind]
    assert any("masks of two kinds" in sentence for sentence in told) == note
    right = SHARES >= 0.5
    if kind != "index":
        assert np.array_equal(first.annotated(0).object_mask(ObjectRule()), right)
        if np.any(np.asarray(test[0])):
            assert np.array_equal(second.annotated(0).object_mask(ObjectRule()), right)


def test_two_kinds_that_no_reading_fits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--clean and --test: their masks are of two kinds: .*; write them alike"):
        opened(tmp_path, [CLASSES], [HARD])
    first, second, _ = opened(tmp_path / "named", [CLASSES], [HARD], "index")
    assert kinds(first, second) == ["index", "index"]


def test_what_is_ambiguous_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the masks may be a trimap .*; say which with --annotations-format binary or"):
        opened(tmp_path, [TRIMAP], [HARD])
    first, second, _ = opened(tmp_path / "named", [TRIMAP], [HARD], "trimap")
    assert kinds(first, second) == ["trimap", "trimap"]
    assert np.array_equal(first.annotated(0).object_mask(ObjectRule()), TRIMAP > 0)


def test_protected_images_that_are_the_clean_ones_are_named(tmp_path: Path) -> None:
    clean = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    changed = [tmp_path / "out" / name for name in ("a.png", "b.png", "c.png")]
    (tmp_path / "out").mkdir()
    for number, (path, other) in enumerate(zip(clean, changed, strict=True)):
        path.write_bytes(bytes([number]))
        other.write_bytes(bytes([number + (number != 1)]))
    assert _copies_among({"ours": changed, "theirs": changed[:1] * 3}, clean) == {
        "ours": ["b.png"],
        "theirs": ["a.png"],
    }
