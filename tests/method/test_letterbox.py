"""The frame's coordinates, by hand: images that are not square, boxes that are not centred."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.method.letterbox import box_prompt


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (60, 40, [10, 6, 60, 40]),  # the long side, 60, becomes 120: everything doubles
        (40, 60, [10, 6, 60, 40]),
        (20, 30, [20, 12, 120, 80]),
        (240, 40, [2.5, 1.5, 15, 10]),
    ],
)
def test_a_box_is_scaled_by_the_long_side(height: int, width: int, expected: list[float]) -> None:
    boxes = np.array([[5, 10, 15, 20], [8, 3, 30, 12]])  # XYXY; together from (5, 3) to (30, 20)
    prompt = box_prompt(boxes, height, width, image_size=120)
    assert prompt.dtype == np.float32 and prompt.tolist() == expected
