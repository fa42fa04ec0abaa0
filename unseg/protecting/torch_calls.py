"""Calls of networks that are modules of torch, on a processor or a GPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, cast

import numpy as np
import torch

from segment_anything_training.build import is_sam_derived, set_speed
from segment_anything_training.prompt_batch import Prompts
from unseg.errors import UserError
from unseg.method.letterbox import Framed
from unseg.protecting.network_calls import NetworkCalls, batch_of
from unseg.protecting.own_generators import complete
from unseg.protecting.settings import Precision


class TorchCalls(NetworkCalls):
    """Asks a module of torch, which is moved to the device and set to evaluation.

    network: a module, or any callable that `unseg.protecting.own_generators.OwnGenerator` describes. precision, of
    networks derived from SAM: see `unseg.protecting.network_protector.NetworkProtector`.
    """

    def __init__(self, network: Any, device: str, precision: Precision) -> None:
        super().__init__(complete(network).to(device).eval())
        self.device, self._precision = torch.device(device), precision
        if self.device.type == "cuda" and is_sam_derived(self.network):
            # As its activations lie, whose norms want the channels of a pixel side by side.
            self.network.to(memory_format=torch.channels_last)
        # Processor threads share a network that nobody changes; a GPU has one computing stream.
        alone = self.device.type != "cpu" or precision != "float32"
        self._turn = threading.Lock() if alone else nullcontext()

    def noise(self, framed: Sequence[Framed], batch_size: int) -> np.ndarray:
        images, masks, boxes, codes = (
            None if part is None else torch.from_numpy(part).to(self.device) for part in batch_of(framed, batch_size)
        )
        try:
            with self._turn, reproducible():
                set_speed(self.network, self._precision == "bfloat16")  # another protector may have set it otherwise
                noise_B3NN = self.network(images, Prompts(masks=masks, boxes=boxes, codes=codes))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--batch-size {batch_size}: the device has not enough memory for it; give a smaller one, or"
                " --device cpu"
            ) from error
        _check_noise(noise_B3NN, batch_size)
        noise: np.ndarray = noise_B3NN[: len(framed)].float().cpu().numpy()
        return noise

    def tints(self) -> np.ndarray:
        return cast(np.ndarray, self.network.code_noise().float().cpu().numpy())


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
