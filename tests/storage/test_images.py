"""Image files come back upright and whole or are an error that names the file; writing is lossless and atomic."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms

from unseg.errors import UserError
from unseg.storage import image_decoding, image_encoding, image_headers
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import open_label, read_image, read_label
from unseg.storage.image_encoding import write_png
from unseg.storage.image_limits import ImageError

RANDOM = np.random.default_rng(0)
PHOTO = np.kron(RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))  # 20×28
RED_LEFT = np.zeros((2, 4, 3), np.uint8)
RED_LEFT[:, :2, 0] = 255


def saved(path: Path, pixels: np.ndarray | Pillow.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".bmp", {}), (".tif", {}), (".tiff", {"compression": "tiff_lzw"}), (".webp", {"lossless": True})],
)
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str, options: dict) -> None:
    image = read_image(saved(tmp_path / f"a{suffix}", PHOTO, **options))
    assert np.array_equal(image.pixels, PHOTO) and image.pixels.flags.c_contiguous
    assert image.alpha is None and image.note is None


def test_jpeg_and_multi_picture_jpeg_are_read(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.jpg", PHOTO, quality=98, subsampling=0))
    assert np.abs(image.pixels.astype(int) - PHOTO).max() < 20
    first, second = Pillow.fromarray(PHOTO), Pillow.fromarray(PHOTO[::-1])
    saved(tmp_path / "phone.jpg", first, format="MPO", save_all=True, append_images=[second], quality=98)
    assert read_image(tmp_path / "phone.jpg").pixels.shape == PHOTO.shape


def test_grey_stays_grey_and_other_modes_are_converted_and_say_so(tmp_path: Path) -> None:
    grey = PHOTO[..., 0]
    image = read_image(saved(tmp_path / "grey.png", grey))
    assert np.array_equal(image.samples, grey[..., None]) and image.note is None
    assert np.array_equal(image.pixels, np.dstack([grey] * 3))
    palette = Pillow.fromarray(RED_LEFT).quantize(2)
    image = read_image(saved(tmp_path / "palette.png", palette))
    assert np.array_equal(image.pixels, RED_LEFT) and image.note == "palette to RGB"
    image = read_image(saved(tmp_path / "cmyk.jpg", Pillow.fromarray(RED_LEFT).convert("CMYK"), quality=100))
    assert image.pixels.shape == (2, 4, 3) and image.note == "CMYK to RGB"
    image = read_image(saved(tmp_path / "bits.png", Pillow.fromarray(grey > 127)))
    assert set(np.unique(image.samples)) == {0, 255} and image.note == "black-and-white to grey"
    assert image.samples.shape == (20, 28, 1)


def test_alpha_is_kept(tmp_path: Path) -> None:
    alpha = np.arange(20 * 28, dtype=np.uint8).reshape(20, 28)
    image = read_image(saved(tmp_path / "a.png", np.dstack([PHOTO, alpha])))
    assert np.array_equal(image.alpha, alpha) and np.array_equal(image.pixels, PHOTO) and image.note is None
    write_png(tmp_path / "b.png", image.pixels, alpha=image.alpha)
    assert np.array_equal(np.array(Pillow.open(tmp_path / "b.png")), np.dstack([PHOTO, alpha]))
    image = read_image(saved(tmp_path / "la.png", np.dstack([PHOTO[..., 0], alpha])))
    assert np.array_equal(image.alpha, alpha) and image.note is None
    assert np.array_equal(image.samples, PHOTO[..., :1])


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[274] = 6  # shown upright after a quarter turn clockwise
    saved(tmp_path / "a.png", RED_LEFT, exif=exif)
    upright = read_image(tmp_path / "a.png").pixels
    assert np.array_equal(upright, np.rot90(RED_LEFT, -1))
    assert upright.shape == (4, 2, 3) and upright[0, 0, 0] == 255 and upright[3, 0, 0] == 0


def test_the_colour_profile_survives(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read_image(saved(tmp_path / "a.png", PHOTO, icc_profile=profile))
    (tmp_path / "b.png").write_bytes(image_encoding.encode_png(image.samples, metadata=image.metadata))
    assert Pillow.open(tmp_path / "b.png").info["icc_profile"] == profile
    grey = read_image(saved(tmp_path / "grey.png", PHOTO[..., 0], icc_profile=profile))
    assert grey.metadata.icc_profile is None and grey.note == "its colour profile is for 'RGB' and was left out"


def test_what_is_no_whole_image_is_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.jpg", np.tile(PHOTO, (8, 8, 1))).read_bytes()
    cases = {
        "empty.png": (b"", r"empty \(0 bytes\)"),
        "text.png": (b"hello " * 100, "not an image of a known format"),
        "cut.jpg": (whole[: len(whole) // 2], "broken image: image file is truncated"),
        "gif.png": (b"GIF89a" + bytes(100), "damaged, or of a kind that is not read"),
        "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image of a known format"),
        "header.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged, or of a kind that is not read"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=rf"{name}: .*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match="gone.png: cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_animations_and_pages_are_refused(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(PHOTO), Pillow.fromarray(PHOTO[::-1].copy())]
    for name in ("a.webp", "a.tif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="several frames or pages"):
            read_image(tmp_path / name)


def test_images_over_the_limit_are_refused_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PHOTO)
    assert read_image(path, max_pixels=560).pixels.shape == PHOTO.shape
    with pytest.raises(ImageError, match="28×20 is over the limit of 0.000559 megapixels: raise --max-megapixels"):
        read_image(path, max_pixels=559)
    assert image_headers.pixel_count(path) == 560 and image_headers.pixel_count(tmp_path / "none") == 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow thinks of the damage
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_damaged_files_raise_nothing_but_image_errors(tmp_path: Path, form: str) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(PHOTO).save(buffer, form)
    random, path, errors = np.random.default_rng(1), tmp_path / "damaged", 0
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for position in random.integers(0, min(200, len(data)), 3):
            data[position] = random.integers(256)
        path.write_bytes(data[: random.integers(1, len(data) + 1)])
        for read in (read_image, open_label):
            try:
                read(path)
            except ImageError:
                errors += 1
    assert errors > 100


def test_png_levels_are_lossless_and_smaller_with_effort() -> None:
    noised = np.clip(np.tile(PHOTO, (4, 4, 1)) + RANDOM.integers(-8, 9, (80, 112, 3)), 0, 255).astype(np.uint8)
    sizes = {}
    for level in (0, 1, 9):
        data = image_encoding.encode_png(noised, level)
        assert np.array_equal(image_decoding.decode_samples(data), noised)
        sizes[level] = len(data)
    assert sizes[0] > sizes[1] >= sizes[9]
    assert np.array_equal(image_decoding.decode_samples(image_encoding.encode_webp(noised)), noised)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1, 6]),
    st.integers(0, 2**32 - 1),
)
def test_png_of_any_shape_is_read_back_exactly(
    height: int, width: int, channels: int, deep: bool, has_alpha: bool, level: int, seed: int
) -> None:
    """By OpenCV, which is not what wrote them, whatever the bands and chunks in which they were written."""
    random, kind = np.random.default_rng(seed), np.uint16 if deep else np.uint8
    values = random.integers(0, np.iinfo(kind).max + 1, (height, width, channels + has_alpha)).astype(kind)
    alpha = values[..., -1] if has_alpha else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_encoding, "PNG_BAND", 100)
        patch.setattr(image_encoding, "PNG_CHUNK", 70)
        data = image_encoding.encode_png(values[..., :channels], level, alpha=alpha)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    read = read if read.ndim == 3 else read[..., None]
    if channels == 1 and has_alpha:  # OpenCV gives grey with alpha as BGRA
        read = read[..., [0, 3]]
    order = [2, 1, 0, 3][: read.shape[2]] if channels == 3 else slice(None)
    assert read.dtype == kind and np.array_equal(read[..., order], values)


def test_the_bands_of_a_png_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image_encoding.encode_png(PHOTO)
    monkeypatch.setattr(image_encoding, "PNG_BAND", 100)
    assert np.array_equal(
        image_decoding.decode_samples(image_encoding.encode_png(PHOTO)), image_decoding.decode_samples(whole)
    )
    assert whole.count(b"IDAT") == 1


def test_jpeg_is_written_without_chroma_subsampling() -> None:
    with Pillow.open(io.BytesIO(image_encoding.encode_jpeg(PHOTO))) as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "a.png"
    sha256 = write_png(path, PHOTO)
    assert sha256 == sha256_of(path) and sha256_of(tmp_path / "none") is None

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_png(path, PHOTO[::-1])
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(path).pixels, PHOTO)


def test_labels_are_read_as_numbers(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [255, 3, 3]], np.uint8)
    palette = Pillow.fromarray(ids, "L").convert("P")
    palette.putpalette([7] * 768)  # colours say nothing; the indices count
    palette = palette.copy()
    palette.putdata(ids.ravel().tolist())
    label = open_label(saved(tmp_path / "palette.png", palette))
    assert label.palette and np.array_equal(label.values, ids)
    assert np.array_equal(read_label(saved(tmp_path / "grey.png", ids)), ids)
    assert np.array_equal(read_label(saved(tmp_path / "rgb.png", np.dstack([ids] * 3))), ids)
    wide = ids.astype(np.uint16) * 100
    assert np.array_equal(read_label(saved(tmp_path / "wide.png", wide)), wide)
    assert np.array_equal(read_label(saved(tmp_path / "bits.png", Pillow.fromarray(ids > 1))), (ids > 1) * 255)
    assert open_label(saved(tmp_path / "a.jpg", ids)).lossy


def test_colour_and_transparent_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="colour.png: colour mask: save it as grey or palette PNG"):
        read_label(saved(tmp_path / "colour.png", RED_LEFT))
    grey_alpha = np.dstack([PHOTO[..., 0], PHOTO[..., 1]])
    with pytest.raises(ImageError, match="transparency"):
        read_label(saved(tmp_path / "alpha.png", grey_alpha))
