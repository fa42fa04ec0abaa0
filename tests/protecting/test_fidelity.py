"""A protected image keeps grey, depth, transparency, upright pixels, profile, metadata by policy, and times.

Every kind of input goes through protect into every lossless format and is read back by another program's eyes (Pillow
for 8 bits, OpenCV and tifffile for 16) and by `verify`.
"""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings, strategies
from PIL import ExifTags, ImageCms
from PIL import Image as Pillow

from tests.support.fake_generator import loaded
from unseg.data.object_rule import ObjectRule
from unseg.method import noise
from unseg.method.config import Budget
from unseg.method.metrics import psnr
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage import image_decoding, image_encoding, label_decoding
from unseg.storage.image_decoding import read_image
from unseg.storage.image_limits import ImageError
from unseg.storage.image_metadata import Metadata

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")
HEIGHT, WIDTH = 34, 46
RANDOM = np.random.default_rng(7)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
EIGHT = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]  # what decides is the header's colour space


def as_pillow(kind: str) -> Pillow.Image:
    if kind == "palette":
        return Pillow.fromarray(EIGHT[..., :3]).quantize(16)
    if kind == "transparent palette":
        image = Pillow.fromarray(EIGHT[..., :3]).quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16))
        return image
    if kind == "black-and-white":
        return Pillow.fromarray(EIGHT[..., 0] > 127)
    if kind == "CMYK":
        return Pillow.fromarray(EIGHT, "CMYK")
    channels = {"grey": EIGHT[..., 0], "grey with alpha": EIGHT[..., :2], "RGB": EIGHT[..., :3], "RGBA": EIGHT}[kind]
    return Pillow.fromarray(np.ascontiguousarray(channels))


# kind → (formats that hold it, channels of its samples, bits, whether it has alpha)
KINDS = {
    "grey": (("png", "tif", "jpg", "bmp"), 1, 8, False),
    "grey with alpha": (("png", "tif"), 1, 8, True),
    "RGB": (("png", "tif", "jpg", "bmp", "webp"), 3, 8, False),
    "RGBA": (("png", "tif", "webp"), 3, 8, True),
    "palette": (("png", "tif", "bmp"), 3, 8, False),
    "transparent palette": (("png",), 3, 8, True),
    "black-and-white": (("png", "tif", "bmp"), 1, 8, False),
    "CMYK": (("tif", "jpg"), 3, 8, False),
    "deep grey": (("png", "tif"), 1, 16, False),
    "deep grey with alpha": (("png",), 1, 16, True),
    "deep RGB": (("png", "tif"), 3, 16, False),
    "deep RGBA": (("png", "tif"), 3, 16, True),
}
NOTES = {
    "palette": "palette to RGB",
    "transparent palette": "palette to RGBA",
    "CMYK": "CMYK to RGB",
    "black-and-white": "black-and-white to grey",
}
NAMES = [f"{kind} {form}/a.{form}" for kind, (forms, *_) in KINDS.items() for form in forms]


def write_original(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True)
    if kind.startswith("deep"):
        colour, alpha = "RGB" in kind, "A" in kind or "alpha" in kind
        if path.suffix == ".tif":
            pixels = DEEP[..., : 4 if alpha else 3] if colour else DEEP[..., 0]
            tifffile.imwrite(
                path,
                pixels,
                photometric="rgb" if colour else "minisblack",
                metadata=None,
                extrasamples=["unassalpha"] if alpha else None,
            )
        elif colour:
            cv2.imwrite(
                str(path), cv2.cvtColor(DEEP, cv2.COLOR_RGBA2BGRA) if alpha else np.ascontiguousarray(DEEP[..., 2::-1])
            )
        else:
            path.write_bytes(image_encoding.encode_png(DEEP[..., :1], alpha=DEEP[..., 3] if alpha else None))
    else:
        as_pillow(kind).save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity") / "in"
    for name in NAMES:
        write_original(folder / name, name.split("/")[0].rpartition(" ")[0])
    return folder


