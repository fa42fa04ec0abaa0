"""unseg protect with one image: standard input and output, files, the key, and every refusal in one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support.dicom_files import made
from tests.support.geotiff_files import raster
from unseg import cli
from unseg.errors import UserError
from unseg.storage import key_file
from unseg.storage.image_headers import METADATA_BYTES

DRAW = np.random.default_rng(3)
MASK = np.zeros((41, 67), np.uint8)
MASK[5:23, 30:61] = 255
COMMAND = [sys.executable, "-c", "import sys; from unseg.cli import main; sys.exit(main())", "protect"]
Feed = Callable[[bytes], None]


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Feed:
    """Says what standard input holds; the current folder is an empty one with photo and mask."""
    monkeypatch.chdir(tmp_path)
    values = DRAW.integers(20, 60, (*MASK.shape, 3)) + np.where(MASK > 0, 150, 20)[..., None]
    Image.fromarray(values.astype(np.uint8)).save("photo.jpg", quality=95)
    Image.fromarray(MASK).save("mask.png")
    Path("my.key").write_text("ab" * 32 + "\n")

    def fill(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    fill(Path("photo.jpg").read_bytes())
    return fill


def of_a_folder(*options: str) -> bytes:
    """What an ordinary run writes for the photograph, with the key of the tests."""
    assert cli.main(["protect", "photo.jpg", "--out", "folder", "--key", "my.key", "-q", *options]) == 0
    return next(Path("folder").glob("photo.*")).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--mask", "mask.png"),
        ("--mask", "mask.png", "--epsilon", "3", "--format", "webp", "--survive-grey"),
        ("--mask", "mask.png", "--strength", "strong", "--metadata", "none", "--png-level", "9"),
        ("--whole-image",),
    ],
    ids=" ".join,
)
def test_standard_input_becomes_the_bytes_of_a_folder(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], options: tuple[str, ...]
) -> None:
    expected = of_a_folder(*options)
    capsysbinary.readouterr()
    assert cli.main(["protect", "-", "--key", "my.key", *options]) == 0
    told = capsysbinary.readouterr()
    assert told.out == expected
    assert b"standard input: protected; object" in told.err and b"key:" not in told.err


def test_a_network_has_no_key(feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ("--mask", "mask.png", "--noise", "compact", "--device", "cpu")
    assert cli.main(["protect", "photo.jpg", "--out", "folder", "-q", *options]) == 0
    capsysbinary.readouterr()
    assert cli.main(["protect", "-", *options]) == 0
    told = capsysbinary.readouterr()
    assert told.out == Path("folder/photo.png").read_bytes() and b"key" not in told.err


@pytest.mark.parametrize(
    ("option", "of_folder", "alone"),
    [
        ("--boxes", {"photo.jpg": [[30, 5, 60, 22]]}, [[30, 5, 60, 22]]),
        ("--points", {"photo.jpg": [[40, 12]]}, [[40, 12]]),
        ("--points", {"photo.jpg": {"object": [[40, 12]]}}, {"object": [[40, 12]], "background": []}),
    ],
)
def test_boxes_and_points_of_one_image_need_no_name(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], option: str, of_folder: object, alone: object
) -> None:
    Path("named.json").write_text(json.dumps(of_folder))
    Path("alone.json").write_text(json.dumps(alone))
    expected = of_a_folder(option, "named.json")
    capsysbinary.readouterr()
    assert cli.main(["protect", "-", "--key", "my.key", option, "alone.json", "-q"]) == 0
    assert capsysbinary.readouterr().out == expected
    assert cli.main(["protect", "photo.jpg", "--out", "again.png", "--key", "my.key", option, "alone.json", "-q"]) == 0
    assert Path("again.png").read_bytes() == expected


def test_a_file_becomes_a_file_and_no_key_lies_beside_it(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert cli.main(["protect", "photo.jpg", "--mask", "mask.png", "--out", "new/b.png"]) == 0
    told = capsysbinary.readouterr()
    assert told.out == b"" and b"key: drawn for this image alone, and not kept" in told.err
    assert sorted(path.name for path in Path("new").iterdir()) == ["b.png"]
    expected = of_a_folder("--mask", "mask.png")
    capsysbinary.readouterr()
    for out in ("c.png", "-"):
        assert cli.main(["protect", "photo.jpg", "--mask", "mask.png", "--out", out, "--key", "my.key"]) == 0
    assert Path("c.png").read_bytes() == expected == capsysbinary.readouterr().out
    assert cli.main(["protect", "-", "--mask", "mask.png", "--out", "c.tif", "--key", "my.key"]) == 0
    assert Image.open("c.tif").format == "TIFF"


def test_an_image_may_be_called_object(feed: Feed) -> None:
    os.rename("photo.jpg", "object")
    for option, content in (("--boxes", {"object": [[30, 5, 60, 22]]}), ("--points", {"object": [[40, 12]]})):
        Path("named.json").write_text(json.dumps(content))
        out = f"{option.removeprefix('--')}.png"
        assert cli.main(["protect", "object", "--out", out, "--key", "my.key", option, "named.json", "-q"]) == 0
        assert Path(out).exists()


def test_masks_are_found_by_the_name_of_a_file(feed: Feed) -> None:
    Path("masks").mkdir()
    Image.fromarray(MASK).save("masks/photo.png")
    expected = of_a_folder("--mask", "mask.png")
    assert cli.main(["protect", "photo.jpg", "--masks", "masks", "--out", "b.png", "--key", "my.key", "-q"]) == 0
    assert Path("b.png").read_bytes() == expected


def test_a_key_is_made_where_one_is_named_and_never_lost_in_silence(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert cli.main(["protect", "-", "--whole-image"]) == 0
    told = capsysbinary.readouterr()
    assert b"key: drawn for this image alone, and not kept: with --key FILE it is" in told.err
    feed(Path("photo.jpg").read_bytes())
    assert cli.main(["protect", "-", "--whole-image", "--key", "keys/new.key"]) == 0
    first = capsysbinary.readouterr()
    assert first.out != told.out and b"key: drawn, and kept in keys/new.key" in first.err
    feed(Path("photo.jpg").read_bytes())
    assert cli.main(["protect", "-", "--whole-image", "--key", "keys/new.key"]) == 0
    assert capsysbinary.readouterr().out == first.out


def test_what_is_weak_is_written_and_told(feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["protect", "-", "--whole-image", "--key", "my.key", "--epsilon", "0"]) == 1
    told = capsysbinary.readouterr()
    assert (
        Image.open(io.BytesIO(told.out)).size == (67, 41)
        and b"standard input: weak: its object did not change" in told.err
    )


@pytest.mark.parametrize(("unmasked", "written"), [("skip", False), ("fail", False), ("copy", True), ("whole", True)])
def test_a_mask_without_an_object(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], unmasked: str, written: bool
) -> None:
    Image.fromarray(MASK * 0).save("empty.png")
    options = ["--mask", "empty.png", "--mask-type", "binary", "--key", "my.key", "--unmasked", unmasked]
    code = cli.main(["protect", "-", *options])
    told = capsysbinary.readouterr()
    assert (code, bool(told.out)) == (int(unmasked != "whole"), written)
    assert written or b"standard input: left out, and nothing is written: no object in its mask" in told.err
    assert unmasked != "copy" or (told.out == Path("photo.jpg").read_bytes() and b"copied: no object" in told.err)
    assert unmasked != "whole" or b"the whole image is its object" in told.err


def test_json_goes_where_no_image_goes(feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["protect", "-", "--mask", "mask.png", "--key", "my.key", "--json", "--quality", "-q"]) == 0
    told = capsysbinary.readouterr()
    facts = json.loads(told.err)
    assert told.out.startswith(b"\x89PNG") and (facts["ok"], facts["output"]) == (True, "-")
    assert facts["delta_e"] > facts["s_cielab"] > 0 and facts["ssim"] > 0.5 and "input_root" not in facts
    arguments = ["protect", "photo.jpg", "--mask", "mask.png", "--key", "my.key", "--json", "-q", "--out", "b.png"]
    assert cli.main(arguments) == 0
    told = capsysbinary.readouterr()
    assert json.loads(told.out)["output"] == "b.png" and told.err == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "photo.jpg", "--whole-image"], "standard input: is one image: name nothing beside it"),
        (["photo.jpg", "mask.png", "--whole-image", "--out", "-"], "standard output: takes one image: name its file"),
        (["nowhere.jpg", "--whole-image", "--out", "-"], "nowhere.jpg: no such file; give one image"),
        (["-"], "what is the object? Give --masks"),
        (["-", "--mask", "no.png"], "--mask no.png: no such file; give the mask of the image"),
        (["-", "--masks", "."], "--masks: is for folders of images; standard input has no name that could be"),
        (["photo.jpg", "--masks", "auto", "--out", "b.png"], "--masks auto: keeps the masks that it finds beside an"),
        (["-", "--masks", "auto"], "--masks: is for folders of images; standard input has no name that could be"),
        (["-", "--annotations", "."], "--annotations: is for folders of images"),
        (["-", "--whole-image", "--limit", "3"], "--limit: is for folders of images; leave it out, or name a file in"),
        (["-", "--whole-image", "--dry-run"], "--dry-run: is for folders of images"),
        (["-", "--whole-image", "--watch"], "--watch: is for folders of images"),
        (["-", "--whole-image", "--processes", "2"], "--processes: is for folders of images"),
        (["-", "--whole-image", "--names", "keep"], "--names: is for folders of images"),
        (["-", "--whole-image", "--keep-times"], "--keep-times: is for folders of images"),
        (["-", "--whole-image", "--out", "folder"], "--out folder: standard input has no name; give a file, such as"),
        (["-", "--whole-image", "--out", "b.jpg"], "--out b.jpg: JPEG changes values beyond the budget; name it .png"),
        (["-", "--whole-image", "--out", "b.gif"], "--out b.gif: is not written; give a name that ends with .png"),
        (["-", "--whole-image", "--out", "b.tif", "--format", "png"], "--out b.tif: --format png asks for a name that"),
        (["-", "--whole-image", "--out", "mask.png"], "mask.png: exists already; give another name, or move it away"),
        (["-", "--whole-image", "--key", "k.png", "--out", "k.png"], "--key k.png: is the file of --out; give the key"),
        (["-", "--whole-image", "--key", "mask.png"], "mask.png: holds no key of 32 bytes"),
        (["-", "--whole-image", "--epsilon", "3", "--strength", "loud"], "--strength loud: choose from"),
        (["-", "--mask", "mask.png", "--whole-image"], "--mask and --whole-image: give one of them"),
        (["photo.jpg", "mask.png", "--mask", "mask.png", "--out", "o"], "--mask mask.png: is of one image, and there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str], message: str
) -> None:
    before = sorted(Path().iterdir())
    assert cli.main(["protect", *arguments]) == 2
    told = capsysbinary.readouterr()
    assert told.out == b"" and sorted(Path().iterdir()) == before
    assert told.err.decode().splitlines()[-1].startswith(f"unseg: error: {message}"), told.err.decode()
    assert b"key: drawn" not in told.err  # of an image that was not made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input: is empty (0 bytes)"),
        (b"hello", "standard input: not an image of a known format"),
        (bytes(METADATA_BYTES + 9), "standard input: not an image of a known format, or its header is damaged"),
    ],
    ids=["nothing", "no picture", "zeros without end"],
)
def test_what_is_no_picture_is_one_line(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], data: bytes, message: str
) -> None:
    feed(data)
    assert cli.main(["protect", "-", "--whole-image", "--key", "my.key"]) == 2
    told = capsysbinary.readouterr()
    assert told.out == b"" and told.err.decode().splitlines()[-1].startswith(f"unseg: error: {message}")


@pytest.mark.parametrize(("kind", "name"), [("DICOM", "a.dcm"), ("NIfTI", "a.nii.gz"), ("GeoTIFF", "a.tif")])
def test_files_of_planes_are_for_folders(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], kind: str, name: str
) -> None:
    planes = np.arange(3 * 9 * 14, dtype=np.uint8).reshape(3, 9, 14)
    if kind == "DICOM":
        made(Path(name), planes)
    elif kind == "NIfTI":
        nibabel.save(nibabel.Nifti1Image(planes, np.eye(4)), name)
    else:
        raster(Path(name), planes)
    before = sorted(Path().iterdir())
    assert cli.main(["protect", name, "--whole-image", "--key", "my.key", "--out", "b.png"]) == 2
    assert cli.main(["protect", name, "--whole-image", "--key", "my.key", "--out", "-"]) == 2
    told = capsysbinary.readouterr()
    refusal = f"unseg: error: {name}: {kind} is written part by part; name a folder with --out"
    assert told.out == b"" and told.err.decode().splitlines().count(refusal) == 2
    assert sorted(Path().iterdir()) == before
    feed(Path(name).read_bytes())
    code = cli.main(["protect", "-", "--whole-image", "--key", "my.key"])
    told = capsysbinary.readouterr()
    if kind == "GeoTIFF":  # whose values are those of a picture
        assert code == 0 and b"note: its georeference (GeoTIFF) was left out" in told.err
    else:
        refusal = f"{kind} is not read here: save it as PNG, or give its file to unseg protect --out FOLDER"
        assert code == 2 and told.out == b"" and told.err.decode().endswith(f"standard input: {refusal}\n")


def test_more_than_an_image_can_need_is_not_read(feed: Feed, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    photo = Path("photo.jpg").read_bytes()
    feed(photo + bytes(METADATA_BYTES + 41 * 67 * 8))
    assert cli.main(["protect", "-", "--whole-image", "--key", "my.key"]) == 2
    assert b"standard input: holds more bytes than an image of 67" in capsysbinary.readouterr().err
    feed(photo)
    arguments = ["protect", "-", "--whole-image", "--key", "my.key", "--max-megapixels", "0.002"]
    assert cli.main(arguments) == 2
    assert b"standard input: 67\xc3\x9741 is over the limit of 0.002 megapixels" in capsysbinary.readouterr().err


def test_a_terminal_is_refused_on_either_side(feed: Feed) -> None:
    ours, theirs = pytest.importorskip("pty").openpty()
    try:
        with open("photo.jpg", "rb") as photo:
            done = subprocess.run([*COMMAND, "-", "--whole-image"], stdin=photo, stdout=theirs, stderr=subprocess.PIPE)
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"unseg: error: standard output: is a terminal, which shows no image")
        done = subprocess.run([*COMMAND, "-", "--whole-image"], stdin=theirs, capture_output=True)
        assert done.returncode == 2 and done.stdout == b"" and done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"unseg: error: standard input: is a terminal; give it an image")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_leaves_is_told_in_one_line(feed: Feed) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open("photo.jpg", "rb") as photo:
        command = [*COMMAND, "-", "--whole-image", "--key", "my.key", "-q"]
        done = subprocess.run(command, stdin=photo, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("unseg: error: standard output: cannot be written: Broken pipe")
    assert "Traceback" not in done.stderr.decode()


def test_a_key_that_another_process_makes_meanwhile_is_taken(
    feed: Feed, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(path: Path, key: bytes) -> None:
        path.write_text("ab" * 32)
        raise UserError(f"{path}: the key cannot be written (File exists)")

    monkeypatch.setattr(key_file, "write_key", too_late)
    expected = of_a_folder("--whole-image")
    capsysbinary.readouterr()
    assert cli.main(["protect", "-", "--whole-image", "--key", "other.key", "-q"]) == 0
    assert capsysbinary.readouterr().out == expected


def test_a_new_key_does_not_lie_in_a_protected_folder(feed: Feed, capsys: pytest.CaptureFixture) -> None:
    of_a_folder("--mask", "mask.png")
    command = ["protect", "photo.jpg", "--mask", "mask.png", "--out", "one.png", "--key"]
    os.mkdir("folder/keys")
    for key in ("folder/k.key", "folder/keys/k.key"):
        assert cli.main([*command, key]) == 2
        assert "a protected folder, with which it would be published; name a file elsewhere" in capsys.readouterr().err
        assert not os.path.lexists(key) and not os.path.lexists("one.png")
    assert cli.main([*command, "beside.key"]) == 0 and os.path.exists("beside.key")


@pytest.mark.parametrize(
    "options", [["--whole-image"], ["--mask", "none.png", "--unmasked", "whole"], ["--mask", "all.png"]]
)
def test_noise_that_is_all_over_is_told_of_one_image(
    feed: Feed, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    Image.fromarray(MASK * 0).save("none.png")
    Image.fromarray(np.full_like(MASK, 255)).save("all.png")
    kind = [] if "--whole-image" in options else ["--mask-type", "binary"]
    command = ["protect", "photo.jpg", *options, *kind, "--key", "my.key", "--out"]
    assert cli.main([*command, "one.png"]) == 0
    assert (
        "note: the noise is all over, which cannot keep networks from learning the objects" in capsys.readouterr().err
    )
    assert cli.main([*command, "two.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noise_all_over"] is True
    assert (
        cli.main(["protect", "photo.jpg", "--mask", "mask.png", "--key", "my.key", "--out", "three.png", "--json"]) == 0
    )
    assert "noise_all_over" not in json.loads(capsys.readouterr().out)


def test_a_copied_image_has_no_key(feed: Feed, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(MASK * 0).save("none.png")
    command = ["protect", "photo.jpg", "--mask", "none.png", "--mask-type", "binary", "--unmasked", "copy"]
    assert cli.main([*command, "--format", "jpeg", "--out", "copy.jpg"]) == 1
    assert "key" not in capsys.readouterr().err
    assert Path("copy.jpg").read_bytes() == Path("photo.jpg").read_bytes()
