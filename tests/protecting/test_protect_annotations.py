"""unseg protect --annotations: the object that every format describes, its line in the manifest, and its proof."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.annotation_sets import BUILDERS, Built, build, expected, photographs
from tests.support.fake_generator import loaded
from tests.support.told_progress import Told
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.image_decoding import read_image

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")


def run(built: Built, out: Path, settings: ProtectSettings = SETTINGS, **options: object) -> Summary:
    options = {"annotations": built.path, "generator": loaded(), **options}
    return protect([built.images], out, settings, **options)


def ruled(rule: ObjectRule) -> ProtectSettings:
    return replace(SETTINGS, rule=rule)


def change(built: Built, out: Path, name: str) -> np.ndarray:
    """The greatest change at every pixel, H×W."""
    after, before = (read_image(folder / built.name(name)).pixels.astype(int) for folder in (out, built.images))
    return np.abs(after - before).max(axis=2)


def lines(summary: Summary) -> dict[str, tuple[str, str | None]]:
    return {entry.input: (entry.status, entry.reason) for entry in summary.entries}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_format_is_protected_proved_and_kept(name: str, tmp_path: Path) -> None:
    built, out, said = build(name, tmp_path / "set"), tmp_path / "out", Told()
    summary = run(built, out, progress=said)
    status = {image: lines(summary)[built.name(image)][0] for image in photographs()}
    assert status == {"a.png": "protected", "b.png": "protected", "c.png": "copied"} and len(summary.entries) == 3
    assert lines(summary)[built.name("c.png")][1] == "no object in its annotations"
    assert any(line.startswith("annotations: ") and "--annotations-format" in line for line in said.sentences)
    for image in ("a.png", "b.png"):
        changed, mask = change(built, out, image), expected(image)
        if built.exact:
            assert changed[mask].max() == 8 and changed[~mask].max() == 2
        else:  # polygons: up to their border
            assert (changed[~mask] > 2).sum() < 0.2 * mask.sum() and (changed[mask] > 2).mean() > 0.5
    proof = verify(out)
    assert [finding.problem for finding in proof.failures] == [] and len(proof.findings) == 2
    assert proof.largest_changes() == (8, 2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(built, out).kept == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_table_that_holds_its_images_needs_no_folder(suffix: str, tmp_path: Path) -> None:
    built, out = build(f"huggingface {suffix}", tmp_path / "set"), tmp_path / "out"
    shutil.rmtree(built.images)
    summary = protect([], out, SETTINGS, annotations=built.path, generator=loaded())
    names = [f"train-00000-of-00001/{row:06d}.png" for row in range(3)]
    assert [(entry.input, entry.status) for entry in summary.entries] == list(
        zip(names, ("protected", "protected", "copied"), strict=True)
    )
    for name, image in zip(names[:2], ("a.png", "b.png"), strict=True):
        difference = np.abs(read_image(out / name).pixels.astype(int) - photographs()[image][0]).max(axis=2)
        assert difference[expected(image)].max() == 8 and difference[~expected(image)].max() == 2
    assert np.array_equal(read_image(out / names[2]).pixels, photographs()["c.png"][0])
    assert verify(out).failures == [] and verify(out).largest_changes() == (8, 2)
    assert protect([], out, SETTINGS, annotations=built.path, generator=loaded()).kept == 2
    foreseen = protect([], tmp_path / "dry", SETTINGS, annotations=built.path, generator=loaded(), dry_run=True)
    assert [entry.status for entry in foreseen.entries] == ["protected", "protected", "copied"]
    assert not (tmp_path / "dry").exists()


def test_an_image_that_exif_turns_is_told_where_annotations_speak_of_it(tmp_path: Path) -> None:
    """Outlines may be of the picture as it is stored; where its size stays, nothing else would tell."""
    (tmp_path / "photos").mkdir()
    exif = Pillow.Exif()
    exif[0x112] = 3
    for name, more in (("turned.jpg", {"exif": exif}), ("plain.jpg", {})):
        noise = np.random.default_rng(3).integers(60, 190, (40, 60, 3)).astype(np.uint8)
        Pillow.fromarray(noise).save(tmp_path / "photos" / name, quality=95, **more)
    outline = {"category_id": 1, "iscrowd": 0, "segmentation": [[5, 5, 35, 5, 35, 25, 5, 25]]}
    images = [
        {"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(("turned.jpg", "plain.jpg"))
    ]
    content = {
        "images": images,
        "annotations": [{"id": n, "image_id": n, **outline} for n in (0, 1)],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    summary = protect(tmp_path / "photos", tmp_path / "out", SETTINGS, annotations=tmp_path / "a.json")
    notes = {entry.input: entry.note for entry in summary.entries}
    assert "EXIF turns it (orientation 3): its annotations are taken as upright" in (notes["turned.jpg"] or "")
    assert "EXIF" not in (notes["plain.jpg"] or "") and verify(tmp_path / "out").exit_code == 0


# --- what is the object


def test_class_ids_and_things_choose_the_object(tmp_path: Path) -> None:
    built = build("coco-panoptic", tmp_path / "set")
    run(built, tmp_path / "coins", ruled(ObjectRule((1,))))
    run(built, tmp_path / "things", ruled(ObjectRule("things")))  # class 2 alone
    for out, classes in (("coins", (1,)), ("things", (2,))):
        changed, mask = change(built, tmp_path / out, "a.png"), expected("a.png", classes)
        assert changed[mask].max() == 8 and changed[~mask].max() == 2
        assert verify(tmp_path / out).failures == []
    assert read_manifest(tmp_path / "coins").header["settings"]["annotations"]["rule"]["which"] == [1]


def test_crowds_are_background(tmp_path: Path) -> None:
    built = build("coco compressed", tmp_path / "set")
    content = json.loads(built.path.read_text())
    crowd = next(entry for entry in content["annotations"] if entry["category_id"] == 1)
    crowd["iscrowd"] = 1
    built.path.write_text(json.dumps(content))
    run(built, tmp_path / "out")
    whole = OpenAnnotations.open(built.path, built.images).reader.read("a.png", *photographs()["a.png"][0].shape[:2])
    left_out = next(segment for segment in whole.segments if segment.crowd).mask
    changed = change(built, tmp_path / "out", "a.png")
    assert changed[left_out].max() == 2 and changed[expected("a.png") & ~left_out].max() == 8


# --- the ledger


def test_what_annotations_do_not_name_or_cannot_say_is_a_line_each(tmp_path: Path) -> None:
    built, out = build("coco compressed", tmp_path / "set"), tmp_path / "out"
    content = json.loads(built.path.read_text())
    shutil.copy(built.images / "a.png", built.images / "stranger.png")
    content["images"].append({"id": 99, "file_name": "gone.png", "height": 10, "width": 10})
    broken = next(entry for entry in content["annotations"] if entry["image_id"] == 8)  # b.png
    broken["segmentation"]["counts"] = "zzz"
    built.path.write_text(json.dumps(content))
    summary = run(built, out)
    found = lines(summary)
    assert summary.exit_code == 1 and found["a.png"] == ("protected", None)
    assert found["stranger.png"] == ("copied", "not annotated: instances.json does not name stranger.png")
    assert found["gone.png"] == (
        "failed",
        "annotated, but not protected: named in instances.json, but there is no such image",
    )
    status, reason = found["b.png"]
    assert status == "failed" and reason.startswith("annotations: instances.json: annotations[")
    assert read_manifest(out).entries.keys() == {entry.key for entry in summary.entries}
    # What is set right leaves no line behind.
    content["images"].pop()
    built.path.write_text(json.dumps(content))
    assert "gone.png" not in lines(run(built, out)) and len(read_manifest(out).entries) == 4


def test_changed_annotations_are_noticed_image_by_image(tmp_path: Path) -> None:
    built, out = build("coco compressed", tmp_path / "set"), tmp_path / "out"
    run(built, out)
    content = json.loads(built.path.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] != 1]
    built.path.write_text(json.dumps(content))
    findings = {finding.name: finding.problem for finding in verify(out).findings}
    assert "its annotations in" in findings["a.png"] and "changed since" in findings["a.png"]
    assert findings["b.png"] is None
    assert run(built, out).kept == 1  # b.png
    changed = change(built, out, "a.png")
    assert changed[expected("a.png", (2,))].max() == 8 and changed[~expected("a.png", (2,))].max() == 2
    assert verify(out).failures == []


def test_by_class_takes_its_codes_from_the_areas_of_all_annotated_images(tmp_path: Path) -> None:
    from unseg.storage.weights import load_generator

    built, out, said = build("coco-panoptic", tmp_path / "set"), tmp_path / "out", Told()
    settings = replace(ruled(ObjectRule(by_class=True)), noise="compact")
    protect([built.images / "a.png"], out, settings, annotations=built.path, progress=said)
    areas = {
        class_id: sum(
            int(mask.sum()) for image in photographs() for number, mask in photographs()[image][1] if number == class_id
        )
        for class_id in (1, 2)
    }
    ranked = sorted(areas, key=lambda class_id: -areas[class_id])
    assert read_manifest(out).header["settings"]["codes"] == {
        str(class_id): ranked.index(class_id) for class_id in (1, 2)
    }
    assert "classes: 2, codes by falling area" in said.sentences
    tints = np.rint(8 * load_generator("compact").network.code_noise().numpy()).astype(int)
    after, before = (read_image(folder / "a.png").pixels.astype(int) for folder in (out, built.images))
    inside = (before > 8) & (before < 247)
    for class_id in (1, 2):
        mask = expected("a.png", (class_id,))[..., None] & inside
        assert ((after - before - tints[ranked.index(class_id)])[mask] == 0).all()
    assert np.array_equal(after[~expected("a.png")], before[~expected("a.png")])
    assert verify(out).failures == [] and lines(protect([built.images], out, settings, annotations=built.path)) == {
        "a.png": ("protected", None),
        "b.png": ("protected", None),
        "c.png": ("copied", "no object in its annotations"),
    }


# --- afterwards


def test_verify_finds_annotations_that_moved(tmp_path: Path) -> None:
    built, out = build("coco-panoptic", tmp_path / "set"), tmp_path / "out"
    run(built, out)
    shutil.move(tmp_path / "set", tmp_path / "elsewhere")
    assert len(verify(out).failures) == 2
    moved = {"originals": tmp_path / "elsewhere" / "images", "annotations": tmp_path / "elsewhere" / "panoptic.json"}
    assert verify(out, **moved).failures == []
    opened = OpenAnnotations.open(moved["annotations"], moved["originals"])
    assert verify(out, originals=moved["originals"], annotations=opened).failures == []
    problem = verify(out, originals=moved["originals"]).failures[0].problem
    assert "its annotations cannot be read; give --annotations" in problem
    with pytest.raises(UserError, match="--annotations .*nowhere: no such file or folder"):
        verify(out, annotations=tmp_path / "nowhere")


def test_names_below_another_root_and_masks_among_the_images(tmp_path: Path) -> None:
    """An edition's images are named from the set's root, its annotations name them from a folder of it."""
    from unseg.data.samples import SampleFile, SampleList

    built, out = build("coco-panoptic", tmp_path / "set"), tmp_path / "out"
    root = tmp_path / "set"
    samples = SampleList(
        [SampleFile(f"images/{name}", root / "images" / name, root) for name in ("a.png", "b.png", "c.png")]
    )
    opened = OpenAnnotations.open(built.path, built.images)
    for wrong in (
        SampleFile("x.png", built.images / "a.png", built.images),
        SampleFile("panoptic.json", built.path, root),
    ):
        with pytest.raises(ValueError, match="is not x.png in|does not lie in"):
            protect([], out, SETTINGS, annotations=opened, samples=SampleList([wrong]), generator=loaded())
    summary = protect([], out, SETTINGS, annotations=opened, samples=samples, generator=loaded())
    assert lines(summary)["images/a.png"] == ("protected", None) and (out / "images" / "a.png").exists()
    assert verify(out).failures == []
    content = json.loads(built.path.read_text())
    for entry in content["annotations"]:  # else "a.png" could be either of two files
        name, entry["file_name"] = entry["file_name"], f"ids_{entry['file_name']}"
        (root / "panoptic" / name).rename(root / "panoptic" / entry["file_name"])
    built.path.write_text(json.dumps(content))
    found = protect([root], tmp_path / "all", SETTINGS, annotations=built.path, generator=loaded())
    assert sorted(lines(found)) == ["images/a.png", "images/b.png", "images/c.png"]  # not those of panoptic/


# --- names


def test_kept_names_hold_what_the_format_says_and_are_read_by_content(tmp_path: Path) -> None:
    """JPEG photographs under their own names, as PNG and as JPEG of quality 100 without chroma subsampling."""
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "B.JPEG", "c.png"):
        Pillow.fromarray(photographs()["a.png"][0]).save(tmp_path / "photos" / name)
    inputs, png, jpeg = [tmp_path / "photos"], tmp_path / "png", tmp_path / "jpeg"
    kept = replace(SETTINGS, names="keep")
    assert protect(inputs, png, kept, generator=loaded(), whole_image=True).exit_code == 0
    assert sorted(path.name for path in png.iterdir()) == ["B.JPEG", "a.jpg", "c.png", MANIFEST]
    for path in png.glob("[aBc].*"):
        with Pillow.open(path) as image:
            assert image.format == "PNG"
    assert verify(png).exit_code == 0 and verify(png).largest_changes() == (8, None)
    assert protect(inputs, png, kept, generator=loaded(), whole_image=True).kept == 3
    summary = protect(inputs, jpeg, replace(kept, format="jpeg"), generator=loaded(), whole_image=True)
    for entry in summary.entries:
        assert entry.over_budget is not None and entry.max_over is not None and entry.output == entry.input
        with Pillow.open(jpeg / entry.output) as image:
            assert image.format == "JPEG" and set(image.quantization[0]) == set(image.quantization[1]) == {
                1
            }  # quality 100
            assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3  # 4:4:4
    with pytest.raises(UserError, match="made with other settings .*--names: keep, now png"):
        protect(inputs, png, SETTINGS, generator=loaded(), whole_image=True)
    with pytest.raises(UserError, match="--names both: choose from suffix, keep"):
        replace(SETTINGS, names="both")


# --- options


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    built, out = build("coco compressed", tmp_path / "set"), tmp_path / "out"

    def refused(*inputs: Path, **options: object) -> str:
        settings = options.pop("settings", SETTINGS)
        with pytest.raises(UserError) as error:
            protect(list(inputs), out, settings, generator=loaded(), **options)
        assert not out.exists() and "\n" not in str(error.value)
        return str(error.value)

    both = {"annotations": built.path, "boxes": tmp_path / "boxes.json"}
    assert refused(built.images, **both).startswith("--boxes and --annotations: give one of them")
    assert "no such file or folder" in refused(built.images, annotations=tmp_path / "x.json")
    assert refused(whole_image=True).startswith("no images") and "need a folder of images" in refused(
        annotations=built.path
    )
    assert "--annotations-format" in refused(built.images, annotations=built.path, annotations_format="cocoa")
    assert "give one folder at a time" in refused(built.images, tmp_path / "set", annotations=built.path)
    assert "class 9 is not among" in refused(built.images, annotations=built.path, settings=ruled(ObjectRule((9,))))
    assert "--objects things: needs --annotations" in refused(
        built.images, whole_image=True, settings=ruled(ObjectRule("things"))
    )
    assert "--objects with class ids: needs --masks or" in refused(
        built.images, whole_image=True, settings=ruled(ObjectRule((1,)))
    )
    assert "--mask-type index: is for --masks" in refused(
        built.images, annotations=built.path, settings=replace(SETTINGS, mask_type="index")
    )
    assert "--limit 0: give 1 or more" in refused(built.images, limit=0, whole_image=True)
    voc = build("binary", tmp_path / "binary")
    assert "hold no class ids" in refused(voc.images, annotations=voc.path, settings=ruled(ObjectRule(by_class=True)))
    things = ruled(ObjectRule("things"))
    assert "do not tell things from stuff" in refused(voc.images, annotations=voc.path, settings=things)


def test_limit_takes_the_first_by_name_and_the_rest_follows(tmp_path: Path) -> None:
    built, out = build("coco compressed", tmp_path / "set"), tmp_path / "out"
    content = json.loads(built.path.read_text())
    content["images"] += [
        {"id": 90 + n, "file_name": name, "height": 9, "width": 9} for n, name in enumerate(("Z.png", "z.png"))
    ]
    built.path.write_text(json.dumps(content))
    assert list(lines(run(built, out, limit=1))) == ["Z.png", "a.png"]  # capital letters come first
    assert sorted(path.name for path in out.iterdir()) == ["a.png", MANIFEST]
    assert list(lines(run(built, out))) == ["Z.png", "a.png", "b.png", "c.png", "z.png"]
    whole = tmp_path / "whole"
    run(built, whole)
    assert (whole / MANIFEST).read_bytes() == (out / MANIFEST).read_bytes()


def test_a_dry_run_tells_what_a_run_then_does_and_writes_nothing(tmp_path: Path) -> None:
    built, out, said = build("coco compressed", tmp_path / "set"), tmp_path / "out", Told()
    (built.images / "cut.png").write_bytes((built.images / "a.png").read_bytes()[:20])
    shutil.copy(built.images / "a.png", built.images / "stranger.png")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    foreseen = run(built, out, dry_run=True, progress=said)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and foreseen.dry
    sentences = " ".join(said.sentences)
    assert "5 images to protect" in sentences and "on disk" in sentences
    done = run(built, out)
    assert lines(foreseen) == lines(done) and foreseen.exit_code == done.exit_code == 1
    assert foreseen.kept == 0 and run(built, out, dry_run=True).kept == 2


def test_the_command_takes_annotations_names_a_limit_and_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from unseg import cli

    built, out = build("coco-panoptic", tmp_path / "set"), tmp_path / "out"
    command = [
        "protect",
        str(built.images),
        "--annotations",
        str(built.path),
        "--objects",
        "multi",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--names",
        "keep",
        "--json",
    ]
    assert cli.main([*command, "--dry-run"]) == 1  # c.png has no object
    captured = capsys.readouterr()
    foreseen = json.loads(captured.out)
    assert (foreseen["dry_run"], foreseen["protected"], foreseen["skipped"]) == (True, 2, 1) and not out.exists()
    assert "annotations: COCO panoptic: 3 annotated images in 2 categories (1 of things)" in " ".join(
        captured.err.split()
    )
    assert cli.main([*command, "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["protected"] == 2
    assert cli.main(["verify", str(out), "--annotations", str(built.path)]) == 0
    assert "2 of 2 images hold the bound" in capsys.readouterr().out
    settings = read_manifest(out).header["settings"]
    assert (
        settings["annotations"]
        == {
            "format": "coco-panoptic",
            "holds_images": False,
            "rule": {"which": "things", "by_class": False, "ignore_label": 255, "background_label": 0},
        }
        and settings["names"] == "keep"
    )
    assert (
        cli.main(["protect", str(built.images), "--annotations", str(built.path), "--objects", "9", "--out", str(out)])
        == 2
    )
    assert "class 9 is not among the annotations' classes: 1 coin, 2 horse" in capsys.readouterr().err
