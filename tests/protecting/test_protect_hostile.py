"""Annotations made to do harm, through the real command: a refusal is one line, and nothing leaves the output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.annotation_hostile import sparse
from tests.support.annotation_sets import Built, build
from tests.support.fake_generator import loaded
from unseg import cli
from unseg.data.samples import SampleFile, SampleList
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.storage.files import files_under

TESTS = Path(__file__).resolve().parents[1]

SETTINGS = ProtectSettings(device="cpu", workers=1, unmasked="copy")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build("coco compressed", tmp_path / "set")


def protect_with(built: Built, change: Callable[[dict], None], out: Path) -> int:
    content = json.loads(built.path.read_text())
    change(content)
    built.path.write_text(json.dumps(content))
    return cli.main(
        ["protect", str(built.images), "--annotations", str(built.path), "--out", str(out), "--device", "cpu", "-q"]
    )


def outside(tmp_path: Path) -> dict[Path, int]:
    """Everything that is not the output, and when it was changed."""
    return {
        path: path.lstat().st_mtime_ns
        for path in files_under(tmp_path)
        if "out" not in path.relative_to(tmp_path).parts
    }


def first_image(**fields: object) -> Callable[[dict], None]:
    return lambda content: content["images"][0].update(fields)


REFUSED = {
    "a name that leads up": (
        first_image(file_name="../set/images/a.png"),
        "images[0].file_name",
        "leads out of its folder",
    ),
    "a name with the other slash": (
        first_image(file_name="..\\a.png"),
        "images[0].file_name",
        "leads out of its folder",
    ),
    "an absolute name": (first_image(file_name="/etc/passwd"), "images[0].file_name", "is absolute"),
    "a drive": (first_image(file_name="C:/a.png"), "images[0].file_name", "is absolute"),
    "a zero byte": (first_image(file_name="a\0.png"), "images[0].file_name", "holds a character that no file name has"),
    "two images of one name": (first_image(file_name="b.png"), "images[1]", "is there twice"),
    "two images of one id": (first_image(id=8), "images[1]", "is there twice"),
    "an unknown category": (
        lambda content: content["annotations"][1].update(category_id=77),
        "annotations[1]",
        "the category 77",
    ),
    "an unknown image": (lambda content: content["annotations"][1].update(image_id=77), "annotations[1]", "the image"),
    "no list of images": (lambda content: content.pop("images"), "", 'has no list "images"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_concerns_all_images_is_one_line_and_nothing_is_written(
    case: str, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    change, entry, said = REFUSED[case]
    before = {path: stamp for path, stamp in outside(tmp_path).items() if path != built.path}
    assert protect_with(built, change, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("unseg: error: ") and error.count("\n") == 1
    assert str(built.path) in error and entry in error and said in error
    assert not (tmp_path / "out").exists()
    assert {path: stamp for path, stamp in outside(tmp_path).items() if path != built.path} == before


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_json_cut_short_is_one_line(
    share: float, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = built.path.read_text()
    built.path.write_text(text[: int(share * len(text))])
    out = tmp_path / "out"
    assert (
        cli.main(["protect", str(built.images), "--annotations", str(built.path), "--out", str(out), "--device", "cpu"])
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(built.path) in error and "byte" in error and not out.exists()


BROKEN = {
    "packed counts that are none": {"size": [80, 120], "counts": "zz!"},
    "counts that do not add up": {"size": [80, 120], "counts": [1, 2, 3]},
    "negative counts": {"size": [80, 120], "counts": [-1, 9601]},
    "another size": {"size": [9, 9], "counts": [81]},
    "corners far outside": [[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]],
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_concerns_one_image_is_its_line(
    case: str, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert protect_with(built, lambda content: content["annotations"][1].update(segmentation=BROKEN[case]), out) == 1
    printed = capsys.readouterr().out
    assert "a.png: annotations: instances.json: annotations[1]" in " ".join(printed.split())
    entries = {entry.input: entry for entry in read_manifest(out).entries.values()}
    assert (entries["a.png"].status, entries["b.png"].status) == ("failed", "protected") and not (
        out / "a.png"
    ).exists()


@pytest.mark.parametrize("shape", [[], None, [[1, 1, 2, 2]], [[]]])
def test_an_entry_without_an_area_is_in_the_images_note(
    shape: object, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    protect_with(built, lambda content: content["annotations"][1].update(segmentation=shape), out)
    entry = next(entry for entry in read_manifest(out).entries.values() if entry.input == "a.png")
    assert entry.status == "protected"
    assert "1 outlines without an area are left out (annotations[1])" in (entry.note or "")


@pytest.mark.slow
def test_a_line_of_two_gigabytes_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """A sparse file, so the disk holds a few bytes of it; in a process of its own, whose memory is measured."""
    (tmp_path / "images").mkdir()
    Pillow.new("RGB", (30, 20)).save(tmp_path / "images" / "x.png")
    path = sparse(b'{"images": [{"id": 1, "file_name": "', b'"}]}', 2048)(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(TESTS.parent)!r});"
        "from tests.support.own_memory import peak_memory_mib; from unseg import cli;"
        "import unseg.protecting.run; before = peak_memory_mib(); code = cli.main(sys.argv[1:]);"
        "print(code, peak_memory_mib() - before)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "protect",
            str(tmp_path / "images"),
            "--annotations",
            str(path),
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TESTS.parent,
    )
    code, growth = map(int, done.stdout.split())
    assert code == 2 and growth < 200 and done.stderr.count("\n") == 1 and str(path) in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


# --- links


def test_links_among_the_images_lead_to_nothing_outside_the_output(built: Built, tmp_path: Path) -> None:
    """A linked folder is read, as the user laid it; what is written for it lies in a folder of the output's own."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Pillow.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(elsewhere / "d.png")
    (built.images / "linked").symlink_to(elsewhere)
    out = tmp_path / "out"
    before = outside(tmp_path)

    def name_it(content: dict) -> None:
        content["images"].append({"id": 99, "file_name": "linked/d.png", "height": 20, "width": 30})
        content["annotations"].append(
            {"id": 999, "image_id": 99, "iscrowd": 0, "category_id": 1, "segmentation": [[0, 0, 30, 0, 30, 20, 0, 20]]}
        )

    assert protect_with(built, name_it, out) == 1  # c.png has no object
    assert not (out / "linked").is_symlink() and (out / "linked" / "d.png").is_file()
    after = outside(tmp_path)
    assert {path for path in after if after[path] != before.get(path)} == {built.path, tmp_path / "out.key"}


