"""Odd but sound annotations of every format, drawn from a seed: read bit for bit as plain readers read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.odd_annotations import FORMS, odd_set
from unseg.data.annotations import ObjectRule, open_annotations

SEED, SETS = 20, 300


@pytest.mark.parametrize("what", FORMS)
def test_odd_annotations_are_read_as_plain_readers_read_them(what: str, tmp_path: Path) -> None:
    """Thirty sets of each format; named and detected formats in turn."""
    first = list(FORMS).index(what)
    for number in range(first, SETS, len(FORMS)):
        odd = odd_set(SEED, number, tmp_path / str(number))
        facts = odd.name, odd.height, odd.width
        plainly = odd.plain(odd.path, *facts)
        for classes in (None, (1,), (2, 3)):  # the plain reader finds what was drawn
            union = np.any(
                [mask for one, mask in plainly if classes is None or one in classes]
                or [np.zeros((odd.height, odd.width), bool)],
                axis=0,
            )
            assert np.array_equal(union, odd.mask(classes)), (number, "the plain reader", classes)
        annotations = open_annotations(odd.path, odd.images, odd.format if number // len(FORMS) % 2 else "auto")
        assert odd.name in annotations.names(), (number, odd.name, annotations.names(), annotations.missing)
        annotated = annotations.read(*facts)
        assert np.array_equal(annotated.object_mask(ObjectRule()), odd.mask()), (number, odd.name)
        known = annotations.classes.ids
        for one in (24, 26) if what == "cityscapes" else (1, 2, 3):
            if what != "binary" and (known is None or one in known):
                rule = ObjectRule((one,))
                annotations.check_rule(rule)
                assert np.array_equal(annotated.object_mask(rule), odd.mask((one,))), (number, odd.name, one)
        if odd.images is None:
            assert annotations.image_bytes(odd.name)
