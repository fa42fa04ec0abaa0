"""Odd but sound files are read exactly: what another program, or the arrays they were made of, say is in them."""

from __future__ import annotations

import io
import struct
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.odd_images import OddImage, odd_images
from unseg.storage.image_decoding import Image, decode_image, frame_of, read_image
from unseg.storage.image_headers import promised_size
from unseg.storage.image_limits import ImageError
from unseg.storage.second_decoder import disagreement

FORMATS = ("png", "tiff", "bmp", "gif", "webp", "jpeg", "avif")


@cache
def corpus() -> list[OddImage]:
    return odd_images()


def fault(odd: OddImage, found: Image) -> str | None:
    """What is wrong with a reading."""
    if found.samples.shape != odd.samples.shape or found.samples.dtype != odd.samples.dtype:
        return f"{found.samples.shape} {found.samples.dtype}, not {odd.samples.shape} {odd.samples.dtype}"
    if not np.array_equal(found.samples, odd.samples):
        return f"{(found.samples != odd.samples).mean():.0%} of the values differ"
    if (found.alpha is None) != (odd.alpha is None):
        return "transparency lost" if found.alpha is None else "transparency invented"
    if odd.alpha is not None and not np.array_equal(found.alpha, odd.alpha):
        return "other transparency"
    return None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("form", FORMATS)
def test_odd_files_are_read_exactly(form: str) -> None:
    ours = [odd for odd in corpus() if odd.name[4:].startswith(form)]
    found = {odd.name: decode_image(Path(odd.name), odd.data) for odd in ours}
    assert {odd.name: fault(odd, found[odd.name]) for odd in ours if fault(odd, found[odd.name])} == {}
    second = {odd.name: disagreement(odd.data, found[odd.name], must_read=False) for odd in ours}
    assert {name: said for name, said in second.items() if said} == {}


def test_heic_is_read_exactly() -> None:
    pytest.importorskip("pillow_heif")
    ours = [odd for odd in corpus() if "heic" in odd.name]
    assert [fault(odd, decode_image(Path(odd.name), odd.data)) for odd in ours] == [None] * 8


def test_the_corpus_is_large_and_of_many_kinds() -> None:
    kinds = {odd.name[4:].rpartition(".")[0] for odd in corpus()}
    assert len(corpus()) >= 360 and len(kinds) > 330
    assert {odd.samples.dtype.itemsize for odd in corpus()} == {1, 2}
    again = odd_images()
    assert [odd.data for odd in again if "heic" not in odd.name] == [
        odd.data for odd in corpus() if "heic" not in odd.name
    ]


def test_a_fault_in_the_reader_would_be_seen() -> None:
    odd = next(odd for odd in corpus() if odd.alpha is not None)
    read = decode_image(Path("x"), odd.data)
    changed = read.samples.copy()
    changed[3, 5] ^= 1
    for wrong in (
        Image(changed, read.alpha),
        Image(read.samples[:, ::-1], read.alpha),
        Image(read.samples, None),
        Image(read.samples, read.alpha[::-1]),
    ):
        assert fault(odd, wrong) is not None


def test_headers_promise_what_is_decoded() -> None:
    """The size that budgets count, and the upright one that masks are compared with."""
    for odd in corpus():
        height, width = odd.samples.shape[:2]
        promised = promised_size(io.BytesIO(odd.data))
        if "heic" in odd.name:  # coded in blocks of 64 pixels, of which a part is shown
            assert promised == (64, 64)
        else:
            assert sorted(promised) == sorted((height, width)), odd.name
        frame = frame_of(Path(odd.name), data=odd.data)
        assert (frame.height, frame.width) == (height, width), odd.name
        read = decode_image(Path(odd.name), odd.data)
        kind = (read.samples.shape[2], read.samples.itemsize * 8, read.alpha is not None)
        assert (frame.channels, frame.bits, frame.has_alpha) == kind, odd.name


def test_the_second_decoder_sees_what_the_first_lost() -> None:
    """A channel, a turn, a value, eight bits: planted one by one into a reading of a file."""
    for name, is_lost in (("png-6-8", "alpha"), ("tiff-8-4", "alpha"), ("tiff-16-3", "bits"), ("webp-plain", "value")):
        odd = next(
            odd for odd in corpus() if odd.name[4:].startswith(name) and (odd.alpha is None) != (is_lost == "alpha")
        )
        read = decode_image(Path("x"), odd.data)
        assert disagreement(odd.data, read, must_read=True) is None
        samples, alpha = read.samples.copy(), read.alpha
        if is_lost == "alpha":
            alpha = None
        elif is_lost == "bits":
            samples = (samples >> 8).astype(np.uint8)
        else:
            samples[2, 1, 0] ^= 1
        lossy = Image(samples, alpha, format=read.format)
        assert disagreement(odd.data, lossy, must_read=True) is not None, name
    assert disagreement(b"\x89PNG\r\n", Image(samples, format="png"), must_read=True) is not None