@pytest.fixture(scope="module", params=["png", "tiff", "webp"])
def run(request: pytest.FixtureRequest, originals: Path) -> tuple[str, Path, Summary]:
    out = originals.parent / request.param
    return (
        request.param,
        out,
        protect([originals], out, replace(SETTINGS, format=request.param), generator=loaded(), whole_image=True),
    )


def independent(path: Path, deep: bool) -> np.ndarray:
    """H×W×C as another program reads it, RGB order."""
    if not deep:
        image = Pillow.open(path)
        values = np.array(image)
    elif path.suffix == ".tif":
        values = tifffile.imread(path)
    else:
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        values = values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values if values.ndim == 3 else values[..., None]


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_survives(originals: Path, run: tuple[str, Path, Summary], name: str) -> None:
    form, out, summary = run
    kind = name.split("/")[0].rpartition(" ")[0]
    _, channels, bits, has_alpha = KINDS[kind]
    entry = next(entry for entry in summary.entries if entry.input == name)
    if form == "webp" and bits == 16:
        assert (entry.status, entry.reason) == (
            "failed",
            "WebP holds 8 bits a channel, it has 16: use --format png or tiff",
        )
        return
    if form == "tiff" and kind == "deep grey with alpha":
        assert entry.status == "failed" and entry.reason.endswith("use --format png")
        return
    assert entry.status == "protected"
    as_rgb = "grey kept as RGB with equal channels: WebP has no grey" if form == "webp" and channels == 1 else None
    assert entry.note == ("; ".join(filter(None, (NOTES.get(kind), as_rgb))) or None)

    original = read_image(originals / name)
    assert original.samples.shape == (HEIGHT, WIDTH, channels) and original.samples.itemsize * 8 == bits
    assert (original.alpha is not None) == has_alpha
    values = independent(out / entry.output, bits == 16)
    if kind == "deep grey with alpha":  # OpenCV has no grey with alpha
        assert (values[..., 0] == values[..., 1]).all() and (out / entry.output).read_bytes()[25] == 4
        values = values[..., [0, 3]]
    if as_rgb:
        assert (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all()
        values = values[..., [0, 3]] if has_alpha else values[..., :1]
    assert values.dtype.itemsize * 8 == bits and values.shape == (HEIGHT, WIDTH, channels + has_alpha)
    if has_alpha:
        assert np.array_equal(values[..., -1], original.alpha)
    change = np.abs(values[..., :channels].astype(int) - original.samples)
    assert change.max() <= (8 if bits == 8 else 8 * 257) and change.max() >= (6 if bits == 8 else 6 * 257)
    if bits == 16:
        assert len(np.unique(change)) > 300  # steps finer than a grey level


def test_lossless_formats_agree_and_verify_proves_them(originals: Path, run: tuple[str, Path, Summary]) -> None:
    form, out, summary = run
    result = verify(out)
    assert not result.failures and not result.extra and not result.missing
    assert len(result.findings) == len(summary.of("protected")) >= 18
    deepest = {finding.max_object for finding in result.findings}
    assert max(deepest) <= 8 and (form == "webp" or any(level != int(level) for level in deepest if level))
    for entry in summary.of("protected"):
        png = originals.parent / "png" / Path(entry.input).with_suffix(".png")
        if png.exists():
            first, second = read_image(png), read_image(out / entry.output)
            assert np.array_equal(first.pixels, second.pixels)


def test_what_was_read_is_what_the_file_holds(originals: Path) -> None:
    for name in NAMES:
        kind, form = name.split("/")[0].rpartition(" ")[::2]
        image = read_image(originals / name)
        if kind.startswith("deep"):
            expected = DEEP[..., :3] if "RGB" in kind else DEEP[..., :1]
            assert np.array_equal(image.samples, expected)
            assert image.alpha is None or np.array_equal(image.alpha, DEEP[..., 3])
        elif form != "jpg" and kind in ("RGB", "RGBA", "grey", "grey with alpha"):
            assert np.array_equal(image.samples, EIGHT[..., :3] if "RGB" in kind else EIGHT[..., :1])


# --- 16 bits, whatever says what the object is


@pytest.fixture(scope="module")
def deep_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/: colour and grey of 16 bits, away from black and white. masks/: class 1 above, 2 below, 255 in a corner."""
    folder = tmp_path_factory.mktemp("deep")
    (folder / "in").mkdir(), (folder / "masks").mkdir()
    classes = np.where(np.arange(HEIGHT)[:, None] < 20, 1, 2).repeat(WIDTH, 1).astype(np.uint8)
    classes[:5, :5] = 255
    for name, pixels in (("colour.png", DEEP[..., :3]), ("grey.png", DEEP[..., 0])):
        image_encoding.write_png(folder / "in" / name, pixels // 2 + 16_000)
        Pillow.fromarray(classes).save(folder / "masks" / name)
    (folder / "boxes.json").write_text(
        json.dumps({name: [[0, 0, WIDTH - 1, 19]] for name in ("colour.png", "grey.png")})
    )
    return folder


HOW = {
    "masks": ({"masks": "masks"}, {"rule": ObjectRule((1,)), "mask_type": "index"}),
    "boxes": ({"boxes": "boxes.json"}, {}),
    "annotations": ({"annotations": "masks", "annotations_format": "index"}, {"rule": ObjectRule((1,))}),
    "masks by class": ({"masks": "masks"}, {"rule": ObjectRule(by_class=True), "mask_type": "index"}),
    "annotations by class": (
        {"annotations": "masks", "annotations_format": "index"},
        {"rule": ObjectRule(by_class=True)},
    ),
}


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("how", HOW)
def test_16_bits_keep_their_depth_and_the_scaled_bound(deep_set: Path, tmp_path: Path, how: str, form: str) -> None:
    given, options = HOW[how]
    given = {option: deep_set / value if option != "annotations_format" else value for option, value in given.items()}
    summary = protect([deep_set / "in"], tmp_path, replace(SETTINGS, noise="compact", format=form, **options), **given)
    assert {entry.status for entry in summary.entries} <= {"protected", "weak"} and not verify(tmp_path).failures
    for entry in summary.entries:
        values, before = independent(tmp_path / entry.output, True), independent(deep_set / "in" / entry.input, True)
        change = np.abs(values.astype(int) - before)
        assert values.dtype == np.uint16 and values.shape == before.shape
        most = 8 * 257
        inside, below = change[6:20].max(), change[20:].max()
        assert inside <= most and below <= (most if "by class" in how else 2 * 257)
        assert inside > 257 and (change % 257).any(), "steps finer than a grey level"
        assert change[:5, :5].max() <= (most if how == "boxes" else 0 if "by class" in how else 2 * 257)


# --- noise arithmetic on grey and on 16 bits


def by_hand(image: np.ndarray, noise_3HW: np.ndarray, region: np.ndarray, budget: Budget) -> np.ndarray:
    """`noise.apply` at the noise's own size, a pixel at a time in Python's integers and fractions of a float64."""
    values = 257 if image.dtype == np.uint16 else 1
    planes = noise_3HW.astype(float)
    if image.shape[2] == 1:
        planes = (0.299 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2])[None]
    result = np.empty_like(image)
    for row, column, channel in np.ndindex(*image.shape):
        epsilon = budget.object if region[row, column] else budget.background
        old, most = int(image[row, column, channel]), int(epsilon * values)
        new = round(min(max(old + planes[channel, row, column] * epsilon * values, 0), 255 * values))
        result[row, column, channel] = min(max(new, old - most), old + most)
    return result


@settings(max_examples=40, deadline=None)
@given(
    strategies.integers(0, 2**32 - 1),
    strategies.sampled_from([1, 3]),
    strategies.sampled_from([np.uint8, np.uint16]),
    strategies.sampled_from([Budget(8, 2), Budget(2.5, 0.25), Budget(0, 0), Budget(255, 255)]),
)
def test_noise_on_grey_and_on_16_bits(seed: int, channels: int, kind: type, budget: Budget) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, np.iinfo(kind).max + 1, (6, 6, channels)).astype(kind)
    noise_3HW = (random.integers(-128, 129, (3, 6, 6)) / 128).astype(np.float32)  # exact in binary
    region = random.random((6, 6)) < 0.5
    made = noise.apply(image, noise_3HW, region, budget)
    assert made.dtype == kind and made.shape == image.shape
    expected = by_hand(image, noise_3HW, region, budget)
    # float32 against float64: a value in the middle between two whole numbers may go either way
    assert np.abs(made.astype(int) - expected).max() <= (channels == 1 or kind == np.uint16)
    limit = np.where(
        region,
        int(budget.object * (257 if kind == np.uint16 else 1)),
        int(budget.background * (257 if kind == np.uint16 else 1)),
    )[..., None]
    assert (np.abs(made.astype(int) - image.astype(int)) <= limit).all()


def test_the_8_bit_path_is_what_it_was() -> None:
    """The arithmetic of the first edition, kept here: adding 16 bits and grey must not have moved a value of RGB."""
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    region = random.random((40, 50)) < 0.5
    noise_3NN = torch.from_numpy(random.uniform(-1, 1, (3, 50, 50)).astype(np.float32))
    budget = Budget(7.5, 2)
    bound = (budget.background + (budget.object - budget.background) * torch.from_numpy(region).float()) / 255.0
    planes = torch.from_numpy(image).permute(2, 0, 1)
    noised = (noise_3NN[:, :40] * (bound * 255.0)).add_(planes).clamp_(0, 255).round_()
    limit = torch.where(torch.from_numpy(region), 7, 2).float()
    expected = noised.sub_(planes).clamp_(-limit, limit).add_(planes).to(torch.uint8).permute(1, 2, 0).numpy()
    made = noise.apply(image, noise_3NN.numpy(), region, budget)
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("level", [0, 6, 9])
def test_8_bit_png_is_pillows(level: int, tmp_path: Path) -> None:
    Pillow.fromarray(EIGHT).save(
        tmp_path / "a.png", compress_level=level, compress_type=1 if level == 9 else 3, icc_profile=SRGB
    )
    made = image_encoding.encode_png(EIGHT[..., :3], level, alpha=EIGHT[..., 3], metadata=Metadata(icc_profile=SRGB))
    assert made == (tmp_path / "a.png").read_bytes()


def test_fast_8_bit_png_keeps_values_and_profile() -> None:
    made = image_encoding.encode_png(EIGHT[..., :3], 1, alpha=EIGHT[..., 3], metadata=Metadata(icc_profile=SRGB))
    with Pillow.open(io.BytesIO(made)) as image:
        assert image.mode == "RGBA" and np.array_equal(np.array(image), EIGHT) and image.info["icc_profile"] == SRGB


def test_grey_levels_of_16_bits_round_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(image_decoding.eight_bit_rgb(values), np.repeat(expected, 3, axis=2))


def test_psnr_of_16_bits_is_relative_to_their_range() -> None:
    eight = np.array([[[10, 20, 30]]], np.uint8)
    changed = eight + np.uint8(4)
    assert psnr(eight.astype(np.uint16) * 257, changed.astype(np.uint16) * 257) == pytest.approx(psnr(eight, changed))


# --- upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(tmp_path: Path, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    method = {
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_270,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_90,
    }.get(orientation)
    photo = Pillow.fromarray(EIGHT[..., :3])
    expected = np.array(photo if method is None else photo.transpose(method))
    (tmp_path / "in").mkdir()
    for form in ("png", "tif", "webp"):
        photo.save(tmp_path / "in" / f"{form}.{form}", exif=exif, **({"lossless": True} if form == "webp" else {}))
        assert np.array_equal(read_image(tmp_path / "in" / f"{form}.{form}").samples, expected)
    deep = Pillow.fromarray(DEEP[..., 0])
    deep.save(tmp_path / "in" / "deep.png", exif=exif)
    tifffile.imwrite(
        tmp_path / "in" / "deeprgb.tif",
        DEEP[..., :3],
        photometric="rgb",
        metadata=None,
        extratags=[(274, "H", 1, orientation, True)],
    )
    turned = Pillow.fromarray((DEEP[..., 0] >> 8).astype(np.uint8))
    turned = np.array(turned if method is None else turned.transpose(method))
    for name in ("deep.png", "deeprgb.tif"):
        assert np.array_equal(read_image(tmp_path / "in" / name).samples[..., 0] >> 8, turned)
    for metadata in ("keep", "icc"):
        out = tmp_path / metadata
        options = replace(SETTINGS, metadata=metadata, format="tiff")
        assert protect([tmp_path / "in"], out, options, generator=loaded(), whole_image=True).exit_code == 0
        assert verify(out).exit_code == 0
        for path in out.glob("*.tif"):
            assert Pillow.open(path).getexif().get(ExifTags.Base.Orientation, 1) == 1


# --- metadata


XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF/>place: 52.5 N</x:xmpmeta>"


def telling(path: Path, deep: bool = False) -> Path:
    """A photograph that says where, when, with what and by whom it was taken, with a thumbnail and maker's notes."""
    exif = Pillow.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Maker of cameras", "One"
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.Orientation] = "A. Person", 1
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2026:01:02 03:04:05",
        ExifTags.Base.FNumber: 2.8,
        ExifTags.Base.MakerNote: b"secret notes" * 9,
    }
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (52.0, 31.0, 12.0)}
    photo = Pillow.fromarray(DEEP[..., 0] if deep else EIGHT[..., :3])
    extra = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "comment": b"a comment"}}.get(path.suffix, {})
    if path.suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        extra["pnginfo"] = PngInfo()
        extra["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        extra["pnginfo"].add_text("Comment", "a comment")
    elif path.suffix == ".tif":
        exif[700] = XMP
        block, exif = exif.tobytes(), Pillow.Exif()  # Pillow's TIFF writer takes only what it has read
        exif.load(block)
    else:
        extra["xmp"] = XMP
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, exif=exif, icc_profile=GREY_PROFILE if deep else SRGB, **extra)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metadata") / "in"
    for form in ("jpg", "png", "tif", "webp"):
        telling(folder / form / f"a.{form}")
    telling(folder / "deep" / "a.png", deep=True)
    return folder


