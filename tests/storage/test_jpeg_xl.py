"""JPEG XL is read: values, sizes, depths and orientation, and what its decoder must not be asked."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_jxl
import pytest
from PIL import ExifTags
from PIL import Image as Pillow

from unseg.storage.image_decoding import decode_image
from unseg.storage.image_headers import promised_size
from unseg.storage.image_limits import ImageError
from unseg.storage.jxl_structure import jxl_header
from unseg.storage.picture_kinds import kind_of

PATH = Path("a.jxl")


def _values(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 3 + columns, rows + columns * 2, rows * columns], axis=2).astype(np.uint8)


def _encoded(image: Pillow.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JXL", lossless=True, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(37, 53), (48, 64), (9, 16), (300, 200), (1, 700), (40, 30)])
def test_sizes_stand_in_the_header(size: tuple[int, int]) -> None:
    data = _encoded(Pillow.fromarray(_values(*size)))
    header = jxl_header(data)
    assert header is not None and (header.height, header.width) == size and not header.animated
    assert promised_size(io.BytesIO(data)) == (size[1], size[0]) and kind_of(data[:352]) == "JXL"


def test_colour_grey_and_transparency_are_the_files_own() -> None:
    values = _values(37, 53)
    assert np.array_equal(decode_image(PATH, _encoded(Pillow.fromarray(values))).samples, values)
    grey = decode_image(PATH, _encoded(Pillow.fromarray(values[..., 0])))
    assert np.array_equal(grey.samples[..., 0], values[..., 0])
    both = Pillow.fromarray(np.dstack([values, values[..., 1]]), "RGBA")
    found = decode_image(PATH, _encoded(both))
    assert found.alpha is not None and np.array_equal(found.alpha, values[..., 1])


def test_sixteen_bits_stay_where_they_can_and_their_loss_is_told() -> None:
    deep = _values(37, 53).astype(np.uint16) * 257 + 3
    grey = decode_image(PATH, imagecodecs.jpegxl_encode(deep[..., 0], lossless=True))
    assert np.array_equal(grey.samples[..., 0], deep[..., 0]) and grey.note is None
    colour = decode_image(PATH, imagecodecs.jpegxl_encode(deep, lossless=True))
    assert colour.samples.dtype == np.uint8 and colour.note == "16 bits a channel to 8"


def test_an_orientation_is_applied_once() -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = 6, "me"
    values = _values(37, 53)
    data = _encoded(Pillow.fromarray(values), exif=exif.tobytes())
    shown = np.asarray(Pillow.open(io.BytesIO(data)))  # as the decoder turns it, or does not
    found = decode_image(PATH, data, describe=True)
    assert np.array_equal(found.samples, shown) and found.orientation == 1


@pytest.mark.parametrize("data", [b"\xff\x0a", b"\xff\x0a\xfe\xff\xff\xff\x01" + bytes(40)])
def test_what_promises_no_size_or_too_much_is_not_decoded(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_jxl.JpegXLImagePlugin, "Decoder", None)
    with pytest.raises(ImageError, match="says no size|over the limit"):
        decode_image(PATH, data)


def test_an_animation_is_refused() -> None:
    frames = np.stack([_values(37, 53), _values(37, 53)[::-1]])
    data = imagecodecs.jpegxl_encode(frames, lossless=True)
    header = jxl_header(data)
    if header is not None and header.animated:
        with pytest.raises(ImageError, match="several frames"):
            decode_image(PATH, data)
    else:
        pytest.fail(f"the encoder made no animation: {header}")
