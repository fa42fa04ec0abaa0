"""A corpus of malformed images, the same for the same seed: mutations of real image files, and bombs.

python tests/support/make_corpus.py FOLDER --count 1000 --seed 0   writes it
python tests/support/make_corpus.py FOLDER --run                   protects it, prints what happened as a JSON line
python tests/support/make_corpus.py FOLDER --run --processes 2     the same with two processes
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pillow
from skimage import data

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a program, by path

from tests.support.own_memory import peak_memory_mib

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "AVIF": "avif"}


def seeds() -> dict[str, list[bytes]]:
    """Format → whole files of its many kinds, made from photographs."""
    photo = Pillow.fromarray(data.astronaut()).resize((96, 80))
    cat = Pillow.fromarray(data.chelsea()).resize((70, 90))
    alpha = photo.convert("RGBA")
    alpha.putalpha(cat.resize(photo.size).convert("L"))
    exif = Pillow.Exif()
    exif[274], exif[271] = 6, "Maker"

    def saved(image: Pillow.Image, form: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    def tiff(pixels: np.ndarray, **options: object) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, metadata=None, **options)
        return buffer.getvalue()

    deep = np.asarray(photo, np.uint16) * 257
    return {
        "JPEG": [
            saved(photo, "JPEG", exif=exif),
            saved(cat, "JPEG", progressive=True),
            saved(photo.convert("L"), "JPEG"),
            saved(photo.convert("CMYK"), "JPEG"),
            saved(cat, "JPEG", quality=95, subsampling=0, restart_marker_rows=1),
            saved(photo, "MPO", save_all=True, append_images=[cat]),
        ],
        "PNG": [
            saved(photo, "PNG"),
            saved(alpha, "PNG", exif=exif),
            saved(cat.quantize(32), "PNG", transparency=3),
            saved(Pillow.fromarray(deep[..., 0]), "PNG"),
            saved(photo.convert("1"), "PNG"),
            saved(photo.convert("LA"), "PNG"),
            saved(photo, "PNG", icc_profile=bytes(4000), compress_level=9),
        ],
        "WEBP": [saved(photo, "WEBP"), saved(cat, "WEBP", lossless=True), saved(alpha, "WEBP", exif=exif)],
        "TIFF": [
            saved(photo, "TIFF"),
            saved(cat, "TIFF", compression="tiff_lzw"),
            saved(photo, "TIFF", compression="jpeg"),
            saved(photo.convert("1"), "TIFF", compression="group4"),
            saved(cat.quantize(16), "TIFF"),
            tiff(deep, photometric="rgb", compression="zlib", predictor=True),
            tiff(deep[..., 0], byteorder=">"),
            tiff(np.asarray(photo), photometric="rgb", tile=(32, 32)),
            tiff(np.asarray(photo), bigtiff=True),
            tiff(np.asarray(cat), bigtiff=True, byteorder=">", rowsperstrip=7),
        ],
        "BMP": [
            saved(photo, "BMP"),
            saved(cat.quantize(16), "BMP"),
            saved(photo.convert("1"), "BMP"),
            saved(alpha, "BMP"),
        ],
        "GIF": [saved(cat.quantize(64), "GIF"), saved(photo.quantize(8), "GIF", transparency=2, comment=b"c" * 999)],
        "AVIF": [saved(photo, "AVIF", quality=70), saved(alpha, "AVIF", exif=exif), saved(cat.convert("L"), "AVIF")],
    }


# --- mutations: each takes a file and answers a changed one


def truncate(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(1, len(content))]


def change_start(draw: random.Random, content: bytes) -> bytes:
    return _change(draw, content, min(len(content), 200))


def change_anywhere(draw: random.Random, content: bytes) -> bytes:
    return _change(draw, content, len(content))


def _change(draw: random.Random, content: bytes, end: int) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 9)):
        changed[draw.randrange(end)] = draw.randrange(256)
    return bytes(changed)


def extreme_number(draw: random.Random, content: bytes) -> bytes:
    """A length, size, count or offset of the header becomes 0, or as large as can be."""
    changed = bytearray(content)
    width = draw.choice((2, 4))
    place = draw.randrange(min(len(content) - width, 300))
    changed[place : place + width] = draw.choice((b"\0", b"\xff", b"\x7f")) * width
    return bytes(changed)


def repeat_part(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(len(content))
    part = content[start : start + draw.randrange(1, 2000)]
    return content[:start] + part * draw.randrange(2, 20) + content[start:]


def drop_part(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(8, len(content))
    return content[:start] + content[start + draw.randrange(1, 500) :]


def zero_part(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(len(content))
    length = draw.randrange(1, 500)
    return content[:start] + bytes(length) + content[start + length :]


def wrong_end(draw: random.Random, content: bytes) -> bytes:
    """The start of one, the end of noise."""
    return content[: draw.randrange(8, len(content))] + draw.randbytes(draw.randrange(1, 3000))


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    truncate,
    change_start,
    change_anywhere,
    extreme_number,
    repeat_part,
    drop_part,
    zero_part,
    wrong_end,
)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, chunks: bytes = b"", pixels: bytes = b"", depth: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(count - done, 1 << 24))) for done in range(0, count, 1 << 24)]
    return b"".join(parts) + packer.flush()


# The entries of a 3×3 grey TIFF whose one strip is the file's own first nine bytes.
SIZE_3 = (
    (256, 4, 1, 3),
    (257, 4, 1, 3),
    (258, 3, 1, 8),
    (262, 3, 1, 1),
    (273, 4, 1, 0),
    (277, 3, 1, 1),
    (279, 4, 1, 9),
)


def tiff_header(*entries: tuple[int, int, int, int], then: int = 0) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + rows + struct.pack("<I", then)


def bmp_header(width: int, height: int, bits: int = 24, compression: int = 0) -> bytes:
    return struct.pack("<2sIIIIiiHHIIiiII", b"BM", 999, 0, 54, 40, width, height, 1, bits, compression, 0, 1, 1, 0, 0)


def bombs() -> dict[str, bytes]:
    """Returns small files that promise or unfold into far more than they are, and other kinds under an image's name."""
    kinds = seeds()
    progressive = kinds["JPEG"][1]
    scan, zeros = progressive.index(b"\xff\xda"), deflated_zeros(1 << 28)
    sof = progressive.index(b"\xff\xc2") + 5
    return {
        "promises-10-gigapixels.png": png(100_000, 100_000),
        "promises-2-31.png": png(2**31 - 1, 2**31 - 1),
        "unfolds-to-268-megapixels.png": png(16_384, 16_384, pixels=zeros, colours=0),
        "promises-196-megapixels-of-nothing.png": png(14_000, 14_000, pixels=zlib.compress(b"")),
        "promises-196-deep-megapixels-of-nothing.png": png(14_000, 14_000, pixels=zlib.compress(b""), depth=16),
        "frames-without-end.png": png(4, 4, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), zlib.compress(bytes(52))),
        "chunk-of-4-gigabytes.png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**32 - 1, b"IHDR") + bytes(99),
        "promises-4-gigapixels.jpg": progressive[:sof] + struct.pack(">HH", 65_500, 65_500) + progressive[sof + 4 :],
        "scans-without-end.jpg": progressive[:scan] + progressive[scan:-2] * 3000,
        "promises-268-megapixels.webp": _webp(kinds["WEBP"][0], 16_384, 16_384),
        "promises-281-terapixels.webp": _webp(kinds["WEBP"][0], 1 << 24, 1 << 24),
        "promises-18-exapixels.tif": tiff_header((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), *SIZE_3[2:]),
        "points-to-itself.tif": tiff_header(*SIZE_3, then=8),
        "offset-beyond.tif": tiff_header(*SIZE_3[:4], (273, 4, 1, 2**32 - 2), *SIZE_3[5:]),
        "counts-4-billion.tif": tiff_header(*SIZE_3[:4], (273, 4, 2**32 - 1, 8), *SIZE_3[5:]),
        "entries-without-end.tif": struct.pack("<2sHIH", b"II", 42, 8, 65_535) + bytes(200_000),
        "pages-without-end.tif": _pages(40_000),
        "promises-a-lot.bmp": bmp_header(2**31 - 1, 2**31 - 1),
        "upside-down.bmp": bmp_header(13_000, -13_000),
        "narrow.bmp": bmp_header(-7, 9) + bytes(999),
        "run-lengths.bmp": bmp_header(9_000, 9_000, 8, 1) + bytes(2_000),
        "animation.gif.png": b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";",
        "vector.svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript.eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "tile-of-8000.tif": _tiff_of_one_tile(8_000),
        "strips-without-end.tif": tiff_header(*SIZE_3[:4], (273, 4, 1 << 20, 400), *SIZE_3[5:]) + bytes(4 << 20),
        "entries-that-share.tif": _entries_that_share(b"II*\0", SIZE_3),
        "five-bands.tif": tiff_header(*SIZE_3[:5], (277, 3, 1, 5), (279, 4, 1, 45), (338, 3, 2, 0)),
        "preview.tif": tiff_header((254, 4, 1, 1), *SIZE_3),
        "chunks-without-end.png": png(4, 4, chunk(b"prVt", b"") * 300_000, zlib.compress(bytes(52))),
        "segments-without-end.jpg": progressive[:2] + b"\xff\xe5\0\2" * (1 << 20) + progressive[2:],
        "scans-of-196-megapixels.jpg": progressive[:sof]
        + struct.pack(">HH", 14_000, 14_000)
        + progressive[sof + 4 : scan]
        + progressive[scan:-2] * 3,
        "blocks-without-end.gif": kinds["GIF"][0][:13] + b"!\xfe" + b"\1x" * (1 << 21) + b"\0;",
        "two-frames.gif": _two_frames(kinds["GIF"][1]),
        "promises-4-gigapixels.avif": _larger_extent(kinds["AVIF"][0], 65_535),
        "exif-that-unfolds.avif": kinds["AVIF"][0] + _entries_that_share(b"II*\0", ()),
        "exif-that-unfolds.webp": _with_exif(kinds["WEBP"][0], _entries_that_share(b"II*\0", ())),
        "archive.zip.png": b"PK\x03\x04" + bytes(99),
        "pickle.png": b"\x80\x04cposix\nsystem\n(S'exit 3'\ntR.",
        "icon.ico.bmp": b"\0\0\1\0\1\0" + bytes(99),
        "empty.png": b"",
        "one-byte.jpg": b"\xff",
        "text.tif": b"no picture" * 99,
        "zeros.webp": bytes(9999),
    }


