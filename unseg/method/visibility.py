"""How visible a change of colours is: ΔE2000 by pixel and after a stand-in for the blur of the eye, and SSIM.

ΔE2000: Sharma et al., "The CIEDE2000 color-difference formula", 2005. The stand-in follows S-CIELAB (Zhang and Wandell,
"A spatial extension of CIELAB", 1997): CIELAB of sRGB, whose channels L, a and b are blurred by Gaussians, as at a
distance from which PIXELS_A_DEGREE pixels are one degree wide. One unit is about what an eye can just tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from unseg.errors import check_installed, is_there

PIXELS_A_DEGREE = 40
BLUR = (0.03, 0.13, 0.18)  # standard deviations for L, a and b, degrees
REACH = 4.0  # standard deviations after which a Gaussian ends
MARGIN = int(REACH * PIXELS_A_DEGREE * max(BLUR) + 0.5) + 1  # pixels around the object that its blur depends on
LARGEST = 1024  # pixels: of larger objects the middle part of this side is measured
SIGMA, WINDOW = 1.5, 11  # pixels: SSIM's Gaussian and the side of its window, as in its paper
STEADY = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)  # the paper's constants for 8 bits, of means and of contrasts
ROWS = 2**18  # pixels of a band whose SSIM is taken at a time: the whole of a photograph would take gigabytes
PACKAGES = ("scipy", "skimage")


@dataclass(frozen=True)
class Visibility:
    """Means over the pixels of an object. delta_e: of single pixels. s_cielab: of blurred images."""

    delta_e: float
    s_cielab: float


def check_can_measure(option: str) -> None:
    """Raises UserError, which names `option` and the remedy, where a package that measures is not installed."""
    check_installed(option, PACKAGES, "quality")


def can_measure() -> bool:
    """Returns whether the packages that measure are installed."""
    return all(map(is_there, PACKAGES))


def visibility_of_change(clean_HW3: np.ndarray, changed_HW3: np.ndarray, mask_HW: np.ndarray) -> Visibility | None:
    """Returns how visible the change is where an object, H×W bool, changed; None where it did nowhere.

    What has no noise by design, such as a class that is absent, would only thin the figure out.
    """
    return visibility(clean_HW3, changed_HW3, mask_HW & (clean_HW3 != changed_HW3).any(axis=2))


def visibility(clean_HW3: np.ndarray, changed_HW3: np.ndarray, mask_HW: np.ndarray) -> Visibility | None:
    """Returns how visible the change of two uint8 images is on the object; None where there is none.

    Of an object whose box is larger than LARGEST in a direction, the middle of the box is measured.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.color import deltaE_ciede2000, rgb2lab

    rows, columns = (_middle(np.asarray(mask_HW.any(axis=axis))) for axis in (1, 0))
    if rows is None or columns is None:
        return None
    inside = np.zeros_like(mask_HW)
    inside[rows, columns] = mask_HW[rows, columns]
    part = _wider(rows, mask_HW.shape[0]), _wider(columns, mask_HW.shape[1])
    seen = inside[part]
    if not seen.any():
        return None
    labs = [rgb2lab(pixels[part]) for pixels in (clean_HW3, changed_HW3)]
    sigmas = [PIXELS_A_DEGREE * degrees for degrees in BLUR]
    blurred = [
        np.stack(
            [
                gaussian_filter(lab[..., channel], sigma, mode="nearest", truncate=REACH)
                for channel, sigma in enumerate(sigmas)
            ],
            axis=-1,
        )
        for lab in labs
    ]
    by_pixel, by_eye = (deltaE_ciede2000(*pair)[seen].mean() for pair in (labs, blurred))
    return Visibility(float(by_pixel), float(by_eye))


def _middle(shown: np.ndarray) -> slice | None:
    """Returns where the object lies in one direction, its middle part if it is large; None where there is none."""
    places = np.flatnonzero(shown)
    if places.size == 0:
        return None
    first, last = int(places[0]), int(places[-1]) + 1
    spare = max(0, last - first - LARGEST)
    return slice(first + spare // 2, last - (spare - spare // 2))


def _wider(part: slice, size: int) -> slice:
    return slice(max(0, part.start - MARGIN), min(size, part.stop + MARGIN))


def structural_similarity(clean_HW3: np.ndarray, changed_HW3: np.ndarray) -> float | None:
    """Returns the SSIM of two uint8 images, the mean over the channels; None for a side below the window's.

    It is that of Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: a
    Gaussian window, and the mean over the pixels whose window lies inside the image.
    """
    height, width = clean_HW3.shape[:2]
    if min(height, width) < WINDOW:
        return None
    reach, total = WINDOW // 2, 0.0
    step = max(1, ROWS // width)
    for top in range(reach, height - reach, step):
        rows = slice(top - reach, min(top + step, height - reach) + reach)
        for channel in range(clean_HW3.shape[2]):
            similar_HW = _similarity(clean_HW3[rows, :, channel], changed_HW3[rows, :, channel])
            total += float(similar_HW[reach:-reach, reach:-reach].sum())
    return total / ((height - 2 * reach) * (width - 2 * reach) * clean_HW3.shape[2])


def _similarity(one_HW: np.ndarray, other_HW: np.ndarray) -> np.ndarray:
    """Returns the SSIM of each pixel's window, H×W float64; near the border it is that of a window that is cut."""

    def mean(values_HW: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values_HW, (WINDOW, WINDOW), SIGMA)

    one, other = one_HW.astype(np.float64), other_HW.astype(np.float64)
    mean_one, mean_other = mean(one), mean(other)
    product, squares = mean_one * mean_other, mean_one * mean_one + mean_other * mean_other
    covariance, variances = mean(one * other) - product, mean(one * one + other * other) - squares
    like = (2 * product + STEADY[0]) * (2 * covariance + STEADY[1])
    return like / ((squares + STEADY[0]) * (variances + STEADY[1]))
