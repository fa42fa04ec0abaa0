"""Orthogonal projection (Sandoval-Segura et al., "What can we learn from unlearnable datasets?", NeurIPS 2023,
section 4.4): what a linear model reads labels from is projected out of the training images.

The paper fits a linear model to whole images, one weight a pixel and channel for every class, and projects the images
onto what is orthogonal to those weights. Images of k classes lose k − 1 directions of their thousands: weights that
are common to all classes decide nothing. For segmentation the unit that has a label is a block here: images are cut
into aligned blocks of BLOCK×BLOCK pixels, a linear model reads each block's most frequent class from its
3 · BLOCK² = 768 values, and k − 1 directions are taken out of every block. It finds all that is linear in the values
and has a fixed place in the image: a tint a class, and patterns whose period divides BLOCK. A pattern whose phase
drifts over the image has no linear readout, so this defence leaves most of it. It changes images much, and the edges of
its blocks are everywhere: networks may miss a pattern that is still there.
"""

from __future__ import annotations

import numpy as np

from unseg.evaluation.defences.kinds import ImageChange, SetDefence, TrainingSet

BLOCK = 16  # pixels
BLOCKS_AN_IMAGE = 60  # that the readout is fitted to
# Of the values' mean variance. The paper's model, trained by gradient descent, is kept simple in a like way. On 120
# images of Car Parts with 19 classes, the share of a tint (of a grating, period 16) on the cars that lies in the
# directions is 0.002 (0.07) at 0.001, 0.18 (0.70) at 0.1 and 0.74 (0.83) at 1.
RIDGE = 1.0


def project() -> SetDefence:
    """Returns the defence that projects out as many directions of a block as there are classes, less one."""

    def fit(training: TrainingSet, seed: int) -> ImageChange:
        blocks, labels = _sample(training, seed)
        basis, mean = readout_directions(blocks, labels, training.class_count), blocks.mean(axis=0)
        return lambda name, pixels: projected(pixels, basis, mean)

    return SetDefence("project", fit)


def readout_directions(blocks_NF: np.ndarray, labels_N: np.ndarray, class_count: int) -> np.ndarray:
    """Returns the orthonormal directions that a linear readout of the labels uses: F×(classes that are there − 1).

    The readout is ridge regression to one-hot labels in which every class has the same weight.
    """
    counts = np.bincount(labels_N, minlength=class_count)
    weights = 1.0 / counts[labels_N] / np.count_nonzero(counts)
    centred = blocks_NF - weights @ blocks_NF
    targets = np.eye(class_count)[labels_N]
    targets = targets - weights @ targets
    covariance = (centred * weights[:, None]).T @ centred
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    readout = np.linalg.solve(covariance + ridge, (centred * weights[:, None]).T @ targets)
    directions = np.linalg.svd(readout, full_matrices=False)[0]
    return directions[:, : np.count_nonzero(counts) - 1]


def projected(pixels_HW3: np.ndarray, basis_FK: np.ndarray, mean_F: np.ndarray) -> np.ndarray:
    """Returns the image (uint8) without the directions `basis` (orthonormal columns) of its blocks; `mean` stays.

    The image is continued by reflection to whole blocks before.
    """
    height, width = pixels_HW3.shape[:2]
    padded = np.pad(pixels_HW3, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="symmetric")
    blocks = blocks_of(padded)
    removed = ((blocks - mean_F) @ basis_FK) @ basis_FK.T
    whole = image_of(blocks - removed, *padded.shape[:2])[:height, :width]
    return np.clip(np.round(whole), 0, 255).astype(np.uint8)


def blocks_of(values_HWC: np.ndarray) -> np.ndarray:
    """Returns the whole blocks of an image, row by row, N×(BLOCK · BLOCK · C) float64; what is over is left out."""
    rows, columns = (side // BLOCK for side in values_HWC.shape[:2])
    whole = values_HWC[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    cut = whole.reshape(rows, BLOCK, columns, BLOCK, values_HWC.shape[2]).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * columns, -1)


def image_of(blocks_NF: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the image that `blocks_of` cut, H×W×3. height, width: multiples of BLOCK."""
    cut = blocks_NF.reshape(height // BLOCK, width // BLOCK, BLOCK, BLOCK, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(height, width, 3)


def _sample(training: TrainingSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labelled blocks of all images (N×F) and the most frequent class of each (N), drawn by the seed."""
    draw = np.random.default_rng(seed)
    blocks, labels = [], []
    for pixels, label in zip(training.images, training.labels, strict=True):
        shown = blocks_of(label[..., None])
        counts = np.stack([(shown == number).sum(axis=1) for number in range(training.class_count)], axis=1)
        chosen = draw.permutation(np.flatnonzero(counts.any(axis=1)))[:BLOCKS_AN_IMAGE]
        blocks.append(blocks_of(pixels)[chosen])
        labels.append(counts[chosen].argmax(axis=1))
    return np.concatenate(blocks), np.concatenate(labels)
