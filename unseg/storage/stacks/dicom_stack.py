"""DICOM: frames of one instance, read and written by pydicom (PS3.3, PS3.5). All but the pixels stays, and says so.

The protected file is a derived instance (PS3.3, C.7.6.1.1.2): it has a new SOP Instance UID, names its source, and its
image type begins with DERIVED.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian

from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.dicom_elements import transfer_syntax
from unseg.storage.stacks.dicom_frames import check_frames
from unseg.storage.stacks.dicom_proof import DicomProof
from unseg.storage.stacks.dicom_reading import SEGMENTATION, dicom_errors, frames_of, listed, read_data_set
from unseg.storage.stacks.dicom_segments import DicomSegments
from unseg.storage.stacks.dicom_words import Words
from unseg.storage.stacks.stack import Layout, Part, Samples, Stack, ValueRange, bounded_bytes, check_pixels

COLOURS = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
DECODED_TO_RGB = ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DERIVED = "DERIVED"
DESCRIPTION = "Pixel values changed within a bound so that networks do not learn from them (UnSeg)"
LONGEST_DESCRIPTION = 1024  # characters of the value representation ST
PURPOSE = ("121322", "DCM", "Source image for image processing operation")


def open_stack(path: Path, max_pixels: int, bands: tuple[int, ...] | None) -> DicomStack:
    """Opens a DICOM file whose pixels can be protected; ImageError names what cannot."""
    data_set = read_data_set(path, max_pixels)
    with dicom_errors(path):
        notes = _decoded(path, data_set, max_pixels)
        return DicomStack(path, data_set, _layout(path, data_set, notes))


def open_proof(original: Path, output: Path, max_pixels: int, bands: tuple[int, ...] | None) -> DicomProof:
    """Opens a protected file beside its original, read without pydicom where the original's pixels are not packed."""
    before = bounded_bytes(original, max_pixels)
    unpacked = None
    with dicom_errors(original):
        if UID(transfer_syntax(before)).is_encapsulated:
            unpacked = open_stack(original, max_pixels, bands).words
    return DicomProof.of(output, before, bounded_bytes(output, max_pixels), unpacked)


def open_labels(path: Path, max_pixels: int, stack: Stack | None) -> DicomSegments:
    """Opens a DICOM segmentation, for the instance that `stack` is where that is given."""
    source = stack.source if isinstance(stack, DicomStack) else None
    return DicomSegments.open(path, max_pixels, source, None if stack is None else stack.layout)


class DicomStack(Stack):
    """The frames of a DICOM file. data_set: its elements, whose pixel data are not packed. layout: checked."""

    kind = "DICOM"

    def __init__(self, path: Path, data_set: Dataset, layout: Layout) -> None:
        self.path, self.layout, self._data_set = path, layout, data_set
        self.words = _words(path, data_set, layout)
        self._padding = padding_of(data_set)

    @property
    def source(self) -> str:
        """Returns the identity of this instance."""
        return str(self._data_set.get("SOPInstanceUID", ""))

    def read(self, part: Part) -> Samples:
        values = self.words.values(part.plane)[part.rows, part.columns]
        if self._padding is None:
            return Samples(values, np.zeros(values.shape[:2], bool))
        low, high = self._padding
        return Samples(values, np.all((values >= low) & (values <= high), axis=2), self._padding)

    def write(self, path: Path, changed: Iterable[tuple[Part, np.ndarray]], key: bytes) -> None:
        changed_words = self.words.copy()
        for part, values in changed:
            changed_words.put(part.plane, part.rows, part.columns, values)
        data_set = self._data_set
        with dicom_errors(self.path):
            pixels = changed_words.data
            identity = new_uid(self.source, pixels, key)
            _mark(data_set, self.source)
            data_set.PixelData = pixels
            data_set.SOPInstanceUID = identity
            data_set.file_meta.MediaStorageSOPInstanceUID = identity
            buffer = io.BytesIO()
            data_set.save_as(buffer, enforce_file_format=False)
        path.write_bytes(buffer.getbuffer())  # here, an error is the disk's and not the file's

    def _close(self) -> None:
        pass  # all of it was read


# --- what may be read ------------------------------------------------------------------------------------------------


