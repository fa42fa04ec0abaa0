"""Noise of a network for images in memory: a generator, a budget, and where each part of the budget holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import nn

from segment_anything_training.build import is_sam_derived, set_speed
from segment_anything_training.prompt_batch import Prompts
from unseg.compute.device import choose_device
from unseg.errors import UserError
from unseg.method import letterbox, noise
from unseg.method.code_prompts import code_prompt
from unseg.method.codes import OBJECT
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK, NO_CODE
from unseg.protecting.generators import AnyGenerator, network_of
from unseg.protecting.given_images import AnyImage, AnyMask, Boxes, read_given
from unseg.protecting.given_objects import given_object
from unseg.protecting.objects import FoundObject
from unseg.protecting.settings import COMPACT, Precision, Region
from unseg.storage import image_decoding
from unseg.storage.key_file import new_key

_BUDGET = Budget()  # the paper's: 8 grey levels on the object, 2 on the background


def takes_codes(network: nn.Module) -> bool:
    """Returns whether a generator is given the codes of pixels, besides the other prompts."""
    return bool(getattr(network, "takes_codes", False))


def image_region(mask_HW: np.ndarray, kind: Region, image_size: int, mask_size: int) -> np.ndarray:
    """Returns where the object's budget holds, H×W bool.

    "mask": exactly the object's pixels. "published": where the mask prompt, resized back, rounds to 1, as in the
    published script: its border follows the 256-pixel prompt, so some background pixels get the object's budget.
    """
    if kind == "mask":
        return np.ascontiguousarray(mask_HW, dtype=bool)
    prompt = letterbox.mask_prompts(mask_HW, image_size, mask_size).masks
    assert prompt is not None
    return noise.published_region(prompt[0, 0], *mask_HW.shape).numpy()


@dataclass(frozen=True)
class Framed:
    """Holds what the network is given for one image: image 1×3×S×S float32 in [0, 1], and its prompts."""

    image: torch.Tensor
    prompts: Prompts


class NetworkProtector:
    """Makes images unlearnable with a generator within a budget, by the rule of where each part of it holds.

    generator: "compact", which ships with the package; a weight file; `module:name`; or a generator itself (see
    `unseg.protecting.generators.load_generator`). It is loaded when it is first needed. A network that is given is
    moved to the device and set to evaluation. budget: the largest change of a value, in grey levels of 255. region: see
    `image_region`. device: auto, cpu, cuda or cuda:N. batch_size: every batch that the network sees has this size,
    filled with zeros, so that an image's noise does not depend on its company. key: of the codes that a generator is
    given, if it takes codes; where none is given one is drawn when the generator is loaded, which the attribute `key`
    holds then. precision, of networks derived from SAM:
    bfloat16 computes large products so, which moves one value in a hundred by a grey level or two; the bound holds all
    the same.

    One protector may serve several threads.
    """

    def __init__(
        self,
        generator: AnyGenerator = COMPACT,
        budget: Budget = _BUDGET,
        region: Region = "mask",
        *,
        device: str | torch.device = "auto",
        batch_size: int = 1,
        precision: Precision = "float32",
        key: bytes | None = None,
    ) -> None:
        if region not in get_args(Region):
            raise UserError(f"region: {region!r} is none of {', '.join(get_args(Region))}")
        if precision not in get_args(Precision):
            raise UserError(f"precision: {precision!r} is none of {', '.join(get_args(Precision))}")
        if not isinstance(budget, Budget):
            raise UserError(f"budget: give Budget(object, background), not a {type(budget).__name__}")
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.budget, self.region_kind, self.batch_size, self.precision = budget, region, batch_size, precision
        self.key = key
        self._generator, self._network, self._loading = generator, cast(nn.Module | None, None), threading.Lock()
        # Processor threads share a network that nobody changes; a GPU has one computing stream.
        alone = self.device.type != "cpu" or precision != "float32"
        self._turn = threading.Lock() if alone else nullcontext()

    @property
    def network(self) -> Any:
        """Returns the network of the generator, on the device and in evaluation mode."""
        with self._loading:
            if self._network is None:
                self._network = self._prepared()
            return self._network

    def _prepared(self) -> nn.Module:
        network = network_of(self._generator, str(self.device)).to(self.device).eval()
        if self.key is not None and not takes_codes(network):
            raise UserError("key: is for noise of codes, and this generator takes no codes; leave it out")
        if self.key is None and takes_codes(network):
            self.key = new_key()
        if self.device.type == "cuda" and is_sam_derived(network):
            # As its activations lie, whose norms want the channels of a pixel side by side.
            cast(Any, network).to(memory_format=torch.channels_last)
        return network

    def __call__(
        self,
        image: AnyImage,
        mask: AnyMask | None = None,
        boxes: Boxes | None = None,
        *,
        whole_image: bool = False,
    ) -> AnyImage:
        """Returns the unlearnable image, of the kind that was given; the given one stays as it is.

        image: a numpy array, H×W, H×W×1 or H×W×3 RGB of uint8 or uint16, or a PIL image of mode L, LA, RGB or RGBA,
        whose alpha is kept. mask: where the object is, H×W bool, or 0 and 255, as array or PIL image. boxes: N×4 XYXY
        in pixels, corners inclusive, in place of a mask: they make a box prompt, and the object is what lies inside.
        whole_image: in place of both the whole image is the object, which cannot keep networks from learning the
        objects in it. Raises UserError for anything else, and where not exactly one of the three is given.
        """
        given = read_given(image)
        found = given_object(given.samples_HWC, mask, boxes, whole_image=whole_image)
        return cast(AnyImage, given.back(self.changed(given.samples_HWC, found)))

    def changed(self, image_HWC: np.ndarray, found: FoundObject) -> np.ndarray:
        """Returns the unlearnable image, H×W×C uint8 or uint16; raises UserError where the noise is not finite."""
        noise_3NN = self.noise([self.frame(image_HWC, found.mask_HW, found.boxes)])[0]
        if not noise_3NN.isfinite().all():
            raise UserError("the generator's noise is not finite: its weights are damaged or not trained")
        return noise.apply(image_HWC, noise_3NN, self.region(found.mask_HW), self.budget)

    def by_class(self, image: AnyImage, codes_HW: np.ndarray) -> AnyImage:
        """Returns the unlearnable image where classes are to be told apart, of the kind that was given.

        codes: H×W uint8, each class's code as `unseg.method.codes` assigns it, or `noise.NO_CODE`; the object's budget
        holds wherever there is a code. Raises UserError where the generator has no codes.
        """
        if not getattr(self.network, "codes", 0):
            raise UserError("--objects by-class: this generator has no codes for classes; use --generator compact")
        given = read_given(image)
        tints_K3 = self.network.code_noise().float().cpu()
        return cast(AnyImage, given.back(noise.apply_tints(given.samples_HWC, codes_HW, tints_K3, self.budget)))

    def with_codes(self, image_HWC: np.ndarray, codes_HW: np.ndarray, key: bytes) -> np.ndarray:
        """Returns an image with the noise of a generator that takes codes, given these and this key.

        image: H×W×C uint8 or uint16. codes: H×W uint8; the object's budget holds where there is one with a pattern.
        """
        mask_HW = (codes_HW != ABSENCE) & (codes_HW != NO_CODE)
        noise_3NN = self.noise([self.frame(image_HWC, mask_HW, codes_HW=codes_HW, key=key)])[0]
        return noise.apply(image_HWC, noise_3NN, mask_HW, self.budget)

    def region(self, mask_HW: np.ndarray) -> np.ndarray:
        """Returns where the object's budget holds, H×W bool, for an object."""
        return image_region(mask_HW, self.region_kind, self.network.image_size, self.network.mask_size)

    def frame(
        self,
        image_HWC: np.ndarray,
        mask_HW: np.ndarray,
        boxes: Boxes | None = None,
        codes_HW: np.ndarray | None = None,
        key: bytes | None = None,
    ) -> Framed:
        """Returns image and prompts in the network's frame: a box prompt around `boxes` where given, else the mask.

        codes: of every pixel, H×W uint8, for generators that take them; None: the first code on the object. key: of
        the codes; None: the protector's own.
        """
        framed, network = self._framed(image_HWC, mask_HW, boxes), self.network
        if not takes_codes(network):
            return framed
        if codes_HW is None:
            codes_HW = np.where(mask_HW, np.uint8(OBJECT), np.uint8(ABSENCE))
        key = self.key if key is None else key
        assert key is not None, "it was drawn when the network was loaded"
        codes = code_prompt(image_decoding.eight_bit_rgb(image_HWC), codes_HW, BOOK, key, network.mask_size)
        return replace(framed, prompts=replace(framed.prompts, codes=codes))

    def _framed(self, image_HWC: np.ndarray, mask_HW: np.ndarray, boxes: Boxes | None) -> Framed:
        height, width = image_HWC.shape[:2]
        size = self.network.image_size
        image = letterbox.image_frame(image_decoding.eight_bit_rgb(image_HWC), size, antialias=self.network.antialias)
        if boxes is not None:
            inside = np.clip(np.asarray(boxes, np.float32), 0, [width - 1, height - 1] * 2)
            return Framed(image, letterbox.box_prompts(inside, height, width, size))
        prompts = letterbox.mask_prompts(mask_HW, size, self.network.mask_size)
        if self.region_kind == "mask" and prompts.masks is not None and not prompts.masks.any():
            prompts = Prompts(masks=_touched_cells(mask_HW, self.network.mask_size))
        return Framed(image, prompts)

    def noise(self, framed: Sequence[Framed]) -> torch.Tensor:
        """Returns the noise of up to `batch_size` images with prompts of one kind: K×3×N×N float32, on the CPU.

        The values lie in [−1, 1] as far as the generator keeps to that; `noise.apply` bounds the change in any case.
        """
        if not 0 < len(framed) <= self.batch_size:
            raise ValueError(f"{len(framed)} images for a batch of {self.batch_size}")
        given = [field.name for field in fields(Prompts) if getattr(framed[0].prompts, field.name) is not None]
        network, image = self.network, self._batch([item.image for item in framed])
        prompts = Prompts(**{name: self._batch([getattr(item.prompts, name) for item in framed]) for name in given})
        with self._turn, reproducible():
            set_speed(network, self.precision == "bfloat16")  # another protector may have set it otherwise
            noise_B3NN = network(image, prompts)
        _check_noise(noise_B3NN, self.batch_size)
        return noise_B3NN[: len(framed)].float().cpu().clone()  # outside, where the copy is an ordinary tensor

    def _batch(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """Returns the images' tensors as one on the device, with zeros up to the batch size."""
        missing = self.batch_size - len(rows)
        filled = [*rows, rows[0].new_zeros(missing, *rows[0].shape[1:])] if missing else rows
        return torch.cat(filled).to(self.device)


def _check_noise(noise_B3NN: object, batch_size: int) -> None:
    """Raises UserError unless a generator's result is noise for its batch."""
    if not isinstance(noise_B3NN, torch.Tensor) or not noise_B3NN.is_floating_point():
        found = noise_B3NN.dtype if isinstance(noise_B3NN, torch.Tensor) else type(noise_B3NN).__name__
        raise UserError(f"--generator: returns {found}, not a tensor of floats; return noise B×3×N×N in [−1, 1]")
    shape = tuple(noise_B3NN.shape)
    if len(shape) != 4 or shape[:2] != (batch_size, 3) or shape[2] != shape[3] or not shape[3]:
        raise UserError(f"--generator: returns {shape} for {batch_size} images; return noise B×3×N×N in [−1, 1]")


def reproducible() -> ExitStack:
    """Returns a context in which the same image has the same noise from run to run and card to card.

    Choosing kernels by timing, and TF32, would change it.
    """
    inside = ExitStack()
    inside.enter_context(torch.inference_mode())
    inside.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
    return inside


def _touched_cells(mask_HW: np.ndarray, mask_size: int) -> torch.Tensor:
    """Returns a mask prompt with every cell on that an object pixel falls into.

    It is for objects so small that resizing would lose them.
    """
    side = max(mask_HW.shape)
    rows, columns = np.nonzero(mask_HW)
    prompt = torch.zeros(1, 1, mask_size, mask_size)
    prompt[0, 0, rows * mask_size // side, columns * mask_size // side] = letterbox.MASK_ON
    return prompt
