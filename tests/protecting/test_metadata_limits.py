"""Metadata that an output's format cannot hold is left out with a note; the output opens, and so it is verified."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from tests.support.fake_generator import loaded
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.image_encoding import write_png

KEEP = ProtectSettings(device="cpu", workers=2, metadata="keep")
PHOTO = np.random.default_rng(5).integers(0, 256, (18, 26, 3), dtype=np.uint8)
PROFILE = bytearray(os.urandom(1_200_000))
PROFILE[16:20] = b"RGB "


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A JPEG with a profile of 1.2 MB, PNGs with EXIF of 100 kB and XMP of 100 kB, and the masks of all."""
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Pillow.Exif()
    exif[270] = "d" * 100_000
    Pillow.fromarray(PHOTO).save(folder / "profile.jpg", icc_profile=bytes(PROFILE))
    Pillow.fromarray(PHOTO).save(folder / "exif.png", exif=exif)
    write_png(folder / "plain.png", PHOTO)
    (folder / "xmp.png").write_bytes(with_xmp((folder / "plain.png").read_bytes(), b"<x>" + b"y" * 100_000 + b"</x>"))
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[2:11, 3:20] = 255
    for name in ("profile", "exif", "plain", "xmp"):
        write_png(tmp_path / "masks" / f"{name}.png", mask)
    return folder


def with_xmp(png: bytes, packet: bytes) -> bytes:
    from unseg.storage.image_encoding import png_chunk

    return png[:33] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet) + png[33:]


def run(photos: Path, form: str) -> tuple[Summary, Path]:
    out = photos.parent / form
    settings = replace(KEEP, format=form)
    return protect([photos], out, settings, masks=photos.parent / "masks", generator=loaded()), out


# format → what of it is left out: image → kind of metadata
LEFT_OUT = {
    "png": {"profile.jpg": "colour profile of 1,200,000 bytes was left out: PNG holds 1,048,576"},
    "tiff": {},
    "webp": {},
    "jpeg": {"exif.png": "EXIF of 100,", "xmp.png": "XMP of 100,007 bytes was left out: JPEG holds 65,504"},
}


@pytest.mark.parametrize("form", LEFT_OUT)
def test_an_output_holds_what_its_format_can(photos: Path, form: str) -> None:
    summary, out = run(photos, form)
    assert [entry.status for entry in summary.entries] == ["protected"] * 4
    for entry in summary.entries:
        said = LEFT_OUT[form].get(entry.input)
        assert (entry.note is None) == (said is None) and (said or "") in (entry.note or ""), entry
        assert cv2.imread(str(out / entry.output), cv2.IMREAD_UNCHANGED) is not None
        with Pillow.open(out / entry.output) as image:
            image.load()
            assert bool(image.info.get("icc_profile")) == (entry.input == "profile.jpg" and form != "png")
    found = verify(out)
    if form == "jpeg":  # which breaks the bound, but opens
        assert all("changes the" in (finding.problem or "changes the") for finding in found.findings)
    else:
        assert found.exit_code == 0


def test_a_link_from_the_input_into_the_output_feeds_nothing_back(photos: Path) -> None:
    (photos / "link").symlink_to("../png")
    for _ in range(3):
        summary, out = run(photos, "png")
        assert len(summary.entries) == 4 and summary.exit_code == 0
        assert len([path for path in out.rglob("*") if path.suffix == ".png"]) == 4


def test_each_name_of_one_file_is_protected(photos: Path) -> None:
    (photos / "other.jpg").symlink_to("profile.jpg")
    os.link(photos / "plain.png", photos / "hard.png")
    for name in ("other", "hard"):
        (photos.parent / "masks" / f"{name}.png").symlink_to("plain.png")
    summary, out = run(photos, "png")
    assert [entry.input for entry in summary.of("protected")] == sorted(path.name for path in photos.iterdir())
    assert verify(out).exit_code == 0


PLACE = [
    (33550, "d", 3, (0.5, 0.25, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
    (42113, "s", 0, "-9999", True),
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("form", "metadata", "is_kept"), [("tiff", "keep", True), ("png", "keep", False), ("tiff", "icc", False)]
)
def test_a_georeference_is_kept_or_its_loss_is_told(
    tmp_path: Path, order: str, form: str, metadata: str, is_kept: bool
) -> None:
    """As tifffile reads it: scale, tie point, keys and the value that stands for nothing."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(
        tmp_path / "in" / "a.tif", PHOTO, photometric="rgb", metadata=None, extratags=PLACE, byteorder=order
    )
    write_png(tmp_path / "masks" / "a.png", np.full(PHOTO.shape[:2], 255, np.uint8))
    settings = replace(KEEP, format=form, metadata=metadata)
    out = tmp_path / "out"
    (entry,) = protect([tmp_path / "in"], out, settings, masks=tmp_path / "masks", generator=loaded()).entries
    assert (entry.note is None) == is_kept and verify(out).exit_code == 0
    if not is_kept:
        assert (entry.note or "").startswith("its georeference (GeoTIFF) was left out")
    if form == "tiff":
        with tifffile.TiffFile(out / entry.output) as file:
            found = {tag.code: tag.value for tag in file.pages[0].tags.values()}
        assert {code: found.get(code) for code, *_ in PLACE} == {
            code: value if is_kept else None for code, _, _, value, _ in PLACE
        }


def test_a_georeference_in_an_output_that_should_have_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", PHOTO, photometric="rgb", metadata=None)
    write_png(tmp_path / "masks" / "a.png", np.full(PHOTO.shape[:2], 255, np.uint8))
    out = tmp_path / "out"
    settings = replace(KEEP, format="tiff", metadata="icc")
    protect([tmp_path / "in"], out, settings, masks=tmp_path / "masks", generator=loaded())
    tifffile.imwrite(out / "a.tif", tifffile.imread(out / "a.tif"), photometric="rgb", metadata=None, extratags=PLACE)
    (finding,) = verify(out).failures
    assert "it carries a georeference, which --metadata icc leaves out" in (finding.problem or "")
