"""Images and masks as bytes and paths, which Python calls take beside arrays and PIL images: read as the command does.

Bytes of an image file come back as bytes of one: those that `unseg protect` writes with the same settings, PNG unless
another format is asked for. What is at a path comes back as a PIL image: it is to be looked at, saved under another
name or handed on, and a path in return would need a place to write to.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from unseg.data.mask_detection import detect_kind
from unseg.data.masks import MASK_KINDS, check_kind, object_mask, values_of
from unseg.errors import UserError
from unseg.protecting.given_images import GivenImage, pillow_of, read_given
from unseg.protecting.mask_placing import Misfit, Placing
from unseg.protecting.one_image import encoded
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, label_decoding
from unseg.storage.image_encoding import unsupported
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import own_size_limit

GivenFile = bytes | bytearray | memoryview | str | Path
AnyGiven = np.ndarray | Pillow.Image | GivenFile
_FILES = (bytes, bytearray, memoryview, str, os.PathLike)
BACKGROUND = 0


def read_any(image: Any, settings: ProtectSettings) -> GivenImage:
    """Returns the samples of an image of any kind; raises UserError with the remedy where it cannot be protected."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(image), settings)
    if isinstance(image, (str, os.PathLike)):
        return _of_path(Path(image), settings)
    if isinstance(image, (np.ndarray, Pillow.Image)):
        return read_given(image)
    raise UserError(
        f"image: a {type(image).__name__} is none; give a numpy array, a PIL image, a path, or the bytes of a file"
    )


def _of_bytes(data: bytes, settings: ProtectSettings) -> GivenImage:
    image = _decoded(Path("image"), data, settings)
    reason = unsupported(settings.format, image.samples, image.alpha)
    if reason:
        raise UserError(f"image: {reason}")
    return GivenImage(
        image.samples,
        lambda changed: encoded(image, changed, settings),
        note=image.note,
        orientation=image.orientation,
        lossy=settings.format == "jpeg",
    )


def _of_path(path: Path, settings: ProtectSettings) -> GivenImage:
    image = _decoded(path, bytes_of_image(path, settings.max_pixels), settings)
    if image.samples.dtype == np.uint16 and (image.samples.shape[2] == 3 or image.alpha is not None):
        raise UserError(
            f"{path}: has 16 bits a channel, which PIL cannot hold; give its bytes, path.read_bytes(), to get a PNG's"
        )
    profile = image.metadata.select(settings.metadata).icc_profile
    return GivenImage(
        image.samples,
        lambda changed: pillow_of(changed, image.alpha, profile),
        note=image.note,
        orientation=image.orientation,
    )


def _decoded(path: Path, data: bytes, settings: ProtectSettings) -> image_decoding.Image:
    describe = settings.metadata == "keep"
    with own_size_limit():
        return image_decoding.decode_image(path, data, settings.max_pixels, describe=describe)


def mask_in_file(mask: GivenFile, image: GivenImage, settings: ProtectSettings) -> np.ndarray:
    """Returns the object that a mask's file shows, H×W bool, as `unseg protect --mask` takes it; UserError else.

    Class ids are an object where some of them are background; else they ask for `classes`, which tells them apart.
    """
    path = Path(mask) if isinstance(mask, (str, os.PathLike)) else Path("mask")
    data = bytes(mask) if isinstance(mask, (bytes, bytearray, memoryview)) else None
    height, width = image.samples_HWC.shape[:2]
    frame = image_decoding.Frame(height, width, image.orientation)
    placing = Placing(settings.mask_frame, settings.fit_masks)
    data = bytes_of_image(path, settings.max_pixels) if data is None else data
    try:
        with own_size_limit():
            label = label_decoding.decode_label(path, data, settings.max_pixels, placing.expected(frame))
        kind = settings.mask_type
        if kind == "auto":
            kind = detect_kind([label], opener=lambda one: one).settled(
                str(path), f"mask_type, {' or '.join(MASK_KINDS)}"
            )
        check_kind(kind, settings.rule)
        values_HW = placing.place(values_of(label, kind, path), label, frame).values_HW
    except label_decoding.OtherSize as error:
        raise UserError(f"{path}: {placing.misfit(error.size, error.orientation, frame)}") from error
    except Misfit as error:
        raise UserError(f"{path}: {error}") from error
    if kind == "index" and not (values_HW == BACKGROUND).any():
        raise UserError(
            f"{path}: holds class ids that cover the image; give them as classes, with codes for them, or a mask of"
            " one object"
        )
    return object_mask(values_HW, kind, settings.rule)


def is_file(given: object) -> bool:
    """Returns whether a caller gave a file, by its path or its bytes."""
    return isinstance(given, _FILES)
