"""A run of protect: the same bytes in any order and grouping, names that lose nothing, runs that go on after a kill."""

from __future__ import annotations

import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import unseg.protecting.inputs
import unseg.protecting.network_source
from tests.support.acting_progress import Acting
from tests.support.fake_generator import FakeGenerator, loaded
from tests.support.told_progress import Told
from unseg.compute.threads import single_threaded_pool, worker_threads
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.method.metrics import psnr
from unseg.protecting.effect import breach
from unseg.protecting.manifest import FORMAT, MANIFEST, Entry, ManifestWriter, read_manifest
from unseg.protecting.network_protector import NetworkProtector, image_region
from unseg.protecting.prompt_files import of_images, read_boxes
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage import image_decoding
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import read_image

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")
SIZES = {
    "a.jpg": (30, 44),
    "b.png": (64, 64),
    "sub/c.bmp": (70, 21),
    "sub/deep/d.webp": (33, 90),
    "sub/e.jpeg": (41, 40),
}


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours with some texture, from black to white."""
    random = np.random.default_rng(seed)
    coarse = Pillow.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse = coarse.resize((width, height), Pillow.BICUBIC)
    return np.clip(np.array(coarse, int) + random.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(photograph(*size, seed)).save(path)
    return tmp_path / "photos"


def add_masks(folder: Path, kind: str = "index") -> Path:
    """A mask for every image: 0 at the top, class 3 below it, 255 in the last row; or 0 and 255."""
    masks = folder.parent / f"masks_{kind}"
    for name, (height, width) in SIZES.items():
        values = np.zeros((height, width), np.uint8)
        values[height // 3 :] = 3 if kind == "index" else 255
        values[-1] = 255
        path = (masks / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(values).save(path)
    return masks


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name != MANIFEST}


def run(inputs: object, out: Path, settings: ProtectSettings = SETTINGS, **options: object) -> Summary:
    inputs = inputs if isinstance(inputs, list) else [inputs]
    options.setdefault("whole_image", not {"masks", "boxes", "annotations"} & options.keys())
    return protect(inputs, out, settings, generator=options.pop("generator", loaded()), **options)


def change(folder: Path, out: Path, name: str) -> np.ndarray:
    """The greatest change at every pixel, H×W, as read back from the disk."""
    original = read_image(folder / name).pixels.astype(int)
    return np.abs(read_image((out / name).with_suffix(".png")).pixels - original).max(axis=2)


# --- one image in memory


def test_the_protector_keeps_the_budget_on_the_object_and_elsewhere() -> None:
    pixels, mask = photograph(50, 80, 0), np.zeros((50, 80), bool)
    mask[10:40, 20:60] = True
    difference = np.abs(NetworkProtector(FakeGenerator(), Budget(8, 2))(pixels, mask).astype(int) - pixels).max(axis=2)
    assert difference[mask].max() == 8 and difference[~mask].max() == 2


def test_without_a_mask_the_whole_image_is_the_object_and_padding_is_not() -> None:
    network = FakeGenerator()
    NetworkProtector(network)(photograph(32, 64, 0), whole_image=True)
    prompt = network.seen[0][1].masks[0, 0]
    assert (prompt[:32] == 255).all() and (prompt[32:] == 0).all()


def test_boxes_prompt_the_network_in_its_frame_and_the_region_is_inside_them() -> None:
    network, pixels = FakeGenerator(), photograph(100, 128, 0)
    protected = NetworkProtector(network, Budget(8, 0))(pixels, boxes=[[10, 20, 29, 39], [60, 50, 500, 61]])
    assert network.seen[0][1].masks is None
    # Around both boxes, inside the image, and halved from 128 to 64.
    assert torch.equal(network.seen[0][1].boxes, torch.tensor([[5.0, 10.0, 63.5, 30.5]]))
    changed = (protected != pixels).any(axis=2)
    assert changed[20:40, 10:30].mean() > 0.5 and changed[50:62, 60:].mean() > 0.5
    changed[20:40, 10:30] = changed[50:62, 60:] = False
    assert not changed.any()


def test_an_object_too_small_for_the_prompt_still_gets_one() -> None:
    network, mask = FakeGenerator(), np.zeros((640, 320), bool)
    mask[333, 77] = True  # nearest neighbour looks at every tenth pixel
    NetworkProtector(network)(photograph(640, 320, 0), mask)
    assert torch.nonzero(network.seen[0][1].masks[0, 0]).tolist() == [[33, 7]]


def test_the_published_region_follows_the_prompt_and_the_strict_one_the_mask() -> None:
    mask = np.zeros((256, 256), bool)
    mask[:, 1::8] = True  # thinner than a cell of the 64-pixel prompt
    assert np.array_equal(image_region(mask, "mask", 64, 64), mask)
    published = image_region(mask, "published", 64, 64)
    assert published.shape == mask.shape and not np.array_equal(published, mask)


def test_noise_does_not_depend_on_the_company_in_a_batch() -> None:
    protector = NetworkProtector(FakeGenerator(), batch_size=4)
    framed = [protector.frame(photograph(40, 40, seed), np.ones((40, 40), bool)) for seed in range(4)]
    together = protector.noise(framed)
    for index, item in enumerate(framed):
        assert np.array_equal(protector.noise([item])[0], together[index])
    assert {shape[0] for shape, _ in protector.network.seen} == {4}
    with pytest.raises(ValueError, match="5 images for a batch of 4"):
        protector.noise(framed + framed[:1])


# --- folders


def test_a_folder_keeps_its_tree_its_sizes_and_its_bound(folder: Path, tmp_path: Path) -> None:
    summary = run(folder, tmp_path / "out")
    assert summary.exit_code == 0 and [entry.status for entry in summary.entries] == ["protected"] * 5
    assert sorted(pictures(tmp_path / "out")) == ["a.png", "b.png", "sub/c.png", "sub/deep/d.png", "sub/e.png"]
    for name in SIZES:
        assert change(folder, tmp_path / "out", name).max() == 8


def test_masks_limit_every_pixel_by_its_own_budget(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", replace(SETTINGS, budget=Budget(9, 3)), masks=add_masks(folder))
    for name, (height, _) in SIZES.items():
        difference = change(folder, tmp_path / "out", name)
        assert difference[height // 3 : -1].max() == 9
        assert difference[: height // 3].max() == 3 and difference[-1].max() == 3  # background 0, ignored 255


def test_binary_masks_of_0_and_255_are_told_from_ignored_pixels(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", masks=add_masks(folder, "binary"))
    assert change(folder, tmp_path / "out", "b.png")[64 // 3 :].max() == 8
    shares = {entry.input: entry.object_share for entry in read_manifest(tmp_path / "out").entries.values()}
    assert shares["b.png"] == pytest.approx(43 / 64)


def test_the_manifest_says_what_was_done(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", masks=add_masks(folder), generator=loaded("f" * 64))
    header, *lines = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text().splitlines()]
    assert header["generator"] == {"name": "fake", "source": "fake.safetensors", "sha256": "f" * 64}
    assert header["settings"]["object_budget"] == 8 and header["settings"]["mask_rule"]["kind"] == "index"
    assert [line["input"] for line in lines] == sorted(SIZES)
    line = lines[2]
    assert line["input"] == "sub/c.bmp" and line["output"] == "sub/c.png" and line["input_root"] == "../photos"
    assert line["input_sha256"] == sha256_of(folder / "sub/c.bmp")
    assert line["output_sha256"] == sha256_of(tmp_path / "out" / "sub/c.png")
    assert line["mask_sha256"] == sha256_of(tmp_path / "masks_index" / "sub/c.png")
    assert (line["width"], line["height"], line["prompt"]) == (21, 70, "mask")
    original, output = read_image(folder / "sub/c.bmp").pixels, read_image(tmp_path / "out" / "sub/c.png").pixels
    assert line["psnr"] == pytest.approx(psnr(original, output))
    squared_error = np.mean((original - output.astype(float)) ** 2)
    assert psnr(original, output) == pytest.approx(10 * np.log10(255**2 / squared_error))


def test_two_runs_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    masks = add_masks(folder)
    run(folder, tmp_path / "one", masks=masks)
    run(folder, tmp_path / "two", replace(SETTINGS, workers=1), masks=masks)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_order_and_grouping_do_not_matter(folder: Path, tmp_path: Path, batch_size: int) -> None:
    settings = replace(SETTINGS, batch_size=batch_size)
    run(folder, tmp_path / "whole", settings)
    shutil.copytree(folder / "sub", tmp_path / "sub")
    run([tmp_path / "sub", folder / "b.png", folder / "a.jpg"], tmp_path / "mixed", settings)
    for name in reversed(["a.jpg", "b.png"]):
        run(folder / name, tmp_path / "single", settings)
    whole, mixed, single = pictures(tmp_path / "whole"), pictures(tmp_path / "mixed"), pictures(tmp_path / "single")
    assert mixed == {name.removeprefix("sub/"): data for name, data in whole.items()}
    assert single == {name: whole[name] for name in ("a.png", "b.png")}


def test_another_batch_size_moves_next_to_nothing(folder: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        run(folder, tmp_path / str(size), replace(SETTINGS, batch_size=size))
    names = sorted(pictures(tmp_path / "1"))
    first, second = (
        np.concatenate([read_image(tmp_path / size / name).pixels.ravel() for name in names]) for size in ("1", "4")
    )
    difference = np.abs(first.astype(int) - second)
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-4


def test_colliding_names_keep_both_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bmp"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Pillow.fromarray(photograph(20, 20, len(name))).save(tmp_path / "in" / name)
    run(tmp_path / "in", tmp_path / "out")
    outputs = {entry.input: entry.output for entry in read_manifest(tmp_path / "out").entries.values()}
    assert outputs == {"a.png": "a.png", "a.bmp": "a.bmp.png", "a.jpg": "a.jpg.png"}
    run([tmp_path / "in" / "a.jpg", tmp_path / "in" / "a.bmp", tmp_path / "in" / "a.png"], tmp_path / "files")
    assert pictures(tmp_path / "files") == pictures(tmp_path / "out")
    note = read_manifest(tmp_path / "out").entries["a.jpg", "../in"].note
    assert note == "named a.jpg.png because another input has the name a.png"


def test_the_same_name_from_two_folders_is_kept_twice(tmp_path: Path) -> None:
    for number, parent in enumerate(("x", "y")):
        (tmp_path / parent).mkdir()
        Pillow.fromarray(photograph(20, 20 + number, number)).save(tmp_path / parent / "a.png")
    run([tmp_path / "y", tmp_path / "x"], tmp_path / "out")
    widths = {name: read_image(tmp_path / "out" / name).pixels.shape[1] for name in pictures(tmp_path / "out")}
    assert widths == {"a.png": 20, "a.png.png": 21}


def test_images_without_object_are_copied_byte_for_byte_and_counted(folder: Path, tmp_path: Path) -> None:
    masks = add_masks(folder)
    (masks / "a.png").unlink()
    Pillow.fromarray(np.full((70, 21), 255, np.uint8)).save(masks / "sub" / "c.png")
    summary = run(folder, tmp_path / "out", masks=masks)
    assert summary.exit_code == 1
    assert [(entry.input, entry.reason) for entry in summary.of("copied")] == [
        ("a.jpg", "no mask for it"),
        ("sub/c.bmp", "no object in its mask (sub/c.png)"),
    ]
    assert (tmp_path / "out" / "a.jpg").read_bytes() == (folder / "a.jpg").read_bytes()
    assert (tmp_path / "out" / "sub" / "c.bmp").read_bytes() == (folder / "sub" / "c.bmp").read_bytes()
    assert not (tmp_path / "out" / "a.png").exists() and len(summary.of("protected")) == 3


def test_a_copy_gives_way_once_its_image_is_protected(folder: Path, tmp_path: Path) -> None:
    masks = add_masks(folder)
    hidden = (masks / "a.png").rename(tmp_path / "hidden.png")
    run(folder, tmp_path / "out", masks=masks)
    hidden.rename(masks / "a.png")
    summary = run(folder, tmp_path / "out", masks=masks)
    assert summary.exit_code == 0 and summary.kept == 4
    assert "a.jpg" not in files(tmp_path / "out") and "a.png" in files(tmp_path / "out")


def test_boxes_from_a_file(folder: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        json.dumps(
            {
                "a.jpg": [[5, 5, 20, 20]],
                "b.png": [],
                "sub/c.bmp": [[500, 0, 600, 9]],
                "sub/deep/d.webp": [[0, 0, 89, 32]],
                "sub/e.jpeg": [[1, 1, 2, 2], [30, 30, 35, 35]],
            }
        )
    )
    summary = run(folder, tmp_path / "out", replace(SETTINGS, budget=Budget(8, 0)), boxes=boxes)
    difference = change(folder, tmp_path / "out", "a.jpg")
    assert difference[5:21, 5:21].max() == 8
    difference[5:21, 5:21] = 0
    assert difference.max() == 0
    assert [(entry.input, entry.status) for entry in summary.entries] == [
        ("a.jpg", "protected"),
        ("b.png", "copied"),
        ("sub/c.bmp", "failed"),
        ("sub/deep/d.webp", "protected"),
        ("sub/e.jpeg", "protected"),
    ]
    assert summary.entries[2].reason == "every box lies outside the image (21×70)"


def test_boxes_belong_to_images_in_whatever_form_their_names_are_written(tmp_path: Path) -> None:
    accented = unicodedata.normalize("NFD", "caf\u00e9.JPG")
    content = {unicodedata.normalize("NFC", "caf\u00e9.jpg"): [[1, 1, 2, 2]], "sub\\b.png": [], "c.png": [[0, 0, 1, 1]]}
    (tmp_path / "boxes.json").write_text(json.dumps(content), "utf-16")
    samples = [SampleFile(name, tmp_path / name, tmp_path) for name in (accented, "sub/b.png", "d.png")]
    assert of_images(read_boxes(tmp_path / "boxes.json"), samples) == {
        accented: ((1, 1, 2, 2),),
        "sub/b.png": (),
        "c.png": ((0, 0, 1, 1),),
    }


def test_class_ids_that_are_not_there_are_told_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    masks, chosen = add_masks(folder), replace(SETTINGS, rule=ObjectRule((77,)))
    for number, given in enumerate(({"masks": masks}, {"annotations": masks})):
        told = Told()
        summary = protect([folder], tmp_path / str(number), chosen, **given, progress=told)
        assert "note: --objects: no image shows class 77; all classes that they show: 0, 3" in told.sentences
        assert {entry.status for entry in summary.entries} == {"copied"}
        assert all((entry.reason or "").endswith(", which has the class ids 0, 3, 255") for entry in summary.entries)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        '{"a.jpg": 3}',
        '{"a.jpg": [[1, 2, 3]]}',
        '{"a.jpg": [[5, 5, 4, 9]]}',
        '{"a.jpg": [[1, 2, 3, "4"]]}',
        '{"a.jpg": [[1, 2, 3, NaN]]}',
        '{"a.jpg": [[1, 2, 3, 4]], "a.jpg": [[5, 6, 7, 8]]}',
    ],
)
def test_a_bad_boxes_file_is_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(UserError, match="--boxes .*boxes.json: "):
        read_boxes(tmp_path / "boxes.json")


# --- going on, and overwriting nothing


def test_finished_files_are_kept_and_missing_ones_made_again(folder: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "out", add_masks(folder)
    run(folder, out, masks=masks)
    before = files(out)
    (out / "b.png").unlink()
    (out / "sub" / "e.png").unlink()
    Pillow.fromarray(photograph(*SIZES["a.jpg"], 99)).save(folder / "a.jpg")
    summary = run(folder, out, masks=masks)
    assert summary.kept == 2 and summary.exit_code == 0
    after = files(out)
    assert {name for name in before if before[name] != after[name]} == {"a.png", MANIFEST}


@pytest.mark.parametrize("also", ["nothing", "its mask", "its image"])
def test_a_finished_file_that_somebody_changed_stays_until_it_is_moved(folder: Path, tmp_path: Path, also: str) -> None:
    """A picture that was retouched, or one that a disk damaged: the run cannot tell, and loses neither."""
    out, masks = tmp_path / "out", add_masks(folder)
    run(folder, out, masks=masks)
    (out / "b.png").write_bytes(b"mine")
    if also == "its mask":
        Pillow.fromarray(np.full((64, 64), 3, np.uint8)).save(masks / "b.png")
    if also == "its image":
        Pillow.fromarray(photograph(*SIZES["b.png"], 99)).save(folder / "b.png")
    for _ in range(2):
        summary = run(folder, out, masks=masks)
        (line,) = summary.of("failed")
        assert summary.exit_code == 1 and line.input == "b.png" and (out / "b.png").read_bytes() == b"mine"
        assert line.reason == (
            "b.png in the output changed since it was written: move it away, and the same command makes it anew"
        )
    (out / "b.png").rename(tmp_path / "mine.png")
    assert run(folder, out, masks=masks).exit_code == 0 and verify(out).exit_code == 0


def test_a_changed_mask_protects_anew(folder: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "out", add_masks(folder)
    run(folder, out, masks=masks)
    Pillow.fromarray(np.full((64, 64), 3, np.uint8)).save(masks / "b.png")
    assert run(folder, out, masks=masks).kept == 4
    assert change(folder, out, "b.png")[:20].max() == 8


def test_other_settings_do_not_mix_in_one_folder(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    before = files(tmp_path / "out")
    for settings, options in (
        (replace(SETTINGS, budget=Budget(4, 1)), {}),
        (SETTINGS, {"generator": loaded("1" * 64)}),
        (SETTINGS, {"masks": add_masks(folder)}),
        (replace(SETTINGS, format="webp"), {}),
    ):
        with pytest.raises(UserError, match="holds images made with other settings"):
            run(folder, tmp_path / "out", settings, **options)
    assert files(tmp_path / "out") == before


def test_files_of_the_user_are_never_overwritten(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "a.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="a.png exists and was not written by unseg"):
        run(folder, out)
    assert files(out) == {"notes.txt": b"mine", "a.png": b"mine"}
    (out / "a.png").rename(out / "a.jpg")  # where a copy would go, were one needed
    masks = add_masks(folder)
    (masks / "a.png").unlink()
    summary = run(folder, out, masks=masks)
    assert summary.of("failed")[0].reason == "no mask for it; and copying it failed: a.jpg exists in the output folder"
    assert (out / "a.jpg").read_bytes() == b"mine" and (out / "notes.txt").read_text() == "mine"


def test_outputs_of_another_input_are_not_replaced(tmp_path: Path) -> None:
    for number, parent in enumerate(("x", "y")):
        (tmp_path / parent).mkdir()
        Pillow.fromarray(photograph(20, 20 + number, number)).save(tmp_path / parent / "a.png")
        run(tmp_path / parent, tmp_path / "out")
    assert sorted(pictures(tmp_path / "out")) == ["a.png", "a.png.png"]
    assert len(read_manifest(tmp_path / "out").entries) == 2


@pytest.mark.parametrize(
    ("inputs", "out"),
    [
        ("photos", "photos"),
        ("photos", "photos/out"),
        ("photos/sub", "photos"),
        ("photos/a.jpg", "photos"),
        ("photos/sub/c.bmp", "photos"),
        ("photos", "photos/a.jpg"),
    ],
)
def test_output_and_input_do_not_hold_each_other(folder: Path, tmp_path: Path, inputs: str, out: str) -> None:
    before = files(folder)
    with pytest.raises(UserError, match=f"--out .*{out}: (lies in|holds|is a file)"):
        run(tmp_path / inputs, tmp_path / out)
    assert files(folder) == before


def test_a_link_does_not_hide_that_the_output_lies_in_the_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="lies in the input"):
        run(folder, tmp_path / "link" / "out")


def test_the_output_is_not_put_among_the_masks(folder: Path, tmp_path: Path) -> None:
    masks = add_masks(folder)
    with pytest.raises(UserError, match="lies in .*, where the masks or annotations are"):
        run(folder, masks / "out", masks=masks)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_goes_on_to_the_bytes_of_an_unbroken_one(folder: Path, tmp_path: Path, after: int) -> None:
    run(folder, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out", progress=Acting(after, interrupt))
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert {entry.status for entry in read_manifest(tmp_path / "out").entries.values()} <= {"protected", "started"}
    assert run(folder, tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


def test_a_killed_run_leaves_files_that_are_known_as_its_own(folder: Path, tmp_path: Path) -> None:
    """As after kill -9: an output written but not recorded, a torn last line, a temporary file."""
    out = tmp_path / "out"
    out.mkdir()
    writer = ManifestWriter(out, {"format": FORMAT, "settings": settings_of(folder, tmp_path)}, []).__enter__()
    writer.announce([Entry("a.jpg", "../photos", "started", claims=("a.jpg", "a.png"))])
    with open(out / MANIFEST, "a") as file:
        file.write('{"input": "b.png", "inp')
    (out / "a.png").write_bytes(b"half")
    (out / ".unseg-0123456789abcdef.tmp").write_bytes(b"half")
    run(folder, out)
    run(folder, tmp_path / "unbroken")
    assert files(out) == files(tmp_path / "unbroken")


def settings_of(folder: Path, tmp_path: Path) -> dict:
    run(folder / "a.jpg", tmp_path / "probe")
    return read_manifest(tmp_path / "probe").header["settings"]


def test_a_failure_keeps_what_an_earlier_run_made(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    before = pictures(tmp_path / "out")
    (folder / "a.jpg").write_bytes(b"")
    assert run(folder, tmp_path / "out").of("failed")[0].output == "a.png"
    assert pictures(tmp_path / "out") == before
    Pillow.fromarray(photograph(*SIZES["a.jpg"], 5)).save(folder / "a.jpg")
    assert run(folder, tmp_path / "out").exit_code == 0


def test_the_callers_threads_are_left_as_they_were(folder: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(folder, tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_worker_threads_keep_their_own_number_of_torch_threads() -> None:
    with single_threaded_pool(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        torch.set_num_threads(3)
        assert pool.submit(torch.get_num_threads).result() == 1


def test_worker_threads_leave_the_callers_number() -> None:
    before = torch.get_num_threads()
    with worker_threads(2, 3) as pool:
        assert {found.result() for found in [pool.submit(torch.get_num_threads) for _ in range(8)]} == {3}
        assert torch.get_num_threads() == before


def test_only_the_networks_thread_has_a_team_of_openmp(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second team makes libgomp's threads sleep after every operation, ten thousand times an image with ViT-B."""
    asked, ask, read = [], NetworkProtector.noise, []
    monkeypatch.setattr(NetworkProtector, "noise", lambda *given: asked.append(torch.get_num_threads()) or ask(*given))
    monkeypatch.setattr(
        unseg.protecting.inputs, "fastest_generator", lambda *given: read.append(torch.get_num_threads()) or loaded()
    )
    monkeypatch.setattr(
        unseg.protecting.network_source, "SMALL_NETWORK_SIDE", 0
    )  # as a large network: one image on all threads
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(folder, tmp_path / "out", replace(SETTINGS, noise="compact"), generator=None)
    finally:
        torch.set_num_threads(before)
    assert set(read) == {1} and set(asked) == {2}


