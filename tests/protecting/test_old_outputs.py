"""Folders that version 0.1 protected are verified and resumed, and today's generator writes the same pixels.

tests/support/old_outputs holds three photographs of odd sizes, their masks, annotations and boxes, and what
`unseg protect` of version 0.1 made of them, one folder for each way to say what the object is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.old_manifests import as_of_now
from unseg import cli
from unseg.protecting.manifest import MANIFEST
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png

OLD = Path(__file__).resolve().parents[1] / "support" / "old_outputs"
COMPACT = ["--noise", "compact"]  # as it was before there were codes
USUAL = [*COMPACT, "--unmasked", "copy", "--device", "cpu", "--quiet", "--json"]
MASKS, BOXES, COCO = ["--masks", "masks"], ["--boxes", "boxes.json"], ["--annotations", "coco.json"]
OPTIONS = {
    "whole": ["--whole-image"],
    "masks_out": MASKS,
    "one_class": [
        *[*MASKS, "--objects", "2", "--background-label", "-1"],
        *["--names", "keep", "--epsilon", "6", "--background-epsilon", "1"],
    ],
    "by_class": [*MASKS, "--objects", "by-class"],
    "annotated": [*COCO, "--region", "published"],
    "annotated_by_class": [*COCO, "--objects", "by-class", "--format", "webp"],
    "boxed": BOXES,
}
NOT_PROTECTED = {name: 0 if name == "whole" else 1 for name in OPTIONS}
# On objects and elsewhere, in grey levels. A tint of a class is at most 0.8 of the budget; whole images have no rest.
LARGEST_CHANGES = {
    "whole": (8, None),
    "masks_out": (8, 2),
    "one_class": (6, 1),
    "by_class": (6, 0),
    "annotated": (8, 2),
    "annotated_by_class": (6, 0),
    "boxed": (8, 2),
}
# Processors round sums differently, and a value beside a limit then falls on its other side.
LATER = ("output_sha256", "psnr", "object")
OTHER_VALUES = 0.002  # share of an image's values


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of_this_version(folder: Path) -> dict[str, bytes]:
    """The folder's files; its manifest as this version names itself and counts the lines in it."""
    return {name: as_of_now(data) if name == MANIFEST else data for name, data in contents(folder).items()}


def protect(out: str, name: str, capsys: pytest.CaptureFixture) -> dict[str, Any]:
    code = cli.main(["protect", "photos", "--out", out, *USUAL, *OPTIONS[name]])
    captured = capsys.readouterr()
    done: dict[str, Any] = json.loads(captured.out)
    assert code == NOT_PROTECTED[name] | bool(done["weak"]), captured.err
    return done


@pytest.mark.parametrize("name", OPTIONS)
def test_an_old_output_is_verified(place: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["verify", name, "--json"]) == NOT_PROTECTED[name]
    result = json.loads(capsys.readouterr().out)
    assert (result["failures"], result["missing"], result["extra"], result["other_files"]) == ([], [], [], [])
    assert (result["verified"], len(result["unprotected"])) == (3 - NOT_PROTECTED[name], NOT_PROTECTED[name])
    assert (result["max_object"], result["max_background"]) == LARGEST_CHANGES[name]
    assert f"noise of version 0.1, today's --noise {'tint' if 'by_class' in name else 'compact'};" in result["note"]


def test_noise_of_today_is_not_called_old(place: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("whole", "by_class"):
        protect("new", name, capsys)
        cli.main(["verify", "new", "--json"])
        kind = "tint" if name == "by_class" else "compact"
        note = json.loads(capsys.readouterr().out)["note"]
        assert note.startswith(f"this is noise of a small network (--noise {kind}); noise of codes, the default")
        shutil.rmtree("new")


def test_of_an_old_output_the_rule_says_what_is_background(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Row 3, column 5 is of class 1, and class 2 alone is the object: 6 grey levels are too many there."""
    original = read_image(place / "photos" / "a.png").pixels
    changed = read_image(place / "one_class" / "a.png").pixels.copy()
    changed[3, 5] = np.where(original[3, 5] < 128, original[3, 5] + 6, original[3, 5] - 6)
    write_png(place / "one_class" / "a.png", changed)
    assert cli.main(["verify", "one_class", "--json"]) == 1
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["problem"].startswith("changes the background by 6, budget 1; ")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_old_output_is_resumed_without_a_changed_byte(place: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*.*") if path.name != MANIFEST}
    expected = of_this_version(place / name)
    assert protect(name, name, capsys)["kept_from_earlier_runs"] == 3 - NOT_PROTECTED[name]
    assert contents(place / name) == expected
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # nothing was written anew


@pytest.mark.parametrize("name", OPTIONS)
def test_the_shipped_generator_writes_what_it_wrote(place: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    assert protect("anew", name, capsys)["kept_from_earlier_runs"] == 0
    old, new = of_this_version(place / name), contents(place / "anew")
    assert sorted(new) == sorted(old)
    old_header, *old_lines = old.pop(MANIFEST).splitlines()
    new_header, *new_lines = new.pop(MANIFEST).splitlines()
    assert new_header == old_header
    assert [_facts(line) for line in new_lines] == [_facts(line) for line in old_lines]
    for output in new:
        before, now = (read_image(place / folder / output).samples.astype(int) for folder in (name, "anew"))
        change = np.abs(now - before)
        if "by_class" in name:
            assert not change.any()
        assert change.max() <= 1 and (change > 0).mean() <= OTHER_VALUES


def test_other_settings_than_an_old_outputs_are_named(place: Path, capsys: pytest.CaptureFixture) -> None:
    where = ["--out", "masks_out", "--masks", "masks", "--mask-type", "index"]
    arguments = ["protect", "photos", *where, "--device", "cpu", *COMPACT]
    assert cli.main([*arguments, "--objects", "1,2", "--ignore-label", "-1"]) == 2
    error = capsys.readouterr().err
    assert "--objects: all, now 1,2; --ignore-label: 255, now null" in error
    assert contents(place / "masks_out") == contents(OLD / "masks_out")


def _facts(line: bytes) -> dict[str, Any]:
    """A manifest line without what a value that is rounded otherwise would change, and what older lines do not say."""
    facts = json.loads(line)
    if facts["status"] == "weak":  # as it is called today
        facts |= {"status": "protected", "reason": None}
    return {name: value for name, value in facts.items() if name not in LATER and value is not None}
