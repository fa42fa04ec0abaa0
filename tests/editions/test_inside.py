"""What comes into an edition lies inside the data set: links that lead out, pipes and devices are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.editions.test_editions import error_of, run
from tests.support.acting_progress import Acting
from tests.support.edition_sets import BUILDERS, Mini
from tests.support.hostile_places import KINDS, LONG, within, without_override
from unseg import cli
from unseg.data.edition_catalog import EDITIONS
from unseg.editions.description import EDITION
from unseg.editions.edition import make_edition
from unseg.editions.options import settings_from
from unseg.errors import UserError
from unseg.protecting.manifest import CARRIED, MANIFEST
from unseg.storage.files import leads_out, open_within

VOC = "VOCdevkit/VOC2012"


@pytest.fixture
def voc(tmp_path: Path) -> Mini:
    return BUILDERS["pascal"](tmp_path / "data")


def home_of(mini: Mini) -> Path:
    return next(path.parent for path in mini.root.rglob("JPEGImages"))


def texts_of(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def secret(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "id_rsa").write_text("SECRET")
    return tmp_path / "private"


@pytest.mark.parametrize("place", ["SegmentationClass", "JPEGImages", "ImageSets/Segmentation"])
@pytest.mark.parametrize("what", ["id_rsa", "", "../private/./id_rsa"])
def test_links_out_of_the_data_set_are_refused(
    voc: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, place: str, what: str
) -> None:
    """To a file, to a folder, and along a detour."""
    link = home_of(voc) / place / "x.txt"
    link.symlink_to(secret(tmp_path) / what)
    for settings in ({}, {"VAL": "link"}, {"DRY_RUN": "1"}):
        assert run(voc.root, tmp_path / "out", "pascal", monkeypatch, **settings) == 2
        told = error_of(capsys)
        assert f"{link}: a link on the way leads out of DATA_ROOT, to {tmp_path}/private" in told
        assert "LINKED_ROOTS=" in told
    assert not (tmp_path / "out").exists()


def test_a_linked_image_is_not_published(
    voc: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    name = min(voc.objects)
    private = secret(tmp_path) / "private.jpg"
    shutil.move(voc.root / name, private)
    (voc.root / name).symlink_to(private)
    assert run(voc.root, tmp_path / "out", "pascal", monkeypatch) == 2
    assert f"{voc.root / name}: a link on the way leads out of DATA_ROOT" in error_of(capsys)


@pytest.mark.parametrize("of", ["objects", "bare"])
def test_an_image_that_becomes_a_link_meanwhile_is_not_published(voc: Mini, tmp_path: Path, of: str) -> None:
    """Protected and copied images are looked at when they are read, too, not only before the run."""
    name, out = min(getattr(voc, of)), tmp_path / "out"
    private = secret(tmp_path) / "private.jpg"

    def swap() -> None:
        shutil.move(voc.root / name, private)
        (voc.root / name).symlink_to(private)

    settings = settings_from(EDITIONS["pascal"], {"DATA_ROOT": str(voc.root), "OUT": str(out), "NGPU": "0"})
    summary = make_edition(settings, Acting(0, swap)).summary
    reasons = {line.input: str(line.reason) for line in summary.of("failed")}
    assert f"leads out of the data set, to {private}" in reasons[name]
    assert not os.path.lexists(out / name)
    linked = replace(settings, linked_roots=(private.parent,))
    summary = make_edition(linked).summary
    assert name not in {line.input for line in summary.of("failed")} and (out / name).is_file()


@pytest.mark.parametrize("val", ["copy", "link"])
def test_an_untouched_image_that_becomes_a_link_meanwhile_is_not_published(voc: Mini, tmp_path: Path, val: str) -> None:
    name, out = min(voc.untouched), tmp_path / "out"
    private = secret(tmp_path) / "private.jpg"

    def swap() -> None:
        shutil.move(voc.root / name, private)
        (voc.root / name).symlink_to(private)

    given = {"DATA_ROOT": str(voc.root), "OUT": str(out), "NGPU": "0", "VAL": val}
    with pytest.raises(UserError, match=f"{name}: cannot be read: leads out of the data set, to {private}"):
        make_edition(settings_from(EDITIONS["pascal"], given), Acting(0, swap, of="annotations and untouched images"))
    assert not os.path.lexists(out / name)


def test_a_set_that_is_linked_whole_needs_its_place_named(
    voc: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As many keep their data sets: a folder of links to another disk."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in voc.root.iterdir():
        (linked / path.name).symlink_to(path)
    assert run(linked, tmp_path / "out", "pascal", monkeypatch) == 2
    assert f"leads out of DATA_ROOT, to {voc.root}" in error_of(capsys)
    assert run(linked, tmp_path / "out", "pascal", monkeypatch, LINKED_ROOTS=str(tmp_path / "nowhere")) == 2
    assert "LINKED_ROOTS=" in error_of(capsys)
    roots = os.pathsep.join([str(tmp_path / "linked"), str(voc.root)])
    assert run(linked, tmp_path / "out", "pascal", monkeypatch, LINKED_ROOTS=roots) == 1  # one image has no object
    assert cli.main(["verify", str(tmp_path / "out"), "-q"]) == 1
    assert all((tmp_path / "out" / name).is_file() for name in (*voc.objects, *voc.carried))


@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
@pytest.mark.parametrize(
    "place", ["SegmentationClass/w.txt", "ImageSets/Segmentation/w.txt", "SegmentationObject/w.png"]
)
def test_what_is_no_file_is_refused_before_anything_is_made(
    voc: Mini,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    kind: str,
    place: str,
) -> None:
    path = home_of(voc) / place
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path)
    with within(60):
        assert run(voc.root, tmp_path / "out", "pascal", monkeypatch) == 2
    assert str(path) in error_of(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("coco/annotations/panoptic_train2017.json", kind) for kind in ("pipe", "device", "folder", "circle")],
        *[("coco/annotations/panoptic_val2017.json", kind) for kind in ("pipe", "device")],
    ],
)
def test_annotations_that_are_no_file_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str, kind: str
) -> None:
    mini = BUILDERS["coco"](tmp_path / "data")
    (mini.root / name).unlink(missing_ok=True)
    KINDS[kind](mini.root / name)
    with within(60):
        assert run(mini.root, tmp_path / "out", "coco", monkeypatch) == 2
    error_of(capsys)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [EDITION, CARRIED, MANIFEST])
def test_records_that_are_no_file_are_one_line(
    voc: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str, kind: str
) -> None:
    out = tmp_path / "out"
    assert run(voc.root, out, "pascal", monkeypatch) == 1
    (out / name).unlink()
    KINDS[kind](out / name)
    capsys.readouterr()
    with within(60):
        assert cli.main(["verify", str(out), "-q"]) == 2
        assert name in error_of(capsys)
        assert run(voc.root, out, "pascal", monkeypatch) == 2
        assert name in error_of(capsys)


# --- the output folder, while an edition is made


def _remove(folder: Path) -> None:
    """Removes a folder in which other processes write: what they rename meanwhile is gone when its turn comes."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("when", ["images", "annotations and untouched images"])
