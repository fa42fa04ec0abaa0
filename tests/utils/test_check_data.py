"""utils/check_data.py: what it finds, how it says so, and its exit code."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.training_folders import make_hqseg, save
from unseg.data.catalog import HQSEG

REPOSITORY = Path(__file__).parents[2]


def run(*arguments) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as finished:
        patch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
        runpy.run_path(str(REPOSITORY / "utils" / "check_data.py"), run_name="__main__")
    return finished.value.code


@pytest.fixture
def plain(tmp_path) -> Path:
    for name in ("a", "b/c"):
        save(tmp_path / f"images/{name}.png", np.full((9, 8, 3), 7, np.uint8))
        save(tmp_path / f"masks/{name}.png", np.eye(9, 8, dtype=np.uint8) * 255)
    return tmp_path


def test_a_folder_in_order(plain, capsys):
    assert run(plain) == 0
    told = capsys.readouterr().out
    assert "2 pairs" in told and "nothing to complain of" in told


def spoil(root: Path, images: str, masks: str, stem: str) -> dict[str, str]:
    """Adds a pair of every fault; name → a part of its reason."""
    good = np.full((9, 8, 3), 7, np.uint8)
    mask = np.eye(9, 8, dtype=np.uint8) * 255
    for name in ("broken", "size", "empty", "colour", "torn"):
        save(root / images / f"{stem}{name}.jpg", good)
        save(root / masks / f"{stem}{name}.png", mask)
    (root / images / f"{stem}broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    save(root / masks / f"{stem}size.png", mask[:8])
    save(root / masks / f"{stem}empty.png", mask * 0)
    save(root / masks / f"{stem}colour.png", np.dstack([mask, mask, mask // 3]))
    torn = root / masks / f"{stem}torn.png"
    torn.write_bytes(torn.read_bytes()[:50])
    save(root / images / f"{stem}alone.jpg", good)
    save(root / masks / f"{stem}orphan.png", mask)
    return {
        "broken": f"{stem}broken.jpg: ",
        "size": "8×8 pixels, but ",
        "empty": "mask without an object pixel",
        "colour": "colour mask",
        "torn": f"{stem}torn.png: ",
        "alone": "image without a mask",
        "orphan": "mask without an image",
    }


def test_every_fault_of_a_plain_folder(plain, capsys):
    reasons = spoil(plain, "images", "masks", "")
    assert run(plain, "--threads", 2) == 1
    lines = capsys.readouterr().out.splitlines()
    for name, reason in reasons.items():
        assert [line for line in lines if line.startswith(f"{name}: ") and reason in line], name
    assert "7 pairs, 7 problems" in lines[0] and lines[-1] == "7 problems" and len(lines) == 9


def test_quick_reads_no_file(plain, capsys):
    spoil(plain, "images", "masks", "")
    assert run(plain, "--quick") == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "alone: image without a mask",
        "orphan: mask without an image",
        "2 problems",
    ]


def test_hqseg_as_json(tmp_path, capsys):
    root = make_hqseg(tmp_path / "data")
    reasons = spoil(root, "cascade_psp/fss_all", "cascade_psp/fss_all", "x_")
    for path in (root / "cascade_psp/ecssd").iterdir():
        path.unlink()
    assert run(root, "--json", tmp_path / "report.json", "--threads", 2) == 1
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [part["name"] for part in report["sets"]] == [row.name for row in HQSEG]
    sets = {part["name"]: part for part in report["sets"]}
    assert sets["FSS"]["pairs"] == 7 and sets["FSS"]["published"] == 10_000 and sets["FSS"]["role"] == "train"
    found = {problem["name"]: problem["reason"] for problem in sets["FSS"]["problems"]}
    assert found.keys() == {f"FSS/x_{name}" for name in reasons}
    assert all(reason in found[f"FSS/x_{name}"] for name, reason in reasons.items())
    assert sets["ECSSD"]["problems"] == [{"name": "ECSSD (cascade_psp/ecssd is empty)", "reason": "missing set"}]
    assert report["problems"] == 8 and report["pairs"] == 10 * 2 + 5
    told = capsys.readouterr().out
    assert (
        "ECSSD            train      missing\n" in told
        and "FSS              train      7 pairs (published: 10,000)" in told
    )
    assert run(root, "--json", "-") == 1
    assert json.loads(capsys.readouterr().out) == report


def test_what_cannot_start(plain, tmp_path, capsys):
    assert run(plain / "nowhere") == 2
    assert capsys.readouterr().err.count("\n") == 1
    (plain / "images").rename(plain / "pictures")
    assert run(plain) == 2
    assert "no folder of images" in capsys.readouterr().err
    assert run(plain, "--threads", 0) == 2
    assert "--threads 0" in capsys.readouterr().err
    report = tmp_path / "report.json"
    report.write_text("mine")
    assert run(plain, "--json", report) == 2
    assert "exists already" in capsys.readouterr().err and report.read_text() == "mine"
