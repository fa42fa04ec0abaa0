"""Input made to do harm: malformed images, bombs, names that lead elsewhere, links, pipes, manifests, weights."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from PIL import Image as Pillow

import unseg.protecting.originals
from tests.support import make_corpus
from tests.support.fake_generator import FakeGenerator, loaded
from unseg import cli
from unseg.errors import UserError
from unseg.protecting.manifest import FORMAT, MANIFEST, Entry, read_manifest
from unseg.protecting.prompt_files import read_boxes
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage import image_decoding, image_headers, image_limits
from unseg.storage.files import link_on_the_way, printable, sha256_of, stays_inside
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import open_label
from unseg.storage.locks import LOCK_FILE
from unseg.storage.weights import load_generator, save_generator

SETTINGS = ProtectSettings(device="cpu", workers=2)
ROOT = Path(__file__).resolve().parents[2]
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
# Files that promise much and take their time to make or to read belong to the whole corpus.
BOMBS = make_corpus.bombs()
QUICK_BOMBS = [name for name in BOMBS if "megabytes" not in name and "unfolds" not in name]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Pillow.fromarray(PHOTO).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def run(photos: Path, **options: object) -> Summary:
    options.setdefault("whole_image", not {"masks", "boxes", "annotations"} & options.keys())
    return protect([photos], photos.parent / "out", SETTINGS, generator=loaded(), **options)


# --- malformed images


@pytest.mark.filterwarnings("ignore")  # what Pillow thinks of the damage
def test_malformed_images_raise_nothing_but_image_errors(tmp_path: Path) -> None:
    refused = 0
    for name, content in make_corpus.mutants(120, seed=1):
        path = tmp_path / name
        path.write_bytes(content)
        for decode in (read_image, open_label):
            started = time.perf_counter()
            try:
                decode(path)
            except ImageError as error:
                refused += 1
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(error.reason) < 300
            assert time.perf_counter() - started < 5
    assert refused > 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK_BOMBS)
def test_a_bomb_is_refused_in_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    started = time.perf_counter()
    if name == "points-to-itself.tif":  # a circle of pages whose one picture is whole
        assert read_image(path).samples.shape == (3, 3, 1)
    else:
        with pytest.raises(ImageError):
            read_image(path)
    assert time.perf_counter() - started < 5


@pytest.mark.filterwarnings("ignore")
def test_what_stands_beside_a_picture_costs_little_time(tmp_path: Path) -> None:
    """Fill bytes, films, megabytes of text, EXIF without end: the picture is read, and not they."""
    for name, content in make_corpus.slow_but_sound().items():
        started = time.perf_counter()
        image = image_decoding.decode_image(tmp_path / name, content, describe=True)
        assert image.samples.shape in ((4, 4, 3), (80, 96, 1), (3, 3, 1)) and time.perf_counter() - started < 5, name


HUGE_MASKS = """
import sys
from pathlib import Path
from tests.support.own_memory import peak_memory_mib
from unseg.protecting.run import ProtectSettings, protect
folder, settings = Path(sys.argv[1]), ProtectSettings(device="cpu", workers=4)
summary = protect([folder / "in"], folder / "out", settings, masks=folder / "masks")
print(sorted({entry.reason.partition(" is ")[2] for entry in summary.of("failed")}), peak_memory_mib())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak memory is read from /proc")
def test_masks_of_196_megapixels_for_16_pixels_take_little_memory(tmp_path: Path) -> None:
    """8 bits, colour, 32 bits: files of 200 to 800 kB, which four threads would decode side by side."""
    side, sizes = 14_000, {"0.png": (1, 0), "1.png": (3, 2), "2.tif": (4, 0)}
    (tmp_path / "masks").mkdir()
    for name, (bytes_a_pixel, colours) in sizes.items():
        write_png(tmp_path / "in" / f"{name[0]}.png", PHOTO[:16, :16])
        zeros = make_corpus.deflated_zeros(side * ((name != "2.tif") + side * bytes_a_pixel))
        tags = ((256, side), (257, side), (258, 32), (259, 8), (262, 1), (273, 200), (277, 1), (279, len(zeros)))
        tiff = make_corpus.tiff_header(*((tag, 4, 1, value) for tag, value in tags)).ljust(200, b"\0") + zeros
        made = tiff if name == "2.tif" else make_corpus.png(side, side, b"", zeros, colours=colours)
        (tmp_path / "masks" / name).write_bytes(made)
    done = subprocess.run(
        [sys.executable, "-c", HUGE_MASKS, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reasons, peak = done.stdout.rstrip().rpartition(" ")[::2]
    told = "make them one size, or give --fit-masks, since the proportions are the same"
    assert reasons == f"['14000×14000, the image (upright) is 16×16: {told}']"
    assert int(peak) < 1024


def has_its_whole_picture(name: str) -> bool:
    """Whether only what follows the picture was cut off a file of the corpus, such as the checksum behind it."""
    content = dict(make_corpus.mutants(1000, seed=0))[name]
    whole = next(seed for files in make_corpus.seeds().values() for seed in files if seed.startswith(content))
    decoded = [image_decoding.decode_image(Path(name), data).samples for data in (content, whole)]
    return np.array_equal(*decoded)


def corpus_figures(tmp_path: Path, count: int) -> dict:
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "make_corpus.py"),
        str(tmp_path / "corpus"),
        "--count",
        str(count),
        "--run",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak memory is read from /proc")
def test_the_whole_corpus_harms_nothing(tmp_path: Path) -> None:
    """1,000 mutants, all bombs, a pipe, a circle of links and a sparse file of 5 GB, in a process of its own."""
    figures = corpus_figures(tmp_path, 1000)
    assert figures["files"] > 1000 and figures["not_in_the_ledger"] == [] and figures["without_reason"] == []
    assert figures["broken_promises"] == []  # what is still an image keeps the bound
    assert figures["failed"] > 600
    cut = [name for name in figures["survived"] if name.startswith("truncate") or name in BOMBS]
    exempt = ("points-to-itself.tif", *(name for name in cut if name.endswith((".jpg", ".webp", ".bmp"))))
    assert [name for name in cut if name not in exempt and not has_its_whole_picture(name)] == []
    assert figures["slowest_decoding"]["seconds"] < 5
    assert figures["memory_mib_peak"] < 1024


def test_pipes_devices_and_folders_are_no_images(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    (photos / "zero.png").symlink_to("/dev/zero")
    (photos / "folder.png").mkdir()
    (photos / "circle.png").symlink_to("circle.png")
    summary = run(photos)
    assert {entry.input: entry.reason for entry in summary.of("failed")} == {
        "pipe.png": "cannot be read: no regular file",
        "zero.png": "cannot be read: no regular file",
        "circle.png": "cannot be read: Too many levels of symbolic links",
    }
    assert len(summary.of("protected")) == 2
    masks = photos.parent / "masks"
    masks.mkdir()
    os.mkfifo(masks / "a.png")
    summary = protect([photos / "a.png"], photos.parent / "masked", SETTINGS, masks=masks, generator=loaded())
    assert summary.of("failed")[0].reason == "mask: cannot be read: no regular file"
    with pytest.raises(UserError, match="--boxes .*a.png: cannot be read: no regular file"):
        run(photos, boxes=masks / "a.png")


def test_files_larger_than_their_header_explains_are_not_read(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PHOTO)
    with open(tmp_path / "a.png", "ab") as file:
        file.truncate(100 << 20)
    with pytest.raises(ImageError, match="104,857,600 bytes are more than an image of 32×24 needs"):
        read_image(tmp_path / "a.png")
    with open(tmp_path / "a.png", "ab") as file:
        file.truncate(3 << 30)
    with pytest.raises(
        ImageError, match="bytes are more than an image of 200 megapixels needs: raise --max-megapixels if it"
    ):
        read_image(tmp_path / "a.png")


def test_the_pixel_limit_is_200_megapixels_and_an_option(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_corpus.png(20_000, 10_001))
    with image_limits.own_size_limit():
        with pytest.raises(ImageError, match="20000×10001 is over the limit of 200 megapixels: raise --max-megapixels"):
            read_image(tmp_path / "a.png")
        with pytest.raises(ImageError, match="broken image: image file is truncated"):
            read_image(tmp_path / "a.png", 300_000_000)
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--max-megapixels"):
            ProtectSettings(max_megapixels=value)


def test_only_listed_formats_are_opened(tmp_path: Path) -> None:
    """Pillow knows dozens more, some of which run other programs or are little tested."""
    for form in ("PPM", "ICO", "PCX", "TGA", "JPEG2000", "DDS", "EPS"):
        Pillow.fromarray(PHOTO).save(tmp_path / "a.png", form)
        named = {"PPM": "Netpbm", "JPEG2000": "JPEG 2000", "PCX": "PCX", "DDS": "DDS"}
        told = f"{named[form]} is not read: save it as PNG" if form in named else "not an image of a known format"
        with pytest.raises(ImageError, match=told):
            read_image(tmp_path / "a.png")
    assert not image_headers.pixel_count(tmp_path / "a.png")


# --- names that lead elsewhere


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/passwd", "..", "a\0.png", "", "."])
def test_names_that_leave_the_folder(name: str) -> None:
    assert not stays_inside(name)


@pytest.mark.parametrize("name", ["C:/a.png", "C:a.png", "\\\\server\\a", "\\a", "..\\a", "a\\..\\..\\b"])
def test_names_that_leave_the_folder_on_windows(name: str) -> None:
    assert not stays_inside(name, windows=True) and stays_inside(name, windows=False) == (
        name[:2] != ".." or "\\" in name
    )


def test_names_that_stay() -> None:
    for name in ("a.png", "a/b.png", "...", "a..b/..c", "ä/€.png"):
        assert stays_inside(name) and stays_inside(name, windows=True) == (name != "...")  # a folder itself, there


def manifest(folder: Path, **values: object) -> Path:
    folder.mkdir(exist_ok=True)
    line = {"input": "a.png", "input_root": "../photos", "status": "protected", "output": "a.png", **values}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "settings": {}}) + "\n" + json.dumps(line) + "\n")
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"output": "../victim.png"},
        {"output": "/etc/victim"},
        {"output": "a/../../victim.png"},
        {"output": "."},
        {"output": ["x"]},
        {"output": MANIFEST},
        {"output": f"./{LOCK_FILE}"},
        {"output": "UNSEG-Edition.json"},
        {"output": ".unseg-0123456789abcdef.tmp"},
        {"output": "a/.unseg-probe.tmp"},
        {"output": "half\ud800.png"},
        {"input": "half\udfff.png"},
        {"claims": ["a.png", "unseg-edition-files.jsonl"]},
        {"object_budget": 9.0},
        {"claims": ["../victim.png"]},
        {"claims": "../x"},
        {"input": "../../secret.png"},
        {"mask": "../../secret.png"},
        {"status": "deleted"},
        {"width": -1},
        {"width": 1.5},
        {"width": True},
        {"object_budget": "8"},
        {"boxes": 3},
        {"boxes": [[1, 2]]},
        {"boxes": [[1, 2, 3, "x"]]},
        {"object_budget": float("nan")},
        {"width": 10**400},
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused_whole(photos: Path, values: dict) -> None:
    victim = photos.parent / "victim.png"
    victim.write_bytes(b"mine")
    out = (
        manifest(photos.parent / "out", output_sha256=sha256_of(victim), **values)
        if "output" not in values
        else manifest(photos.parent / "out", **{**values, "output_sha256": sha256_of(victim)})
    )
    for work in (lambda: run(photos), lambda: verify(out)):
        with pytest.raises(UserError, match=f"{MANIFEST}: not a manifest of unseg \\(line 2: ") as raised:
            work()
        assert len(str(raised.value)) < 500
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "factor", "good"), [("object_budget", 1.001, False), ("background_budget", 2, False), ("psnr", 2, True)]
)
def test_a_line_cannot_allow_more_than_the_first_one(photos: Path, name: str, factor: float, good: bool) -> None:
    """Whoever may write a line could otherwise pass off any change as one within the budget."""
    run(photos)
    out = photos.parent / "out"
    header, *lines = (out / MANIFEST).read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    changed[1][name] *= factor
    (out / MANIFEST).write_text("\n".join([header, *map(json.dumps, changed), ""]))
    if good:
        assert verify(out).exit_code == 0
        return
    for work in (lambda: run(photos), lambda: verify(out)):
        with pytest.raises(UserError, match=f"not a manifest of unseg \\(line 3: {name}: .*, the first line says "):
            work()


