"""Runs with --refine-boxes and --points: what is written, proved, gone on with, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

import unseg
from tests.support.fake_generator import FakeGenerator, loaded
from unseg.data.annotations.runs import parse_counts, runs_of_counts
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.manifest import MANIFEST, Entry
from unseg.protecting.points import Points
from unseg.protecting.prompt_files import read_points
from unseg.protecting.protector import Protector
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.files import files_under
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png

SETTINGS = ProtectSettings(Budget(8, 2), device="cpu", workers=2)
HEIGHT, WIDTH = 90, 130
BOX = [34, 20, 110, 75]
INSIDE, OUTSIDE = (60, 50), (10, 80)


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a textured picture of an oblique ellipse, off the middle, and its mask."""
    shape = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(shape, (72, 47), (36, 18), 25, 0, 360, 1, -1)
    colours = np.where(shape[..., None] > 0, np.array([190, 140, 70]), np.array([50, 70, 90]))
    noise = np.random.default_rng(seed).normal(0, 8, colours.shape)
    return np.clip(colours + noise, 0, 255).astype(np.uint8), shape > 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    pixels = picture(0)[0]
    Pillow.fromarray(pixels).save(folder / "a.png")
    Pillow.fromarray(picture(1)[0]).convert("L").save(folder / "sub" / "grey.png")
    alpha = np.dstack([picture(2)[0], np.full((HEIGHT, WIDTH), 90, np.uint8)])
    Pillow.fromarray(alpha).save(folder / "sub" / "seen_through.png")
    write_png(folder / "deep.png", picture(3)[0].astype(np.uint16) * 257)
    return folder


NAMES = ["a.png", "deep.png", "sub/grey.png", "sub/seen_through.png"]


def run(photos: Path, out: Path, content: dict[str, Any], option: str, **more: Any) -> Summary:
    """Protects with a file of boxes (refined) or of points that holds `content`."""
    file = photos.parent / f"{option}.json"
    file.write_text(json.dumps(content))
    refine = {"refine_boxes": True} if option == "boxes" else {}
    more = {"generator": loaded(), **more}
    return protect(photos, out, more.pop("settings", SETTINGS), **{option: file}, **refine, **more)


def outline_of(entry: Entry) -> np.ndarray:
    return runs_of_counts(parse_counts(entry.outline), entry.height, entry.width).mask(entry.height, entry.width)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


FORMS = {
    "boxes": [BOX],
    "points": {"object": [INSIDE, [85, 53]], "background": [OUTSIDE]},
}


@pytest.mark.parametrize(("noise", "beside"), [("network", 2), ("codes", 0)])
@pytest.mark.parametrize("option", FORMS)
def test_the_budget_follows_the_outline_and_the_manifest_proves_it(
    photos: Path, tmp_path: Path, option: str, noise: str, beside: int
) -> None:
    out = tmp_path / "out"
    generator = loaded() if noise == "network" else None
    summary = run(photos, out, dict.fromkeys(NAMES, FORMS[option]), option, generator=generator)
    assert summary.exit_code == 0 and [entry.input for entry in summary.entries] == NAMES
    (photos.parent / f"{option}.json").unlink()
    assert verify(out).exit_code == 0
    for entry in summary.entries:
        found, mask = outline_of(entry), picture(0)[1]
        assert (found & mask).sum() / (found | mask).sum() > 0.9
        assert entry.object_share == pytest.approx(found.mean()) and entry.prompt == option
    assert summary.entries[0].points == (Points((INSIDE, (85, 53)), (OUTSIDE,)) if option == "points" else None)
    original, made = (read_image(folder / "a.png").pixels.astype(int) for folder in (photos, out))
    change, found = np.abs(made - original).max(axis=2), outline_of(summary.entries[0])
    assert change[found].max() == 8 and change[~found].max() == beside
    header, line = (out / MANIFEST).read_text().splitlines()[:2]
    assert json.loads(header)["settings"]["refined"] is True and json.loads(line)[option] == json.loads(
        json.dumps(FORMS[option])
    )


