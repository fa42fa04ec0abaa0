"""unseg.protecting.verification finds every way in which a protected folder can break its promise."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.fake_generator import loaded
from unseg.compute.in_flight import InFlight
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting import findings
from unseg.protecting.comparison import Comparison, compare
from unseg.protecting.manifest import MANIFEST, Entry
from unseg.protecting.originals import Originals
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import Verification, verify
from unseg.storage import image_decoding, image_encoding
from unseg.storage.image_decoding import Image, decode_image, read_image
from unseg.storage.image_encoding import write_png

SETTINGS = ProtectSettings(device="cpu", workers=1, budget=Budget(8, 2))


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    """photos/ with masks/ (object: the lower half), protected into out/."""
    random = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png"):
        photo, mask = tmp_path / "photos" / name, tmp_path / "masks" / name
        for path in (photo, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(random.integers(60, 200, (40, 50, 3), dtype=np.uint8)).save(photo)
        Pillow.fromarray((np.arange(40)[:, None] >= 20).repeat(50, 1).astype(np.uint8) * 255).save(mask)
    summary = protect([tmp_path / "photos"], tmp_path / "out", SETTINGS, masks=tmp_path / "masks", generator=loaded())
    assert summary.exit_code == 0
    return tmp_path / "out"


def tamper(path: Path, row: int, value: int) -> None:
    pixels = read_image(path).pixels.copy()
    pixels[row, 7] = value
    write_png(path, pixels)


def problem(result: Verification) -> str:
    assert result.exit_code == 1 and len(result.failures) == 1
    return f"{result.failures[0].name}: {result.failures[0].problem}"


def test_a_protected_folder_is_proved(protected: Path) -> None:
    result = verify(protected)
    assert result.exit_code == 0 and [finding.name for finding in result.findings] == ["a.png", "sub/b.png"]
    assert {(finding.max_object, finding.max_background) for finding in result.findings} == {(8, 2)}


@pytest.mark.parametrize(("pixels", "at_a_time"), [(3999, 1), (4000, 2)])
def test_all_threads_share_one_budget_of_pixels(
    protected: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, at_a_time: int
) -> None:
    """Two images of 2,000 pixels each; how many there are comes from their headers."""
    now, most, lock = 0, 0, threading.Lock()

    def compare_slowly(entry: Entry, originals: Originals) -> Comparison:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.2)
        with lock:
            now -= 1
        return compare(entry, originals)

    monkeypatch.setattr(findings, "PIXELS", InFlight(pixels))
    monkeypatch.setattr(findings, "compare", compare_slowly)
    assert verify(protected, workers=4).exit_code == 0 and most == at_a_time


def test_a_channel_that_its_reader_loses_is_found(protected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is one for both sides: what it drops is missing on both."""
    for path in (protected / "a.png", protected.parent / "photos" / "a.png"):
        pixels = np.asarray(Pillow.open(path))
        Pillow.fromarray(np.dstack([pixels, pixels[..., 1]])).save(path)

    def without_alpha(path: Path, data: bytes, *arguments: int, **options: bool) -> Image:
        return replace(decode_image(path, data, *arguments, **options), alpha=None)

    monkeypatch.setattr(image_decoding, "decode_image", without_alpha)
    assert "a second decoder reads 50×40 of 4 channels in 8 bits, not RGB in 8 bits" in problem(verify(protected))


@pytest.mark.parametrize(
    ("row", "by", "expected"),
    [
        (30, 9, "changes the object by 9, budget 8"),
        (3, 3, "changes the background by 3, budget 2"),
        (3, 8, "changes the background by 8, budget 2"),
    ],
)
def test_one_pixel_beyond_its_budget_is_found(protected: Path, row: int, by: int, expected: str) -> None:
    original = read_image(protected.parent / "photos" / "a.png").pixels
    pixels = read_image(protected / "a.png").pixels.copy()
    pixels[row, 7, 1] = original[row, 7, 1] + by
    write_png(protected / "a.png", pixels)
    assert problem(verify(protected)) == f"a.png: {expected}; changed since it was written (another sha256)"


def test_a_change_within_the_budget_is_still_a_change(protected: Path) -> None:
    pixels = read_image(protected / "a.png").pixels.copy()
    pixels[30, 7, 1] = read_image(protected.parent / "photos" / "a.png").pixels[30, 7, 1]
    write_png(protected / "a.png", pixels)
    assert problem(verify(protected)) == "a.png: changed since it was written (another sha256)"