@pytest.mark.parametrize("form", ["png", "tiff", "webp", "jpeg"])
@pytest.mark.parametrize("policy", ["keep", "icc", "none"])
def test_metadata_follow_the_policy(photographs: Path, policy: str, form: str) -> None:
    out = photographs.parent / f"{policy}-{form}"
    summary = protect(
        [photographs], out, replace(SETTINGS, metadata=policy, format=form), generator=loaded(), whole_image=True
    )
    protected = summary.of("protected")
    assert len(protected) == (5 if form in ("png", "tiff") else 4)
    for entry in protected:
        data = (out / entry.output).read_bytes()
        image = Pillow.open(out / entry.output)
        image.load()
        exif = image.getexif()
        profile = GREY_PROFILE if entry.input.startswith("deep") else SRGB
        assert image.info.get("icc_profile") == (None if policy == "none" else profile)
        assert b"secret notes" not in data and b"a comment" not in data
        if policy == "keep":
            assert exif[ExifTags.Base.Make] == "Maker of cameras" and exif[ExifTags.Base.Artist] == "A. Person"
            assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2026:01:02 03:04:05"
            assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (52.0, 31.0, 12.0)
            assert XMP in data or XMP.decode() in str(image.info)
        else:
            for secret in (b"Maker of cameras", b"A. Person", b"2026:01:02", b"52.5 N"):
                assert secret not in data
            assert not exif.get_ifd(ExifTags.IFD.GPSInfo) and not exif.get_ifd(ExifTags.IFD.Exif)
    if form != "jpeg":
        assert not verify(out).failures