@pytest.mark.parametrize("option", FORMS)
def test_codes_in_memory_are_those_of_the_folder(photos: Path, tmp_path: Path, option: str) -> None:
    key = bytes(range(32))
    run(photos, tmp_path / "out", dict.fromkeys(NAMES, FORMS[option]), option, generator=None, key=key)
    ask = {option: FORMS[option], **({"refine_boxes": True} if option == "boxes" else {})}
    made = Protector(budget=SETTINGS.budget, key=key)(picture(0)[0], **ask)
    assert np.array_equal(made, read_image(tmp_path / "out" / "a.png").pixels)
    assert np.array_equal(made, unseg.protect(picture(0)[0], key=key, **ask))


@pytest.mark.parametrize("option", FORMS)
def test_the_bytes_are_those_of_any_order_number_of_threads_and_restart(
    photos: Path, tmp_path: Path, option: str
) -> None:
    content = dict.fromkeys(NAMES, FORMS[option])
    run(photos, tmp_path / "one", content, option, settings=replace(SETTINGS, workers=1))
    run(photos, tmp_path / "two", content, option, limit=1)
    again = run(photos, tmp_path / "two", content, option, settings=replace(SETTINGS, workers=4))
    assert again.kept == 1 and tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_bytes_are_those_of_several_processes(photos: Path, tmp_path: Path) -> None:
    content = dict.fromkeys(NAMES, FORMS["points"])
    for processes, out in ((1, "one"), (2, "two")):
        run(photos, tmp_path / out, content, "points", processes=processes)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_only_images_whose_points_changed_are_made_again(photos: Path, tmp_path: Path) -> None:
    content = dict.fromkeys(NAMES, [INSIDE])
    run(photos, tmp_path / "out", content, "points")
    assert run(photos, tmp_path / "out", content, "points").kept == 4
    moved = run(photos, tmp_path / "out", {**content, "a.png": [[70, 45]]}, "points")
    assert moved.kept == 3 and verify(tmp_path / "out").exit_code == 0


