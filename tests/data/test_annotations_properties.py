"""Properties of the annotation decoders over generated masks, ids and outlines, against plain computations."""

from __future__ import annotations

import codecs
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from pycocotools import mask as coco_mask
from skimage.measure import points_in_poly

from tests.support.annotation_sets import counts_of
from unseg.data.annotations import ObjectRule, open_annotations
from unseg.data.annotations.core import index_values
from unseg.data.annotations.json_stream import JsonStream, read_entries, stamp
from unseg.data.annotations.names import safe_name
from unseg.data.annotations.runs import (
    OutlineError,
    Runs,
    count_coverage,
    paint,
    parse_counts,
    runs_of_counts,
    runs_of_mask,
)
from unseg.errors import UserError
from unseg.storage.text_encoding import LONGEST_MARK

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
def test_runs_give_the_mask_back_from_every_form(mask: np.ndarray) -> None:
    size = mask.shape
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    assert parse_counts(packed).tolist() == counts_of(mask)
    for runs in (
        runs_of_counts(parse_counts(packed.decode()), *size),
        runs_of_mask(mask),
        runs_of_counts(np.array(counts_of(mask), np.int64), *size),
    ):
        assert np.array_equal(runs.mask(*size), mask) and runs.area == mask.sum()


def packed_counts(counts: list[int]) -> bytes:
    """COCO's compressed counts, number by number."""
    packed = bytearray()
    for index, count in enumerate(counts):
        rest = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            packed.append(48 + digit + 32 * more)
    return bytes(packed)


@given(st.lists(st.integers(0, 2**27), min_size=1, max_size=12))
def test_packed_counts_of_large_images(counts: list[int]) -> None:
    """Images of up to 2^31 pixels."""
    assume(0 < sum(counts) < 2**31)
    assert parse_counts(packed_counts(counts)).tolist() == counts


# Not larger: pycocotools' rleToString takes six bytes a count and writes one more where all counts fill theirs (from
# 2^24 on).
@given(st.lists(st.integers(0, 2**23 - 1), min_size=1, max_size=12))
def test_packed_counts_are_those_of_pycocotools(counts: list[int]) -> None:
    total = sum(counts)
    assume(total > 0)
    assert packed_counts(counts) == coco_mask.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)["counts"]


@given(st.binary(max_size=40))
def test_any_packed_text_is_counts_of_the_image_or_refused(text: bytes) -> None:
    try:
        runs = runs_of_counts(parse_counts(text), 5, 7)
    except OutlineError:
        return
    mask = runs.mask(5, 7)
    assert mask.shape == (5, 7) and mask.sum() == runs.area
    assert np.array_equal(mask, coco_mask.decode({"size": [5, 7], "counts": text}).astype(bool))


@given(st.lists(MASKS.filter(lambda mask: mask.shape), min_size=0, max_size=5), st.randoms())
def test_union_and_painting_equal_plain_loops(masks: list[np.ndarray], random) -> None:
    height, width = 9, 8
    masks = [np.resize(mask, (height, width)) for mask in masks]
    codes = [random.randrange(100) for _ in masks]
    union, painted = np.zeros((height, width), bool), np.full((height, width), -1)
    for mask, code in zip(masks, codes, strict=True):
        union |= mask
        painted[mask] = code
    runs = [runs_of_mask(mask) for mask in masks]
    assert np.array_equal(count_coverage(runs, height, width), union)
    assert np.array_equal(paint(runs, codes, -1, height, width), painted)
    assert count_coverage(runs, height, width).flags.c_contiguous


def test_empty_runs() -> None:
    nothing = Runs(np.zeros(0, np.int32), np.zeros(0, np.int32))
    assert not nothing.mask(2, 3).any() and (paint([nothing], [5], -1, 2, 3) == -1).all()
    with pytest.raises(OutlineError, match="add up to 0 pixels"):
        runs_of_counts(parse_counts(""), 2, 3)