def _decoded(path: Path, data_set: Dataset, max_pixels: int) -> tuple[str, ...]:
    """Unpacks the pixel data, after all that would take too much is refused; returns what that changed, in words."""
    if data_set.get("SOPClassUID") == SEGMENTATION:
        raise ImageError(path, "is a DICOM segmentation, which is no image: give it with --masks")
    if "FloatPixelData" in data_set or "DoubleFloatPixelData" in data_set:
        raise ImageError(path, "floating-point DICOM pixels are not protected: convert them to 16 bits first")
    if "PixelData" not in data_set:
        raise ImageError(path, "this DICOM file holds no picture")
    frames, height, width = frames_of(path, data_set), int(data_set.get("Rows", 0)), int(data_set.get("Columns", 0))
    check_pixels(path, frames, height, width, max_pixels)
    _check_colours(path, data_set)
    if not data_set.file_meta.TransferSyntaxUID.is_encapsulated:
        return ()
    syntax = UID(data_set.file_meta.TransferSyntaxUID)
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        missing = "; ".join(decoder.missing_dependencies)
        raise ImageError(
            path, f"packed as {syntax.name}, for which a decoder is missing ({missing}); or unpack it first"
        )
    check_frames(path, data_set.PixelData, frames, height, width)
    data_set.decompress(generate_instance_uid=False)
    return (f"its pixels were unpacked from {syntax.name}",)


def _check_colours(path: Path, data_set: Dataset) -> None:
    colours = str(data_set.get("PhotometricInterpretation", ""))
    packed = data_set.file_meta.TransferSyntaxUID.is_encapsulated
    known = colours in COLOURS or (packed and colours in DECODED_TO_RGB)
    samples = COLOURS.get(colours, 3)
    if not known or data_set.get("SamplesPerPixel", 1) != samples:
        raise ImageError(
            path, f"{colours or 'unnamed'} colours are not protected: convert them to RGB or MONOCHROME2 first"
        )
    allocated, stored = int(data_set.get("BitsAllocated", 0)), int(data_set.get("BitsStored", 0))
    if (
        allocated not in (8, 16)
        or not 8 <= stored <= allocated
        or int(data_set.get("HighBit", stored - 1)) != stored - 1
    ):
        raise ImageError(path, f"{stored} bits stored in {allocated}: 8 to 16 bits in 8 or 16 are protected")
    if data_set.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and allocated == 8:
        raise ImageError(path, "8 bits in the retired big-endian order: save it as little-endian first")


def _words(path: Path, data_set: Dataset, layout: Layout) -> Words:
    big = data_set.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    words = Words(
        bytes(data_set.PixelData),
        (layout.planes, layout.height, layout.width, layout.channels),
        allocated=int(data_set.BitsAllocated),
        stored=int(data_set.BitsStored),
        signed=bool(data_set.get("PixelRepresentation", 0)),
        planar=layout.channels > 1 and bool(data_set.get("PlanarConfiguration", 0)),
        order=">" if big else "<",
    )
    if words.missing:
        raise ImageError(path, f"its pixel data are cut short: {words.missing:,} bytes are missing")
    return words


# --- what a grey level is --------------------------------------------------------------------------------------------


def _layout(path: Path, data_set: Dataset, notes: tuple[str, ...]) -> Layout:
    channels = int(data_set.SamplesPerPixel)
    stored, signed = int(data_set.BitsStored), bool(data_set.get("PixelRepresentation", 0))
    lowest = -(2 ** (stored - 1)) if signed else 0
    highest = lowest + 2**stored - 1
    window = _window(data_set) if channels == 1 else None
    if window is None or window.high - window.low >= highest - lowest:
        found, origin = ValueRange(lowest, highest), "stored bits"
    else:
        found, origin = window, "window"
    if "DigitalSignaturesSequence" in data_set:
        notes = (*notes, "its digital signature does not hold any more")
    if "IconImageSequence" in data_set:
        notes = (*notes, "its icon, a small picture without noise, was left out")
    return Layout(
        planes=frames_of(path, data_set),
        height=int(data_set.Rows),
        width=int(data_set.Columns),
        channels=channels,
        ranges=(found,) * channels,
        range_of=origin,
        lowest=lowest,
        highest=highest,
        notes=notes,
    )