def relabelled(folder: Path, **header: str) -> None:
    """Lets the manifest say that its files are as they are now. header: fields of its first line."""
    first, *lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    for line in lines:
        line["output_sha256"] = hashlib.sha256((folder / line["output"]).read_bytes()).hexdigest()
    text = "".join(f"{json.dumps(line)}\n" for line in ({**first, **header}, *lines))
    (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize(
    ("by", "version", "share"),
    [(0, "0.2.0", 0), (1, "0.2.0", 1), (0, "0.1.0", 0), (1, "0.1.0", None), (2, "0.2.0", None)],
)
def test_what_changed_too_little_is_not_called_protected_whatever_its_line_says(
    protected: Path, by: int, version: str, share: int | None
) -> None:
    """A quarter of 8 is enough. Version 0.1 did not tell weak images apart, but nothing is never enough."""
    original = read_image(protected.parent / "photos" / "a.png").pixels
    write_png(protected / "a.png", original + np.where(np.arange(40)[:, None, None] >= 20, by, 0).astype(np.uint8))
    relabelled(protected, unseg=version)
    found = verify(protected)
    if share is None:
        assert found.exit_code == 0
        return
    under = f"its object changed by {share} grey levels on average, under a quarter of 8"
    under = under if share else "its object did not change; the budget is 8 grey levels"
    assert problem(found) == f"a.png: is called protected, but {under}"


def test_any_changed_byte_is_found(protected: Path) -> None:
    content = (protected / "a.png").read_bytes()
    for place in np.random.default_rng(5).integers(0, len(content), 40).tolist() + [0, len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1
        (protected / "a.png").write_bytes(changed)
        assert problem(verify(protected, workers=1)).startswith("a.png: ")
    (protected / "a.png").write_bytes(content + b"\0")
    assert problem(verify(protected)) == "a.png: changed since it was written (another sha256)"
    (protected / "a.png").write_bytes(content)
    assert verify(protected).exit_code == 0


@pytest.mark.parametrize(("row", "limit"), [(30, 8), (3, 2)])
def test_the_bound_of_16_bits_is_proved_to_the_last_value(tmp_path: Path, row: int, limit: int) -> None:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    original = np.random.default_rng(0).integers(20_000, 40_000, (40, 50, 3), dtype=np.uint16)
    write_png(tmp_path / "photos" / "a.png", original)
    write_png(tmp_path / "masks" / "a.png", (np.arange(40)[:, None] >= 20).repeat(50, 1).astype(np.uint8) * 255)
    out = tmp_path / "out"
    protect([tmp_path / "photos"], out, SETTINGS, masks=tmp_path / "masks", generator=loaded())
    assert verify(out).exit_code == 0
    for over in (0, 1):
        changed = read_image(out / "a.png").samples.copy()
        changed[row, 7, 1] = original[row, 7, 1] - limit * 257 - over
        write_png(out / "a.png", changed)
        beyond = (
            f"changes the {'object' if limit == 8 else 'background'} by {limit + 1 / 257:g}, budget {limit}; "
            if over
            else ""
        )
        assert problem(verify(out)) == f"a.png: {beyond}changed since it was written (another sha256)"


def test_another_depth_or_colour_is_found(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    write_png(tmp_path / "photos" / "a.png", np.full((9, 9), 100, np.uint8))
    out = tmp_path / "out"
    protect([tmp_path / "photos"], out, SETTINGS, generator=loaded(), whole_image=True)
    write_png(out / "a.png", np.full((9, 9), 100 * 257, np.uint16))
    assert problem(verify(out)) == "a.png: it is 16-bit grey, its original is 8-bit grey"
    write_png(out / "a.png", np.arange(243, dtype=np.uint8).reshape(9, 9, 3))
    assert problem(verify(out)) == "a.png: it is 8-bit colour, its original is 8-bit grey"


def test_hidden_and_temporary_files_are_extra_too(protected: Path) -> None:
    for name in (".hidden", ".unseg-0123456789abcdef.tmp", "sub/.cache"):
        (protected / name).touch()
    assert verify(protected).extra == (".hidden", ".unseg-0123456789abcdef.tmp", "sub/.cache")


def test_large_images_are_not_decoded_beyond_the_limit(protected: Path) -> None:
    result = verify(protected, max_megapixels=0.001)
    assert all(
        "is over the limit of 0.001 megapixels: raise --max-megapixels" in item.problem for item in result.failures
    )
    with pytest.raises(UserError, match="--max-megapixels nan: give a number over 0"):
        verify(protected, max_megapixels=float("nan"))


def test_missing_extra_and_broken_files(protected: Path) -> None:
    (protected / "sub" / "b.png").unlink()
    (protected / "sub" / "new.txt").write_text("x")
    (protected / "a.png").write_bytes((protected / "a.png").read_bytes()[:1000])
    result = verify(protected)
    assert result.missing == ("sub/b.png",) and result.extra == ("sub/new.txt",)
    assert [finding.problem for finding in result.failures if finding.name == "sub/b.png"] == ["missing"]
    assert "broken image" in next(finding.problem for finding in result.failures if finding.name == "a.png")
    assert result.exit_code == 1


def test_an_extra_file_alone_fails(protected: Path) -> None:
    (protected / "original.jpg").write_bytes(b"x")
    result = verify(protected)
    assert not result.failures and result.exit_code == 1


def test_another_size_and_changed_originals_and_masks_are_found(protected: Path) -> None:
    shutil.copytree(protected.parent, protected.parent / "copy")
    write_png(protected / "a.png", read_image(protected / "a.png").pixels[:-1])
    assert problem(verify(protected)).startswith("a.png: its size 50×39 is not the original's 50×40")
    copy = protected.parent / "copy"
    tamper(copy / "photos" / "a.png", 30, 130)
    assert "its original changed since" in problem(verify(copy / "out"))
    Pillow.new("L", (50, 40), 255).save(copy / "masks" / "sub" / "b.png")
    assert [("mask" in finding.problem) for finding in verify(copy / "out").failures] == [False, True]


def test_moved_trees_and_given_folders(protected: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("out", "photos", "masks"):
        shutil.move(tmp_path / name, moved / name)
    assert verify(moved / "out").exit_code == 0  # together
    shutil.move(moved / "photos", tmp_path / "originals")
    shutil.move(moved / "masks", tmp_path / "labels")
    assert "its original" in verify(moved / "out").failures[0].problem
    assert "its mask" in verify(moved / "out", originals=tmp_path / "originals").failures[0].problem
    assert verify(moved / "out", originals=tmp_path / "originals", masks=tmp_path / "labels").exit_code == 0


def test_unprotected_images_are_no_success(protected: Path, tmp_path: Path) -> None:
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "photos" / "sub" / "b.png").write_bytes(b"")
    protect([tmp_path / "photos"], tmp_path / "new", SETTINGS, masks=tmp_path / "masks", generator=loaded())
    result = verify(tmp_path / "new")
    assert [(finding.name, finding.problem) for finding in result.unprotected] == [
        ("a.png", "left out: no mask for it"),
        ("sub/b.png", "failed: the file is empty (0 bytes)"),
    ]
    assert result.exit_code == 1 and not result.extra and not result.missing


def test_the_published_region_is_proved_too(protected: Path, tmp_path: Path) -> None:
    settings = ProtectSettings(device="cpu", region="published")
    protect([tmp_path / "photos"], tmp_path / "published", settings, masks=tmp_path / "masks", generator=loaded())
    assert verify(tmp_path / "published").exit_code == 0


def test_boxes_are_proved_from_the_manifest_alone(protected: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.png": [[3, 3, 20, 20]], "sub/b.png": [[0, 0, 5.5, 9]]}))
    assert protect([tmp_path / "photos"], tmp_path / "boxed", SETTINGS, boxes=boxes, generator=loaded()).exit_code == 0
    boxes.unlink()
    assert verify(tmp_path / "boxed").exit_code == 0
    pixels, original = (read_image(tmp_path / folder / "a.png").pixels.copy() for folder in ("boxed", "photos"))
    pixels[21, 20] = original[21, 20] + 3
    write_png(tmp_path / "boxed" / "a.png", pixels)
    assert "changes the background by 3" in problem(verify(tmp_path / "boxed"))


def test_transparency_must_be_the_original_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.full((9, 9, 3), 100, np.uint8)
    write_png(tmp_path / "photos" / "a.png", pixels, alpha=np.full((9, 9), 200, np.uint8))
    protect([tmp_path / "photos"], tmp_path / "out", SETTINGS, generator=loaded(), whole_image=True)
    assert verify(tmp_path / "out").exit_code == 0
    write_png(tmp_path / "out" / "a.png", read_image(tmp_path / "out" / "a.png").pixels)
    assert "its transparency is not the original's" in problem(verify(tmp_path / "out"))


def test_what_a_run_left_that_was_cut_off_is_never_taken_for_the_whole(protected: Path) -> None:
    """All that has a line is done, but the run would have gone on: with its next names, for instance."""
    lines = (protected / MANIFEST).read_text().splitlines(keepends=True)
    (protected / MANIFEST).write_text(
        "".join([json.dumps({**json.loads(lines[0]), "unfinished": True}) + "\n", *lines[1:]])
    )
    result = verify(protected)
    assert result.exit_code == 1 and result.as_dict()["other_files"] == [
        {
            "name": MANIFEST,
            "problem": "the run, or this file, was cut off before its end, and images may be missing: run the same"
            " command again",
        }
    ]


def test_a_manifest_cut_short_anywhere_is_read_as_far_as_it_goes(protected: Path) -> None:
    """As a run that writes it leaves it when it is killed, or the disk is full: lines at its end, the last one torn."""
    content = (protected / MANIFEST).read_bytes()
    header, lines = content.split(b"\n", 1)
    running = json.dumps({**json.loads(header), "unfinished": True}).encode() + b"\n" + lines
    for end in sorted({*range(0, len(running), 37), *range(len(running) - 3, len(running) + 1)}):
        (protected / MANIFEST).write_bytes(running[:end])
        try:
            assert verify(protected, workers=1).exit_code == 1
        except UserError as error:  # not even the first line is whole
            assert "\n" not in str(error) and end < len(running) - len(lines)
        else:
            assert end >= len(running) - len(lines) - 1


@pytest.mark.parametrize("lost", [1, 5, "line"])
def test_a_finished_manifest_that_lost_its_end_is_told(protected: Path, lost: int | str) -> None:
    """The last line may be that of an image that is not protected, which nothing else would miss."""
    content = (protected / MANIFEST).read_bytes()
    header, *lines = content.splitlines(keepends=True)
    assert json.loads(header)["lines"] == len(lines) and verify(protected, workers=1).other_files == ()
    (protected / MANIFEST).write_bytes(b"".join([header, *lines[:-1]]) if lost == "line" else content[: -int(lost)])
    result = verify(protected, workers=1)
    assert result.exit_code == 1 and "cut off" in {one.name: one.problem for one in result.other_files}[MANIFEST]


def test_a_manifest_that_counts_no_lines_is_one_of_an_earlier_version(protected: Path) -> None:
    header, rest = (protected / MANIFEST).read_text().split("\n", 1)
    before = {name: value for name, value in json.loads(header).items() if name != "lines"}
    (protected / MANIFEST).write_text(json.dumps(before) + "\n" + rest)
    assert verify(protected, workers=1).exit_code == 0
    (protected / MANIFEST).write_text(json.dumps(before) + "\n" + rest[:-1])  # it had a line feed at its end, too
    result = verify(protected, workers=1)
    assert "cut off" in {one.name: one.problem for one in result.other_files}[MANIFEST]


@pytest.mark.parametrize("form", ["png", "tiff", "webp"])
@pytest.mark.parametrize("level", [255, 254])
def test_alpha_that_is_opaque_everywhere_is_the_same_as_none(tmp_path: Path, form: str, level: int) -> None:
    """WebP's encoder leaves it out. Found by the fuzzer of images."""
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    write_png(tmp_path / "photos" / "a.png", pixels, alpha=np.full((9, 9), 255, np.uint8))
    summary = protect(
        [tmp_path / "photos"],
        tmp_path / "out",
        ProtectSettings(device="cpu", workers=1, format=form),
        generator=loaded(),
        whole_image=True,
    )
    assert verify(tmp_path / "out").exit_code == 0
    changed = image_encoding.encode(
        form, read_image(tmp_path / "out" / summary.entries[0].output).samples, np.full((9, 9), level, np.uint8)
    )
    (tmp_path / "out" / summary.entries[0].output).write_bytes(changed)
    found = [finding.problem or "" for finding in verify(tmp_path / "out").findings]
    assert ["its transparency is not the original's" in problem for problem in found] == [level == 254]


def test_jpeg_outputs_do_not_pass(protected: Path, tmp_path: Path) -> None:
    settings = ProtectSettings(device="cpu", format="jpeg", budget=Budget(8, 0))
    protect([tmp_path / "photos"], tmp_path / "jpeg", settings, masks=tmp_path / "masks", generator=loaded())
    assert "changes the background by" in verify(tmp_path / "jpeg").failures[0].problem


@pytest.mark.parametrize("content", ["", "no json\n", "[]\n", '{"format": 99}\n', '{"format": 1}\n{"strange": 1}\n'])
def test_a_strange_manifest_is_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=MANIFEST):
        verify(tmp_path)


def test_a_folder_without_manifest_and_missing_folders_are_user_errors(protected: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unseg-manifest.jsonl in it"):
        verify(tmp_path / "photos")
    with pytest.raises(UserError, match="--originals .*none: no such folder"):
        verify(protected, originals=tmp_path / "none")
