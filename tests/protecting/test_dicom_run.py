"""DICOM files protected and verified: real ones that pydicom ships, and made ones with what is rare."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.dicom_files import SHIPPED, made, segmentation, shipped
from unseg.protecting.manifest import Entry, read_manifest
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.picture_kinds import START, kind_of
from unseg.storage.stacks.dicom_elements import instance_in
from unseg.storage.stacks.dicom_reading import FIRST
from unseg.storage.stacks.stack_kinds import KINDS

KEY = bytes(range(32))
CHANGED = {"ImageType", "SOPInstanceUID", "DerivationDescription", "SourceImageSequence", "PixelData"}
SETTINGS = ProtectSettings(workers=1)


def _mask(path: Path, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 5 : height // 2 + 1, width // 3 : 3 * width // 4] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(mask).save(path)
    return mask > 0


def _protect(folder: Path, settings: ProtectSettings = SETTINGS) -> Summary:
    return protect(folder / "in", folder / "out", settings, masks=folder / "masks", key=KEY)


def _lines(folder: Path) -> dict[str, Entry]:
    manifest = read_manifest(folder / "out")
    assert manifest is not None
    return {entry.input: entry for entry in manifest.entries.values()}


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("MR_small.dcm", 8 * 1600 / 255),  # its window is 1600 wide, and it rescales nothing
        ("MR_small_implicit.dcm", 8 * 1600 / 255),
        ("MR_small_bigendian.dcm", 8 * 1600 / 255),
        ("dicomdirtests/98892003/MR700/4558", 8 * 359 / 255),
        ("dicomdirtests/77654033/CR1/6154", 8 * 2800 / 0.684 / 255),  # MONOCHROME1, 12 bits in 16, with a slope
        ("examples_overlay.dcm", 8 * 790 / 255),  # whose first of two windows counts
    ],
)
def test_a_real_file_changes_in_its_pixels_alone(tmp_path: Path, name: str, most: float) -> None:
    original = pydicom.dcmread(shipped(name, tmp_path / "in" / "a.dcm"))
    region = _mask(tmp_path / "masks" / "a.png", original.Rows, original.Columns)
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected" and entry.output == "a.dcm", entry.reason
    made_ = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    change = made_.pixel_array.astype(np.int64) - original.pixel_array
    limit = min(int(most), 8 * (2**original.BitsStored - 1) // 255)
    assert not change[~region].any()
    assert np.abs(change[region]).max() == limit and np.median(np.abs(change[region])) == limit
    icons = {"IconImageSequence"} if "IconImageSequence" in original else set()
    for element in [*original, *made_]:
        if element.keyword not in CHANGED | icons and element.tag.element != 0:
            assert made_[element.tag] == original[element.tag], element
    assert made_.ImageType[0] == "DERIVED" and list(made_.ImageType[1:]) == list(original.ImageType[1:])
    assert made_.SOPInstanceUID == made_.file_meta.MediaStorageSOPInstanceUID != original.SOPInstanceUID
    assert made_.SourceImageSequence[-1].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert made_.preamble == original.preamble
    result = verify(tmp_path / "out")
    assert result.exit_code == 0 and result.findings[0].max_object == pytest.approx(8, abs=0.35)


def test_two_runs_write_the_same_bytes_and_another_key_another_identity(tmp_path: Path) -> None:
    written = []
    for place, key in (("a", KEY), ("b", KEY), ("c", KEY[::-1])):
        shipped("MR_small.dcm", tmp_path / place / "in" / "a.dcm")
        _mask(tmp_path / place / "masks" / "a.png", 64, 64)
        protect(tmp_path / place / "in", tmp_path / place / "out", SETTINGS, masks=tmp_path / place / "masks", key=key)
        written.append(tmp_path / place / "out" / "a.dcm")
    assert written[0].read_bytes() == written[1].read_bytes()
    assert pydicom.dcmread(written[0]).SOPInstanceUID != pydicom.dcmread(written[2]).SOPInstanceUID


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("SC_rgb_rle_2frame.dcm", 2),
        ("MR_small_RLE.dcm", 1),
        ("MR_small_jp2klossless.dcm", 1),
        ("SC_rgb_jpeg_dcmtk.dcm", 1),
    ],
)
def test_packed_pixels_are_unpacked_and_verified(tmp_path: Path, name: str, frames: int) -> None:
    original = pydicom.dcmread(shipped(name, tmp_path / "in" / "a.dcm"))
    _mask(tmp_path / "masks" / "a.png", original.Rows, original.Columns)
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected" and entry.planes == frames and "unpacked from" in (entry.note or "")
    assert not pydicom.dcmread(tmp_path / "out" / "a.dcm").file_meta.TransferSyntaxUID.is_encapsulated
    assert verify(tmp_path / "out").exit_code == 0


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    reasons = {
        "MR_small_jpeg_ls_lossless.dcm": "a decoder is missing",
        "MR_truncated.dcm": "(7fe0,0010) is cut short",
        "examples_palette.dcm": "PALETTE COLOR colours",
        "image_dfl.dcm": "deflated",
        "rtdose.dcm": "32 bits stored in 32",
        "liver_1frame.dcm": "is a DICOM segmentation",
        "test-SR.dcm": "holds no picture",
        "ExplVR_BigEnd.dcm": "big-endian",
        "SC_rgb_jpeg.dcm": "broken image: element",
    }
    for name in reasons:
        size = pydicom.dcmread(shipped(name, tmp_path / "in" / name), stop_before_pixels=True)
        _mask((tmp_path / "masks" / name).with_suffix(".png"), size.get("Rows", 4), size.get("Columns", 4))
    summary = _protect(tmp_path)
    assert [entry.status for entry in summary.entries] == ["failed"] * len(reasons)
    for entry in summary.entries:
        assert reasons[entry.input] in (entry.reason or ""), entry


def test_padding_bits_above_and_odd_lengths_stay(tmp_path: Path) -> None:
    words = np.arange(7 * 9, dtype=np.uint16).reshape(1, 7, 9) * 60 % 4096 | 0xA000  # an overlay's bits above 12
    words[0, 3, :5] = 0xA000  # the padding value
    made(tmp_path / "in" / "a.dcm", words, BitsStored=12, HighBit=11, PixelPaddingValue=0)
    Pillow.fromarray(np.full((7, 9), 255, np.uint8)).save(_made(tmp_path / "masks") / "a.png")
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected", entry
    after = np.frombuffer(pydicom.dcmread(tmp_path / "out" / "a.dcm").PixelData, "<u2").reshape(7, 9)
    assert (after >> 12 == 0xA).all() and (after[3, :5] == 0xA000).all()
    assert ((after & 0xFFF == 0) == (words[0] & 0xFFF == 0)).all()  # nothing became padding
    assert verify(tmp_path / "out").exit_code == 0
    changed = bytearray((tmp_path / "out" / "a.dcm").read_bytes())
    place = changed.rindex(after.tobytes())
    changed[place + 1] ^= 0x40  # a bit above the values
    (tmp_path / "out" / "a.dcm").write_bytes(changed)
    assert "bits above its values" in str(verify(tmp_path / "out").findings[0].problem)


def test_a_file_protected_on_its_object_is_never_protected_whole_in_its_place(tmp_path: Path) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    shipped("MR_small_implicit.dcm", tmp_path / "in" / "b.dcm")
    _mask(tmp_path / "masks" / "a.png", 64, 64)
    _mask(tmp_path / "masks" / "other.png", 64, 64)
    _protect(tmp_path)
    before = (tmp_path / "out" / "a.dcm").read_bytes()
    (tmp_path / "masks" / "a.png").unlink()
    whole = replace(SETTINGS, unmasked="whole")
    foreseen = protect(tmp_path / "in", tmp_path / "new", whole, masks=tmp_path / "masks", key=KEY, dry_run=True)
    assert [entry.status for entry in foreseen.entries] == ["protected", "protected"]
    first, second = _protect(tmp_path, whole).entries
    assert (first.status, second.status, second.object) == ("failed", "protected", "whole image")
    assert first.reason == (
        "no mask for it, but an earlier run protected it: put back what said where its object is, or remove a.dcm from"
        " the output"
    )
    assert (tmp_path / "out" / "a.dcm").read_bytes() == before


def test_measures_of_pictures_are_not_waited_for(tmp_path: Path) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    _mask(tmp_path / "masks" / "a.png", 64, 64)
    measured = replace(SETTINGS, quality=True)
    assert _protect(tmp_path, measured).kept == 0
    assert _protect(tmp_path, measured).kept == 1


def test_a_changed_element_and_a_broken_bound_are_found(tmp_path: Path) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    _mask(tmp_path / "masks" / "a.png", 64, 64)
    _protect(tmp_path)
    out = tmp_path / "out" / "a.dcm"
    good = out.read_bytes()
    for change, problem in (
        (lambda file: setattr(file, "PatientID", "other"), "(0010,0020) is not the original's"),
        (lambda file: setattr(file, "ImageType", ["ORIGINAL", *file.ImageType[1:]]), "does not say that it is derived"),
        (lambda file: file.__delattr__("SourceImageSequence"), "does not name the instance"),
        (lambda file: setattr(file, "PixelData", b"\xff\x7f" + file.PixelData[2:]), "changes the background by"),
    ):
        file = pydicom.dcmread(out)
        change(file)
        file.save_as(out)
        assert problem in str(verify(tmp_path / "out").findings[0].problem)
        out.write_bytes(good)
    assert verify(tmp_path / "out").exit_code == 0


def test_a_manifest_with_a_wider_range_is_found(tmp_path: Path) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    _mask(tmp_path / "masks" / "a.png", 64, 64)
    _protect(tmp_path)
    path = tmp_path / "out" / "unseg-manifest.jsonl"
    head, line = path.read_text().splitlines()
    path.write_text(f"{head}\n{json.dumps({**json.loads(line), 'value_ranges': [[-9000.0, 9000.0]]})}\n")
    assert "its original's values range over" in str(verify(tmp_path / "out").findings[0].problem)


def test_frames_follow_a_segmentation_of_a_whole_series(tmp_path: Path) -> None:
    words = (np.arange(3 * 10 * 14, dtype=np.uint8).reshape(3, 10, 14) % 90) + 80
    made(tmp_path / "in" / "first.dcm", words)
    made(tmp_path / "in" / "IM2", words[:1], SOPInstanceUID="1.2.3.4.6")
    made(tmp_path / "in" / "other.dcm", words[:1], SOPInstanceUID="1.2.3.4.7")
    masks = np.zeros((3, 10, 14), bool)
    masks[0, 2:5, 3:9], masks[1, 6:9, 1:12], masks[2, 1:4, 2:6] = True, True, True
    segmentation(
        tmp_path / "masks" / "series.dcm", masks, [("1.2.3.4.5", 2), ("1.2.3.4.5", 3), ("1.2.3.4.6", None)], [1, 1, 2]
    )
    summary = _protect(tmp_path)
    lines = {entry.input: entry for entry in summary.entries}
    assert lines["other.dcm"].status == "skipped"
    change = pydicom.dcmread(tmp_path / "out" / "first.dcm").pixel_array.astype(int) - words
    assert not change[0].any() and ((change[1] != 0) == masks[0]).all() and ((change[2] != 0) == masks[1]).all()
    assert ((pydicom.dcmread(tmp_path / "out" / "IM2").pixel_array != words[0]) == masks[2]).all()
    assert not [finding for finding in verify(tmp_path / "out").findings if finding.problem]


def test_the_first_bytes_tell_which_instance_a_file_is() -> None:
    """As pydicom reads the whole of each file that it ships; one is packed as a whole, one broken, others have none."""
    untold = []
    for path in sorted(SHIPPED.glob("*.dcm")):
        start = path.read_bytes()[:FIRST]
        if kind_of(start[:START]) == "DICOM":
            whole = str(pydicom.dcmread(path, stop_before_pixels=True).get("SOPInstanceUID", ""))
            if instance_in(start) is None and whole:
                untold.append(path.name)
            else:
                assert (instance_in(start) or "") == whole, path
    assert untold == ["SC_rgb_jpeg.dcm", "image_dfl.dcm"]


def _group(**sequences: Dataset) -> Dataset:
    group = Dataset()
    for name, item in sequences.items():
        setattr(group, name, Sequence([item]))
    return group


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def test_enhanced_frames_have_their_window_and_type_in_functional_groups(tmp_path: Path) -> None:
    words = (np.arange(2 * 9 * 13, dtype=np.uint16).reshape(2, 9, 13) * 31) % 3000 + 200
    shared = _group(
        PixelValueTransformationSequence=_item(RescaleSlope="2", RescaleIntercept="-100", RescaleType="US"),
        MRImageFrameTypeSequence=_item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"]),
    )
    frames = [
        _group(FrameVOILUTSequence=_item(WindowCenter="900", WindowWidth=width)) for width in ("2040", "1020")
    ]  # of which the narrower counts: 1020 after rescaling are 510 stored values
    made(
        tmp_path / "in" / "a.dcm",
        words,
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"],
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    (entry,) = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert entry.value_ranges == ((245.0, 755.0),) and entry.range_of == "window", entry
    after = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    assert np.abs(after.pixel_array.astype(int) - words).max() == 16  # 8 · 510 / 255
    group = after.SharedFunctionalGroupsSequence[0]
    assert list(group.MRImageFrameTypeSequence[0].FrameType) == ["DERIVED", "PRIMARY", "M", "NONE"]
    assert group.PixelValueTransformationSequence[0].RescaleSlope == 2
    result = verify(tmp_path / "out")
    assert not result.findings[0].problem, result
    group.PixelValueTransformationSequence[0].RescaleSlope = "3"
    after.save_as(tmp_path / "out" / "a.dcm")
    assert "(5200,9229) is not the original's" in str(verify(tmp_path / "out").findings[0].problem)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 2_000_000_000}, "2000000000 frames"),
        ({"NumberOfFrames": 60_000, "Rows": 60_000, "Columns": 60_000}, "over the limit"),
        ({"Rows": 9_000, "Columns": 9_000}, "cut short"),
        ({"Rows": 0}, "planes of"),
        ({"BitsStored": 3, "HighBit": 2}, "3 bits stored"),
        ({"SamplesPerPixel": 5}, "colours are not protected"),
    ],
)
def test_absurd_headers_are_refused_within_little_memory(tmp_path: Path, elements: dict[str, int], reason: str) -> None:
    made(tmp_path / "in" / "a.dcm", np.full((1, 6, 8), 100, np.uint8), **elements)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY)
    assert reason in (summary.entries[0].reason or ""), summary.entries[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_packed_frame_larger_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = shipped("MR_small_jp2klossless.dcm", tmp_path / "in" / "a.dcm")
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\x4f\xff\x51") + 8
    data[place : place + 4] = (60_000).to_bytes(4, "big")
    path.write_bytes(data)
    summary = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY)
    assert "frame 1 is packed as 60000×64" in (summary.entries[0].reason or "")


def test_every_cut_of_a_file_is_one_line(tmp_path: Path) -> None:
    data = (SHIPPED / "MR_small.dcm").read_bytes()
    for number, length in enumerate((140, 200, 400, 800, 1500, len(data) - 1)):
        (_made(tmp_path / "in") / f"{number}.dcm").write_bytes(data[:length])
    summary = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY)
    assert {entry.status for entry in summary.entries} == {"failed"}


def test_without_the_extra_one_line_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    monkeypatch.setattr(type(KINDS["DICOM"]), "is_there", False)
    (entry,) = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert entry.reason == "DICOM needs pydicom, which is not installed; run: pip install 'unseg[formats]'"


def test_a_networks_noise_and_outlines_are_refused(tmp_path: Path) -> None:
    shipped("MR_small.dcm", tmp_path / "in" / "a.dcm")
    (tmp_path / "points.json").write_text('{"a.dcm": [[9, 9]]}')
    (entry,) = protect(tmp_path / "in", tmp_path / "out", SETTINGS, points=tmp_path / "points.json", key=KEY).entries
    assert "outlines are found in pictures" in (entry.reason or "")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