def slow_but_sound() -> dict[str, bytes]:
    """Returns files whose picture is whole, and which keep a decoder busy that reads all that is beside it."""
    photo = seeds()["JPEG"][2]
    exif = b"\xff\xe1" + struct.pack(">H", 65_508) + b"Exif\0\0" + bytes(65_500)
    text = chunk(b"zTXt", b"k\0\0" + deflated_zeros(1 << 28))
    return {
        "fill.jpg": photo[:2] + b"\xff" * (16 << 20) + photo[2:],
        "exif.jpg": photo[:2] + exif * 400 + photo[2:],
        "film.jpg": photo + b"\xff\xda\0\x08" * (1 << 22),
        "text.png": png(4, 4, text, zlib.compress(bytes(52))),
        "text-behind.png": png(4, 4, b"", zlib.compress(bytes(52)))[:-12] + text + chunk(b"IEND", b""),
        "profile.png": png(4, 4, chunk(b"iCCP", b"k\0\0" + deflated_zeros(1 << 28)), zlib.compress(bytes(52))),
        "unfolding.tif": _tiff_of_unfolding_exif(),
        "unfolding.png": png(4, 4, chunk(b"eXIf", _entries_that_share(b"MM\0*", ())), zlib.compress(bytes(52))),
    }


def _tiff_of_one_tile(side: int) -> bytes:
    """16×16 pixels in a tile of side × side, deflated."""
    packed = deflated_zeros(side * side * 3)
    tags = ((256, 16), (257, 16), (259, 8), (262, 2), (277, 3), (284, 1), (322, side), (323, side), (324, 400))
    entries = [(tag, 4, 1, value) for tag, value in tags] + [(325, 4, 1, len(packed)), (258, 3, 3, 350)]
    start = tiff_header(*sorted(entries)).ljust(350, b"\0") + b"\x08\0" * 3
    return start.ljust(400, b"\0") + packed


