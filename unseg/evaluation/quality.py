"""How far changed images are from the clean ones, at full size: the bound that holds, PSNR, SSIM and, with weights, LPIPS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segment_anything_training.key_remaps import shapes_of
from unseg.errors import UserError
from unseg.method import metrics
from unseg.storage.state_files import compare, read_state

SLOW_IMAGES = (
    200  # SSIM and LPIPS take a tenth of a second an image: they are means over at most so many, evenly spread
)
SMALLEST_SIDE = 32  # of an image for LPIPS' backbone; SSIM's window has 11 pixels

Similarity = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Quality:
    """A condition's images against the clean ones.

    psnr, ssim, lpips: means over the images that differ (psnr in dB over all of those, ssim and lpips over at most SLOW_IMAGES of
    them); None where no image differs, and lpips where no weights were given. max_change_object, max_change_background: the
    measured bound, grey levels over all images. images: how many were measured; differing: how many of them differ.
    """

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    max_change_object: int = 0
    max_change_background: int = 0
    images: int = 0
    differing: int = 0


class Meter:
    """Measures every image once, in whatever order and from whatever thread they come."""

    def __init__(self, count: int, perceptual: Similarity | None = None) -> None:
        self.count, self.perceptual = count, perceptual
        self.step = max(1, -(-count // SLOW_IMAGES))
        self.found: dict[int, tuple[float | None, float | None, float | None, int, int]] = {}
        self._lock = threading.Lock()

    def wants(self, index: int) -> bool:
        return index not in self.found

    def missing(self) -> list[int]:
        return [index for index in range(self.count) if self.wants(index)]

    def add(self, index: int, clean_HW3: np.ndarray, changed_HW3: np.ndarray, mask_HW: np.ndarray) -> None:
        """mask: H×W bool, the object."""
        difference = np.abs(changed_HW3.astype(np.int16) - clean_HW3).max(2)
        psnr = ssim = lpips = None
        if difference.any():
            psnr = metrics.psnr(clean_HW3, changed_HW3)
            if index % self.step == 0:
                ssim = structural_similarity(clean_HW3, changed_HW3)
                lpips = self.perceptual(clean_HW3, changed_HW3) if self.perceptual else None
        on_object, on_background = int(difference[mask_HW].max(initial=0)), int(difference[~mask_HW].max(initial=0))
        with self._lock:
            self.found[index] = psnr, ssim, lpips, on_object, on_background

    def total(self) -> Quality:
        rows = [self.found[index] for index in sorted(self.found)]  # sorted: sums do not depend on the order of reading
        means = [
            float(np.mean(values)) if (values := [row[place] for row in rows if row[place] is not None]) else None
            for place in range(3)
        ]
        return Quality(
            *means,
            max((row[3] for row in rows), default=0),
            max((row[4] for row in rows), default=0),
            len(rows),
            sum(row[0] is not None for row in rows),
        )


def structural_similarity(clean_HW3: np.ndarray, changed_HW3: np.ndarray) -> float | None:
    """SSIM (Wang et al. 2004; Gaussian window of σ 1.5) of two uint8 images, mean over the channels; None for a side below 11."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(clean_HW3.shape[:2]) < 11:
        return None
    return float(structural_similarity_index_measure(_batch(changed_HW3), _batch(clean_HW3), data_range=255.0))


def _batch(pixels_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1)))[None].float()


def load_perceptual(path: Path) -> Similarity:
    """LPIPS (Zhang et al. 2018) on AlexNet: torchmetrics has the linear weights, `path` torchvision's AlexNet of ImageNet
    (alexnet-owt-7be5be79.pth). UserError where the file is missing or holds something else."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    network = _NoTrainLpips(net="alex", pnet_rand=True)
    own = network.net.state_dict()
    places = {name.split(".", 1)[1]: name for name in own}  # slice2.3.weight is features.3.weight
    if not path.is_file():
        raise UserError(f"--lpips-weights {path}: no such file; give torchvision's AlexNet (alexnet-owt-7be5be79.pth)")
    given = {
        name.removeprefix("features."): tensor
        for name, tensor in read_state(path)[0].items()
        if name.startswith("features.")
    }
    misfit = compare(shapes_of(given), shapes_of({short: own[name] for short, name in places.items()}))
    if misfit:
        raise UserError(f"--lpips-weights {path}: not torchvision's AlexNet: {misfit}")
    network.net.load_state_dict({places[short]: tensor for short, tensor in given.items()})

    @torch.no_grad()
    def distance(clean_HW3: np.ndarray, changed_HW3: np.ndarray) -> float | None:
        if min(clean_HW3.shape[:2]) < SMALLEST_SIDE:
            return None
        return float(network(_batch(clean_HW3) / 255, _batch(changed_HW3) / 255, normalize=True))

    return distance
