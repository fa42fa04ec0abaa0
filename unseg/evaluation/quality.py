"""How far changed images are from the clean ones, at full size: the bound that holds, PSNR, SSIM, colour differences
and, with weights, LPIPS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segment_anything_training.key_remaps import shapes_of
from unseg.errors import UserError
from unseg.method import metrics
from unseg.method.visibility import Visibility, structural_similarity, visibility_of_change
from unseg.storage.state_files import compare, open_state

# SSIM, LPIPS and colour differences take a tenth of a second an image each: means over at most so many, evenly spread.
SLOW_IMAGES = 200
SMALLEST_SIDE = 32  # of an image for LPIPS' backbone; SSIM's window has 11 pixels

Similarity = Callable[[np.ndarray, np.ndarray], float | None]


@dataclass(frozen=True)
class Quality:
    """How far a condition's images are from the clean ones.

    psnr, ssim, lpips, delta_e, s_cielab: means over the images that differ (psnr in dB over all of those, the others
    over at most SLOW_IMAGES of them); None where no image differs, and lpips where no weights were given. delta_e and
    s_cielab are of the object's pixels that changed: see `unseg.method.visibility`. max_change_object,
    max_change_background: the measured bound, grey levels over all images. images: how many were measured; differing:
    how many of them differ.
    """

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    max_change_object: int = 0
    max_change_background: int = 0
    images: int = 0
    differing: int = 0
    delta_e: float | None = None
    s_cielab: float | None = None


@dataclass(frozen=True)
class _Measured:
    """The measures of one image. psnr, ssim, lpips, seen: None where they were not measured. on_object, on_background:
    largest change, grey levels.
    """

    psnr: float | None
    ssim: float | None
    lpips: float | None
    on_object: int
    on_background: int
    seen: Visibility | None


class Meter:
    """Measures every image once, in whatever order and from whatever thread they come."""

    def __init__(self, count: int, perceptual: Similarity | None = None) -> None:
        self.count, self.perceptual = count, perceptual
        self.step = max(1, -(-count // SLOW_IMAGES))
        self.found: dict[int, _Measured] = {}
        self._lock = threading.Lock()

    def wants(self, index: int) -> bool:
        """Returns whether the image has not been measured yet."""
        return index not in self.found

    def missing(self) -> list[int]:
        """Returns the images that have not been measured yet."""
        return [index for index in range(self.count) if self.wants(index)]

    def add(self, index: int, clean_HW3: np.ndarray, changed_HW3: np.ndarray, mask_HW: np.ndarray) -> None:
        """Measures an image. mask: H×W bool, the object."""
        difference = np.abs(changed_HW3.astype(np.int16) - clean_HW3).max(2)
        psnr = ssim = lpips = seen = None
        if difference.any():
            psnr = metrics.psnr(clean_HW3, changed_HW3)
            if index % self.step == 0:
                ssim = structural_similarity(clean_HW3, changed_HW3)
                lpips = self.perceptual(clean_HW3, changed_HW3) if self.perceptual else None
                seen = visibility_of_change(clean_HW3, changed_HW3, mask_HW)
        on_object, on_background = int(difference[mask_HW].max(initial=0)), int(difference[~mask_HW].max(initial=0))
        with self._lock:
            self.found[index] = _Measured(psnr, ssim, lpips, on_object, on_background, seen)

    def total(self) -> Quality:
        """Returns the quality of all images that have been measured."""
        rows = [self.found[index] for index in sorted(self.found)]  # sorted: sums do not depend on the order of reading
        return Quality(
            psnr=_mean(row.psnr for row in rows),
            ssim=_mean(row.ssim for row in rows),
            lpips=_mean(row.lpips for row in rows),
            max_change_object=max((row.on_object for row in rows), default=0),
            max_change_background=max((row.on_background for row in rows), default=0),
            images=len(rows),
            differing=sum(row.psnr is not None for row in rows),
            delta_e=_mean(row.seen.delta_e for row in rows if row.seen is not None),
            s_cielab=_mean(row.seen.s_cielab for row in rows if row.seen is not None),
        )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _batch(pixels_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1)))[None].float()


def load_perceptual(path: Path) -> Similarity:
    """Returns LPIPS (Zhang et al. 2018) on AlexNet, as a function of two uint8 images.

    torchmetrics has the linear weights, `path` torchvision's AlexNet of ImageNet (alexnet-owt-7be5be79.pth). Raises
    UserError where the file is missing or holds something else.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    network = _NoTrainLpips(net="alex", pnet_rand=True)
    own = network.net.state_dict()
    places = {name.split(".", 1)[1]: name for name in own}  # slice2.3.weight is features.3.weight
    if not path.is_file():
        raise UserError(f"--lpips-weights {path}: no such file; give torchvision's AlexNet (alexnet-owt-7be5be79.pth)")
    given = {
        name.removeprefix("features."): tensor
        for name, tensor in open_state(path).read_floats().items()
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