def test_pixels_do_not_depend_on_the_policy(photographs: Path) -> None:
    pixels = []
    for policy in ("keep", "icc", "none"):
        out = photographs.parent / f"same-{policy}"
        protect([photographs / "jpg"], out, replace(SETTINGS, metadata=policy), generator=loaded(), whole_image=True)
        pixels.append(read_image(out / "a.png").samples)
    assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[1], pixels[2])


def test_verify_finds_metadata_that_the_policy_leaves_out(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    protect([photographs / "jpg"], out, SETTINGS, generator=loaded(), whole_image=True)
    image = read_image(out / "a.png")
    kept = read_image(photographs / "jpg" / "a.jpg", describe=True).metadata
    (out / "a.png").write_bytes(image_encoding.encode_png(image.samples, metadata=kept))
    assert "it carries EXIF and XMP" in verify(out).failures[0].problem
    (out / "a.png").write_bytes(image_encoding.encode_png(image.samples))
    assert "its colour profile is not what --metadata icc leaves" in verify(out).failures[0].problem


def test_a_thumbnail_and_an_orientation_are_never_kept(tmp_path: Path) -> None:
    """Both would undo something: a thumbnail is a picture without protection, an orientation turns pixels twice."""
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
    block = bytearray(exif.tobytes()[6:])
    link = (
        8 + 2 + 12 * struct.unpack_from(">H", block, 8)[0]
    )  # where the first directory names the second, the thumbnail's
    struct.pack_into(">I", block, link, len(block))
    block += struct.pack(">HHHIIHHIII", 2, 0x201, 4, 1, len(block) + 30, 0x202, 4, 1, 9, 0) + b"THUMBNAIL"
    Pillow.fromarray(EIGHT[..., :3]).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + bytes(block))
    assert Pillow.open(tmp_path / "a.jpg").getexif().get_ifd(ExifTags.IFD.IFD1)[0x202] == 9
    kept = Pillow.Exif()
    kept.load(b"Exif\0\0" + read_image(tmp_path / "a.jpg", describe=True).metadata.exif)
    assert dict(kept) == {ExifTags.Base.Make: "Maker"} and not kept.get_ifd(ExifTags.IFD.IFD1)
    assert b"THUMBNAIL" not in kept.tobytes()
    for packet, why in ((b"<tiff:Orientation>6", "orientation"), (b"<xmpGImg:image>", "thumbnail")):
        Pillow.fromarray(EIGHT[..., :3]).save(tmp_path / "b.webp", xmp=packet)
        image = read_image(tmp_path / "b.webp", describe=True)
        assert image.metadata.xmp is None and image.note.endswith(f"{why} and was left out")