def test_lines_of_a_manifest_have_a_longest_length(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b'{"format": 2, "settings": {}}\n' + b"[" * (9 << 20) + b"\n")
    with pytest.raises(UserError, match="line 1: over 8 MB"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b'{"format": 2, "settings": {}}\n' + bytes(9 << 20))  # after a loss of power
    assert read_manifest(tmp_path).entries == {}


def annotated(photos: Path) -> Path:
    """An output whose objects come from a folder of outlines; returns it."""
    labels = photos.parent / "labels"
    labels.mkdir()
    for image in photos.glob("*.png"):
        (labels / f"{image.stem}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.8\n")
    out = photos.parent / "out"
    protect([photos], out, SETTINGS, annotations=labels, generator=loaded())
    return out


@pytest.mark.parametrize(("field", "option"), [("mask_root", "--annotations"), ("input_root", "--originals")])
@pytest.mark.parametrize("root", ["..", "full", "/"])
def test_a_manifest_cannot_make_verify_walk_the_disk(
    photos: Path, monkeypatch: pytest.MonkeyPatch, field: str, option: str, root: str
) -> None:
    """A folder that only the manifest names is looked through up to a number of files, then the user is asked."""
    out, full = annotated(photos), photos.parent / "full"
    for number in range(300):
        (full / str(number)).mkdir(parents=True)
    if root == "..":
        (photos.parent / "around").symlink_to("/")
    else:
        monkeypatch.setattr(unseg.protecting.originals, "LOOKED_AT", 200)
    place = {"..": "..", "full": "../full", "/": os.path.relpath("/", os.path.realpath(out))}[root]
    header, *lines = (out / MANIFEST).read_text().splitlines()
    changed = [{**json.loads(line), field: place} for line in lines]
    (out / MANIFEST).write_text("\n".join([header, *map(json.dumps, changed), ""]))
    started = time.perf_counter()
    findings = verify(out).failures
    assert len(findings) >= 1 and time.perf_counter() - started < 30
    assert all(option in finding.problem for finding in findings)
    named = {"annotations": photos.parent / "labels"} if field == "mask_root" else {"originals": photos}
    assert verify(out, **named).failures == []


