"""A notch filter, the natural answer to periodic noise (Gonzalez and Woods, "Digital image processing", section 5.4,
choose the notches by eye; here the training set chooses them).

Photographs have smooth mean spectra. The mean log spectrum of all training images is compared with a smooth fit of
itself; frequencies that stick out in a channel are taken out of that channel in every training image.

Waves longer than BLOCK / KEPT_LOW = 28 pixels are not looked for: photographs' own spectra rise so steeply there that
no fit tells a pattern from the picture. Blocks of 256 pixels find waves up to 57 pixels, but change clean images of Car
Parts by 0.8 grey levels on average; these leave them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import median_filter

from unseg.evaluation.defences.kinds import ImageChange, SetDefence, TrainingSet

BLOCK = 128  # pixels: images of all sizes are compared in blocks of this side
FIT_SHAPES = ((15, 15, 1), (1, 15, 1), (15, 1, 1))  # frequencies: the fit is the largest median over these
DEVIATIONS = 3.0  # median absolute deviations above the fit that make a peak
KEPT_LOW = 4.5  # the lowest frequencies (cycles a block), which carry the image, stay


def notch() -> SetDefence:
    """Returns the defence that takes out the peaks of the training images' mean log spectrum, channel by channel."""

    def fit(training: TrainingSet, seed: int) -> ImageChange:
        peaks = find_peaks(mean_log_spectrum(training.images))
        return lambda name, pixels: without_peaks(pixels, peaks)

    return SetDefence("notch", fit)


def mean_log_spectrum(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns log(1 + |spectrum|) of Hann-windowed blocks, averaged over all blocks of all images: BLOCK×BLOCK×3.

    Blocks overlap by half. Images smaller than a block are continued by reflection.
    """
    window = np.hanning(BLOCK + 1)[:-1]
    window_BB1 = np.outer(window, window)[..., None]
    total, count = np.zeros((BLOCK, BLOCK, 3)), 0
    for pixels in images:
        for block in _blocks(pixels):
            centred = block - block.mean(axis=(0, 1))
            total += np.log1p(np.abs(np.fft.fft2(centred * window_BB1, axes=(0, 1))))
            count += 1
    return total / count


def find_peaks(spectrum_BB3: np.ndarray) -> np.ndarray:
    """Returns where the spectrum exceeds its smooth fit by more than DEVIATIONS median deviations: BLOCK×BLOCK×3 bool.

    Upright and level edges give every photograph a cross along the axes. It is smooth along its arms, so medians along
    rows and columns count it to the fit; a periodic pattern sticks out of all three medians.
    """
    around, *along = (median_filter(spectrum_BB3, size=shape, mode="wrap") for shape in FIT_SHAPES)
    spread = np.median(np.abs(spectrum_BB3 - around), axis=(0, 1))
    fit = np.maximum.reduce([around, *along])
    cycles = np.abs(np.fft.fftfreq(BLOCK) * BLOCK)
    low = np.hypot(cycles[:, None], cycles[None, :]) <= KEPT_LOW
    return (spectrum_BB3 - fit > DEVIATIONS * spread) & ~low[..., None]


def without_peaks(pixels_HW3: np.ndarray, peaks_BB3: np.ndarray) -> np.ndarray:
    """Returns the image (uint8) without the frequencies of `peaks`; it is continued by reflection to whole blocks
    before."""
    height, width = pixels_HW3.shape[:2]
    padded = _to_blocks(pixels_HW3).astype(np.float64)
    rows, columns = (np.round(np.fft.fftfreq(side) * BLOCK).astype(np.int64) % BLOCK for side in padded.shape[:2])
    spectrum = np.fft.fft2(padded, axes=(0, 1))
    spectrum[peaks_BB3[rows[:, None], columns[None, :]]] = 0
    image = np.fft.ifft2(spectrum, axes=(0, 1)).real[:height, :width]
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _to_blocks(pixels_HW3: np.ndarray) -> np.ndarray:
    height, width = pixels_HW3.shape[:2]
    return np.pad(pixels_HW3, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="symmetric")


def _blocks(pixels_HW3: np.ndarray) -> list[np.ndarray]:
    height, width = pixels_HW3.shape[:2]
    if min(height, width) < BLOCK:
        pixels_HW3 = _to_blocks(pixels_HW3)
        height, width = pixels_HW3.shape[:2]
    tops, lefts = (range(0, side - BLOCK + 1, BLOCK // 2) for side in (height, width))
    return [pixels_HW3[top : top + BLOCK, left : left + BLOCK].astype(np.float64) for top in tops for left in lefts]