def test_a_profile_that_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    cmyk = SRGB[:16] + b"CMYK" + SRGB[20:]
    as_pillow("CMYK").save(tmp_path / "a.jpg", icc_profile=cmyk)
    image = read_image(tmp_path / "a.jpg")
    assert image.metadata.icc_profile is None
    assert image.note == "CMYK to RGB; its colour profile is for 'CMYK' and was left out"
    as_pillow("palette").save(tmp_path / "b.png", icc_profile=SRGB)
    assert read_image(tmp_path / "b.png").metadata.icc_profile == SRGB


# --- kinds that are refused, and time stamps


def test_depths_that_cannot_be_kept_are_refused_by_name(tmp_path: Path) -> None:
    cases = {
        "float.tif": (lambda path: tifffile.imwrite(path, np.zeros((9, 9), np.float32)), "floating-point"),
        "half.tif": (
            lambda path: tifffile.imwrite(path, np.zeros((9, 9), np.float16)),
            "floating-point values: convert it",
        ),
        **{
            f"rgb{bits}.tif": (
                lambda path, bits=bits: tifffile.imwrite(path, np.zeros((9, 9, 3), f"f{bits // 8}"), photometric="rgb"),
                "floating-point values: convert it",
            )
            for bits in (16, 32, 64)
        },
        "wide.tif": (lambda path: tifffile.imwrite(path, np.zeros((9, 9), np.uint32)), "32 bits a channel"),
        "signed.tif": (lambda path: tifffile.imwrite(path, np.zeros((9, 9), np.int16)), "signed values"),
        "planes.tif": (
            lambda path: tifffile.imwrite(
                path,
                np.ascontiguousarray(np.moveaxis(DEEP[..., :3], -1, 0)),
                photometric="rgb",
                planarconfig="separate",
            ),
            "not read exactly",
        ),
        "white.tif": (lambda path: tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite"), "white as zero"),
        "premultiplied.tif": (
            lambda path: tifffile.imwrite(path, DEEP, photometric="rgb", extrasamples=["assocalpha"]),
            "premultiplied",
        ),
        "lab.tif": (lambda path: Pillow.new("LAB", (9, 9)).save(path), "LAB colours: save it as RGB"),
    }
    for name, (write, reason) in cases.items():
        write(tmp_path / name)
        with pytest.raises(ImageError, match=f"{name}: .*({reason})"):
            read_image(tmp_path / name)


def test_a_transparent_colour_of_16_bits_becomes_alpha(tmp_path: Path) -> None:
    pixels = DEEP[..., :3].copy()
    pixels[3, 4] = (1, 2, 70)
    pixels[5, 6] = (1, 2, 71)  # the same high bytes
    data = image_encoding.encode_png(pixels)
    chunk = image_encoding.png_chunk(b"tRNS", np.array([1, 2, 70], ">u2").tobytes())
    (tmp_path / "a.png").write_bytes(
        data[: image_encoding.PNG_HEADER_END] + chunk + data[image_encoding.PNG_HEADER_END :]
    )
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.samples, pixels)
    assert np.argwhere(image.alpha == 0).tolist() == [[3, 4]] and (image.alpha == 65535).sum() == image.alpha.size - 1


