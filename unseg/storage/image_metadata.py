"""What an image file says beside its pixels: colour profile, EXIF, XMP, and which of it a copy keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import ExifTags
from PIL import Image as Pillow

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


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    icc_profile: the colour profile of these pixels. exif: an EXIF block (a TIFF structure, without the "Exif" mark)
    without orientation, thumbnail and maker's notes, which hold pictures of their own. xmp: an XMP packet without
    orientation.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    def select(self, policy: str) -> Metadata:
        """Returns what a copy carries under "keep" (all), "icc" (the colour profile) or "none"."""
        return {"keep": self, "icc": Metadata(self.icc_profile), "none": NO_METADATA}[policy]


NO_METADATA = Metadata()


def oriented(metadata: Metadata, orientation: int) -> Metadata:
    """Returns the metadata with EXIF's orientation (1 to 8) in their EXIF block, for pixels that lie as stored."""
    if orientation == 1:
        return metadata
    block = Pillow.Exif()
    if metadata.exif:
        block.load(b"Exif\0\0" + metadata.exif)
    block[ExifTags.Base.Orientation] = orientation
    return replace(metadata, exif=block.tobytes().removeprefix(b"Exif\0\0"))


def metadata_of(image: Pillow.Image, grey: bool, describe: bool) -> tuple[Metadata, list[str]]:
    """Returns the metadata that fit the decoded samples, and a sentence for each that had to be left out.

    grey: whether the samples have one channel. describe: whether to read EXIF and XMP, too.
    """
    left_out = []
    icc_profile = image.info.get("icc_profile") or None
    kind = icc_profile[16:20] if icc_profile else b""  # the profile's colour space (ICC.1, 7.2)
    if icc_profile and kind != (b"GRAY" if grey else b"RGB "):
        left_out.append(f"its colour profile is for {kind.decode('ascii', 'replace').strip()!r} and was left out")
        icc_profile = None
    if icc_profile is None and "gamma" in image.info and abs(image.info["gamma"] - PNG_GAMMA) > 1e-3:
        left_out.append(f"its gamma of {image.info['gamma']:g} was left out: it may look different")
    exif = xmp = None
    if describe:
        try:
            exif = _exif(image)
        except DECODE_ERRORS:
            left_out.append("its EXIF is damaged and was left out")
        xmp, sentence = _xmp(image)
        left_out += sentence
    return Metadata(icc_profile, exif, xmp), left_out


def _exif(image: Pillow.Image) -> bytes | None:
    """Returns the EXIF block that may be kept: see `Metadata`."""
    found, kept = image.getexif(), Pillow.Exif()
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


def telling_kinds(image: Pillow.Image) -> tuple[str, ...]:
    """Returns the kinds of metadata in a file that say who, where or with what it was taken."""
    exif = image.getexif()
    told = {
        "EXIF": any(tag in exif for tag in (*SAID_BY_FILE, EXIF, GPS)),
        "XMP": bool(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")),
        "IPTC": bool(image.info.get("photoshop")),
        "a comment": bool(image.info.get("comment") or getattr(image, "text", None)),
    }
    return tuple(kind for kind, found in told.items() if found)
