"""Odd but sound image files, the same for the same seed, each with the pixels that a reader must find in it.

What is right comes from the arrays that the files were made of, or from another decoder (OpenCV) where a format loses
values; never from the reader under test. `odd_images` has them all: formats × depths × palettes × transparency ×
interlacing × tiles and strips × orders of bytes × orientations × metadata.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import tifffile
from PIL import Image as Pillow

from tests.support.make_corpus import chunk

SEED = 20
HEIGHT, WIDTH = 23, 37  # neither square nor a multiple of a tile, a byte of bits or a pass of Adam7
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
LONG_TEXT = b"workflow " * 400_000


@dataclass(frozen=True)
class OddImage:
    """A file, and what is right: samples H×W×C (C = 1 or 3) uint8 or uint16, upright, and alpha H×W alike, or None."""

    name: str
    data: bytes
    samples: np.ndarray
    alpha: np.ndarray | None = None


def odd_images(seed: int = SEED) -> list[OddImage]:
    """All of them, each with a name of its own."""
    draw = np.random.default_rng(seed)
    made = [
        *_pngs(draw),
        *_pngs_with_odd_chunks(draw),
        *_tiffs(draw),
        *_bmps(draw),
        *_gifs(draw),
        *_webps(draw),
        *_jpegs(draw),
        *_of_new_formats(draw),
    ]
    return [replace(image, name=f"{number:03}-{image.name}") for number, image in enumerate(made)]


def smooth(draw: np.random.Generator, channels: int, highest: int = 255) -> np.ndarray:
    """H×W×channels whole numbers from 0 to `highest`, unlike in every direction, with noise."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [(rows * (1 + place) / HEIGHT + columns * (3 - place) / WIDTH) / 4 for place in range(channels)]
    noise = draw.normal(0, 0.06, (HEIGHT, WIDTH, channels))
    return ((np.stack(planes, -1) + noise).clip(0, 1) * highest).round().astype(np.uint16)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as EXIF's orientation shows them; as its table has it, by places of the first row and column."""
    return {
        1: lambda: values,
        2: lambda: np.fliplr(values),
        3: lambda: np.rot90(values, 2),
        4: lambda: np.flipud(values),
        5: lambda: np.swapaxes(values, 0, 1),
        6: lambda: np.rot90(values, -1),
        7: lambda: np.swapaxes(np.rot90(values, 2), 0, 1),
        8: lambda: np.rot90(values, 1),
    }[orientation]()


