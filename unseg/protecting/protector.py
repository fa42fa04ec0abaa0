"""One image in memory to its unlearnable version: a generator, a budget, and where each part of the budget holds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
from torch import nn

from segment_anything_training.build import eager_float32, is_sam_derived, set_attention, set_compiled, set_speed
from segment_anything_training.prompt_batch import Prompts
from unseg.compute.gpu import Batch, Graphs, Lane, first_line
from unseg.data.masks import box_mask
from unseg.errors import UserError
from unseg.method import letterbox, noise
from unseg.method.config import Budget
from unseg.storage import image_decoding

Region = Literal["mask", "published"]
Precision = Literal["float32", "float16", "bfloat16"]
LANES = 2  # batches on a GPU at a time: one computes while the other is copied

# How near unlearnable pixels stay to float32's: at most so many of the values differ, and by at most a grey level.
CHANGED_SHARE, CHANGED_LEVELS = 1e-3, 1
# How near noise stays, in grey levels on average and at most, where something else than the precision changes: two ways of
# rounding to half precision differ by about as much as each does from float32.
NEAR = {"float32": (CHANGED_SHARE, CHANGED_LEVELS), "float16": (3e-3, CHANGED_LEVELS), "bfloat16": (0.03, 3)}
PROBES = 4
Boxes = Sequence[Sequence[float]]


def image_region(mask_HW: np.ndarray, kind: Region, image_size: int, mask_size: int) -> np.ndarray:
    """Where the object's budget holds, H×W bool.

    "mask": exactly the object's pixels. "published": where the mask prompt, resized back, rounds to 1, as in the
    published script: its border follows the 256-pixel prompt, so some background pixels get the object's budget.
    """
    if kind == "mask":
        return np.ascontiguousarray(mask_HW, dtype=bool)
    prompt = letterbox.mask_prompts(mask_HW, image_size, mask_size).masks
    return noise.published_region(prompt[0, 0], *mask_HW.shape).numpy()


@dataclass(frozen=True)
class Framed:
    """What the network is given for one image: image 1×3×S×S float32 in [0, 1], and its prompts."""

    image: torch.Tensor
    prompts: Prompts


class Protector:
    """A generator, a budget and the rule of where each part of the budget holds.

    network: any generator of the project. region: see `image_region`. batch_size: every batch that the network sees has
    this size, filled with zeros, so that an image's noise does not depend on its company.

    How the network computes is set in the network. precision, of networks derived from SAM: float16 of the products in the
    image encoder's blocks, bfloat16 of large products everywhere; both move some values by a grey level (docs/performance.md).
    An image whose noise is not finite in half precision is made in float32. attention: one of `sizes.ATTENTION`.
    compiled: through torch.compile. graph: as a CUDA graph, on a GPU. Where these two do not work, or noise is not nearly
    what it was, the network computes without them. `noise` tells the caller of all that was done in another way.
    """

    def __init__(
        self,
        network: nn.Module,
        budget: Budget = Budget(),
        region: Region = "mask",
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 1,
        precision: Precision = "float32",
        attention: str = "auto",
        compiled: bool = False,
        graph: bool = False,
    ) -> None:
        self.device, self.batch_size = torch.device(device), batch_size
        on_gpu = self.device.type == "cuda"
        self.network = network.to(self.device).eval()
        if on_gpu and is_sam_derived(network):
            network.to(
                memory_format=torch.channels_last
            )  # as its activations lie, whose norms want channels side by side
        set_speed(
            self.network,
            precision == "bfloat16",
            compiled=False,
            half_blocks=torch.float16 if precision == "float16" else None,
        )
        self._extras = (
            [
                (
                    f"--attention {attention}",
                    partial(set_attention, network, attention),
                    partial(set_attention, network, "auto"),
                )
            ]
            if attention != "auto"
            else []
        )
        if compiled:
            self._extras.append(
                ("--compile", partial(set_compiled, network, True), partial(set_compiled, network, False))
            )
        self.precision, self._warm = precision, not self._extras
        self._graphs = Graphs(self._ask, self.device) if graph and on_gpu else None
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for _ in range(LANES if on_gpu else 0):
            self._lanes.put(Lane(self.device, batch_size))
        # Processor threads share a network that nobody changes; a GPU has one computing stream.
        alone = on_gpu or bool(self._extras) or precision != "float32"
        self._turn = threading.Lock() if alone else nullcontext()
        self.budget, self.region_kind = budget, region

    def __call__(
        self, image_HWC: np.ndarray, mask_HW: np.ndarray | None = None, boxes: Boxes | None = None
    ) -> np.ndarray:
        """The unlearnable image, like `image`: H×W×3 RGB or H×W×1 grey, uint8 or uint16.

        mask: H×W bool; boxes: N×4 XYXY, corners inclusive. Boxes make a box prompt and the object is what lies inside;
        without either the whole image is the object.
        """
        mask = self.object(image_HWC, mask_HW, boxes)
        noise_3NN = self.noise([self.frame(image_HWC, mask, boxes)])[0]
        return noise.apply(image_HWC, noise_3NN, self.region(mask), self.budget)

    def by_class(self, image_HWC: np.ndarray, codes_HW: np.ndarray) -> np.ndarray:
        """The unlearnable image where classes are to be told apart, like `image`. codes: H×W uint8, each class's code as
        `unseg.method.codes` assigns it, or `noise.NO_CODE`; the object's budget holds wherever there is a code.

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
        image = letterbox.image_frame(image_decoding.eight_bit_rgb(image_HWC), size, antialias=self.network.antialias)
        if boxes is not None:
            inside = np.clip(np.asarray(boxes, np.float32), 0, [width - 1, height - 1] * 2)
            return Framed(image, letterbox.box_prompts(inside, height, width, size))
        prompts = letterbox.mask_prompts(mask_HW, size, self.network.mask_size)
        if self.region_kind == "mask" and not prompts.masks.any():
            prompts = Prompts(masks=_touched_cells(mask_HW, self.network.mask_size))
        return Framed(image, prompts)

    def noise(self, framed: Sequence[Framed], notes: list[str] | None = None) -> torch.Tensor:
        """The noise of up to `batch_size` images with prompts of one kind: K×3×N×N float32 in [−1, 1], on the CPU.

        notes: what was done in another way than asked for, and why, is added to it.
        """
        if not 0 < len(framed) <= self.batch_size:
            raise ValueError(f"{len(framed)} images for a batch of {self.batch_size}")
        rows = {"image": [item.image for item in framed]}
        rows |= {
            field.name: [getattr(item.prompts, field.name) for item in framed]
            for field in fields(Prompts)
            if getattr(framed[0].prompts, field.name) is not None
        }
        notes = [] if notes is None else notes
        noise_K3NN = self._through(rows, partial(self._compute, notes=notes))
        if self.precision != "float32":
            overflown = ~noise_K3NN.isfinite().flatten(1).all(1)
            if overflown.any():  # only these: the others' noise does not depend on their company
                notes.append(f"{self.precision} overflowed in {int(overflown.sum())} of a batch, made in float32")
                noise_K3NN[overflown] = self._through(rows, self._compute_exactly)[overflown]
        return noise_K3NN

    def _through(self, rows: dict[str, list[torch.Tensor]], compute: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """What `compute` makes of a batch on the device, for the images that there are, on the CPU."""
        count = len(rows["image"])
        if self.device.type == "cpu":
            with self._turn:
                return compute({name: self._filled(tensors) for name, tensors in rows.items()})[:count].clone()
        lane = self._lanes.get()
        try:
            return lane.run(rows, compute, self._turn)[:count]
        finally:
            self._lanes.put(lane)

    def _filled(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The images' tensors as one, with zeros up to the batch size."""
        missing = self.batch_size - len(rows)
        return torch.cat([*rows, rows[0].new_zeros(missing, *rows[0].shape[1:])] if missing else rows)

    def _compute(self, batch: Batch, notes: list[str]) -> torch.Tensor:
        with reproducible():
            if not self._warm:
                self._warm_up(batch, notes)
            if self._graphs is None:
                return self._ask(batch).float()
            recorded = self._graphs.dropped is None
            noise = self._graphs(batch).float()
            if recorded and self._graphs.dropped is not None:
                notes.append(f"computed without --graph: {self._graphs.dropped}")
            return noise

    def _compute_exactly(self, batch: Batch) -> torch.Tensor:
        with reproducible(), eager_float32(self.network):
            return self._ask(batch).float()

    def _ask(self, batch: Batch) -> torch.Tensor:
        prompts = Prompts(**{name: tensor for name, tensor in batch.items() if name != "image"})
        return self.network(batch["image"], prompts)

    def _warm_up(self, batch: Batch, notes: list[str]) -> None:
        """At the first batch: what was asked for is set, one thing after another, and undone where it does not give, nearly,
        the noise that the network gives without it."""
        expected, self._warm = self._ask(batch), True
        for what, on, off in self._extras:
            on()
            try:
                failed = _too_far(self._ask(batch), expected, self.budget, NEAR[self.precision])
            except (RuntimeError, ValueError, ImportError) as error:  # of compilers, kernels and memory
                failed = first_line(error)
            if failed:
                off()
                notes.append(f"computed without {what}: {failed}")


def reproducible() -> ExitStack:
    """Inside, the same image has the same noise from run to run and card to card, which benchmarking and TF32 would change."""
    inside = ExitStack()
    inside.enter_context(torch.inference_mode())
    inside.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
    return inside


def _too_far(noise: torch.Tensor, expected: torch.Tensor, budget: Budget, near: tuple[float, float]) -> str | None:
    """Why pixels made with `noise` would not be near enough to those of `expected`; None where they are. near: the average
    and the largest change in grey levels that may be.

    A sum is rounded to another value where a limit between two lies in between. Limits are a grey level apart, so that
    happens to a share of the values that equals the average change.
    """
    change = (noise.float() - expected.float()).abs() * budget.object
    mean, most = float(change.mean()), float(change.max())
    if mean <= near[0] and most <= near[1]:
        return None
    return f"noise differs by {mean:.2g} grey levels on average, {most:.2g} at most"


def fitting_precision(network: nn.Module, device: torch.device) -> tuple[Precision, str | None]:
    """What `--precision auto` means for a generator on a device, and a sentence that says so where it was measured.

    float16, if on a GPU images that are wholly the object keep 99.9 % of float32's values, and no value differs by more
    than a grey level; else float32. Measured with images that are always the same (`probe`), whatever is to be protected.
    """
    if device.type == "cpu" or not is_sam_derived(network):
        return "float32", None
    return measured_precision(network, device)


def measured_precision(network: nn.Module, device: torch.device) -> tuple[Precision, str]:
    """`fitting_precision` on any device, for a generator derived from SAM."""
    exact, rough = (
        [Protector(network, device=device, precision=precision)(probe(seed)) for seed in range(PROBES)]
        for precision in ("float32", "float16")
    )
    change = np.concatenate([np.abs(one.astype(int) - other).ravel() for one, other in zip(exact, rough)])
    share, most = float((change > 0).mean()), int(change.max())
    fits = share <= CHANGED_SHARE and most <= CHANGED_LEVELS
    return (
        "float16" if fits else "float32",
        f"precision: {'float16' if fits else 'float32'}; in float16 {1 - share:.3%} of the values of {PROBES} test images are"
        f" float32's, and none differs by more than {most}",
    )


def probe(seed: int) -> np.ndarray:
    """An image with as much contrast at every scale, as photographs have about: 512×512×3 uint8."""
    draw, image = np.random.default_rng(seed), np.zeros((512, 512, 3), np.float32)
    for side in (2, 4, 8, 16, 32, 64, 128, 256, 512):
        octave = draw.standard_normal((side, side, 3), np.float32)
        image += cv2.resize(octave, image.shape[:2], interpolation=cv2.INTER_CUBIC)
    return (128 + image * (50 / image.std())).clip(0, 255).astype(np.uint8)


def _touched_cells(mask_HW: np.ndarray, mask_size: int) -> torch.Tensor:
    """A mask prompt with every cell on that an object pixel falls into: for objects that resizing would lose."""
    side = max(mask_HW.shape)
    rows, columns = np.nonzero(mask_HW)
    prompt = torch.zeros(1, 1, mask_size, mask_size)
    prompt[0, 0, rows * mask_size // side, columns * mask_size // side] = letterbox.MASK_ON
    return prompt
