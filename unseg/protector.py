"""One image in memory to its unlearnable version: a generator, a budget, and where each part of the budget holds."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from segment_anything_training.build import set_speed
from segment_anything_training.prompts import Prompts
from unseg import frame, images, noise
from unseg.config import Budget
from unseg.data.masks import box_mask
from unseg.errors import UserError

Region = Literal["mask", "published"]
Precision = Literal["float32", "bfloat16"]
Boxes = Sequence[Sequence[float]]


def image_region(mask_HW: np.ndarray, kind: Region, image_size: int, mask_size: int) -> np.ndarray:
    """Where the object's budget holds, H×W bool.

    "mask": exactly the object's pixels. "published": where the mask prompt, resized back, rounds to 1, as in the
    published script: its border follows the 256-pixel prompt, so some background pixels get the object's budget.
    """
    if kind == "mask":
        return np.ascontiguousarray(mask_HW, dtype=bool)
    prompt = frame.mask_prompts(mask_HW, image_size, mask_size).masks
    return noise.published_region(prompt[0, 0], *mask_HW.shape).numpy()


@dataclass(frozen=True)
class Framed:
    """What the network is given for one image: image 1×3×S×S float32 in [0, 1], and its prompts."""

    image: torch.Tensor
    prompts: Prompts


class Protector:
    """A generator, a budget and the rule of where each part of the budget holds.

    network: any generator of the project. region: see `image_region`. batch_size: every batch that the network sees has
    this size, filled with zeros, so that an image's noise does not depend on its company. precision: of the large products
    in networks derived from SAM; it is set in the network. bfloat16 moves some values by a grey level (docs/performance.md).
    """

    def __init__(self, network: nn.Module, budget: Budget = Budget(), region: Region = "mask", *,
                 device: str | torch.device = "cpu", batch_size: int = 1, precision: Precision = "float32") -> None:
        self.network = network.to(device).eval()
        set_speed(self.network, bf16=precision == "bfloat16", compiled=False)
        self.budget, self.region_kind = budget, region
        self.device, self.batch_size = torch.device(device), batch_size

    def __call__(self, image_HWC: np.ndarray, mask_HW: np.ndarray | None = None,
                 boxes: Boxes | None = None) -> np.ndarray:
        """The unlearnable image, like `image`: H×W×3 RGB or H×W×1 grey, uint8 or uint16.

        mask: H×W bool; boxes: N×4 XYXY, corners inclusive. Boxes make a box prompt and the object is what lies inside;
        without either the whole image is the object.
        """
        mask = self.object(image_HWC, mask_HW, boxes)
        noise_3NN = self.noise([self.frame(image_HWC, mask, boxes)])[0]
        return noise.apply(image_HWC, noise_3NN, self.region(mask), self.budget)

    def by_class(self, image_HWC: np.ndarray, codes_HW: np.ndarray) -> np.ndarray:
        """The unlearnable image where classes are to be told apart, like `image`. codes: H×W uint8, each class's code as
        `unseg.data.codes` assigns it, or `noise.NO_CODE`; the object's budget holds wherever there is a code.

        UserError where the generator has no codes.
        """
        if not getattr(self.network, "codes", 0):
            raise UserError("--objects by-class: this generator has no codes for classes; use --generator compact")
        return noise.apply_tints(image_HWC, codes_HW, self.network.code_noise().float().cpu(), self.budget)

    @staticmethod
    def object(image_HWC: np.ndarray, mask_HW: np.ndarray | None, boxes: Boxes | None) -> np.ndarray:
        """The object's pixels, H×W bool, from whichever of mask and boxes is given."""
        height, width = image_HWC.shape[:2]
        if boxes is not None:
            return box_mask(boxes, height, width)
        return np.ones((height, width), bool) if mask_HW is None else np.asarray(mask_HW, dtype=bool)

    def region(self, mask_HW: np.ndarray) -> np.ndarray:
        return image_region(mask_HW, self.region_kind, self.network.image_size, self.network.mask_size)

    def frame(self, image_HWC: np.ndarray, mask_HW: np.ndarray, boxes: Boxes | None = None) -> Framed:
        """Image and prompts in the network's frame: the box around `boxes` where given, else the mask."""
        height, width = image_HWC.shape[:2]
        size = self.network.image_size
        image = frame.image_frame(images.eight_bit_rgb(image_HWC), size, antialias=self.network.antialias)
        if boxes is not None:
            inside = np.clip(np.asarray(boxes, np.float32), 0, [width - 1, height - 1] * 2)
            return Framed(image, frame.box_prompts(inside, height, width, size))
        prompts = frame.mask_prompts(mask_HW, size, self.network.mask_size)
        if self.region_kind == "mask" and not prompts.masks.any():
            prompts = Prompts(masks=_touched_cells(mask_HW, self.network.mask_size))
        return Framed(image, prompts)

    def noise(self, framed: Sequence[Framed]) -> torch.Tensor:
        """The noise of up to `batch_size` images with prompts of one kind: K×3×N×N float32 in [−1, 1], on the CPU."""
        count = len(framed)
        if not 0 < count <= self.batch_size:
            raise ValueError(f"{count} images for a batch of {self.batch_size}")
        batch = self._fill(torch.cat([item.image for item in framed]))
        prompts = Prompts(*(None if getattr(framed[0].prompts, name) is None
                            else self._fill(torch.cat([getattr(item.prompts, name) for item in framed]))
                            for name in ("masks", "boxes", "points")))
        # Benchmarking and TF32 would let the same image give other noise from run to run and from card to card.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return self.network(batch, prompts)[:count].float().cpu().clone()

    def _fill(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device, with zeros up to the batch size."""
        missing = self.batch_size - tensor.shape[0]
        filled = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor
        return filled.to(self.device)


def _touched_cells(mask_HW: np.ndarray, mask_size: int) -> torch.Tensor:
    """A mask prompt with every cell on that an object pixel falls into: for objects that resizing would lose."""
    side = max(mask_HW.shape)
    rows, columns = np.nonzero(mask_HW)
    prompt = torch.zeros(1, 1, mask_size, mask_size)
    prompt[0, 0, rows * mask_size // side, columns * mask_size // side] = frame.MASK_ON
    return prompt