def _window(data_set: Dataset) -> ValueRange | None:
    """Returns the narrowest first window of a file, in stored values; None where it has none, or values are looked up.

    A window is in units after rescaling (PS3.3, C.11.2.1.2): a stored value is (unit − intercept) / slope.
    """
    found = []
    for place in _functional(data_set):
        width, centre = _first(place, "WindowWidth"), _first(place, "WindowCenter")
        if width is None or centre is None or width <= 0:
            continue
        for scaling in _functional(data_set):
            if "ModalityLUTSequence" in scaling:
                return None
        slopes = [slope for slope in (_first(scaling, "RescaleSlope") for scaling in _functional(data_set)) if slope]
        intercepts = [_first(scaling, "RescaleIntercept") for scaling in _functional(data_set)]
        slope = max(slopes, key=abs, default=1.0)  # the largest makes the narrowest window
        intercept = next((value for value in intercepts if value is not None), 0.0)
        ends = sorted(((centre - width / 2 - intercept) / slope, (centre + width / 2 - intercept) / slope))
        if np.isfinite(ends).all() and ends[0] < ends[1]:
            found.append(ValueRange(*ends))
    return min(found, key=lambda window: window.high - window.low, default=None)


def _functional(data_set: Dataset) -> Iterator[Dataset]:
    """Yields the places where a window or a scale may stand: the file itself, or its frames' functional groups."""
    yield data_set
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in data_set.get(groups, None) or ():
            for name in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                yield from item.get(name, None) or ()


def _first(data_set: Dataset, name: str) -> float | None:
    value: Any = data_set.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value if isinstance(value, (int, float, str)) else value[0])
    except (TypeError, ValueError, IndexError):
        return None


def padding_of(data_set: Dataset) -> tuple[float, float] | None:
    """Returns the lowest and the highest value that stand for no pixel (PS3.3, C.7.5.1.1.2); None where none does."""
    padding = _first(data_set, "PixelPaddingValue")
    if padding is None:
        return None
    limit = _first(data_set, "PixelPaddingRangeLimit")
    ends = (padding, padding if limit is None else limit)
    return min(ends), max(ends)


# --- what the protected file says of itself --------------------------------------------------------------------------


def new_uid(source: str, pixels: bytes, key: bytes) -> UID:
    """Returns an identity that the key, the source's identity and the changed pixels make, and nothing else.

    It is a UUID as a whole number under 2.25 (PS3.5, B.2).
    """
    digest = hashlib.blake2b(
        source.encode() + b"\0" + hashlib.sha256(pixels).digest(), key=key, digest_size=16, person=b"unseg-dicom-uid"
    ).digest()
    return UID(f"2.25.{UUID(bytes=digest, version=5).int}")


def _mark(data_set: Dataset, source: str) -> None:
    """Marks a data set as derived, and names what it is derived from."""
    kinds = [str(value) for value in listed(data_set.get("ImageType"))]
    data_set.ImageType = [DERIVED, *(kinds[1:] or ["PRIMARY"])]
    _mark_frames(data_set)
    before = str(data_set.get("DerivationDescription", "") or "")
    both = f"{before}; {DESCRIPTION}" if before else DESCRIPTION
    data_set.DerivationDescription = both if len(both) <= LONGEST_DESCRIPTION else DESCRIPTION
    if source:
        item = Dataset()
        item.ReferencedSOPClassUID = data_set.get("SOPClassUID", "")
        item.ReferencedSOPInstanceUID = source
        purpose = Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = PURPOSE
        item.PurposeOfReferenceCodeSequence = Sequence([purpose])
        data_set.SourceImageSequence = Sequence([*(data_set.get("SourceImageSequence") or ()), item])
    if "IconImageSequence" in data_set:
        del data_set.IconImageSequence


def _mark_frames(data_set: Dataset) -> None:
    """Marks the frame types of enhanced multi-frame images, which stand in their functional groups."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in data_set.get(groups, None) or ():
            for element in group:
                for item in element.value if element.VR == "SQ" else ():
                    if "FrameType" in item:
                        item.FrameType = [DERIVED, *listed(item.FrameType)[1:]]