def _entries_that_share(mark: bytes, entries: tuple[tuple[int, int, int, int], ...]) -> bytes:
    """A TIFF structure whose 4,000 more entries all point to the same megabyte: 4 GB when they are read."""
    order, count, shared = "<" if mark[:2] == b"II" else ">", 4_000, 1 << 20
    more = [(40_000 + number, 7, shared, 8) for number in range(count)]
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in (*entries, *more))
    return mark + struct.pack(f"{order}IH", 8, len(entries) + count) + rows + bytes(4 + shared)


def _tiff_of_unfolding_exif() -> bytes:
    """A picture of 3×3 pixels whose EXIF directory unfolds into 4 GB."""
    exif = _entries_that_share(b"II*\0", ())[8:]
    return tiff_header(*SIZE_3, (34665, 4, 1, 200)).ljust(200, b"\0") + exif


def _two_frames(content: bytes) -> bytes:
    """A GIF with its picture twice."""
    start = content.index(b"!\xf9")
    return content[:-1] + content[start:]


def _larger_extent(content: bytes, side: int) -> bytes:
    """An AVIF that promises another size."""
    place = content.index(b"ispe") + 8
    return content[:place] + struct.pack(">II", side, side) + content[place + 8 :]


def _with_exif(content: bytes, exif: bytes) -> bytes:
    """A WebP of an extended header, with EXIF behind the picture."""
    extended = _webp(content, 96, 80)
    flags = bytearray(extended)
    flags[20] |= 8
    body = bytes(flags[8:]) + b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp(small: bytes, width: int, height: int) -> bytes:
    """A WebP whose extended header promises a canvas and whose picture is a small one."""
    picture = small[12:]
    extended = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    body = b"WEBP" + extended + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _pages(count: int) -> bytes:
    """A TIFF of so many pages, each a directory that shares one strip."""
    size = 2 + 12 * 7 + 4
    page = tiff_header(*SIZE_3)[8:-4]
    following = [8 + number * size for number in range(1, count)] + [0]
    return struct.pack("<2sHI", b"II", 42, 8) + b"".join(page + struct.pack("<I", place) for place in following)


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` malformed files with names that say what was done to which kind: "truncate-0007.jpg"."""
    kinds = seeds()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        form = list(kinds)[number % len(kinds)]
        mutation = MUTATIONS[number // len(kinds) % len(MUTATIONS)]
        yield f"{mutation.__name__}-{number:04}.{SUFFIXES[form]}", mutation(draw, draw.choice(kinds[form]))


def write_corpus(folder: Path, count: int, seed: int) -> list[str]:
    """`count` mutants, the bombs, and things that are no files. Returns all names."""
    folder.mkdir(parents=True)
    content = dict(mutants(count, seed)) | bombs() | slow_but_sound()
    for name, data_ in content.items():
        (folder / name).write_bytes(data_)
    (folder / "link-to-itself.png").symlink_to("link-to-itself.png")
    names = [*content, "link-to-itself.png"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "waits-for-ever.png")
        names.append("waits-for-ever.png")
    with open(folder / "tail-of-5-gigabytes.png", "wb") as file:  # takes no room where files may have holes
        file.write(png(4, 4, pixels=zlib.compress(bytes(52))))
        file.truncate(5 << 30)
    return [*names, "tail-of-5-gigabytes.png"]


def run_corpus(folder: Path, names: list[str], processes: int = 1) -> dict[str, object]:
    """Protects the corpus into FOLDER.protected, verifies that, then times every file's decoding.

    The memory of other processes is at most what is told, which is this one's where that is more.
    """
    import resource

    from unseg.commands.console import quiet_decoders
    from unseg.protecting.run import ProtectSettings, protect
    from unseg.protecting.verification import verify
    from unseg.storage import image_decoding, image_limits, label_decoding

    before = peak_memory_mib()
    out = folder.with_name(folder.name + ".protected")
    with quiet_decoders():
        summary = protect(
            [folder],
            out,
            ProtectSettings(device="cpu", workers=2),
            processes=processes,
            whole_image=True,
        )
        verification = verify(out)
        slowest = (0.0, "")
        with image_limits.own_size_limit():
            for name in names:
                for decode in (image_decoding.read_image, label_decoding.open_label):
                    started = time.perf_counter()
                    with suppress(image_limits.ImageError):
                        decode(folder / name)
                    slowest = max(slowest, (time.perf_counter() - started, name))
    status = {entry.input: entry.status for entry in summary.entries}
    return {
        "files": len(names),
        "not_in_the_ledger": sorted(set(names) - set(status)),
        "protected": len(summary.of("protected")),
        "failed": len(summary.of("failed")),
        "without_reason": [entry.input for entry in summary.of("failed") if not entry.reason],
        "survived": sorted(name for name in status if status[name] == "protected"),
        "broken_promises": [f"{finding.name}: {finding.problem}" for finding in verification.failures],
        "seconds": round(summary.seconds, 1),
        "slowest_decoding": {"seconds": round(slowest[0], 3), "file": slowest[1]},
        "memory_mib_before": before,
        "memory_mib_peak": peak_memory_mib(),
        **(
            {}
            if processes == 1
            else {"memory_mib_peak_of_others": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024}
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="store_true", help="protect the corpus after writing it")
    parser.add_argument("--processes", type=int, default=1, help="that protect it")
    arguments = parser.parse_args()
    names = write_corpus(arguments.folder, arguments.count, arguments.seed)
    if arguments.run:
        print(json.dumps(run_corpus(arguments.folder, names, arguments.processes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
