"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from unseg.counts import count_of


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1204, "1,204 images"), (1000001, "1,000,001 images")],
)
def test_a_number_and_its_noun(number: int, told: str) -> None:
    assert count_of(number, "image") == told
    assert count_of(number, "class", "classes") == told.replace("images", "classes").replace("image", "class")
