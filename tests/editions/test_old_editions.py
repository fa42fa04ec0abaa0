"""Editions that version 0.1.0 wrote are verified, and completed without a changed byte.

tests/support/old_editions holds a COCO of three small images (`source`) and two editions of it: `keep` with every
setting at its default of then, `png` with NAMES=png ANNOTATIONS=instances.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.old_manifests import as_of_now
from unseg import cli
from unseg.editions.audit import verify_edition
from unseg.editions.carried import read_carried
from unseg.protecting.manifest import MANIFEST

OLD = Path(__file__).parents[1] / "support" / "old_editions"
BEFORE = {"NOISE": "compact", "OBJECTS": "all"}  # the defaults of that version
SETTINGS = {"keep": BEFORE, "png": {**BEFORE, "NAMES": "png", "ANNOTATIONS": "instances"}}


@pytest.fixture(params=SETTINGS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Returns a copy of an old edition beside its source, with the times that its record tells."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    out = tmp_path / request.param
    for line in read_carried(out).values():
        for path in (tmp_path / "source" / line.name, out / line.name):
            os.utime(path, ns=(line.source_time_ns, line.source_time_ns))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_old_edition_holds(old: Path) -> None:
    result = verify_edition(old)
    assert not any((result.failures, result.unprotected, result.missing, result.extra, result.other_files))
    assert len(result.findings) == 2 and result.largest_changes() == (8, 2) and result.exit_code == 0


@pytest.mark.parametrize("lost", [None, "image", "annotations"])
def test_the_same_command_leaves_or_restores_every_byte(
    old: Path, lost: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(old) | {MANIFEST: as_of_now((old / MANIFEST).read_bytes())}
    if lost is not None:
        names = {"image": "coco/train2017", "annotations": "coco/annotations"}[lost]
        min((old / names).iterdir()).unlink()
    for name, value in {"DATA_ROOT": str(old.parent / "source"), "OUT": str(old), "NGPU": "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in SETTINGS[old.name].items():
        monkeypatch.setenv(name, value)
    assert cli.main(["edition", "coco"]) == 0
    assert contents(old) == before