LINE = {
    "input": "a.png",
    "input_root": "../photos",
    "status": "protected",
    "output": "a.png",
    "width": 32,
    "height": 24,
    "input_sha256": "0",
    "output_sha256": "0",
    "object_budget": 8.0,
    "background_budget": 2.0,
    "boxes": [[0, 0, 5, 5]],
}
SETTINGS_LINE = {
    "mask_rule": {"kind": "binary", "objects": None, "ignore_label": 255, "background_label": 0},
    "region": "published",
    "image_size": 64,
    "mask_size": 64,
    "format": "png",
    "metadata": "icc",
}
FIELDS = [*LINE, "mask", "mask_root", "claims", "psnr"]
ANYTHING = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=9),
    lambda inner: (
        strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=9,
)


@settings(max_examples=80, deadline=None)
@given(
    values=strategies.dictionaries(strategies.sampled_from(FIELDS), ANYTHING, max_size=3),
    changed=strategies.dictionaries(strategies.sampled_from([*SETTINGS_LINE, "mask_rule.kind"]), ANYTHING, max_size=2),
)
def test_verify_reads_any_manifest(tmp_path_factory: pytest.TempPathFactory, values: dict, changed: dict) -> None:
    """It finds fault, or refuses it in one line; nothing else may come out of it."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "photos").mkdir()
    out = folder / "out"
    out.mkdir()
    for path in (folder / "photos" / "a.png", out / "a.png"):
        Pillow.fromarray(PHOTO).save(path)
    header = {**SETTINGS_LINE, **changed}
    (out / MANIFEST).write_text(
        json.dumps({"format": FORMAT, "settings": header}) + "\n" + json.dumps({**LINE, **values}) + "\n"
    )
    with suppress(UserError):
        assert verify(out, workers=1).exit_code == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "9" * 10_000, '"\\ud800'])
def test_json_made_to_break_parsers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text + "\n")
    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(UserError, match="--boxes .*boxes.json: ") as raised:
        read_boxes(tmp_path / "boxes.json")
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "box", ["[1, 2, 1e400, 3]", "[1, 2, NaN, 3]", f"[1, 2, {10**400}, 3]", f"[{'1, ' * 9999}2]", "[0, 0, 1e30, 1e30]"]
)
def test_numbers_beyond_all_images_are_no_boxes(tmp_path: Path, box: str) -> None:
    (tmp_path / "boxes.json").write_text(f'{{"a.png": [{box}]}}')
    with pytest.raises(UserError, match="is no box; give") as raised:
        read_boxes(tmp_path / "boxes.json")
    assert len(str(raised.value)) < 600


# --- links in the output


def test_a_linked_folder_in_the_output_is_not_followed(photos: Path) -> None:
    out, elsewhere = photos.parent / "out", photos.parent / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    with pytest.raises(UserError, match="--out .*out: sub in it is a link, which is not followed; remove it"):
        run(photos)
    assert list(elsewhere.iterdir()) == [] and not (out / "a.png").exists()


def test_a_link_that_appears_during_the_run_is_not_followed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, elsewhere = photos.parent / "out", photos.parent / "elsewhere"
    elsewhere.mkdir()
    decode = image_decoding.read_image

    def linked(path: Path, *arguments: object, **options: object) -> image_decoding.Image:
        if path.parent.name == "sub":
            (out / "sub").symlink_to(elsewhere)
        return decode(path, *arguments, **options)

    monkeypatch.setattr(image_decoding, "read_image", linked)
    summary = run(photos)
    assert [(entry.input, entry.reason) for entry in summary.of("failed")] == [
        ("sub/b.png", "sub in the output is a link, which is not followed")
    ]
    assert list(elsewhere.iterdir()) == []


def test_an_output_that_was_replaced_by_a_link_is_written_anew(photos: Path) -> None:
    out, elsewhere = photos.parent / "out", photos.parent / "elsewhere.png"
    run(photos)
    (out / "a.png").rename(elsewhere)
    (out / "a.png").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    result = verify(out)
    assert [finding.problem for finding in result.failures] == ["a.png is a link, which is not followed"]
    assert run(photos).kept == 1
    assert not (out / "a.png").is_symlink() and elsewhere.read_bytes() == before
    assert verify(out).exit_code == 0


def test_links_are_extra_files_and_a_linked_manifest_is_refused(photos: Path) -> None:
    out = photos.parent / "out"
    run(photos)
    (out / "more").symlink_to(photos)
    (out / "one.png").symlink_to(photos / "a.png")
    assert verify(out).extra == ("more", "one.png")
    (out / "more").unlink(), (out / "one.png").unlink()
    (out / MANIFEST).rename(photos.parent / "elsewhere.jsonl")
    (out / MANIFEST).symlink_to(photos.parent / "elsewhere.jsonl")
    for work in (lambda: run(photos), lambda: verify(out)):
        with pytest.raises(UserError, match=f"{MANIFEST}: is a link, which is not followed"):
            work()


def test_an_output_folder_that_is_a_link_is_what_the_user_wants(photos: Path) -> None:
    (photos.parent / "disk").mkdir()
    (photos.parent / "out").symlink_to(photos.parent / "disk")
    assert run(photos).exit_code == 0 and (photos.parent / "disk" / "sub" / "b.png").is_file()
    assert verify(photos.parent / "out").exit_code == 0


def test_the_first_link_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert link_on_the_way(tmp_path, "a/b/c") is None and link_on_the_way(tmp_path, ".") is None
    (tmp_path / "a" / "b" / "c").symlink_to("nowhere")
    assert link_on_the_way(tmp_path, "a/b/c/d") == "a/b/c"


def test_temporary_files_are_ours_by_their_whole_name(photos: Path) -> None:
    """Only names that we give are removed, and none behind a link."""
    out, elsewhere = photos.parent / "out", photos.parent / "elsewhere"
    (out / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    (out / "linked").symlink_to(elsewhere)
    ours = ".unseg-0123456789abcdef.tmp"
    users = (".unseg-notes.tmp", "x.unseg-0123456789abcdef.tmp", ".unseg-0123456789abcdef.tmp.png")
    for name in (ours, *users):
        (out / "deep" / name).touch()
    (elsewhere / ours).touch()
    run(photos)
    assert sorted(path.name for path in (out / "deep").iterdir()) == sorted(users) and (elsewhere / ours).exists()


# --- what is printed


def test_names_cannot_speak_to_the_terminal(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "a\x1b[31m\nprotected 9\r.png").write_bytes(b"x")
    assert (
        cli.main(
            ["protect", "--whole-image", str(photos), "--out", str(photos.parent / "out"), "--device", "cpu", "-q"]
        )
        == 1
    )
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out and "a\\x1b[31m\\nprotected 9\\r.png: not an image" in captured.out
    assert cli.main(["verify", str(photos.parent / "x\x1b[2J\ny")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert printable("ä€ a\u202eb") == "ä€ a\\u202eb"  # a mark that turns the rest of a line around


def test_reasons_do_not_tell_contents(photos: Path) -> None:
    """What a file holds stays in it: reasons and the manifest name files, sizes and kinds."""
    secret = b"SECRETSECRETSECRET"
    (photos / "text.png").write_bytes(secret * 40)
    (photos / "chunk.png").write_bytes(make_corpus.png(4, 4, make_corpus.chunk(b"tEXt", b"k\0" + secret), secret))
    Pillow.fromarray(PHOTO).save(photos / "exif.jpg", comment=secret, exif=b"Exif\0\0" + secret)
    run(photos)
    for path in (photos.parent / "out").rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes()


# --- weights and network


UNSAFE = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
    "torch.hub.load",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "requests.get",
}


SAFE_YAML = ("yaml.BaseLoader", "yaml.SafeLoader")


def unsafe_calls(name: str, source: str) -> list[str]:
    """Calls that run what a file says, or fetch it; torch.load and np.load only with what makes them safe."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        safe_yaml = called == "yaml.load" and any(ast.unparse(given) in SAFE_YAML for given in node.args[1:])
        if (
            called in UNSAFE
            and not safe_yaml
            or called == "torch.load"
            and options.get("weights_only") != "True"
            or any(options.get(option) == "True" for option in ("allow_pickle", "shell", "trust_remote_code"))
        ):
            found.append(f"{name}:{node.lineno}: {called}")
    return found


