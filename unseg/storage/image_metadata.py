"""What an image file says beside its pixels: colour profile, EXIF, XMP, and which of it a copy keeps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags
from PIL import Image as Pillow

from unseg.storage.cleaned_file import METADATA_LIMIT, damaged
from unseg.storage.image_limits import DECODE_ERRORS

# What `--metadata keep` keeps of a file's main EXIF directory; the others describe how its pixels are stored.
KEPT_EXIF = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
)
SAID_BY_FILE = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
)
MAKER_NOTE = ExifTags.Base.MakerNote
EXIF, GPS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
PNG_GAMMA = 1 / 2.2  # the usual one: images without a gamma are shown with it


Georeference = tuple[tuple[int, int, bytes], ...]
"""Tags of GeoTIFF and GDAL: each with its number, its type in TIFF 6.0, and its values, the low byte first."""


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    icc_profile: the colour profile of these pixels. exif: an EXIF block (a TIFF structure, without the "Exif" mark)
    without orientation, thumbnail and maker's notes, which hold pictures of their own. xmp: an XMP packet without
    orientation. georeference: of a TIFF file whose pixels are not turned.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    georeference: Georeference = ()

    def select(self, policy: str) -> Metadata:
        """Returns what a copy carries under "keep" (all), "icc" (the colour profile) or "none"."""
        return {"keep": self, "icc": Metadata(self.icc_profile), "none": NO_METADATA}[policy]

    def fitting(self, form: str) -> tuple[Metadata, tuple[str, ...]]:
        """Returns what a file of a format ("png", "tiff", "webp", "jpeg") can hold so that programs open it.

        With it comes a sentence for each kind that is too large.
        """
        notes: list[str] = []
        left_out: dict[str, Any] = {}
        for name, most in LIMITS.get(form, {}).items():
            content = getattr(self, name)
            if content is not None and len(content) > most:
                left_out[name] = None
                notes.append(
                    f"its {WORDS[name]} of {len(content):,} bytes was left out: {form.upper()} holds {most:,}, which"
                    " --format tiff exceeds"
                )
        if self.georeference and form != "tiff":
            left_out["georeference"] = ()
            notes.append(f"{NO_GEOREFERENCE}: --format tiff keeps it")
        return replace(self, **left_out), tuple(notes)


NO_METADATA = Metadata()
NO_GEOREFERENCE = "its georeference (GeoTIFF) was left out"
WORDS = {"icc_profile": "colour profile", "exif": "EXIF", "xmp": "XMP"}
# The most bytes of each kind. PNG: what Pillow still reads. JPEG: one segment, behind its length and mark; 255 of them.
LIMITS = {
    "png": {"icc_profile": METADATA_LIMIT, "exif": METADATA_LIMIT, "xmp": METADATA_LIMIT},
    "jpeg": {"icc_profile": 255 * 65_519, "exif": 65_533 - 6, "xmp": 65_533 - 29},
}


def oriented(metadata: Metadata, orientation: int) -> Metadata:
    """Returns the metadata with EXIF's orientation (1 to 8) in their EXIF block, for pixels that lie as stored."""
    if orientation == 1:
        return metadata
    block = Pillow.Exif()
    if metadata.exif:
        block.load(b"Exif\0\0" + metadata.exif)
    block[ExifTags.Base.Orientation] = orientation
    return replace(metadata, exif=block.tobytes().removeprefix(b"Exif\0\0"))


def exif_of(image: Pillow.Image, sound: bool) -> tuple[Pillow.Exif, list[str]]:
    """Returns what an image's EXIF says, and a sentence where it cannot be read; nothing is read of what is not sound.

    sound: whether its directories can be read at all, see `unseg.storage.tiff_tags.has_sound_exif`.
    """
    try:
        if sound:
            # Not the method of PNG, which decodes the pixels to look behind them: nothing is there, once it is cleaned.
            return Pillow.Image.getexif(image), []
    except DECODE_ERRORS:
        pass
    return Pillow.Exif(), [damaged("EXIF")]


def metadata_of(image: Pillow.Image, exif: Pillow.Exif, grey: bool, describe: bool) -> tuple[Metadata, list[str]]:
    """Returns the metadata that fit the decoded samples, and a sentence for each that had to be left out.

    exif: see `exif_of`. grey: whether the samples have one channel. describe: whether to read EXIF and XMP, too.
    """
    left_out = []
    icc_profile = image.info.get("icc_profile") or None
    kind = icc_profile[16:20] if icc_profile else b""  # the profile's colour space (ICC.1, 7.2)
    if icc_profile and kind != (b"GRAY" if grey else b"RGB "):
        left_out.append(f"its colour profile is for {kind.decode('ascii', 'replace').strip()!r} and was left out")
        icc_profile = None
    if icc_profile is None and "gamma" in image.info and abs(image.info["gamma"] - PNG_GAMMA) > 1e-3:
        left_out.append(f"its gamma of {image.info['gamma']:g} was left out: it may look different")
    block = xmp = None
    if describe:
        try:
            block = _block_of(exif)
        except DECODE_ERRORS:
            left_out.append(damaged("EXIF"))
        xmp, sentence = _xmp(image)
        left_out += sentence
    return Metadata(icc_profile, block, xmp), left_out


def _block_of(found: Pillow.Exif) -> bytes | None:
    """Returns the EXIF block that may be kept: see `Metadata`."""
    kept = Pillow.Exif()
    for tag in KEPT_EXIF:
        if tag in found:
            kept[tag] = found[tag]
    for directory in (EXIF, GPS):
        values = {
            tag: value
            for tag, value in found.get_ifd(directory).items()
            if tag not in (MAKER_NOTE, ExifTags.IFD.Interop)
        }
        if values:
            kept[directory] = values
    return kept.tobytes().removeprefix(b"Exif\0\0") if kept else None


def _xmp(image: Pillow.Image) -> tuple[bytes | None, list[str]]:
    """Returns the XMP packet that may be kept, and why one is not."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet or b"")
    if not packet:
        return None, []
    if b"xmpGImg" in packet or b"Thumbnails" in packet:
        return None, ["its XMP holds a thumbnail and was left out"]
    if b"tiff:Orientation" in packet:
        return None, ["its XMP holds an orientation and was left out"]
    return packet, []


def telling_kinds(image: Pillow.Image, exif: Pillow.Exif, taken_out: Collection[str]) -> tuple[str, ...]:
    """Returns the kinds of metadata in a file that say who, where or with what it was taken.

    exif: see `exif_of`. taken_out: kinds that the file had before it was cleaned.
    """
    told = {
        "EXIF": any(tag in exif for tag in (*SAID_BY_FILE, EXIF, GPS)),
        "XMP": bool(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")),
        "IPTC": bool(image.info.get("photoshop")),
        "a comment": bool(image.info.get("comment") or getattr(image, "text", None)),
        "a georeference": False,  # which only the cleaning tells
    }
    return tuple(kind for kind, found in told.items() if found or kind in taken_out)