@given(
    arrays.arrays(np.int32, st.tuples(st.integers(1, 300), st.integers(1, 3)), elements=st.integers(0, 20)),
    st.sets(st.integers(0, 20)),
)
def test_index_values(values: np.ndarray, known: set[int]) -> None:
    listed = sorted(known)
    index = index_values(values, np.array(listed, np.int32))
    assert index.tolist() == [
        [listed.index(value) if value in known else len(listed) for value in row] for row in values.tolist()
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 2**24 - 1), min_size=1, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_panoptic_ids_round_trip(ids: list[int], random) -> None:
    """Ids of the whole range through PNG and json; each segment gets its own pixels back."""
    drawn = np.array([[random.choice([0, *ids]) for _ in range(7)] for _ in range(5)])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("images", "pan"):
            (root / name).mkdir()
        Pillow.new("RGB", (7, 5)).save(root / "images" / "x.png")
        coded = np.array(
            [[[number & 255, number >> 8 & 255, number >> 16] for number in row] for row in drawn.tolist()]
        )
        Pillow.fromarray(coded.astype(np.uint8)).save(root / "pan" / "x.png")
        (root / "pan.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "x.png", "height": 5, "width": 7}],
                    "categories": [{"id": 1, "name": "a", "isthing": 1}],
                    "annotations": [
                        {
                            "image_id": 1,
                            "file_name": "x.png",
                            "segments_info": [{"id": number, "category_id": 1} for number in ids],
                        }
                    ],
                }
            )
        )
        annotated = open_annotations(root / "pan.json", root / "images").read("x.png", 5, 7)
    assert {segment.instance_id: segment.mask.tolist() for segment in annotated.segments} == {
        number: (drawn == number).tolist() for number in ids
    }
    assert np.array_equal(annotated.object_mask(ObjectRule()), drawn != 0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 40),
    st.integers(3, 40),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
)  # outlines that cross themselves have no inside
def test_yolo_outlines_round_trip(height: int, width: int, corners: list[tuple[float, float]]) -> None:
    """Written with six digits as Ultralytics does: pixels whose centre is well inside or outside are as they should."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("images", "labels"):
            (root / name).mkdir()
        Pillow.new("RGB", (width, height)).save(root / "images" / "x.png")
        (root / "labels" / "x.txt").write_text("4 " + " ".join(f"{x:.6f} {y:.6f}" for x, y in corners))
        annotated = open_annotations(root / "labels", root / "images", "yolo").read("x.png", height, width)
    (segment,) = annotated.segments
    assert segment.class_id == 4 and segment.mask.shape == (height, width)
    scaled = np.array(corners) * (width, height)
    sides = np.roll(scaled, -1, 0) - scaled
    lengths = np.linalg.norm(sides, axis=1)
    assume(lengths.min() > 1e-3)
    rows, columns = np.mgrid[:height, :width] + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], 1)
    offsets = centres[:, None] - scaled
    along = ((offsets * sides).sum(-1) / lengths**2).clip(0, 1)
    clear = np.linalg.norm(offsets - along[..., None] * sides, axis=-1).min(1).reshape(height, width) > 0.5
    inside = points_in_poly(centres, scaled).reshape(height, width)
    assert np.array_equal(segment.mask[clear], inside[clear])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=6), st.lists(JSON_VALUES, max_size=5) | JSON_VALUES, max_size=5),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from([("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("utf-16-be", codecs.BOM_UTF16_BE)])
    | st.sampled_from([("utf-16-le", codecs.BOM_UTF16_LE), ("utf-32-le", codecs.BOM_UTF32_LE)]),
    st.integers(1, 40),
)
def test_json_stream_reads_what_json_reads(
    content: dict, indent: int | None, plain: bool, encoding: tuple[str, bytes], chunk: int
) -> None:
    """Whatever the pieces in which the file comes: values, elements, skipped members, and the places of elements."""
    name, mark = encoding
    text = json.dumps(content, indent=indent, ensure_ascii=plain).encode("utf-8", "ignore").decode()
    data, content = mark + text.encode(name), json.loads(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)

        class Slow(io.BytesIO):
            def read(self, size: int = -1) -> bytes:
                return super().read(size if size <= LONGEST_MARK else chunk)

        for skipping in (False, True):
            stream, found = JsonStream(path, Slow(data)), {}
            for number, key in enumerate(stream.members()):
                if skipping and number % 2:
                    stream.skip()
                    found[key] = content[key]
                elif isinstance(content[key], list):
                    elements = list(stream.elements())
                    found[key] = [value for value, _, _ in elements]
                    spans = [(begin, end) for _, begin, end in elements]
                    assert list(read_entries(path, spans, stamp(path))) == content[key]
                else:
                    found[key] = stream.value()
            assert found == content and list(found) == list(content)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=4), st.lists(JSON_VALUES, max_size=3), min_size=1, max_size=3), st.data())
def test_cut_json_is_never_taken_for_whole(content: dict, data: st.DataObject) -> None:
    whole = json.dumps(content).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for skipping in (False, True):
        with pytest.raises(UserError, match="x.json: not usable JSON at byte"):
            stream = JsonStream(Path("x.json"), io.BytesIO(cut))
            for _ in stream.members():
                stream.skip() if skipping else stream.value()


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from(list("ab./\\:C\0 ~\u00e9")), max_size=12))
def test_safe_names_stay_inside(name: str) -> None:
    try:
        safe = safe_name(name, "x")
    except UserError:
        return
    root = Path("root").absolute()
    inside = Path(root, safe)
    assert not Path(safe).is_absolute() and "\\" not in safe and ".." not in Path(safe).parts
    assert Path(*[part for part in inside.parts if part != "."]).is_relative_to(root) and inside != root
