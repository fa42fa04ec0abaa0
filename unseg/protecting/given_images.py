"""Images and masks as Python programs hold them, numpy arrays and PIL images: read as they are, given back alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image as Pillow

from unseg.errors import UserError
from unseg.protecting.points import Points, points_of
from unseg.storage.image_decoding import NAME_OF_MODE

AnyImage = TypeVar("AnyImage", np.ndarray, Pillow.Image)  # of what comes back as the kind that was given
AnyMask = np.ndarray | Pillow.Image
AnyPoints = Sequence[Sequence[float]] | Mapping[str, Sequence[Sequence[float]]] | np.ndarray
Boxes = Sequence[Sequence[float]]  # XYXY in pixels, corners inclusive

# PIL's mode → the mode of its colours alone.
_MODES = {"L": "L", "RGB": "RGB", "LA": "L", "RGBA": "RGB"}
_SHORT = ("I;16", "I;16L", "I;16B", "I;16N")  # grey, 16 bits
_CONVERTED = {"1": "L", "P": "RGB", "PA": "RGBA", "RGBa": "RGBA", "La": "LA", "RGBX": "RGB", "CMYK": "RGB"}
_CONVERTED["YCbCr"] = "RGB"
_ARRAYS = "H×W, H×W×1 (grey), H×W×3 (RGB) or H×W×4 (RGBA) of uint8 or uint16"


@dataclass(frozen=True)
class GivenImage:
    """An image that a caller gave: its colours, and the way back to what it was.

    samples: H×W×3 RGB or H×W×1 grey, uint8 or uint16, contiguous; writing to it could change the caller's image.
    back: makes of changed samples an image of the caller's kind. note: a conversion, in words. orientation: EXIF's, by
    which the samples were turned. lossy: what `back` makes is a file that does not hold the samples exactly.
    """

    samples_HWC: np.ndarray
    back: Callable[[np.ndarray], Any]
    note: str | None = None
    orientation: int = 1
    lossy: bool = False


def read_given(image: np.ndarray | Pillow.Image) -> GivenImage:
    """Returns the samples of a numpy array or PIL image; raises UserError with the remedy for any other kind."""
    if isinstance(image, Pillow.Image):
        return _of_pillow(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    raise UserError(f"image: {type(image).__name__} is neither a numpy array nor a PIL image; give one of these")


def _of_array(image: np.ndarray) -> GivenImage:
    plane = image.ndim == 2
    samples = image[..., None] if plane else image
    good_shape = samples.ndim == 3 and samples.shape[2] in (1, 3, 4) and samples.size > 0
    if not good_shape or samples.dtype not in (np.uint8, np.uint16):
        raise UserError(f"image: expected {_ARRAYS}, got {'×'.join(map(str, image.shape))} {image.dtype}")
    alpha = samples[..., 3:]  # nothing, where there are fewer channels
    samples = np.ascontiguousarray(samples[..., :3])
    if not samples.flags.writeable:
        samples = samples.copy()  # torch takes only memory that may be written, although nobody writes here

    def back(changed: np.ndarray) -> np.ndarray:
        if alpha.shape[2]:
            return np.concatenate([changed, alpha], axis=2)
        return changed[..., 0] if plane else changed

    return GivenImage(samples, back)


def _of_pillow(image: Pillow.Image) -> GivenImage:
    if image.mode not in (*_MODES, *_SHORT, *_CONVERTED):
        remedy = f"a numpy array, {_ARRAYS}" if image.mode in ("I", "F") else 'image.convert("RGB")'
        raise UserError(f"image: PIL images of mode {image.mode} are not protected; give {remedy}")
    if (
        "transparency" in image.info and image.mode != "P"
    ):  # one colour or grey level that is transparent, and would no longer be
        raise UserError(
            f'image: this {image.mode} image marks one colour as transparent; give image.convert("RGBA"),'
            " which has a channel for it"
        )
    if not image.width or not image.height:
        raise UserError(f"image: {image.width}×{image.height} pixels hold nothing; give an image")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(f"image: holds {frames} frames; give one of them, such as image.copy()")
    try:
        kept, note = _in_a_kept_mode(image)
        colours = np.array(kept.convert(_MODES[kept.mode])) if kept.mode in _MODES else np.array(kept, np.uint16)
    except (OSError, ValueError) as error:
        raise UserError(f"image: cannot be decoded ({str(error).splitlines()[0]})") from error
    samples = colours[..., None] if colours.ndim == 2 else colours
    alpha = np.asarray(kept.getchannel("A")) if kept.mode in ("LA", "RGBA") else None
    profile = image.info.get("icc_profile")
    if profile is not None and note is not None and profile[16:20] != (b"RGB " if samples.shape[2] == 3 else b"GRAY"):
        profile = None  # the conversion left its colours behind (ICC.1, 7.2)
    return GivenImage(samples, lambda changed: pillow_of(changed, alpha, profile), note)


def _in_a_kept_mode(image: Pillow.Image) -> tuple[Pillow.Image, str | None]:
    """Returns an image in a mode that stays, and the conversion that it took, if any: that of image files."""
    wanted = _CONVERTED.get(image.mode)
    if wanted is None:
        return image, None
    if image.mode == "P" and "transparency" in image.info:
        wanted = "RGBA"
    return image.convert(wanted), f"{NAME_OF_MODE.get(image.mode, image.mode)} to {NAME_OF_MODE.get(wanted, wanted)}"


def pillow_of(samples_HWC: np.ndarray, alpha_HW: np.ndarray | None, profile: bytes | None) -> Pillow.Image:
    """Returns a PIL image of samples, H×W×1 or H×W×3 uint8 or H×W×1 uint16, with its alpha and colour profile alone."""
    result = Pillow.fromarray(samples_HWC[..., 0] if samples_HWC.shape[2] == 1 else samples_HWC)
    if alpha_HW is not None:
        result.putalpha(Pillow.fromarray(alpha_HW))
    if profile is not None:
        result.info["icc_profile"] = profile
    return result


def read_mask(mask: AnyMask, height: int, width: int) -> np.ndarray:
    """Returns where the object is, H×W bool.

    mask: H×W bool, or numbers that are 0 off the object and 255 (or 1) on it, as a numpy array or a PIL image; of one
    with a palette the brighter of two colours is the object. Raises UserError for another size, and for other values,
    which could be class ids or an unfinished probability map.
    """
    if not isinstance(mask, (np.ndarray, Pillow.Image)):
        raise UserError(f"mask: {type(mask).__name__} is neither a numpy array nor a PIL image; give one of these")
    try:
        values = _of_palette(mask) if isinstance(mask, Pillow.Image) and mask.mode == "P" else np.asarray(mask)
    except (OSError, ValueError) as error:
        raise UserError(f"mask: cannot be decoded ({str(error).splitlines()[0]})") from error
    if values.dtype.kind not in "biuf":
        raise UserError(f"mask: holds {values.dtype}, not numbers; give a bool array, or 0 and 255")
    if values.shape != (height, width):
        raise UserError(
            f"mask: expected {height}×{width} (height × width) as of the image, got {'×'.join(map(str, values.shape))}"
        )
    if values.dtype == bool:  # whose bytes may be 255, as PIL's are; what counts with them needs 1
        return np.ascontiguousarray(values).view(np.uint8) != 0
    highest = values.max(initial=0)
    if highest not in (0, 1, 255) or not np.isin(values, (0, highest)).all():
        raise UserError(
            "mask: holds other values than 0 and 255; give a bool array, for example `labels == 3` or `scores > 0.5`,"
            " or the path of the mask's file, which is read as --mask reads it"
        )
    return values > 0


def _of_palette(mask: Pillow.Image) -> np.ndarray:
    """Returns 255 where a palette of two colours is brighter and 0 elsewhere; the brightness where it has more."""
    levels = np.asarray(mask.convert("L"))
    darkest, brightest = levels.min(initial=255), levels.max(initial=0)
    if darkest == brightest or not np.isin(levels, (darkest, brightest)).all():
        return levels
    return np.where(levels == brightest, np.uint8(255), np.uint8(0))


def read_given_boxes(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    """Returns boxes as a caller gave them, N×4 XYXY in pixels, N > 0; raises UserError for anything else."""
    try:
        values = np.asarray(boxes, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(0)
    if values.ndim != 2 or values.shape[1] != 4 or not len(values) or not np.isfinite(values).all():
        raise UserError("boxes: give one or more boxes [x1, y1, x2, y2] of finite numbers, in pixels")
    if (values[:, :2] > values[:, 2:]).any():
        raise UserError("boxes: a box has x1 > x2 or y1 > y2; give the top left corner first")
    return values.tolist()


def read_given_points(points: AnyPoints) -> Points:
    """Returns points as a caller gave them, at least one of the object; raises UserError for anything else.

    points: N×2 (x, y) in pixels on the object, or {"object": …, "background": …} of such.
    """
    try:
        if isinstance(points, Mapping):
            found = points_of({name: _listed(value) for name, value in points.items()})
        else:
            found = points_of(_listed(points))
    except ValueError as error:
        raise UserError(f"points: {error}") from error
    if not found.object:
        raise UserError("points: give one or more points [x, y] of the object, in pixels")
    return found


def _listed(values: object) -> object:
    """Returns arrays, and sequences of arrays or of numpy's numbers, as lists of Python's own."""
    if isinstance(values, (np.ndarray, np.generic)):
        return values.tolist()
    return [_listed(value) for value in values] if isinstance(values, (list, tuple)) else values
