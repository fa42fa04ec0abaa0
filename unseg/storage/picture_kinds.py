"""What kind of picture a file is, by its name and by its first bytes; which kinds are read, and which only listed."""

from __future__ import annotations

import os
import re
import stat
import zlib
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from unseg.storage.image_limits import IMAGE_SUFFIXES
from unseg.storage.looking import seen_in
from unseg.storage.tiff_structure import raster_in

# Names of pictures that are not read: such a file is listed, so that nobody believes it protected.
UNREAD_SUFFIXES = (
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxr", ".tga", ".pcx", ".ico", ".psd", ".psb", ".exr"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    *(".pef", ".srw", ".sr2", ".nrw", ".rwl", ".3fr", ".iiq", ".x3f", ".dds", ".fits", ".fit", ".qoi", ".hdr"),
    *(".sgi", ".rgb", ".rgba", ".bw", ".im", ".ras", ".xbm", ".xpm", ".cur", ".icns", ".dcx", ".pcd", ".pfm"),
    *(".mpo", ".avifs", ".wdp", ".hdp", ".pict", ".pct", ".fli", ".flc"),
)
STACK_SUFFIXES = (".dcm", ".dicom", ".nii", ".nii.gz")  # of files of planes, see `unseg.storage.stacks`
PLANES = ("DICOM", "NIfTI")  # the kinds of such files that are no pictures
VECTOR_SUFFIXES = (".geojson", ".shp", ".gpkg")  # of outlines in the coordinates of a map
PACKED_SUFFIX = ".nii.gz"
# Endings of the files beside one of outlines, without which it cannot be read, or not as it is.
SIDE_SUFFIXES = {".shp": (".dbf", ".shx", ".prj", ".cpg"), ".gpkg": (".gpkg-wal", ".gpkg-shm", ".gpkg-journal")}
PICTURES = frozenset(IMAGE_SUFFIXES) - {".tif", ".tiff"}
PACKED = b"\x1f\x8b\x08"  # by gzip
START = 352  # bytes that tell a kind: as many as NIfTI needs
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
# NIfTI-1 and 2, in either byte order: the header's size, and a mark (nifti1.h, nifti2.h).
NIFTI = re.compile(
    rb"(\x5c\x01\0\0|\0\0\x01\x5c).{340}n[+i]1\0|(\x1c\x02\0\0|\0\0\x02\x1c)n[+i]2\0\r\n\x1a\n", re.DOTALL
)
NIFTI_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
# The first bytes of each kind, in the words of Pillow for those that are read.
SIGNATURES = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)),  # the sizes of its headers
    ("DICOM", re.compile(rb".{128}DICM", re.DOTALL)),  # whose first bytes may be those of a TIFF (PS3.10, 7.1)
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("JXL", re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a")),
    ("Photoshop", re.compile(rb"8BPS\0[\1\2]")),
    ("OpenEXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("NIfTI", NIFTI),
    ("Netpbm", re.compile(rb"P[1-6]\s[\s\d]|P7\nWIDTH")),
    ("SGI", re.compile(rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]")),
    ("X bitmap", re.compile(rb"#define [^\s]{1,200}_width \d")),
    ("X pixmap", re.compile(rb"/\* XPM \*/")),
    ("Sun raster", re.compile(rb"\x59\xa6\x6a\x95")),
    ("PCX", re.compile(rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]")),
    ("DDS", re.compile(rb"DDS \x7c\0\0\0")),
    ("FITS", re.compile(rb"SIMPLE  = {2,30}T")),
    ("QOI", re.compile(rb"qoif.{8}[\x03\x04][\0\x01]", re.DOTALL)),
)


def kind_of(start: bytes) -> str | None:
    """Returns the kind of picture that a file's first `START` bytes announce; None where they announce none."""
    if start[4:8] == b"ftyp":  # ISO base media: brands of four letters, the main one first (ISO/IEC 23008-12)
        end = min(max(int.from_bytes(start[:4], "big"), 16), START)
        brands = [start[8:12], *(start[place : place + 4] for place in range(16, end, 4))]
        if any(brand in AVIF_BRANDS for brand in brands):
            return "AVIF"
        return "HEIF" if any(brand in HEIF_BRANDS for brand in brands) else None
    if start[:3] == PACKED:  # the first bytes that unpack from so few may be fewer than a header
        inside = _unpacked(start)
        if inside[:4] in NIFTI_SIZES:
            return "NIfTI"
        kind = None if inside[:3] == PACKED else kind_of(inside)
        return kind and f"packed {kind}"
    return next((kind for kind, signature in SIGNATURES if signature.match(start)), None)


def _unpacked(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START)
    except zlib.error:
        return b""


def is_picture_name(name: str | PurePath) -> bool:
    """Returns whether a file is called as pictures are, whether or not they are read."""
    lower = str(name).lower()
    return os.path.splitext(lower)[1] in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES) or lower.endswith(STACK_SUFFIXES)


def is_mask_name(name: str | PurePath) -> bool:
    """Returns whether a file is called as masks are."""
    lower = str(name).lower()
    return os.path.splitext(lower)[1] in IMAGE_SUFFIXES or lower.endswith((*STACK_SUFFIXES, *VECTOR_SUFFIXES))


def without_suffix(name: str) -> str:
    """Returns a name without its last suffix, of which .nii.gz is one; with forward slashes."""
    path = PurePosixPath(name)
    if name.lower().endswith(PACKED_SUFFIX) and len(path.name) > len(PACKED_SUFFIX):
        return name[: -len(PACKED_SUFFIX)]
    return str(path.with_suffix(""))


class Look(NamedTuple):
    """What a file is by its content. kind: as `kind_of` has it. raster: as `raster_in` has it, where that is "TIFF"."""

    kind: str | None
    raster: Literal["picture", "raster"] | None


def look_at(path: str | Path) -> Look:
    """Returns what a regular file is by its content; OSError where it cannot be read. Little of it is read."""
    return seen_in(path, _look)


def _look(file: BinaryIO) -> Look:
    kind = kind_of(file.read(START))
    return Look(kind, raster_in(file) if kind == "TIFF" else None)


def is_picture(path: str | Path) -> bool:
    """Returns whether a file looks like a picture, by its name or by its first bytes; only regular files are opened."""
    if is_picture_name(path):
        return True
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and look_at(path).kind is not None
    except (OSError, ValueError):
        return False


def tells_by_name(name: str | PurePath) -> bool:
    """Returns whether a file's name says of which kind it is, so that nobody opens it for that."""
    return os.path.splitext(str(name).lower())[1] in PICTURES


def side_files(path: Path) -> list[Path]:
    """Returns the files beside one of outlines that belong to it."""
    return [name for name in side_names(path) if os.path.isfile(name)]


def side_names(path: Path) -> list[Path]:
    """Returns what the files beside one of outlines may be called that belong to it; none for any other file."""
    endings = SIDE_SUFFIXES.get(path.suffix.lower(), ())
    return [path.with_suffix(form) for ending in endings for form in (ending, ending.upper())]
