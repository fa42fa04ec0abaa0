"""Training views: a photograph and one of its object masks, flipped, scaled and cropped into a square."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
import torch

from unseg.config import TrainConfig
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.images import IMAGE_SUFFIXES, read_image, read_label
from unseg.prompts import seeded

IMAGE_FOLDERS = ("images", "im", "image", "JPEGImages")
MASK_FOLDERS = ("segments", "masks", "gt", "mask", "labels", "SegmentationClass")
MIN_OBJECT_PIXELS = 64  # in a view: fewer say nothing about a texture
CROP_TRIES = 10
SHARE_OF_SEGMENTS = (0.15, 0.6)  # of an image's segments that a random object takes in


@dataclass(frozen=True)
class TrainingImage:
    """A photograph and its annotations: paths, and what was read from them."""

    name: str
    pixels: np.ndarray
    """H×W×3 uint8."""
    labels: tuple[np.ndarray, ...]
    """Each H×W uint8 of 0 and 255 (a mask) or of segment ids."""


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The folder's files with one of the suffixes, by relative stem."""
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in walk(folder, problems):
        stem = stem_of(path.relative_to(folder).as_posix())
        if path.suffix.lower() not in suffixes:
            continue
        if stem in found:
            raise UserError(f"{path}: {found[stem].name} has the same name; keep one of them")
        found[stem] = path
    if problems:
        raise UserError(f"{folder / problems[0].name}: {problems[0].reason}")
    return found