# --- formats


def test_webp_is_lossless(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "png")
    run(folder, tmp_path / "webp", replace(SETTINGS, format="webp"))
    for name in SIZES:
        png, webp = (read_image((tmp_path / form / name).with_suffix(f".{form}")).pixels for form in ("png", "webp"))
        assert np.array_equal(png, webp)


def test_jpeg_tells_by_how_much_it_breaks_the_bound(folder: Path, tmp_path: Path) -> None:
    summary = run(folder, tmp_path / "out", replace(SETTINGS, format="jpeg"))
    assert (tmp_path / "out" / "sub" / "e.jpeg").exists() and (tmp_path / "out" / "b.jpg").exists()
    for entry in summary.entries:
        original = read_image(folder / entry.input).pixels.astype(int)
        difference = np.abs(read_image(tmp_path / "out" / entry.output).pixels - original)
        assert entry.over_budget == pytest.approx((difference > 8).mean())
        assert entry.max_over == max(0, difference.max() - 8)
    assert max(entry.max_over for entry in summary.entries) > 0


def test_breach_counts_by_hand() -> None:
    original, changed = np.zeros((1, 2, 3), np.uint8), np.array([[[8, 9, 0], [2, 5, 3]]], np.uint8)
    assert breach(original, changed, np.array([[True, False]]), Budget(8, 2)) == (0.5, 3)