def test_16_bit_colour_masks_are_refused_not_cut(tmp_path: Path) -> None:
    ids = np.full((9, 9, 3), 300, np.uint16)
    (tmp_path / "a.png").write_bytes(image_encoding.encode_png(ids))
    with pytest.raises(ImageError, match="mask with more than 8 bits a channel: save it as grey PNG"):
        label_decoding.read_label(tmp_path / "a.png")


def test_time_stamps_are_kept_where_asked(tmp_path: Path) -> None:
    """Protected images and copies have them in every format; also where an earlier run made them without."""
    for folder, names in (("in", ("a.png", "no_mask.png")), ("masks", ("a.png",))):
        (tmp_path / folder).mkdir()
        for name in names:
            Pillow.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8) if folder == "masks" else EIGHT[..., :3]).save(
                tmp_path / folder / name
            )
            os.utime(tmp_path / folder / name, ns=(10**18, 10**18 + 5))

    def stamps(form: str, keep_times: bool) -> list[int]:
        summary = protect(
            [tmp_path / "in"],
            tmp_path / form,
            replace(SETTINGS, format=form, keep_times=keep_times),
            masks=tmp_path / "masks",
            generator=loaded(),
        )
        assert [entry.status for entry in summary.entries] == ["protected", "copied"]
        return [(tmp_path / form / entry.output).stat().st_mtime_ns for entry in summary.entries]

    assert 10**18 + 5 not in stamps("png", False)
    for form in ("png", "tiff", "webp"):
        assert stamps(form, True) == [10**18 + 5] * 2
