"""Folders of masks that are odd but sound: each pixel's budget says what was taken for the object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageOps

from segment_anything_training.prompt_batch import Prompts
from tests.support.fake_generator import FakeGenerator
from tests.support.odd_masks import KINDS, odd_folders, seen_by_others, write
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import verify
from unseg.storage.weights import LoadedGenerator

SEED = 20


class Everywhere(FakeGenerator):
    """Noise of one at every pixel: what changes by the object's budget is what was taken for the object."""

    def forward(self, images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        return torch.ones_like(images)


GENERATOR = LoadedGenerator(Everywhere().eval(), "everywhere", "everywhere.safetensors", "0" * 64)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", KINDS, ids=lambda build: build.__name__)
def test_the_right_object_is_protected_or_the_right_question_asked(
    tmp_path: Path, kind: object, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.odd_masks.KINDS", (kind,))
    for odd in odd_folders(tmp_path, SEED + number, rounds=1):
        masks = write(odd)
        if odd.kind is not None:
            for path in masks:
                right = odd.objects[f"{path.stem}.png"]
                assert np.array_equal(seen_by_others(path, odd), right), f"{odd.name}: {path.name} is drawn wrongly"
        settings = ProtectSettings(device="cpu", workers=1, rule=ObjectRule(**odd.rule), **odd.options)
        arguments = ([odd.root / "in"], odd.root / "out", settings)
        if odd.refused is not None:
            with pytest.raises(UserError, match=odd.refused):
                protect(*arguments, masks=odd.root / "masks", generator=GENERATOR)
            assert not (odd.root / "out" / "m.png").exists()
            continue
        summary = protect(*arguments, masks=odd.root / "masks", generator=GENERATOR)
        for entry in summary.entries:
            right = odd.objects[entry.input]
            assert entry.status == ("failed" if right is None else "protected"), (odd.name, entry)
            if right is not None:
                assert np.array_equal(changed(odd.root, entry.input) > 2, right), (odd.name, entry.input)
        assert verify(odd.root / "out").failures == [], odd.name


def changed(root: Path, name: str) -> np.ndarray:
    with Pillow.open(root / "in" / name) as before, Pillow.open(root / "out" / name) as after:
        difference = np.asarray(ImageOps.exif_transpose(before), int) - np.asarray(after, int)
    return np.abs(difference).max(axis=2)


def test_there_are_at_least_a_hundred_folders(tmp_path: Path) -> None:
    names = [odd.name for odd in odd_folders(tmp_path, SEED)]
    assert len(names) >= 100 and len(set(names)) >= 50
