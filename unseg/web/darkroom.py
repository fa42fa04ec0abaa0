"""Pictures in memory: decoded once and kept while they are worked on, so that another strength needs no new pass."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from unseg.compute.in_flight import PIXELS, PIXELS_IN_FLIGHT
from unseg.method.config import Budget, strength
from unseg.method.metrics import psnr
from unseg.method.pixels import VALUES_A_GREY_LEVEL
from unseg.protecting.effect import effect
from unseg.protecting.manifest import Status
from unseg.protecting.one_image import encoded
from unseg.protecting.protector import Protector
from unseg.protecting.settings import DEFAULTS
from unseg.storage import image_decoding
from unseg.storage.image_encoding import unsupported
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import ImageError
from unseg.web.uploaded_picture import Picture

Form = Literal["png", "webp"]


@dataclass(frozen=True)
class Changed:
    """A picture with its noise. of: what it was made from: object and strength. status, reason: as in a manifest."""

    of: tuple[object, ...]
    original: image_decoding.Image
    samples_HWC: np.ndarray
    mask_HW: np.ndarray
    status: Status
    reason: str | None

    @cached_property
    def largest(self) -> float:
        """Returns the largest change of a value, in grey levels of 255."""
        before, after = self.original.samples, self.samples_HWC
        return float((np.maximum(before, after) - np.minimum(before, after)).max() / VALUES_A_GREY_LEVEL[before.dtype])

    @cached_property
    def psnr(self) -> float:
        """Returns PSNR in dB, infinite where nothing changed."""
        return psnr(self.original.samples, self.samples_HWC)


@dataclass
class _Kept:
    image: image_decoding.Image
    changed: Changed | None = None


class Darkroom:
    """The pictures that are kept decoded, the last used ones, of at most `PIXELS_IN_FLIGHT` pixels or one larger one.

    max_pixels: larger pictures are refused.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._kept: OrderedDict[Path, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, name: str) -> image_decoding.Image:
        """Returns a picture's file, decoded; ImageError, which calls it `name`, where it cannot be protected."""
        try:
            data = bytes_of_image(path, self.max_pixels)
            frame = image_decoding.frame_of(path, self.max_pixels, data)
            with PIXELS.room_for(frame.height * frame.width):
                image = image_decoding.decode_image(path, data, self.max_pixels)
        except ImageError as error:
            raise ImageError(name, error.reason) from error
        except MemoryError as error:
            raise ImageError(name, "not enough memory to decode it; make it smaller") from error
        return image

    def keep(self, path: Path, image: image_decoding.Image) -> _Kept:
        """Keeps a decoded picture, and drops those that were used longest ago for it."""
        kept = _Kept(image)
        with self._lock:
            self._kept[path] = kept
            while len(self._kept) > 1 and self._pixels() > PIXELS_IN_FLIGHT:
                self._kept.popitem(last=False)
        return kept

    def _pixels(self) -> int:
        return sum(kept.image.samples.shape[0] * kept.image.samples.shape[1] for kept in self._kept.values())

    def forget(self, path: Path) -> None:
        """Drops a picture."""
        with self._lock:
            self._kept.pop(path, None)

    def _entry(self, picture: Picture) -> _Kept:
        """Returns a kept picture, decoding it where it was dropped. The caller holds the picture's lock."""
        with self._lock:
            kept = self._kept.get(picture.path)
            if kept is not None:
                self._kept.move_to_end(picture.path)
                return kept
        return self.keep(picture.path, self.read(picture.path, picture.name))

    def image(self, picture: Picture) -> image_decoding.Image:
        """Returns a picture, decoded."""
        with picture.lock:
            return self._entry(picture).image

    def changed(self, picture: Picture, word: str, key: bytes) -> Changed:
        """Returns a picture with its noise. word: of its strength."""
        with picture.lock:
            kept = self._entry(picture)
            of = (word, picture.whole or picture.runs, key)
            if kept.changed is None or kept.changed.of != of:
                kept.changed = None  # so that there are never three
                kept.changed = _made(kept.image, picture.mask_HW, Budget(strength(word)), key, of)
            return kept.changed


def _made(
    image: image_decoding.Image, mask_HW: np.ndarray, budget: Budget, key: bytes, of: tuple[object, ...]
) -> Changed:
    with PIXELS.room_for(mask_HW.size):
        samples = Protector(None, budget, key=key).result(image.samples, mask=mask_HW).image
    status, reason = effect(image.samples, samples, mask_HW, budget.object)
    return Changed(of, image, samples, mask_HW, status, reason)


def file_of(changed: Changed, form: Form, name: str) -> bytes:
    """Returns the file that `unseg protect --format FORM` writes; ImageError where the format cannot hold it."""
    return _file(changed.original, changed.samples_HWC, form, name)


def original_file(image: image_decoding.Image, name: str) -> bytes:
    """Returns the picture as it was, upright, as PNG, since browsers do not show every kind."""
    return _file(image, image.samples, "png", name)


def _file(image: image_decoding.Image, samples_HWC: np.ndarray, form: Form, name: str) -> bytes:
    reason = unsupported(form, samples_HWC, image.alpha)
    if reason is not None:
        raise ImageError(name, reason.replace("use --format png", "take PNG"))
    return encoded(image, samples_HWC, replace(DEFAULTS, format=form))