def tiff_of(values: np.ndarray, **options: object) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


BANDS = np.random.default_rng(3).integers(0, 256, (9, 14, 6), dtype=np.uint8)


def test_the_second_decoder_keeps_still_where_decoders_may_differ() -> None:
    """Premultiplied colours are divided, and JPEG inside of TIFF is rounded, by each in its own way."""
    premultiplied = tiff_of(BANDS[..., :4], photometric="rgb", extrasamples=["assocalpha"])
    read = decode_image(Path("x"), premultiplied)
    assert read.note == "premultiplied alpha to straight" and disagreement(premultiplied, read, must_read=False) is None
    buffer = io.BytesIO()
    Pillow.fromarray(BANDS[..., :3]).save(buffer, "TIFF", compression="jpeg")
    read = decode_image(Path("x"), buffer.getvalue())
    assert disagreement(buffer.getvalue(), read, must_read=False) is None
    assert disagreement(buffer.getvalue(), read, must_read=True) == "a second decoder cannot read it"


def test_big_tiff_from_the_high_byte_is_read_or_refused_whatever_is_wrong_with_it() -> None:
    """Its places take 8 bytes, and many strips have theirs in a list behind the directory."""
    colours = BANDS[..., :3]
    options = {"photometric": "rgb", "bigtiff": True, "byteorder": ">", "rowsperstrip": 2}
    data = tiff_of(colours, **options, resolution=(72, 36), description="a text of more than eight letters")
    read = decode_image(Path("x"), data)
    assert np.array_equal(read.samples, colours) and disagreement(data, read, must_read=True) is None
    marked = tiff_of(colours, **options, extratags=[(40960, "I", 1, 999, True)])  # tifffile writes no EXIF itself
    assert marked.count(struct.pack(">HHQ", 40960, 4, 1)) == 1
    with_exif = marked.replace(struct.pack(">HHQ", 40960, 4, 1), struct.pack(">HHQ", 34665, 4, 1))
    assert "its EXIF was left out" in str(decode_image(Path("x"), with_exif).note)
    draw = np.random.default_rng(4)
    for _ in range(300):
        hostile = bytearray(data)
        for place in draw.integers(4, len(data), 1 + draw.integers(6)):
            hostile[place] = draw.choice([0, 1, 127, 255])
        with suppress(ImageError):
            decode_image(Path("x"), bytes(hostile), max_pixels=10_000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            tiff_of(BANDS[..., :4], photometric="rgb", extrasamples=["unspecified"]),
            "4 bands, of which one is beside red, green and blue",
        ),
        (tiff_of(BANDS[..., :5], photometric="rgb"), "5 bands, of which 2 are beside red, green and blue"),
        (
            tiff_of(np.moveaxis(BANDS, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
            "6 bands, of which 3 are beside red, green and blue",
        ),
        (
            tiff_of(BANDS[..., :4], photometric="minisblack", planarconfig="contig"),
            "4 bands, of which 3 are beside grey",
        ),
        (
            tiff_of(BANDS[..., :2], photometric="minisblack", planarconfig="contig"),
            "2 bands, of which one is beside grey",
        ),
        (
            tiff_of(np.stack([BANDS[..., 0]] * 2), photometric="minisblack", bigtiff=True, byteorder=">"),
            "several frames or pages",
        ),
        (tiff_of(BANDS[..., :3], photometric="rgb", subfiletype=1), "its first picture is a preview of another"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "JPEG 2000 is not read: save it as PNG or TIFF first"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "broken image: its header says no size"),
        (bytes(128) + b"DICM", "DICOM is not read"),
        (b"8BPS\0\1" + bytes(99), "Photoshop is not read"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match=f"a.tif: {reason}"):
        read_image(tmp_path / "a.tif")


def test_heic_names_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))
    with pytest.raises(ImageError, match="IMG_1.HEIC: HEIC needs pillow_heif, which is not installed; run:"):
        read_image(tmp_path / "IMG_1.HEIC")


def test_more_than_8_bits_of_a_lossy_format_are_told() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    deep = np.random.default_rng(0).integers(0, 65536, (18, 22, 3), dtype=np.uint16)
    buffer = io.BytesIO()
    pillow_heif.encode("RGB;16", (22, 18), deep.tobytes(), buffer)
    assert decode_image(Path("x"), buffer.getvalue()).note == "10 bits a channel to 8"
    plain = io.BytesIO()
    Pillow.fromarray((deep >> 8).astype(np.uint8)).save(plain, "AVIF")
    assert decode_image(Path("x"), plain.getvalue()).note is None
    for depth in (10, 12):
        done, data = cv2.imencode(".avif", deep >> (16 - depth), [cv2.IMWRITE_AVIF_DEPTH, depth])
        assert done and decode_image(Path("x"), data.tobytes()).note == f"{depth} bits a channel to 8"
