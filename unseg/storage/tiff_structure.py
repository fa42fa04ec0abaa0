"""What a TIFF file's first directory says of its picture, and whether all of it can be kept.

Sources: TIFF 6.0; TIFF Technical Note 2 (JPEG); OGC GeoTIFF 1.1; tags registered by GDAL.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, Literal

from unseg.storage.cleaned_file import KEEPS_BUSY, CleanedFile, damaged
from unseg.storage.image_limits import SEVERAL_FRAMES, ImageError, open_regular
from unseg.storage.image_metadata import Georeference
from unseg.storage.tiff_classic import HEADER, as_classic
from unseg.storage.tiff_tags import SUB_DIRECTORIES, BadTiff, Directory, has_sound_exif, read_directory, without_exif

SAMPLE_FORMAT = 339
SUBFILE_TYPE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 254, 256, 257, 258, 262, 277, 338
STRIPS, TILE_WIDTH, TILE_HEIGHT, TILES = 273, 322, 323, 324
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 50844)  # GeoTIFF, GDAL, coefficients (RPC)
COLOURS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}  # of photometric interpretations that have more than one
NAMES = {1: "grey", 3: "red, green and blue", 4: "cyan, magenta, yellow and black"}
UNSPECIFIED, PREMULTIPLIED = 0, 1  # of ExtraSamples
FLOATS = 3  # of SampleFormat
LARGE_TILE = 2**22  # pixels of a tile that any image may have; others have tiles of so many times the image
TILE_SHARE = 4
MOST_PAGES = 64  # of a GeoTIFF: its image, its mask, and the overviews of both
CLAIMS = "broken image: its entries claim more bytes than the file has"


def tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Returns width and height that a TIFF file's first directory promises; 0 and 0 where it has none."""
    try:
        directory = read_directory(file)
        return directory.number(WIDTH, 0), directory.number(HEIGHT, 0)
    except BadTiff:
        return 0, 0


def raster_in(file: BinaryIO) -> Literal["picture", "raster"] | None:
    """Returns what a file is that says its place on earth, or which value stands for none; None for all others.

    "picture": its values are those of pictures; "raster": it has other bands, or values of other types.
    """
    try:
        directory = read_directory(file)
        bands, extra = directory.number(SAMPLES, 1), directory.numbers(EXTRA_SAMPLES)
        photometric = directory.number(PHOTOMETRIC, 1)
        bits, forms = set(directory.numbers(BITS, (1,))), set(directory.numbers(SAMPLE_FORMAT, (1,)))
        has_place = any(tag in directory.fields for tag in GEOREFERENCE)
    except BadTiff:
        return None
    colours = COLOURS.get(photometric, 1)
    is_deep = not bits <= {1, 2, 4, 8, 16} or forms != {1}
    has_more = bands > colours + 1 or (bands == colours + 1 and (not extra or UNSPECIFIED in extra))
    if not has_place:
        return None
    return "raster" if (is_deep or has_more) and photometric in (0, 1, 2) else "picture"


def check_entries(path: Path) -> None:
    """Raises ImageError where a file has entries that share bytes: readers that take all of them unfold them."""
    places: set[int] = set()
    with open_regular(path) as file:
        try:
            directory = read_directory(file)
            while not directory.claims_too_much and directory.following not in (0, *places):
                if len(places) == MOST_PAGES:
                    raise ImageError(path, f"more than {MOST_PAGES} pages: save each as a file of its own first")
                places.add(directory.following)
                directory = read_directory(file, directory.following)
        except BadTiff as error:
            raise ImageError(path, f"broken image: {error}") from error
    if directory.claims_too_much:
        raise ImageError(path, CLAIMS)


def check_tiff(path: Path, data: bytes) -> CleanedFile:
    """Returns the file, without EXIF that cannot be read, and a sentence for what the output lacks.

    ImageError names what cannot be kept, bands beside the colours for example, and what would unfold into far more than
    the image is.
    """
    try:
        directory = read_directory(io.BytesIO(data))
        _check_bands(path, directory)
        _check_parts(path, directory)
        premultiplied = PREMULTIPLIED in directory.numbers(EXTRA_SAMPLES)
        left_out = []
        if data.startswith(HEADER):
            if directory.following:
                raise ImageError(path, SEVERAL_FRAMES)
            data = as_classic(data, directory)
            if any(tag in directory.fields for tag in SUB_DIRECTORIES):
                left_out.append("its EXIF was left out: it is a BigTIFF from the high byte")
    except BadTiff as error:
        raise ImageError(path, f"broken image: {error}") from error
    if not has_sound_exif(io.BytesIO(data)):  # Pillow reads it with the pixels, whether or not it is asked for
        data = without_exif(data, directory)
        left_out.append(damaged("EXIF"))
    if premultiplied:
        left_out.append("premultiplied alpha to straight")
    tells = ("a georeference",) if any(tag in directory.fields for tag in GEOREFERENCE) else ()
    return CleanedFile(data, tuple(left_out), tells)


def holds_floats(data: bytes) -> bool:
    """Returns whether a TIFF file says that its values are floating-point numbers, of any width."""
    try:
        return FLOATS in read_directory(io.BytesIO(data)).numbers(SAMPLE_FORMAT, (1,))
    except BadTiff:
        return False


def georeference_of(data: bytes) -> Georeference:
    """Returns what a TIFF file that `check_tiff` passed says of its place on earth; empty where it says nothing."""
    try:
        directory = read_directory(io.BytesIO(data))
        found = {tag: directory.values(tag) for tag in GEOREFERENCE}
    except BadTiff:
        return ()
    return tuple((tag, *values) for tag, values in found.items() if values is not None)


def _check_bands(path: Path, directory: Directory) -> None:
    """Raises ImageError where the file has bands that are neither colour nor transparency, or is a camera's raw."""
    if directory.number(SUBFILE_TYPE, 0) & 1:
        raise ImageError(path, "its first picture is a preview of another (camera raw): save it as TIFF or PNG first")
    bands = directory.number(SAMPLES, 1)
    colours = COLOURS.get(directory.number(PHOTOMETRIC, 1), 1)
    extra = directory.numbers(EXTRA_SAMPLES)
    if bands <= colours or (bands == colours + 1 and colours != 4 and UNSPECIFIED not in extra):
        return
    beside = "one is" if bands == colours + 1 else f"{bands - colours} are"
    raise ImageError(
        path,
        f"{bands} bands, of which {beside} beside {NAMES[colours]}: only colours and one transparency can be"
        " kept; save those bands apart first",
    )


def _check_parts(path: Path, directory: Directory) -> None:
    """Raises ImageError where a decoder would reserve or walk through far more than the picture has."""
    if directory.claims_too_much:
        raise ImageError(path, CLAIMS)
    width, height = directory.number(WIDTH, 0), directory.number(HEIGHT, 0)
    tile_width, tile_height = directory.number(TILE_WIDTH, 0), directory.number(TILE_HEIGHT, 0)
    if tile_width * tile_height > max(LARGE_TILE, TILE_SHARE * width * height):
        raise ImageError(path, f"tiles of {tile_width}×{tile_height} for {width}×{height} pixels: {KEEPS_BUSY}")
    planes = directory.number(SAMPLES, 1)
    tiles = -(-width // max(1, tile_width)) * -(-height // max(1, tile_height))
    for tag, most in ((STRIPS, height * planes), (TILES, tiles * planes)):
        field = directory.fields.get(tag)
        if field is not None and field.count > max(1, most):
            raise ImageError(path, f"{field.count:,} parts for {width}×{height} pixels: {KEEPS_BUSY}")
