"""What the masks of a folder are taken for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from unseg.data import mask_detection
from unseg.data.mask_detection import detect_kind
from unseg.errors import UserError

HARD = np.zeros((30, 44), np.uint8)
HARD[6:21, 9:31] = 255
ROWS, COLUMNS = np.mgrid[0:60, 0:88]
DISC = ((ROWS - 27) / 21) ** 2 + ((COLUMNS - 40) / 33) ** 2 <= 1
SOFT = (DISC.reshape(30, 2, 44, 2).mean((1, 3)) * 255).round().astype(np.uint8)  # 0, 64, 128, 191, 255
TRIMAP = HARD.copy()
TRIMAP[4:10, 7:33] = 128
CLASSES = np.zeros((30, 44), np.uint8)
CLASSES[2:20, 3:25], CLASSES[8:28, 20:40], CLASSES[2, 3:25] = 3, 12, 255


def folder(root: Path, *masks: np.ndarray | Pillow.Image) -> list[Path]:
    root.mkdir(exist_ok=True)
    for number, mask in enumerate(masks):
        image = mask if isinstance(mask, Pillow.Image) else Pillow.fromarray(mask)
        image.save(root / f"m{number}.png")
    return sorted(root.iterdir())


def palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Pillow.Image:
    image = Pillow.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(sum(colours, ()))
    return image


def thin(ground: int, *ids: int) -> np.ndarray:
    """Much 255, and lines of class ids on the rest, one or two pixels wide."""
    mask = np.full((40, 70), 255, np.uint8)
    mask[:22] = ground
    for place, label in enumerate(ids):
        mask[3 + 4 * place : 4 + 4 * place + place % 2, 5 : 50 + 3 * place] = label
    return mask


HAIRS = np.zeros((60, 88), np.uint8)
HAIRS[11:52, 21:58] = HAIRS[5, 21:60] = HAIRS[11:40, 70] = 255
HALVED_HAIRS = HAIRS.reshape(30, 2, 44, 2).mean((1, 3)).round().astype(np.uint8)
BLACK, WHITE, GREY, RED = (0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 0, 0)


@pytest.mark.parametrize(
    ("masks", "kind", "statement"),
    [
        ([HARD, HARD], "binary", "0 and 255"),
        ([HARD * 0], "binary", "black all over"),
        ([HARD // 255], "index", "1 of them"),
        ([HARD // 255, HARD], "binary", "0 and 1, or 0 and 255"),  # two tools wrote into one folder
        ([HARD // 255 * 90 + 40], "binary", "40 and 130"),
        ([HARD // 255 * 254], "binary", "0 and 254"),
        ([np.where(np.arange(44) % 20 == 3, HARD // 255, HARD)], None, "a few pixels of other values"),
        ([np.where(np.arange(44) % 20 == 3, HARD // 255 * 254, HARD)], "soft", "such as 254"),
        ([SOFT], "soft", "grey edges (values such as"),
        ([HARD, HARD, SOFT], "soft", "grey edges"),  # one among hard ones
        ([thin(0, 33, 41, 152)], None, "in thin places"),
        ([thin(255, 33, 41, 152)], None, "in thin places"),
        ([thin(0, 33)], None, "in thin places"),
        ([HALVED_HAIRS], "soft", "grey edges (values such as"),
        ([thin(0, 33, 41, 220)], "soft", "grey edges"),  # no set has so high a class
        ([np.where(np.indices((40, 70))[0] == 21, 33, thin(0))], None, "in thin places"),  # between black and white
        ([HARD.astype(np.uint16) * 257], "binary", "0 and 255"),
        ([SOFT.astype(np.uint16) * 257], "soft", "grey edges"),
        ([CLASSES], "index", "3 to 12"),
        ([CLASSES, CLASSES * 0], "index", "3 to 12"),
        ([(CLASSES % 255).astype(np.uint16) * 1000], "index", "values over 255"),
        ([TRIMAP], None, "a trimap (0, 128 and 255)"),
        ([TRIMAP // 128 + 1], None, "trimaps of Oxford-IIIT Pet"),
        ([np.where(CLASSES > 100, 0, CLASSES // 3 * 50) + HARD // 255 * 55], None, "say"),
        ([palette(HARD // 255, BLACK, WHITE)], "binary", "by the colours"),
        ([palette(1 - HARD // 255, WHITE, BLACK)], "binary", "by the colours"),  # white first
        ([palette(1 - HARD // 255, WHITE, BLACK), HARD, Pillow.fromarray(HARD > 0)], "binary", "by the colours"),
        ([palette(HARD // 255, BLACK, RED)], "index", "palette PNG"),
        ([palette(1 - HARD // 255, RED, BLACK)], "binary", "the brighter one"),
        ([palette(CLASSES % 13, *[(7 * n, 0, n) for n in range(13)])], "index", "palette PNG"),
        ([palette(TRIMAP // 127, BLACK, GREY, WHITE)], None, "a trimap"),
        ([palette(HARD // 255, BLACK, RED), HARD], None, "keep the two kinds apart"),
    ],
)
def test_detection(tmp_path: Path, masks: list[np.ndarray | Pillow.Image], kind: str | None, statement: str) -> None:
    paths = folder(tmp_path / "masks", *masks)
    detected = detect_kind(paths)
    assert detected.kind == kind
    assert detect_kind(paths[::-1]) == detected
    assert "--mask-type" not in detected.statement  # it is told in places where the option is another
    if kind is not None:
        assert statement in detected.statement and kind in detected.fits
        assert detected.settled("masks", "--mask-type index") == kind
    else:
        with pytest.raises(UserError, match="masks: the masks may be .*; say which with --mask-type index"):
            detected.settled("masks", "--mask-type index")


def test_grey_levels_of_a_palette_are_its_colours(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(3).permutation(256)
    places = np.argsort(shuffled)
    soft = palette(places[SOFT], *[(int(level),) * 3 for level in shuffled])
    assert detect_kind(folder(tmp_path / "masks", soft)).kind == "soft"


def test_files_that_cannot_be_read_do_not_vote(tmp_path: Path) -> None:
    paths = folder(tmp_path / "masks", HARD)
    (tmp_path / "masks" / "broken.png").write_bytes(b"broken")
    assert detect_kind([tmp_path / "masks" / "broken.png", *paths]).statement == "binary (0 and 255)"
    assert "none of the files could be read" in detect_kind([tmp_path / "masks" / "broken.png"]).statement


def test_jpeg_masks_are_black_and_white_or_a_question(tmp_path: Path) -> None:
    for name, mask, kind in (("hard", HARD, "soft"), ("ids", CLASSES % 255 * 4, None)):
        (tmp_path / name).mkdir()
        Pillow.fromarray(mask).save(tmp_path / name / "a.jpg", quality=60)
        assert detect_kind([tmp_path / name / "a.jpg"]).kind == kind


@pytest.mark.parametrize("part", [1, 40, 100])
def test_flat_pixels_and_steps_are_the_same_however_many_rows_are_looked_at_together(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the definition, pixel by pixel; 13 columns, so that bands of 1, 3 and 7 rows end inside areas."""
    values = np.kron(np.array([[1, 2, 2], [1, 1, 3], [4, 1, 3]], np.uint8), np.ones((7, 5), np.uint8))[:19, :13]
    height, width = values.shape
    flat, steps = Counter[int](), Counter[int]()
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            cross = values[[row - 1, row + 1, row, row], [column, column, column - 1, column + 1]]
            flat[int(values[row, column])] += int((cross == values[row, column]).all())
            around = values[row - 1 : row + 2, column - 1 : column + 2]
            steps[int(values[row, column])] += int(around.min() < values[row, column] < around.max())
    monkeypatch.setattr(mask_detection, "PART", part)
    assert mask_detection._flat_and_steps(values) == (flat, steps)
