"""Orthogonal projection (Sandoval-Segura et al., "What can we learn from unlearnable datasets?", NeurIPS 2023): what
a linear model reads labels from is projected out of the training images.

The paper's model sees a whole image at once. For segmentation the model reads every pixel's class from the pixel and
its blurs: an image is split into bands (differences of Gaussian blurs, and the widest blur), whose sum is the image.
The strongest directions of the readout are taken out of every pixel's vector of bands, and the bands are added up
again.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unseg.evaluation.defences.kinds import ImageChange, SetDefence, TrainingSet
from unseg.method.metrics import IGNORE_LABEL

SIGMAS = (1.0, 2.0, 4.0, 8.0)  # of the blurs, pixels
PIXELS_AN_IMAGE = 2000  # that the readout is fitted to
RIDGE = 1e-3  # of the features' variance
DIRECTIONS = 3


def project(directions: int = DIRECTIONS) -> SetDefence:
    """Returns the defence that projects out `directions` directions of 3 · (blurs + 1) = 15."""

    def fit(training: TrainingSet, seed: int) -> ImageChange:
        features, labels = _sample(training, seed)
        basis = readout_directions(features, labels, training.class_count)[:, :directions]
        mean = features.mean(axis=0)
        return lambda name, pixels: projected(pixels, basis, mean)

    return SetDefence("project" if directions == DIRECTIONS else f"project{directions}", fit)


def bands_of(pixels_HW3: np.ndarray, sigmas: Sequence[float] = SIGMAS) -> np.ndarray:
    """Returns the bands of an image, H×W×3·(blurs + 1) float32, finest first. Their sum over the bands is the image."""
    image = pixels_HW3.astype(np.float32)
    finer: np.ndarray = image
    bands: list[np.ndarray] = []
    for sigma in sigmas:
        wider = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        bands.append(finer - wider)
        finer = wider
    return np.concatenate([*bands, finer], axis=2)


def readout_directions(features_NF: np.ndarray, labels_N: np.ndarray, class_count: int) -> np.ndarray:
    """Returns the orthonormal directions in feature space that a linear readout of the labels uses, F×F, strongest
    first.

    The readout is ridge regression to one-hot labels in which every class has the same weight.
    """
    counts = np.bincount(labels_N, minlength=class_count)
    weights = 1.0 / counts[labels_N] / np.count_nonzero(counts)
    centred = features_NF - weights @ features_NF
    targets = np.eye(class_count)[labels_N]
    targets = targets - weights @ targets
    covariance = (centred * weights[:, None]).T @ centred
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    readout = np.linalg.solve(covariance + ridge, (centred * weights[:, None]).T @ targets)
    return np.linalg.svd(readout, full_matrices=True)[0]


def projected(pixels_HW3: np.ndarray, basis_FK: np.ndarray, mean_F: np.ndarray) -> np.ndarray:
    """Returns the image without the directions `basis` (orthonormal columns); `mean` keeps its place. uint8."""
    centred = bands_of(pixels_HW3) - mean_F.astype(np.float32)
    basis = basis_FK.astype(np.float32)
    removed = (centred @ basis) @ basis.T
    image = pixels_HW3 - removed.reshape(*pixels_HW3.shape[:2], -1, 3).sum(axis=2)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _sample(training: TrainingSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features (N×F float64) and labels (N) of labelled pixels of all images, drawn by the seed."""
    draw = np.random.default_rng(seed)
    features, labels = [], []
    for pixels, label in zip(training.images, training.labels, strict=True):
        y, x = np.nonzero(label != IGNORE_LABEL)
        chosen = draw.permutation(len(y))[:PIXELS_AN_IMAGE]
        features.append(bands_of(pixels)[y[chosen], x[chosen]])
        labels.append(label[y[chosen], x[chosen]])
    return np.concatenate(features).astype(np.float64), np.concatenate(labels).astype(np.int64)