def test_a_link_in_the_output_is_not_followed(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, elsewhere, built.images / "sub"):
        folder.mkdir()
    (built.images / "a.png").rename(built.images / "sub" / "a.png")
    (out / "sub").symlink_to(elsewhere)
    assert protect_with(built, lambda content: None, out) == 2
    assert "sub in it is a link, which is not followed" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == [] and not (out / MANIFEST).exists()


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "a\0.png"])
def test_names_that_a_caller_chooses_stay_inside_too(name: str, built: Built, tmp_path: Path) -> None:
    samples = SampleList([SampleFile(name, built.images / "a.png", built.images)])
    with pytest.raises(UserError, match="leads out of it; nothing is written there"):
        protect([], tmp_path / "out", SETTINGS, samples=samples, whole_image=True)
    assert not (tmp_path / "out").exists()


def test_names_out_of_tables_are_made_here(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    built = build("huggingface parquet", tmp_path / "set")
    table = pyarrow.parquet.read_table(built.path)
    cells = table.column("image").to_pylist()
    for cell, path in zip(cells, ("../../a.png", "/etc/b.p\0ng", "c.png/../x"), strict=True):
        cell["path"] = path
    table = table.set_column(0, "image", pyarrow.array(cells, table.schema.field("image").type))
    pyarrow.parquet.write_table(table, next(built.path.glob("*.parquet")))
    out = tmp_path / "out"
    summary = protect([], out, SETTINGS, annotations=built.path, generator=loaded())
    assert [entry.status for entry in summary.entries] == ["protected", "protected", "copied"]
    assert sorted(os.listdir(out / "train-00000-of-00001")) == ["000000.png", "000001.png", "000002.png"]