def test_filled_and_refined_boxes_do_not_mix(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", dict.fromkeys(NAMES, [BOX]), "boxes")
    with pytest.raises(UserError, match="--refine-boxes: true, now false"):
        protect(photos, tmp_path / "out", SETTINGS, boxes=tmp_path / "boxes.json", generator=loaded())


def test_points_beside_the_image_are_told(photos: Path, tmp_path: Path) -> None:
    content = dict.fromkeys(NAMES, {"object": [INSIDE, [85, 53]], "background": [OUTSIDE, [-5, 4], [3, HEIGHT]]})
    summary = run(photos, tmp_path / "out", content, "points")
    assert summary.exit_code == 0
    assert {entry.note.split("; ")[-1] for entry in summary.entries} == {"2 of 5 points lie outside the image"}


def test_an_outline_that_is_the_whole_image_is_none(photos: Path, tmp_path: Path) -> None:
    """Every pixel of a plain picture is as near to the point as its neighbour."""
    Pillow.new("RGB", (WIDTH, HEIGHT), (50, 70, 90)).save(photos / "a.png")
    summary = run(photos, tmp_path / "out", {"a.png": [[50, 40]]}, "points")
    assert (summary.entries[0].status, summary.entries[0].reason) == (
        "failed",
        "no outline was found around its points; give it more points, boxes or a mask",
    )


def test_images_without_points_are_not_called_protected(photos: Path, tmp_path: Path) -> None:
    speck = np.full((HEIGHT, WIDTH, 3), (50, 70, 90), np.uint8)
    speck[40, 50] = (255, 0, 0)
    Pillow.fromarray(speck).save(photos / "a.png")
    around = [[50, 46], [50, 34], [44, 40], [56, 40]]
    content = {
        "a.png": {"object": [[50, 40]], "background": around},
        "deep.png": [[WIDTH, 5], [-3, -3]],
        "sub/grey.png": {"object": [], "background": [[4, 4]]},
    }
    summary = run(photos, tmp_path / "out", content, "points")
    assert [(entry.status, entry.reason) for entry in summary.entries] == [
        ("failed", "no outline was found around its points; give it more points, boxes or a mask"),
        ("failed", f"every point of its object lies outside the image ({WIDTH}×{HEIGHT})"),
        ("skipped", "no point of an object for it in the points file"),
        ("skipped", "no point of an object for it in the points file"),
    ]
    foreseen = run(photos, tmp_path / "dry", content, "points", dry_run=True)
    assert [entry.status for entry in foreseen.entries] == ["protected", "failed", "skipped", "skipped"]


def test_a_box_without_an_outline_is_filled_and_said_so(photos: Path, tmp_path: Path) -> None:
    image = Pillow.new("RGB", (WIDTH, HEIGHT), (50, 70, 90))
    image.putpixel((40, 40), (255, 0, 0))
    image.save(photos / "a.png")
    plain = [30, 30, 90, 80]
    summary = run(photos, tmp_path / "out", {"a.png": [plain, [400, 4, 500, 9]]}, "boxes")
    entry = summary.entries[0]
    assert entry.note == (
        "1 of 2 boxes hold no pixel of the image; no outline was found in 1 of 2 boxes, which count as object whole"
    )
    assert outline_of(entry).sum() == 61 * 51 and verify(tmp_path / "out").findings[0].problem is None


@pytest.mark.parametrize(
    ("outline", "problem"),
    [
        ("0", "add up to 0 pixels"),
        ("~~~~", "cannot be there"),
        ("é", "outside ASCII"),
        ("", "add up to 0 pixels"),
    ],
)
def test_an_outline_that_does_not_fit_its_image_is_told(
    photos: Path, tmp_path: Path, outline: str, problem: str
) -> None:
    out = tmp_path / "out"
    run(photos, out, {"a.png": [INSIDE]}, "points", limit=1)
    header, line = (out / MANIFEST).read_text().splitlines()
    (out / MANIFEST).write_text(f"{header}\n{json.dumps({**json.loads(line), 'outline': outline})}\n")
    assert problem in (verify(out).findings[0].problem or "")


def test_a_line_with_points_and_no_outline_proves_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, {"a.png": [[50, 40]]}, "points", limit=1)
    header, line = (out / MANIFEST).read_text().splitlines()
    kept = {name: value for name, value in json.loads(line).items() if name != "outline"}
    assert "points" in kept and len(kept) == len(json.loads(line)) - 1
    (out / MANIFEST).write_text(f"{header}\n{json.dumps(kept)}\n")
    (finding,) = verify(out).findings
    assert "has points and no outline" in (finding.problem or "")