@pytest.mark.parametrize(
    "act",
    [
        lambda out: _remove(out),
        lambda out: out.rename(out.with_name("moved")),
        lambda out: (out.rename(out.with_name("moved")), out.symlink_to(out.with_name("private"))),
    ],
    ids=["removed", "renamed", "a link"],
)
def test_an_output_that_goes_away_ends_the_edition(
    voc: Mini, tmp_path: Path, when: str, act: Callable[[Path], object]
) -> None:
    out = tmp_path / "out"
    settings = settings_from(EDITIONS["pascal"], {"DATA_ROOT": str(voc.root), "OUT": str(out), "NGPU": "0"})
    with pytest.raises(UserError, match="--out .*out: was removed, renamed or replaced"):
        make_edition(settings, Acting(1, lambda: act(out), of=when))
    assert not out.is_dir()


def test_the_real_place_of_what_was_opened_counts(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a").write_text("A")
    (tmp_path / "b").write_text("B")
    for name, target in (("good", "../a"), ("bad", "../../b"), ("none", "x")):
        (tmp_path / "in" / "deep" / name).symlink_to(target)
    root, deep = tmp_path / "in", tmp_path / "in" / "deep"
    with open_within(deep / "good", [root]) as file:
        assert file.read() == b"A"
    assert leads_out(deep / "bad", [root]) and not leads_out(deep / "bad", [root, tmp_path])
    with pytest.raises(OSError, match="leads out of the data set, to .*/b"):
        open_within(deep / "bad", [root])
    with pytest.raises(FileNotFoundError):
        open_within(deep / "none", [root])


@pytest.mark.parametrize("variable", ["DATA_ROOT", "LINKED_ROOTS", "OUT", "GENERATOR"])
@pytest.mark.parametrize("value", ["locked/x", LONG, "circle", "pipe", "device"])
def test_variables_that_name_no_place_are_one_line(
    voc: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, variable: str, value: str
) -> None:
    for kind in ("circle", "pipe", "device"):
        KINDS[kind](tmp_path / kind)
    (tmp_path / "locked").mkdir(mode=0)
    monkeypatch.chdir(tmp_path)
    given = {"DATA_ROOT": str(voc.root), "OUT": "out", variable: value}
    root, out = Path(given.pop("DATA_ROOT")), Path(given.pop("OUT"))
    with within(60), without_override():
        assert run(root, out, "pascal", monkeypatch, **given) == 2
    assert value[:6] in error_of(capsys)
