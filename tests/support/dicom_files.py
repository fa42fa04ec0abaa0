"""Real DICOM files that come with pydicom, and made ones: images and segmentations."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SECONDARY, SEGMENTATION = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"


def shipped(name: str, to: Path) -> Path:
    """Copies one of pydicom's files to `to`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    copyfile(SHIPPED / name, to)
    return to


def made(path: Path, words: np.ndarray, **elements: object) -> Path:
    """Writes an image: frames×H×W of unsigned words of 8 or 16 bits, all stored; `elements` come before those."""
    data_set = _empty(path, SECONDARY, "1.2.3.4.5")
    frames, height, width = words.shape
    bits = words.dtype.itemsize * 8
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns, data_set.NumberOfFrames = height, width, frames
    data_set.BitsAllocated = data_set.BitsStored = bits
    data_set.HighBit, data_set.PixelRepresentation = bits - 1, 0
    data_set.PixelData = words.tobytes()
    data_set["PixelData"].VR = "OW" if bits == 16 else "OB"
    for name, value in elements.items():
        setattr(data_set, name, value)
    data_set.save_as(path, enforce_file_format=True)
    return path


def segmentation(path: Path, masks: np.ndarray, sources: list[tuple[str, int | None]], segments: list[int]) -> Path:
    """Writes a binary segmentation: frames×H×W bool, each of one segment, for a frame (from 1) of an instance."""
    data_set = _empty(path, SEGMENTATION, "1.2.3.4.9")
    frames, height, width = masks.shape
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns, data_set.NumberOfFrames = height, width, frames
    data_set.BitsAllocated = data_set.BitsStored = 1
    data_set.HighBit, data_set.PixelRepresentation, data_set.SegmentationType = 0, 0, "BINARY"
    packed = np.packbits(masks.reshape(-1), bitorder="little").tobytes()
    data_set.PixelData = packed + bytes(len(packed) % 2)
    groups = []
    for (instance, frame), segment in zip(sources, segments, strict=True):
        source, derivation, number, group = Dataset(), Dataset(), Dataset(), Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = SECONDARY, instance
        if frame is not None:
            source.ReferencedFrameNumber = frame
        derivation.SourceImageSequence = Sequence([source])
        number.ReferencedSegmentNumber = segment
        group.DerivationImageSequence = Sequence([derivation])
        group.SegmentIdentificationSequence = Sequence([number])
        groups.append(group)
    data_set.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data_set.save_as(path, enforce_file_format=True)
    return path


def _empty(path: Path, kind: str, instance: str) -> FileDataset:
    head = FileMetaDataset()
    head.TransferSyntaxUID, head.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UID(kind)
    head.MediaStorageSOPInstanceUID = UID(instance)
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set = FileDataset(str(path), {}, file_meta=head, preamble=bytes(128))
    data_set.SOPClassUID, data_set.SOPInstanceUID = kind, instance
    data_set.PatientName, data_set.PatientID = "Doe^Jane", "77"
    return data_set
