"""The v2 transform: samples of every shape, the protector's pixels, loaders with processes; and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import unseg
from tests.support.fake_generator import FakeGenerator
from unseg.errors import UserError
from unseg.transforms import Protect

KEY = bytes(range(32))
MASK = np.zeros((41, 67), bool)
MASK[5:23, 30:61] = True
PIXELS = np.random.default_rng(6).integers(20, 230, (41, 67, 4), np.uint8)


def image(channels: int = 3) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(PIXELS[..., :channels].copy()).permute(2, 0, 1))


def pixels(made: torch.Tensor) -> np.ndarray:
    return made.permute(1, 2, 0).numpy()


def expected(channels: int = 3, **of_object: Any) -> np.ndarray:
    return unseg.protect(np.ascontiguousarray(PIXELS[..., :channels]), key=KEY, **(of_object or {"mask": MASK}))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "mask",
    [
        torch.from_numpy(MASK),
        torch.from_numpy(MASK.astype(np.uint8) * 255),
        torch.from_numpy(MASK.astype(np.int64))[None],
        torch.from_numpy(np.stack([MASK & (np.arange(67) < 40), MASK & (np.arange(67) >= 40)])),
    ],
    ids=["bool", "0 and 255", "one of a stack", "two objects"],
)
def test_an_image_and_its_mask_become_the_protected_image_and_the_mask(channels: int, mask: torch.Tensor) -> None:
    given, mask = image(channels), tv_tensors.Mask(mask)
    made, same = Protect(key=KEY)(given, mask)
    assert isinstance(made, tv_tensors.Image) and made.dtype == torch.uint8 and same is mask
    assert np.array_equal(pixels(made), expected(channels))
    assert np.array_equal(pixels(given), PIXELS[..., :channels])


def test_a_sample_keeps_its_form() -> None:
    boxes = tv_tensors.BoundingBoxes([[1, 1, 9, 9]], format="XYXY", canvas_size=(41, 67))
    sample = {"image": image(), "target": {"masks": tv_tensors.Mask(MASK), "boxes": boxes, "labels": [3, "cat"]}}
    made = Protect(key=KEY)(sample)
    assert np.array_equal(pixels(made["image"]), expected())
    assert made["target"]["labels"] == [3, "cat"] and made["target"]["boxes"] is boxes
    photo = Image.fromarray(PIXELS)
    out, _ = Protect(key=KEY)(photo, tv_tensors.Mask(MASK))
    assert out.mode == "RGBA" and np.array_equal(np.asarray(out), expected(4))


@pytest.mark.parametrize(
    ("form", "box"), [("XYXY", [30, 5, 60, 22]), ("XYWH", [30, 5, 30, 17]), ("CXCYWH", [45, 13.5, 30, 17])]
)
def test_boxes_show_the_object_where_there_is_no_mask(form: str, box: list[float]) -> None:
    boxes = tv_tensors.BoundingBoxes([box], format=form, canvas_size=(41, 67), dtype=torch.float32)
    made, _ = Protect(key=KEY)(image(), boxes)
    assert np.array_equal(pixels(made), expected())  # the corners of the mask, which belong to it


def test_codes_take_the_mask_for_class_ids() -> None:
    labels = torch.from_numpy(np.where(MASK, 7, 2))
    made, _ = Protect(key=KEY, codes={2: 0, 7: 1})(image(), tv_tensors.Mask(labels))
    assert np.array_equal(pixels(made), expected())
    made, _ = Protect(key=KEY, codes={2: 0, 7: 1})(image(), tv_tensors.Mask(labels[None]))
    assert np.array_equal(pixels(made), expected())


def test_the_whole_image_is_taken_only_when_it_is_said() -> None:
    made, _ = Protect(key=KEY, whole_image=True)(image(), tv_tensors.Mask(MASK))
    assert np.array_equal(pixels(made), expected(whole_image=True))
    with pytest.raises(UserError, match="sample: nothing shows the object; give a tv_tensors.Mask"):
        Protect(key=KEY)(image(), torch.from_numpy(MASK))


def test_it_goes_with_other_transforms_and_a_network() -> None:
    chain = v2.Compose([Protect(FakeGenerator(), epsilon=4), v2.RandomHorizontalFlip(1), v2.ToDtype(torch.float32)])
    made, mask = chain(image(), tv_tensors.Mask(MASK))
    noised = unseg.protect(PIXELS[..., :3], MASK, generator=FakeGenerator(), epsilon=4)
    assert np.array_equal(pixels(made), noised[:, ::-1]) and np.array_equal(mask.numpy(), MASK[:, ::-1])
    assert "noise=codes, epsilon=4, whole_image=False" in repr(Protect(strength="subtle"))


class Samples(Dataset):
    """Four images of one mask, protected as they are read."""

    def __init__(self, transform: Protect) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(tv_tensors.Image(image() + place), tv_tensors.Mask(MASK))


@pytest.mark.slow
def test_processes_of_a_loader_have_one_key() -> None:
    transform = Protect()  # with a key that it draws
    loaded = DataLoader(Samples(transform), batch_size=4, num_workers=2, multiprocessing_context="spawn")
    alone = [transform(tv_tensors.Image(image() + place), tv_tensors.Mask(MASK))[0] for place in range(4)]
    batch = next(iter(loaded))[0]
    assert torch.equal(torch.as_tensor(batch), torch.stack([one.as_subclass(torch.Tensor) for one in alone]))


def test_what_is_weak_warns() -> None:
    with pytest.warns(unseg.WeakProtection, match="weak"):
        Protect(key=KEY, epsilon=0)(image(), tv_tensors.Mask(MASK))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((torch.zeros(3, 4, 5),), "sample: holds 0 images"),
        ((image(), image(), tv_tensors.Mask(MASK)), "sample: holds 2 images"),
        ((image(), tv_tensors.Mask(MASK), tv_tensors.Mask(MASK)), "sample: holds 2 masks"),
        ((tv_tensors.Image(image()[None]), tv_tensors.Mask(MASK)), "image: expected C×H×W of uint8, got 1×3×41×67"),
        ((tv_tensors.Image(image() / 255), tv_tensors.Mask(MASK)), "put Protect before ToDtype"),
        ((image(), tv_tensors.Mask(torch.zeros(0, 41, 67))), "mask: expected H×W or N×H×W, got 0×41×67"),
        ((image(), tv_tensors.Mask(MASK * 3)), "mask: holds other values than 0 and 255"),
        ((image(), tv_tensors.Mask(MASK[:9])), "mask: expected 41×67"),
        ((image(), tv_tensors.Mask(MASK * 0)), "mask: no object in it"),
    ],
)
def test_what_cannot_be_is_one_line(sample: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Protect(key=KEY)(*sample)