def exif_block(orientation: int, order: str = "<") -> bytes:
    """A TIFF structure with an orientation and a maker's name."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(f"{order}HHII", 271, 2, 6, 38) + struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4) + b"Maker\0"


# --- PNG -------------------------------------------------------------------------------------------------------------


def png(
    values: np.ndarray,
    depth: int,
    colour_type: int,
    *,
    interlaced: bool = False,
    filters: Sequence[int] = (0,),
    part: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    level: int = 6,
) -> bytes:
    """A PNG of H×W×C values. filters: of the rows, in turn. part: bytes of an IDAT chunk. before, after: chunks."""
    height, width, _ = values.shape
    passes = [values[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [values]
    lines = b"".join(_filtered(part_HWC, depth, filters) for part_HWC in passes if part_HWC.size)
    packed = zlib.compress(lines, level)
    step = part or len(packed)
    data = b"".join(chunk(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + after + chunk(b"IEND", b"")


def _filtered(values_HWC: np.ndarray, depth: int, filters: Sequence[int]) -> bytes:
    """Rows of PNG: packed into bytes, each behind the number of its filter (PNG, 9.2)."""
    step = max(1, values_HWC.shape[2] * depth // 8)
    lines, above = [], None
    for number, row in enumerate(values_HWC.reshape(len(values_HWC), -1)):
        if depth == 16:
            line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8).astype(int)
        elif depth == 8:
            line = row.astype(int)
        else:
            bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            line = np.packbits(bits.astype(np.uint8).reshape(-1)).astype(int)
        above = np.zeros_like(line) if above is None else above
        kind = filters[number % len(filters)]
        lines.append(bytes([kind]) + ((line - _predicted(kind, line, above, step)) % 256).astype(np.uint8).tobytes())
        above = line
    return b"".join(lines)


def _predicted(kind: int, line: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    left = np.concatenate([np.zeros(step, int), line])[: len(line)]
    corner = np.concatenate([np.zeros(step, int), above])[: len(line)]
    if kind == 4:  # Paeth's: of left, above and corner the nearest to left + above - corner
        guess = left + above - corner
        distances = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
        return np.choose(distances.argmin(0), [left, above, corner])
    return [np.zeros_like(line), left, above, (left + above) // 2][kind]


def _pngs(draw: np.random.Generator) -> Iterator[OddImage]:
    """Every colour type and depth, plain and interlaced, with and without transparency, with every filter."""
    for colour_type, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))):
        for depth in depths:
            for interlaced in (False, True):
                for transparent in (False, True) if colour_type in (0, 2, 3) else (False,):
                    filters = draw.permutation(5).tolist()
                    yield _png_of_kind(draw, colour_type, depth, interlaced, transparent, filters)


def _png_of_kind(
    draw: np.random.Generator, colour_type: int, depth: int, interlaced: bool, transparent: bool, filters: list[int]
) -> OddImage:
    channels, highest = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type], 2**depth - 1
    values = smooth(draw, channels, highest)
    name = f"png-{colour_type}-{depth}{'-interlaced' * interlaced}{'-transparent' * transparent}.png"
    kind, scale = (np.uint16, 1) if depth == 16 else (np.uint8, 255 // highest)
    before, alpha = b"", None
    if colour_type == 3:
        palette = draw.integers(0, 256, (highest + 1, 3), dtype=np.uint8)
        before = chunk(b"PLTE", palette.tobytes())
        samples = palette[values[..., 0]]
        if transparent:
            opacity = draw.integers(0, 256, (highest + 1) // 2 or 1, dtype=np.uint8)
            before += chunk(b"tRNS", opacity.tobytes())
            alpha = np.concatenate([opacity, np.full(highest + 1 - len(opacity), 255, np.uint8)])[values[..., 0]]
    elif colour_type in (4, 6):
        samples, alpha = values[..., :-1].astype(kind), values[..., -1].astype(kind)
    else:
        samples = (values * scale).astype(kind)
        if transparent:
            colour = values[7, 11]
            before = chunk(b"tRNS", colour.astype(">u2").tobytes())
            alpha = ((values != colour).any(axis=2) * np.iinfo(kind).max).astype(kind)
    data = png(values, depth, colour_type, interlaced=interlaced, filters=filters, before=before)
    return OddImage(name, data, samples, alpha)


def _pngs_with_odd_chunks(draw: np.random.Generator) -> Iterator[OddImage]:
    values = smooth(draw, 3)
    samples = values.astype(np.uint8)
    damaged = chunk(b"tEXt", b"Comment\0text")[:-1] + b"?"
    before = {
        "long-text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG_TEXT)),
        "long-xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG_TEXT)),
        "long-plain-text": chunk(b"tEXt", b"workflow\0" + LONG_TEXT),
        "long-profile": chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(16) + b"RGB " + bytes(2_000_000))),
        "damaged-text": damaged,
        "damaged-profile": chunk(b"iCCP", b"name\0\0no zlib"),
        "damaged-exif": chunk(b"eXIf", b"MM\0*\0\0\xff\xff"),
        "exif-that-unfolds": chunk(b"eXIf", _unfolding_exif()),
        "damaged-packed-text": chunk(b"zTXt", b"Comment\0\0no zlib"),
        "text-without-end": chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        "two-profiles": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200))) * 2,
        "private": chunk(b"prVt", bytes(9)) * 3,
        "many-private": chunk(b"prVt", b"") * 9_000,
        "background": chunk(b"bKGD", bytes(6)) + chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        "significant-bits": chunk(b"sBIT", b"\5\6\5") + chunk(b"tIME", struct.pack(">H5B", 2020, 2, 29, 1, 2, 3)),
        "gamma": chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", struct.pack(">8I", *range(1, 9))),
        "rgb-standard": chunk(b"sRGB", b"\0"),
    }
    for name, chunks in before.items():
        yield OddImage(f"png-{name}.png", png(values, 8, 2, before=chunks), samples)
        yield OddImage(f"png-{name}-behind.png", png(values, 8, 2, after=chunks), samples)
    for part in (1, 7, 64):
        yield OddImage(f"png-idat-of-{part}.png", png(values, 8, 2, part=part, filters=(4, 1)), samples)
    yield OddImage("png-stored.png", png(values, 8, 2, level=0), samples)
    yield OddImage("png-tail.png", png(values, 8, 2) + b"\xff\xda" * 900, samples)
    yield OddImage("png-called-jpg.jpg", png(values, 8, 2), samples)
    yield OddImage("png-without-suffix", png(values, 8, 2), samples)
    for orientation in range(1, 9):
        exif = chunk(b"eXIf", exif_block(orientation, "<>"[orientation % 2]))
        place = {"before": exif} if orientation % 3 else {"after": exif}
        data = png(values, 8, 2, **place)
        yield OddImage(f"png-turned-{orientation}.png", data, turned(samples, orientation))
    for name, size in (("row", (1, WIDTH)), ("column", (HEIGHT, 1)), ("pixel", (1, 1))):
        part_HW3 = values[: size[0], : size[1]]
        for interlaced in (False, True):
            data = png(part_HW3, 8, 2, interlaced=interlaced)
            yield OddImage(f"png-one-{name}{'-interlaced' * interlaced}.png", data, part_HW3.astype(np.uint8))


def _unfolding_exif(start: int = 0) -> bytes:
    """A directory of 500 entries that all point to the same 6 kB: half a thousand times that when it is read.

    start: where it stands in its file, behind eight bytes.
    """
    count = 500
    entries = b"".join(struct.pack("<HHII", 41_000 + number, 7, 6_000, start) for number in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4)


# --- TIFF ------------------------------------------------------------------------------------------------------------


def _tiffs(draw: np.random.Generator) -> Iterator[OddImage]:
    """Depths × channels × orders of bytes × strips and tiles × compressions, by tifffile and by hand."""
    layouts = ({}, {"rowsperstrip": 1}, {"rowsperstrip": 5}, {"tile": (16, 32)}, {"tile": (64, 48)})
    packings = ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True})
    kinds = ((1, "minisblack", None), (3, "rgb", None), (4, "rgb", "unassalpha"))
    number = 0
    for depth in (8, 16):
        for channels, photometric, extra in kinds:
            for layout in layouts:
                for packing in packings:
                    number += 1
                    values = smooth(draw, channels, 2**depth - 1).astype(f"u{depth // 8}")
                    big = number % 5 == 0
                    options = {"byteorder": "<>"[number % 2], "bigtiff": big, **layout, **packing}
                    data = _tiff(values, photometric, extra, options)
                    where = f"{'tile' if 'tile' in layout else 'strip'}-{'-'.join(map(str, packing))}"
                    alpha = values[..., 3] if channels == 4 else None
                    yield OddImage(f"tiff-{depth}-{channels}-{where}-{number}.tif", data, values[..., :3], alpha)
    yield from _tiffs_of_other_kinds(draw)


def _tiff(values: np.ndarray, photometric: str, extra: str | None, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    pixels = values[..., 0] if values.shape[2] == 1 else values
    tifffile.imwrite(buffer, pixels, photometric=photometric, metadata=None, extrasamples=extra and [extra], **options)
    return buffer.getvalue()


def _tiffs_of_other_kinds(draw: np.random.Generator) -> Iterator[OddImage]:
    grey, colour = smooth(draw, 1).astype(np.uint8), smooth(draw, 3).astype(np.uint8)
    yield OddImage("tiff-white-is-zero.tif", _tiff(255 - grey, "miniswhite", None, {}), grey)
    apart = np.moveaxis(colour, -1, 0)
    for name, options in (("strips", {}), ("tiles", {"tile": (16, 16)})):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, apart, photometric="rgb", planarconfig="separate", metadata=None, **options)
        yield OddImage(f"tiff-planes-{name}.tif", buffer.getvalue(), colour)
    for orientation in range(1, 9):
        tag = [(274, "H", 1, orientation, True)]
        data = _tiff(colour, "rgb", None, {"extratags": tag, "byteorder": "<>"[orientation % 2]})
        yield OddImage(f"tiff-turned-{orientation}.tif", data, turned(colour, orientation))
    palette = draw.integers(0, 256, (256, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    colours = palette.T.astype(np.uint16) * 257
    tifffile.imwrite(buffer, grey[..., 0], photometric="palette", colormap=colours, metadata=None)
    yield OddImage("tiff-palette.tif", buffer.getvalue(), palette[grey[..., 0]])
    places = {"extratags": [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)]}
    yield OddImage("tiff-georeference.tif", _tiff(colour, "rgb", None, places), colour)
    plain = _tiff(colour, "rgb", None, {"extratags": [(40960, "I", 1, 999, True)]})
    for name, block in (("damaged", b"\xff\xff"), ("unfolding", _unfolding_exif(len(plain))[8:])):
        place = plain.index(struct.pack("<HHII", 40960, 4, 1, 999))
        entry = struct.pack("<HHII", 34665, 4, 1, len(plain))  # tifffile writes no directory of EXIF itself
        data = plain[:place] + entry + plain[place + 12 :] + block
        yield OddImage(f"tiff-{name}-exif.tif", data, colour)
    for packing in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "group4"):
        buffer = io.BytesIO()
        picture = Pillow.fromarray(colour) if packing != "group4" else Pillow.fromarray(grey[..., 0] > 127)
        picture.save(buffer, "TIFF", compression=packing)
        right = colour if packing != "group4" else np.where(grey > 127, 255, 0).astype(np.uint8)
        yield OddImage(f"tiff-{packing}.tif", buffer.getvalue(), right)
    for bits in (1, 2, 4):
        values = smooth(draw, 1, 2**bits - 1)
        right = (values * (255 // (2**bits - 1))).astype(np.uint8)
        yield OddImage(f"tiff-grey-of-{bits}-bits.tif", _tiff_of_few_bits(values, bits), right)


def _tiff_of_few_bits(values_HW1: np.ndarray, bits: int) -> bytes:
    """A grey TIFF of 1, 2 or 4 bits in one strip, written by hand: rows begin at whole bytes."""
    wide = (values_HW1[..., 0, None] >> np.arange(bits - 1, -1, -1)) & 1
    strip = np.packbits(wide.astype(np.uint8).reshape(HEIGHT, -1), axis=1).tobytes()
    sizes = ((256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 1), (273, 122), (277, 1), (278, HEIGHT))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (*sizes, (279, len(strip))))
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + entries + bytes(4) + strip


# --- BMP, GIF, WebP --------------------------------------------------------------------------------------------------


def _bmps(draw: np.random.Generator) -> Iterator[OddImage]:
    """Palettes of 1, 4 and 8 bits, 24 and 32 bits, from below and from the top, with old and new headers."""
    for bits in (1, 4, 8):
        values = smooth(draw, 1, 2**bits - 1)[..., 0]
        palette = draw.integers(0, 256, (2**bits, 3), dtype=np.uint8)
        wide = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [line.tobytes() for line in np.packbits(wide.astype(np.uint8).reshape(HEIGHT, -1), axis=1)]
        colours = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette.tolist())
        old = b"".join(bytes([blue, green, red]) for red, green, blue in palette.tolist())
        yield OddImage(f"bmp-{bits}.bmp", _bmp(rows, bits, colours), palette[values])
        yield OddImage(f"bmp-{bits}-top.bmp", _bmp(rows, bits, colours, top_down=True), palette[values])
        yield OddImage(f"bmp-{bits}-old.bmp", _bmp(rows, bits, old, header=12), palette[values])
    colour = smooth(draw, 3).astype(np.uint8)
    for header in (12, 40, 108, 124):
        rows = [line[:, ::-1].tobytes() for line in colour]
        yield OddImage(f"bmp-24-{header}.bmp", _bmp(rows, 24, b"", header=header), colour)
    wide = np.dstack([colour[..., ::-1], np.zeros((HEIGHT, WIDTH), np.uint8)])
    yield OddImage("bmp-32.bmp", _bmp([line.tobytes() for line in wide], 32, b""), colour)
    yield OddImage("bmp-32-top.dib.bmp", _bmp([line.tobytes() for line in wide], 32, b"", top_down=True), colour)


def _bmp(rows: Sequence[bytes], bits: int, colours: bytes, *, header: int = 40, top_down: bool = False) -> bytes:
    """A BMP of rows from the top; `header` is the size of its second header."""
    padded = [row + bytes(-len(row) % 4) for row in rows]
    pixels = b"".join(padded if top_down else padded[::-1])
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        used = len(colours) // 4
        info = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, 0, len(pixels), 2835, 2835, used, 0)
        info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(colours)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + colours + pixels


def _gifs(draw: np.random.Generator) -> Iterator[OddImage]:
    for colours in (2, 16, 256):
        values = smooth(draw, 1, colours - 1)[..., 0].astype(np.uint8)
        palette = draw.integers(0, 256, (colours, 3), dtype=np.uint8)
        picture = Pillow.fromarray(values)
        picture.putpalette(palette.tobytes())
        for interlaced in (0, 1):
            for comment in (b"", b"text " * 9000):
                buffer = io.BytesIO()
                picture.save(buffer, "GIF", interlace=interlaced, comment=comment, optimize=False)
                name = f"gif-{colours}{'-interlaced' * interlaced}{'-comment' * bool(comment)}.gif"
                yield OddImage(name, buffer.getvalue(), palette[values])
        buffer = io.BytesIO()
        picture.save(buffer, "GIF", transparency=1, optimize=False)
        alpha = np.where(values == 1, 0, 255).astype(np.uint8)
        yield OddImage(f"gif-{colours}-transparent.gif", buffer.getvalue(), palette[values], alpha)


def _webps(draw: np.random.Generator) -> Iterator[OddImage]:
    colour, alpha = smooth(draw, 3).astype(np.uint8), smooth(draw, 1)[..., 0].astype(np.uint8)
    exact = {"lossless": True, "exact": True}
    for name, options in (("plain", {}), ("small", {"method": 6, "quality": 100}), ("xmp", {"xmp": b"<x/>" * 9000})):
        for transparent in (False, True):
            pixels = np.dstack([colour, alpha]) if transparent else colour
            buffer = io.BytesIO()
            Pillow.fromarray(pixels).save(buffer, "WEBP", **exact, **options)
            title = f"webp-{name}{'-alpha' * transparent}.webp"
            yield OddImage(title, buffer.getvalue(), colour, alpha if transparent else None)
    for orientation in range(1, 9):
        buffer = io.BytesIO()
        Pillow.fromarray(colour).save(buffer, "WEBP", **exact, exif=b"Exif\0\0" + exif_block(orientation, ">"))
        yield OddImage(f"webp-turned-{orientation}.webp", buffer.getvalue(), turned(colour, orientation))


# --- JPEG, AVIF, HEIC ------------------------------------------------------------------------------------------------


def _jpegs(draw: np.random.Generator) -> Iterator[OddImage]:
    """Right is what OpenCV reads of the plain file, before anything odd was put around or into it."""
    colour = Pillow.fromarray(smooth(draw, 3).astype(np.uint8))
    grey = colour.convert("L")
    for number, (picture, options) in enumerate(
        (
            (colour, {"quality": 92}),
            (colour, {"quality": 30, "subsampling": 2, "optimize": True}),
            (colour, {"quality": 100, "subsampling": 0}),
            (colour, {"quality": 80, "progressive": True}),
            (colour, {"quality": 85, "restart_marker_rows": 1}),
            (grey, {"quality": 75}),
            (grey, {"quality": 75, "progressive": True}),
        )
    ):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", **options)
        data = buffer.getvalue()
        right = _by_opencv(data)
        yield OddImage(f"jpeg-{number}.jpg", data, right)
        for name, odd in _odd_jpegs(draw, data):
            yield OddImage(f"jpeg-{number}-{name}", odd, right)
        for orientation in range(1, 9) if number in (0, 5) else ():
            exif = segment(0xE1, b"Exif\0\0" + exif_block(orientation, "<>"[orientation % 2]))
            yield OddImage(f"jpeg-{number}-turned-{orientation}.jpe", _with(data, exif), turned(right, orientation))


def _odd_jpegs(draw: np.random.Generator, data: bytes) -> Iterator[tuple[str, bytes]]:
    film = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + draw.bytes(40_000) + b"\xff\xda\0\x08" * 500
    yield "film.jpg", data + film
    yield "second.jpg", data + data
    yield "fill.jfif", data[:2] + b"\xff" * 5000 + data[2:]
    yield "comments.jpg", _with(data, segment(0xFE, b"text" * 900) * 40)
    yield "marks.jpeg", _with(data, segment(0xE5, b"") * 9000)
    yield "long-exif.jpg", _with(data, segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 40)
    yield "unfolding.jpg", _with(data, segment(0xE1, b"Exif\0\0" + _unfolding_exif()))
    yield "damaged-exif.jpg", _with(data, segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    yield "pictures-list.jpg", _with(data, segment(0xE2, b"MPF\0" + bytes(90)))
    yield "photoshop.jpg", _with(data, segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\xff\xff"))
    yield "half-profile.jpg", _with(data, segment(0xE2, b"ICC_PROFILE\0\2\7" + bytes(99)))
    yield "no-suffix", data


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _with(data: bytes, segments: bytes) -> bytes:
    """A JPEG with more segments behind its first marker."""
    return data[:2] + segments + data[2:]


def _by_opencv(data: bytes) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return values[..., None] if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1])


def _of_new_formats(draw: np.random.Generator) -> Iterator[OddImage]:
    """AVIF as OpenCV reads it; HEIC without loss, where pillow-heif is installed."""
    colour = smooth(draw, 3).astype(np.uint8)
    for number, options in enumerate(({"quality": 90}, {"quality": 60, "subsampling": "4:2:0"}, {"quality": 100})):
        buffer = io.BytesIO()
        Pillow.fromarray(colour).save(buffer, "AVIF", **options)
        yield OddImage(f"avif-{number}.avif", buffer.getvalue(), _by_opencv(buffer.getvalue()))
    right = _by_opencv(buffer.getvalue())
    for orientation in range(1, 9):
        buffer = io.BytesIO()
        Pillow.fromarray(colour).save(buffer, "AVIF", quality=100, exif=exif_block(orientation))
        yield OddImage(f"avif-turned-{orientation}.avif", buffer.getvalue(), turned(right, orientation))
    try:
        import pillow_heif
    except ImportError:
        return
    for orientation in range(1, 9):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(Pillow.fromarray(colour)).save(
            buffer, quality=-1, chroma=444, matrix_coefficients=0, exif=exif_block(orientation)
        )
        suffix = ("heic", "HEIC", "heif", "hif")[orientation % 4]
        yield OddImage(f"heic-turned-{orientation}.{suffix}", buffer.getvalue(), turned(colour, orientation))
