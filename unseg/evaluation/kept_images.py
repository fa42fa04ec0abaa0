"""Noised images that are made once and kept as files, since the same ones are trained on by many networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from unseg.compute.progress import Progress
from unseg.evaluation.conditions import Change
from unseg.evaluation.example_files import slug
from unseg.evaluation.results import Json
from unseg.evaluation.study import ConditionSource
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png

HASHED = 12  # characters of the hash in a folder's name


def made_once(source: ConditionSource) -> ConditionSource:
    """Returns a source that is asked for the change of each seed once, however often the networks that it trains are
    needed."""
    made: dict[int, Change] = {}

    def change_of(seed: int, progress: Progress) -> Change:
        if seed not in made:
            made[seed] = source.change_of(seed, progress)
        return made[seed]

    return ConditionSource(change_of, source.identity)


def kept(source: ConditionSource, folder: Path, name: str, others: Json) -> ConditionSource:
    """Returns a source that makes every image once a seed and reads it from `folder`/NAME-SEED-… after that.

    others: what the images depend on besides the source's identity; images of another identity have another folder. The
    source itself, which may train networks first, is asked for its change only when an image is missing.
    """
    identity = json.dumps([source.identity, others], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:HASHED]

    def change_of(seed: int, progress: Progress) -> Change:
        place, made = folder / f"{slug(name)}-{seed}-{digest}", list[Change]()

        def change(image: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
            path = place / f"{slug(image)}.png"
            if path.is_file():
                return read_image(path).pixels
            if not made:
                made.append(source.change_of(seed, progress))
            changed = made[0](image, pixels, mask, classes)
            write_png(path, changed, within=folder.parent)  # the folder of the results, which the run holds
            return changed

        return change

    return ConditionSource(change_of, source.identity)