@pytest.mark.parametrize("noise", ["codes", "network"])
def test_a_change_beside_the_outline_is_found(photos: Path, tmp_path: Path, noise: str) -> None:
    out = tmp_path / "out"
    run(photos, out, {"a.png": [BOX]}, "boxes", limit=1, generator=loaded() if noise == "network" else None)
    pixels, original = (read_image(folder / "a.png").pixels.copy() for folder in (out, photos))
    pixels[21, 36] = original[21, 36] + 3  # in the box, not in the ellipse
    write_png(out / "a.png", pixels)
    assert "changes the background by 3" in (verify(out).findings[0].problem or "")


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[[1, 2]]",
        '{"a.png": 3}',
        '{"a.png": [1, 2]}',
        '{"a.png": [[1, 2, 3]]}',
        '{"a.png": [[1, true]]}',
        '{"a.png": [[1, NaN]]}',
        '{"a.png": [[1, 1e30]]}',
        '{"a.png": ["ab"]}',
        '{"a.png": "ab"}',
        '{"a.png": {}}',
        '{"a.png": {"background": [[1, 2]]}}',
        '{"a.png": {"object": [[1, 2]], "foreground": []}}',
        '{"a.png": {"object": [[1, 2]], "background": 5}}',
    ],
)
def test_a_bad_points_file_is_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "points.json").write_text(content)
    with pytest.raises(UserError, match="--points .*points.json: ") as raised:
        read_points(tmp_path / "points.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": "p.json", "boxes": "b.json"}, "--boxes and --points: give one of them"),
        ({"refine_boxes": True}, "--refine-boxes: needs the boxes that it refines; give --boxes"),
        ({"refine_boxes": True, "points": "p.json"}, "--refine-boxes: needs the boxes"),
        ({"points": "none.json"}, "--points none.json: "),
        ({"points": 3}, "points: give the path of a file or folder, not a int"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    photos: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        protect(photos, tmp_path / "out", SETTINGS, generator=loaded(), **options)


# --- in memory


@pytest.mark.parametrize(
    "points",
    [
        [INSIDE],
        np.array([INSIDE]),
        [np.array(INSIDE)],
        {"object": np.array([INSIDE]), "background": [OUTSIDE]},
    ],
)
def test_points_in_memory_may_be_lists_or_arrays(points: Any) -> None:
    pixels, mask = picture(0)
    protected = Protector(FakeGenerator(), Budget(8, 0), device="cpu")(pixels, points=points)
    changed = (protected != pixels).any(axis=2)
    assert (changed & mask).sum() / (changed | mask).sum() > 0.85


@pytest.mark.parametrize("generator", [None, FakeGenerator()], ids=["codes", "network"])
def test_refined_boxes_in_memory_are_masks(generator: FakeGenerator | None) -> None:
    pixels, mask = picture(0)
    protector = Protector(generator, Budget(8, 0), device="cpu")
    filled, refined = (protector(pixels, boxes=[BOX], refine_boxes=refine) for refine in (False, True))
    changed = (refined != pixels).any(axis=2)
    assert (changed & mask).sum() / (changed | mask).sum() > 0.85
    assert (filled != pixels).any(axis=2).sum() > 1.5 * changed.sum()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"points": []}, "points: give one or more points"),
        ({"points": [[1, 2, 3]]}, "points: .* is no point"),
        ({"points": "ab"}, "points: .* names no points"),
        ({"points": [[np.nan, 2]]}, "points: .* is no point"),
        ({"points": {"object": []}}, "points: give one or more points"),
        ({"points": [[-9, 4]]}, r"points: every point of the object lies outside the image \(130×90\)"),
        ({"points": [INSIDE], "boxes": [BOX]}, "boxes and points: give one of them"),
        ({"refine_boxes": True}, "refine_boxes: needs boxes to refine"),
        ({"boxes": [[400, 4, 500, 9]], "refine_boxes": True}, "boxes: every box lies outside the image"),
    ],
)
@pytest.mark.parametrize("generator", [None, FakeGenerator()], ids=["codes", "network"])
def test_what_cannot_be_outlined_in_memory_is_refused(
    ask: dict[str, Any], message: str, generator: FakeGenerator | None
) -> None:
    with pytest.raises(UserError, match=message):
        Protector(generator, device="cpu")(picture(0)[0], **ask)


@pytest.mark.parametrize("ask", [{"points": [INSIDE]}, {"boxes": [BOX], "refine_boxes": True}])
def test_a_network_is_prompted_by_the_outline(ask: dict[str, Any]) -> None:
    network, pixels = FakeGenerator(), picture(0)[0]
    Protector(network, device="cpu")(pixels, **ask)
    prompts = network.seen[0][1]
    share = (prompts.masks > 0).float().mean().item() * (WIDTH**2) / picture(0)[1].sum()  # the frame is a square
    assert prompts.boxes is None and 0.85 < share < 1.15