def _folder(root: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(f"{root}: no folder of {what} in it; expected one of {', '.join(names)}")


def find_pairs(root: Path, splits: tuple[str, ...] = ()) -> list[tuple[str, Path, list[Path]]]:
    """Images under `root` and the annotations of each, paired by relative stem: (name, image, annotations).

    An image may have several annotations: NAME.png, or NAME.SOMETHING.png. splits: sub-folders to take (all if empty).
    An image without annotation, or an annotation without image, is an error that names the first few.
    """
    if not root.is_dir():
        raise UserError(f"--data-root {root}: no such folder; it must hold images/ and masks/ (or segments/)")
    images = _files(_folder(root, IMAGE_FOLDERS, "images"), IMAGE_SUFFIXES)
    annotations: dict[str, list[Path]] = {}
    orphans = []
    for stem, path in _files(_folder(root, MASK_FOLDERS, "masks"), (".png",)).items():
        name = stem if stem in images else stem.rpartition(".")[0]
        if name in images:
            annotations.setdefault(name, []).append(path)
        else:
            orphans.append(stem)
    chosen = [name for name in images if not splits or name.split("/")[0] in splits]
    bare = [name for name in chosen if name not in annotations]
    for names, fault in ((bare, "images without a mask"), (orphans, "masks without an image")):
        if names:
            raise UserError(f"{root}: {len(names)} {fault}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
    if not chosen:
        raise UserError(f"{root}: no images{' in ' + ', '.join(splits) if splits else ''}")
    return [(name, images[name], annotations[name]) for name in chosen]


def read_training_image(name: str, image: Path, annotations: list[Path]) -> TrainingImage:
    """Reads a pair; sizes must agree."""
    pixels = read_image(image).pixels
    labels = tuple(read_label(path).astype(np.int32) for path in annotations)
    for path, label in zip(annotations, labels):
        if label.shape != pixels.shape[:2]:
            raise UserError(f"{path}: {label.shape[1]}×{label.shape[0]} pixels, but {image} has "
                            f"{pixels.shape[1]}×{pixels.shape[0]}; a mask must have the size of its image")
    return TrainingImage(name, pixels, labels)


class TrainingFolder:
    """The samples of a folder, read when asked for and kept in memory while that is cheap."""

    CACHED = 2_000  # photographs of half a megapixel with three annotations: about 2 GB

    def __init__(self, root: Path, splits: tuple[str, ...] = ()) -> None:
        self.pairs = find_pairs(root, splits)
        self._cache: dict[int, TrainingImage] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> TrainingImage:
        if index in self._cache:
            return self._cache[index]
        sample = read_training_image(*self.pairs[index])
        if len(self.pairs) <= self.CACHED:
            self._cache[index] = sample
        return sample


def draw_object(label_HW: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An object mask from an annotation, H×W uint8 of 0 and 255.

    A grey or binary mask (its largest value is 255) is taken as it is. Otherwise the values are segment ids, and the
    object is the union of some random segments.
    """
    if label_HW.max() == 255:
        return label_HW.astype(np.uint8)
    ids = np.unique(label_HW)
    if len(ids) == 1:
        return np.full(label_HW.shape, 255, np.uint8)
    count = max(1, round(random.uniform(*SHARE_OF_SEGMENTS) * len(ids)))
    chosen = random.choice(ids, min(count, len(ids) - 1), replace=False)
    return np.isin(label_HW, chosen).astype(np.uint8) * 255


def draw_view(sample: TrainingImage, config: TrainConfig, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A view and its label: 3×V×V and 1×V×V float32 in [0, 1].

    Horizontal flip, large-scale jitter (long side = U(jitter) × frame_size, image and label bilinear), random crop, zeros
    to the right and below. Crops that hardly show the object are drawn again; if none of a few shows it, the crop is laid
    over the object's first pixel.
    """
    mask = draw_object(sample.labels[random.integers(len(sample.labels))], random)
    scale = random.uniform(*config.jitter) * config.frame_size / max(mask.shape)
    width, height = (max(1, round(side * scale)) for side in mask.shape[::-1])
    interpolation = cv2.INTER_AREA if config.antialias and scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.pixels, (width, height), interpolation=interpolation)
    mask = cv2.resize(mask, (width, height), interpolation=interpolation)
    if random.random() < config.flip:
        image, mask = image[:, ::-1], mask[:, ::-1]
    size = config.view_size
    spare_rows, spare_columns = max(height - size, 0), max(width - size, 0)
    for _ in range(CROP_TRIES):
        top, left = int(random.integers(spare_rows + 1)), int(random.integers(spare_columns + 1))
        if (mask[top:top + size, left:left + size] > 128).sum() >= min(MIN_OBJECT_PIXELS, mask.size // 4):
            break
    else:
        rows, columns = np.nonzero(mask >= max(1, mask.max()))
        if not len(rows):
            raise UserError(f"{sample.name}: its mask has no object pixel; remove it from the training data")
        top, left = min(int(rows[0]), spare_rows), min(int(columns[0]), spare_columns)
    view = np.zeros((size, size, 4), np.uint8)
    crop = image[top:top + size, left:left + size]
    view[:crop.shape[0], :crop.shape[1], :3] = crop
    view[:crop.shape[0], :crop.shape[1], 3] = mask[top:top + size, left:left + size]
    tensor = torch.from_numpy(view).permute(2, 0, 1).float() / 255.0
    return tensor[:3], tensor[3:]


def draw_batch(samples: Sequence[TrainingImage], config: TrainConfig, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step: B×3×V×V and B×1×V×V. It depends on the seed and the step alone, so a resumed run sees the same.

    Every epoch is a new permutation of the samples; its last partial batch is dropped. A folder smaller than a batch is
    gone through several times for one.
    """
    per_epoch = max(1, len(samples) // config.batch_size)
    epoch, position = divmod(step, per_epoch)
    order = seeded(config.seed, "order", epoch).permutation(max(len(samples), config.batch_size)) % len(samples)
    chosen = order[position * config.batch_size:(position + 1) * config.batch_size]
    views = [draw_view(samples[index], config, seeded(config.seed, "view", step, slot)) for slot, index in enumerate(chosen)]
    images, labels = zip(*views)
    return torch.stack(images), torch.stack(labels)
