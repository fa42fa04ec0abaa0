"""Noise of a network for images in memory: a generator, a budget, and where each part of the budget holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from unseg.compute.device import device_name
from unseg.errors import UserError, naming_the_extra
from unseg.method import letterbox, noise
from unseg.method.code_prompts import code_prompt
from unseg.method.codes import OBJECT
from unseg.method.config import Budget
from unseg.method.letterbox import Framed
from unseg.method.patterns import ABSENCE, NO_CODE, ONE_CODE_BOOK, CodeBook
from unseg.protecting.generators import AnyGenerator, fastest_generator
from unseg.protecting.given_images import AnyImage, AnyMask, Boxes, read_given
from unseg.protecting.given_objects import given_object
from unseg.protecting.network_calls import NetworkCalls, OnnxCalls
from unseg.protecting.objects import FoundObject
from unseg.protecting.settings import COMPACT, Precision, Region
from unseg.storage import image_decoding
from unseg.storage.key_file import new_key
from unseg.storage.loaded_generator import LoadedGenerator
from unseg.storage.onnx_generator import OnnxGenerator

_BUDGET = Budget()  # the paper's: 8 grey levels on the object, 2 on the background


def takes_codes(network: object) -> bool:
    """Returns whether a generator is given the codes of pixels, besides the other prompts."""
    return bool(getattr(network, "takes_codes", False))


def image_region(mask_HW: np.ndarray, kind: Region, image_size: int, mask_size: int) -> np.ndarray:
    """Returns where the object's budget holds, H×W bool.

    "mask": exactly the object's pixels. "published": where the mask prompt, resized back, rounds to 1, as in the
    published script: its border follows the 256-pixel prompt, so some background pixels get the object's budget.
    """
    if kind == "mask":
        return np.ascontiguousarray(mask_HW, dtype=bool)
    prompt_1MM = letterbox.mask_prompt(mask_HW, image_size, mask_size)
    return noise.published_region(prompt_1MM[0], *mask_HW.shape)


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
        device: str = "auto",
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
        self.device = device_name(device)
        self.budget, self.region_kind, self.batch_size, self.precision = budget, region, batch_size, precision
        self.key = key
        self._generator, self._loading = generator, threading.Lock()
        self._calls = cast(NetworkCalls | None, None)

    @property
    def calls(self) -> NetworkCalls:
        """Returns what asks the network, which is loaded now where it was not."""
        with self._loading:
            if self._calls is None:
                self._calls = self._loaded()
            return self._calls

    def _loaded(self) -> NetworkCalls:
        calls = _calls_of(self._generator, self.device, self.precision)
        if self.key is not None and not takes_codes(calls.network):
            raise UserError("key: is for noise of codes, and this generator takes no codes; leave it out")
        if self.key is None and takes_codes(calls.network):
            self.key = new_key()
        return calls

    @property
    def network(self) -> Any:
        """Returns the network of the generator, on the device and in evaluation mode."""
        return self.calls.network

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
        if not np.isfinite(noise_3NN).all():
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
        changed = noise.apply_tints(given.samples_HWC, codes_HW, self.calls.tints(), self.budget)
        return cast(AnyImage, given.back(changed))

    def with_codes(self, image_HWC: np.ndarray, codes_HW: np.ndarray, book: CodeBook, key: bytes) -> np.ndarray:
        """Returns an image with the noise of a generator that takes codes, given these of a book and this key.

        image: H×W×C uint8 or uint16. codes: H×W uint8; the object's budget holds where there is one with a pattern.
        """
        mask_HW = (codes_HW != ABSENCE) & (codes_HW != NO_CODE)
        noise_3NN = self.noise([self.frame(image_HWC, mask_HW, codes_HW=codes_HW, book=book, key=key)])[0]
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
        book: CodeBook = ONE_CODE_BOOK,
        key: bytes | None = None,
    ) -> Framed:
        """Returns image and prompt in the network's frame: a box prompt around `boxes` where given, else the mask.

        codes: of every pixel, H×W uint8, for generators that take them; None: the first code on the object. book: that
        of the codes. key: likewise; None: the protector's own.
        """
        framed, network = self._framed(image_HWC, mask_HW, boxes), self.network
        if not takes_codes(network):
            return framed
        if codes_HW is None:
            codes_HW = np.where(mask_HW, np.uint8(OBJECT), np.uint8(ABSENCE))
        key = self.key if key is None else key
        assert key is not None, "it was drawn when the network was loaded"
        image = image_decoding.eight_bit_rgb(image_HWC)
        return replace(framed, codes_3MM=code_prompt(image, codes_HW, book, key, network.mask_size))

    def _framed(self, image_HWC: np.ndarray, mask_HW: np.ndarray, boxes: Boxes | None) -> Framed:
        height, width = image_HWC.shape[:2]
        network = self.network
        size, mask_size = network.image_size, network.mask_size
        image = letterbox.image_frame(image_decoding.eight_bit_rgb(image_HWC), size, antialias=network.antialias)
        if boxes is not None:
            inside = np.clip(np.asarray(boxes, np.float32), 0, [width - 1, height - 1] * 2)
            return Framed(image, box_4=letterbox.box_prompt(inside, height, width, size))
        prompt_1MM = letterbox.mask_prompt(mask_HW, size, mask_size)
        if self.region_kind == "mask" and not prompt_1MM.any():
            prompt_1MM = _touched_cells(mask_HW, mask_size)
        return Framed(image, prompt_1MM)

    def noise(self, framed: Sequence[Framed]) -> np.ndarray:
        """Returns the noise of up to `batch_size` images with prompts of one kind: K×3×N×N float32.

        The values lie in [−1, 1] as far as the generator keeps to that; `noise.apply` bounds the change in any case.
        """
        if not 0 < len(framed) <= self.batch_size:
            raise ValueError(f"{len(framed)} images for a batch of {self.batch_size}")
        return self.calls.noise(framed, self.batch_size)


def _calls_of(generator: AnyGenerator, device: str, precision: Precision) -> NetworkCalls:
    if isinstance(generator, (str, Path)):
        generator = fastest_generator(generator, device)
    network = generator.network if isinstance(generator, LoadedGenerator) else generator
    if isinstance(network, OnnxGenerator):
        return OnnxCalls(network)
    with naming_the_extra("generator"):
        from unseg.protecting.torch_calls import TorchCalls
    return TorchCalls(network, device, precision)


def _touched_cells(mask_HW: np.ndarray, mask_size: int) -> np.ndarray:
    """Returns a mask prompt with every cell on that an object pixel falls into.

    It is for objects so small that resizing would lose them.
    """
    side = max(mask_HW.shape)
    rows, columns = np.nonzero(mask_HW)
    prompt_1MM = np.zeros((1, mask_size, mask_size), np.float32)
    prompt_1MM[0, rows * mask_size // side, columns * mask_size // side] = letterbox.MASK_ON
    return prompt_1MM
