"""One call of a network: frames in, noise out, whatever library computes it. This side of it knows numpy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from unseg.method.letterbox import Framed
from unseg.storage.onnx_generator import OnnxGenerator


class NetworkCalls(ABC):
    """Asks a network for noise. network: what is asked, with `image_size`, `mask_size` and `antialias`."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @abstractmethod
    def noise(self, framed: Sequence[Framed], batch_size: int) -> np.ndarray:
        """Returns the noise of up to `batch_size` images with prompts of one kind: K×3×N×N float32.

        The batch is filled with zeros, so that an image's noise does not depend on its company.
        """

    @abstractmethod
    def tints(self) -> np.ndarray:
        """Returns the noise of each code of the network, K×3 float32 in [−1, 1]."""


class OnnxCalls(NetworkCalls):
    """Asks the compact generator in onnxruntime."""

    network: OnnxGenerator

    def noise(self, framed: Sequence[Framed], batch_size: int) -> np.ndarray:
        images, masks, boxes, _ = batch_of(framed, batch_size)
        assert images is not None, "every image has a frame"
        return self.network(images, masks, boxes)[: len(framed)]

    def tints(self) -> np.ndarray:
        return self.network.code_noise()


Part = np.ndarray | None


def batch_of(framed: Sequence[Framed], batch_size: int) -> tuple[Part, Part, Part, Part]:
    """Returns the images, mask prompts, box prompts and codes of a batch, each filled with zeros; None for what has
    none."""
    images, masks, boxes, codes = (
        [item.image_3SS for item in framed],
        [item.mask_1MM for item in framed],
        [item.box_4 for item in framed],
        [item.codes_3MM for item in framed],
    )
    return (
        _filled(images, batch_size),
        _filled(masks, batch_size),
        _filled(boxes, batch_size),
        _filled(codes, batch_size),
    )


def _filled(rows: Sequence[np.ndarray | None], batch_size: int) -> np.ndarray | None:
    first = rows[0]
    if first is None:
        return None
    batch = np.zeros((batch_size, *first.shape), np.float32)
    for place, row in zip(batch, rows, strict=False):
        place[...] = row
    return batch