def test_nothing_runs_or_fetches_what_a_file_says() -> None:
    folders = ("unseg", "segment_anything_training", "utils", "eval", "generate")
    sources = [ROOT / "train.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    assert len(sources) > 30
    assert [call for path in sources for call in unsafe_calls(path.name, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "pickle.loads(x)",
        "eval(x)",
        "os.system(x)",
        "yaml.load(x)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(x, yaml.Loader)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_unsafe_calls_are_found(line: str) -> None:
    assert len(unsafe_calls("m", line)) == 1
    assert unsafe_calls("m", "torch.load(p, weights_only=True)\nnp.load(p)") == []


class Harmful:
    """Unpickled by a reader that runs code, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["generator.pth", "generator.safetensors", "generator.pt", "generator"])
def test_a_pickle_that_would_run_code_does_not(photos: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    """Whatever its name; through the command, and with the proof that the file is harmful to whoever trusts it."""
    marker = photos.parent / "ran"
    torch.save({"a": torch.zeros(1), "b": Harmful(marker)}, photos.parent / name)
    arguments = [
        "protect",
        "--whole-image",
        str(photos),
        "--out",
        str(photos.parent / "out"),
        "--generator",
        str(photos.parent / name),
    ]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "could run code" in error and error.count("\n") == 1
    assert not marker.exists() and not (photos.parent / "out").exists()
    torch.load(photos.parent / name, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", ["sam_vit_b_01ec64.pth", "sam_vit_h_4b8939.pth", "Generator_unseg_final.pth"])
def test_missing_weights_say_which_from_where_with_which_sum_and_whither(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as raised:
        load_generator(tmp_path / name)
    message = str(raised.value)
    for said in (name, "get it from https://", "sha256", "put it into"):
        assert said in message
    assert "\n" not in message


NO_NETWORK = """
import sys
def refuse(event, arguments):
    if event.startswith("socket.") and event not in ("socket.gethostname",):
        print("NETWORK", event, arguments, flush=True)
        raise OSError("no network in this test")
sys.addaudithook(refuse)
from unseg import cli
print("CODES", [cli.main(command.split()) for command in sys.argv[1:]])
"""


@pytest.mark.slow
def test_protect_verify_and_info_work_without_any_network(photos: Path) -> None:
    """Every use of a socket in the process raises and is seen; the generator that ships is used."""
    commands = [
        "info",
        "protect photos --whole-image --out out --device cpu",
        "verify out",
        "protect photos --whole-image --out more --generator compact --format tiff --metadata keep",
        "protect photos --whole-image --out third --generator sam_vit_b_01ec64.pth",
    ]
    result = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *commands],
        cwd=photos.parent,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "CODES [0, 0, 0, 0, 2]" in result.stdout and "NETWORK" not in result.stdout, result.stdout + result.stderr
    assert "sam_vit_b_01ec64.pth: no such file; get it from https://" in result.stderr


def test_the_network_test_would_see_a_connection() -> None:
    code = NO_NETWORK[: NO_NETWORK.index("from unseg")] + "import socket; socket.create_connection(('localhost', 1))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode != 0 and "NETWORK socket." in result.stdout


def test_safetensors_with_a_lying_header_are_refused(tmp_path: Path) -> None:
    from segment_anything_training.build import build_generator

    save_generator(build_generator("compact"), "compact", tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    for start in (b"\xff" * 8, (2**40).to_bytes(8, "little"), bytes(8), (10).to_bytes(8, "little")):
        (tmp_path / "b.safetensors").write_bytes(start + content[8:])
        with pytest.raises(UserError, match="b.safetensors: "):
            load_generator(tmp_path / "b.safetensors")


def test_a_fake_generator_that_answers_too_much_keeps_the_bound(photos: Path) -> None:
    """Weights are input too: whatever noise they make, infinities aside, which are refused, the bound holds."""

    class Loud(FakeGenerator):
        def forward(self, batch: torch.Tensor, prompts: object) -> torch.Tensor:
            return super().forward(batch, prompts) * 1e30

    generator = loaded()
    object.__setattr__(generator, "network", Loud().eval())
    assert protect([photos], photos.parent / "out", SETTINGS, generator=generator, whole_image=True).exit_code == 0
    assert verify(photos.parent / "out").exit_code == 0


def test_entries_survive_their_own_reader() -> None:
    from unseg.protecting.manifest import _entry, _line

    entry = Entry(
        "a b.png",
        "../in",
        "protected",
        output="a b.png",
        width=3,
        height=4,
        boxes=((1, 2.5, 3, 4),),
        claims=("x.png",),
        object_budget=8.0,
        psnr=33.25,
        over_budget=0.0,
        max_over=0,
    )
    assert _entry(json.loads(_line(entry))) == entry