def test_alpha_is_kept_and_jpeg_refuses_it(tmp_path: Path) -> None:
    pixels, alpha = photograph(20, 30, 0), np.arange(600, dtype=np.uint8).reshape(20, 30)
    (tmp_path / "in").mkdir()
    Pillow.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "in" / "a.png")
    run(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").alpha, alpha)
    summary = run(tmp_path / "in", tmp_path / "jpeg", replace(SETTINGS, format="jpeg"))
    assert summary.of("failed")[0].reason == "JPEG cannot keep its transparency: use --format png"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more decoded images at once than the window holds."""
    (tmp_path / "in").mkdir()
    for number in range(40):
        Pillow.fromarray(photograph(16, 16, number)).save(tmp_path / "in" / f"{number:02}.png")
    alive, most = set(), []
    decode, save = image_decoding.read_image, unseg.protecting.pipeline.write_blocks

    def counted_read(path: Path, *arguments: object, **options: object) -> image_decoding.Image:
        alive.add(path.stem)
        most.append(len(alive))
        return decode(path, *arguments, **options)

    def counted_write(path: Path, *arguments: object, **options: object) -> str:
        alive.discard(Path(path).stem)
        return save(path, *arguments, **options)

    monkeypatch.setattr(image_decoding, "read_image", counted_read)
    monkeypatch.setattr(unseg.protecting.pipeline, "write_blocks", counted_write)
    assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
    assert len(most) == 40 and max(most) <= 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region", "x"),
        ("format", "gif"),
        ("png_level", 10),
        ("batch_size", 0),
        ("workers", 0),
        ("max_megapixels", 0.0),
        ("mask_type", "grey"),
    ],
)
def test_wrong_settings_name_their_option(field: str, value: object) -> None:
    option = "--" + field.replace("_", "-")
    with pytest.raises(UserError, match=option):
        replace(SETTINGS, **{field: value})


def test_masks_and_boxes_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--masks and --boxes"):
        run(folder, tmp_path / "out", masks=folder, boxes=tmp_path / "boxes.json")
