"""unseg protect --shard and unseg merge: what one run writes, to the byte, from jobs that never talk to each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.acting_progress import Acting
from tests.support.told_progress import Told
from unseg import cli
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, SHARDS, read_manifest
from unseg.protecting.merging import merge
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.shards import Shard
from unseg.protecting.verification import verify
from unseg.storage.files import files_under
from unseg.storage.locks import LOCK_FILE, FolderLock

SETTINGS = ProtectSettings(workers=2)
KEY = bytes(range(32))
NAMES = ("a.jpg", "a.png", "b/c.png", "b/d.png", "e.png", "f.png", "g.png")  # a.jpg has to change its name


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images with masks of classes that cover them; f has no mask, and g is no image under its name."""
    draw = np.random.default_rng(5)
    for place, name in enumerate(NAMES):
        for folder in ("photos", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        size = (31, 44 + max(place, 1))  # a.jpg and a.png share a mask
        Image.fromarray(draw.integers(20, 230, (*size, 3)).astype(np.uint8)).save(tmp_path / "photos" / name)
        labels = np.array([1, 2, 5], np.uint8)[(np.arange(size[1])[None] // 9 + np.arange(31)[:, None] // 20) % 3]
        if name != "f.png":
            Image.fromarray(labels).save(tmp_path / "masks" / f"{name.partition('.')[0]}.png")
    (tmp_path / "photos" / "g.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return tmp_path / "photos"


def run(
    photos: Path, out: str, shard: str | None = None, settings: ProtectSettings = SETTINGS, **given: object
) -> Summary:
    masks = given.pop("masks", photos.parent / "masks")
    parsed = None if shard is None else Shard.parse(shard)
    return protect(photos, photos.parent / out, settings, masks=masks, key=KEY, shard=parsed, **given)


def all_shards(photos: Path, out: str, count: int, **given: object) -> None:
    run(photos, out, f"plan/{count}", **given)
    for number in range(count, 0, -1):
        run(photos, out, f"{number}/{count}", **given)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


# --- the whole


@pytest.mark.parametrize("count", [1, 3, 9])  # more shards than images, too
def test_merged_shards_are_one_run_to_the_byte(photos: Path, count: int) -> None:
    alone = run(photos, "alone")
    all_shards(photos, "out", count)
    out = photos.parent / "out"
    with pytest.raises(UserError, match=rf"{count} shards are not merged; run `unseg merge "):
        verify(out)
    merged = merge(out)
    assert tree(out) == tree(photos.parent / "alone") and not (out / SHARDS).exists()
    assert (merged.entries, merged.exit_code) == (alone.entries, 1)
    assert sorted(entry.status for entry in merged.entries) == ["failed"] + 5 * ["protected"] + ["skipped"]
    found = verify(out)
    assert (found.failures, found.missing, found.extra, found.other_files) == ([], (), (), ())
    assert merge(out).entries == alone.entries and tree(out) == tree(photos.parent / "alone")


def test_a_key_that_the_plan_drew_and_its_codes_are_those_of_all_shards(photos: Path, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    told = Told()
    assert protect(photos, out, SETTINGS, masks=masks, shard=Shard(0, 2), progress=told).planned
    key = (tmp_path / "out.key").read_bytes()
    assert any(text.startswith("codes: a pattern for each of 2 classes") for text in told.sentences)
    shutil.rmtree(masks / "b")  # a shard that looked at all masks again might decide otherwise
    for number in (1, 2):
        told = Told()
        protect(photos, out, SETTINGS, masks=masks, shard=Shard(number, 2), progress=told)
        assert not any(text.startswith("masks:") for text in told.sentences)
    merge(out)
    assert (tmp_path / "out.key").read_bytes() == key
    header = json.loads((out / MANIFEST).read_text().split("\n", 1)[0])
    assert "shards" not in header and "shard" not in header and "unfinished" not in header


def test_a_merged_folder_goes_on_in_shards(photos: Path) -> None:
    kept, hidden = ProtectSettings(workers=2), photos.parent / "hidden.png"
    (photos / "e.png").rename(hidden)
    for out in ("alone", "out"):
        run(photos, out, settings=kept)
    hidden.rename(photos / "e.png")
    run(photos, "alone", settings=kept)
    all_shards(photos, "out", 2, settings=kept)
    merge(photos.parent / "out")
    assert tree(photos.parent / "out") == tree(photos.parent / "alone")


def test_the_first_shard_tells_what_is_no_image(photos: Path) -> None:
    boxes = {name: [[3, 4, 30, 25]] for name in NAMES}
    coco = {
        "images": [
            {"id": n, "file_name": name, "width": 44 + max(n, 1), "height": 31}
            for n, name in enumerate([*NAMES, "h.png"])
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [3, 4, 27, 21], "area": 567, "iscrowd": 0,
             "segmentation": [[3, 4, 30, 4, 30, 25, 3, 25]]}
            for n in range(len(boxes) + 1)
        ],
    }  # fmt: skip
    file = photos.parent / "coco.json"
    file.write_text(json.dumps(coco))
    alone = run(photos, "alone", masks=None, annotations=file)
    assert {entry.input: entry.status for entry in alone.entries}["h.png"] == "failed"
    all_shards(photos, "out", 3, masks=None, annotations=file)
    merge(photos.parent / "out")
    assert tree(photos.parent / "out") == tree(photos.parent / "alone")


# --- stopped and repeated


@pytest.mark.parametrize("processes", [1, 2])
def test_a_shard_that_was_cut_off_is_named_and_goes_on(photos: Path, processes: int) -> None:
    run(photos, "alone")
    for shard in ("plan/2", "2/2"):
        run(photos, "out", shard)

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run(photos, "out", "1/2", progress=Acting(1, stop), processes=processes)
    out = photos.parent / "out"
    before = tree(out)
    with pytest.raises(UserError, match="shard 1/2 was cut off; run it, then merge"):
        merge(out)
    assert tree(out) == before
    (out / "b" / ".unseg-0123456789abcdef.tmp").write_bytes(b"of a killed shard")
    for _ in range(2):
        run(photos, "out", "1/2")
        run(photos, "out", "plan/2")  # a repeated plan changes nothing either
    assert (out / "b" / ".unseg-0123456789abcdef.tmp").exists()  # which may be another's
    merge(out)
    assert tree(out) == tree(photos.parent / "alone")


def test_a_merge_that_was_killed_before_its_end_is_repeated(photos: Path) -> None:
    run(photos, "alone")
    all_shards(photos, "out", 2)
    out = photos.parent / "out"
    parts = tree(out / SHARDS)
    merge(out)
    for name, data in parts.items():  # killed after the manifest was written
        (out / SHARDS / name).parent.mkdir(parents=True, exist_ok=True)
        (out / SHARDS / name).write_bytes(data)
    merge(out)
    assert tree(out) == tree(photos.parent / "alone")


# --- what cannot be


def refusal(photos: Path, *given: object, **more: object) -> str:
    before = tree(photos.parent / "out") if (photos.parent / "out").exists() else {}
    with pytest.raises(UserError) as error:
        run(photos, *given, **more)
    assert "\n" not in str(error.value)
    assert (tree(photos.parent / "out") if (photos.parent / "out").exists() else {}) == before
    return str(error.value)


def test_a_shard_without_a_plan_says_how_to_make_one(photos: Path) -> None:
    told = refusal(photos, "out", "2/3")
    assert "first run the same command with --shard plan/3, once" in told
    assert not (photos.parent / "out").exists()


def changed_settings() -> Iterator[tuple[str, dict[str, object]]]:
    yield "--unmasked: skip, now copy", {"settings": replace(SETTINGS, unmasked="copy")}
    yield "--survive-grey: false, now true", {"settings": replace(SETTINGS, survive_grey=True)}
    yield "--quality: false, now true", {"settings": replace(SETTINGS, quality=True)}
    yield "images: 7, now 4", {"limit": 4}
    yield "codes.5", {"codes": {1: 0, 2: 1, 5: 7}, "settings": replace(SETTINGS, rule=ObjectRule(by_class=True))}


@pytest.mark.parametrize(("told", "given"), list(changed_settings()))
def test_a_shard_with_other_settings_is_refused(photos: Path, told: str, given: dict[str, object]) -> None:
    run(photos, "out", "plan/2")
    assert told in refusal(photos, "out", "1/2", **given)


def test_a_shard_that_sees_other_images_is_refused(photos: Path) -> None:
    run(photos, "out", "plan/2")
    (photos / "e.png").rename(photos / "z.png")
    assert "names: " in refusal(photos, "out", "1/2")
    run(photos, "out", "plan/2")  # nothing has begun, so that a new plan may be made
    run(photos, "out", "1/2")
    (photos / "z.png").rename(photos / "e.png")
    assert "plan anew into another --out" in refusal(photos, "out", "plan/2")


def test_shards_of_two_plans_and_plain_runs_are_kept_apart(photos: Path) -> None:
    run(photos, "out", "plan/2")
    assert "is planned for 2 shards; give that number" in refusal(photos, "out", "1/3")
    assert "is planned for 2 shards; give --shard, --engine ray if that planned them, or" in refusal(photos, "out")
    with pytest.raises(UserError, match=r"--key .*|is not the key"):
        protect(
            photos, photos.parent / "out", SETTINGS, masks=photos.parent / "masks", key=bytes(32), shard=Shard(1, 2)
        )


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "plan", "plan/0", "-1/4", "1/2/3", "1/1000000", "a/b"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard .*: give plan/N once, then 1/N to N/N"):
        Shard.parse(text)


def test_missing_foreign_and_overlapping_shards_are_named(photos: Path) -> None:
    out = photos.parent / "out"
    run(photos, "out", "plan/3")
    run(photos, "out", "2/3")
    with pytest.raises(UserError, match=r"shard 1/3 has not run \(2 of 3: 1/3, 3/3\); run it, then merge"):
        merge(out)
    for number in (1, 3):
        run(photos, "out", f"{number}/3")
    folder = out / SHARDS / "2-of-3"
    shutil.copytree(folder, out / SHARDS / "1-of-2")
    with pytest.raises(UserError, match="1-of-2 is no shard of 3; move it away"):
        merge(out)
    shutil.rmtree(out / SHARDS / "1-of-2")
    own = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text((out / SHARDS / "3-of-3" / MANIFEST).read_text())
    with pytest.raises(UserError, match="is not the shard 2/3 of this plan; run --shard 2/3 again"):
        merge(out)
    other = (out / SHARDS / "1-of-3" / MANIFEST).read_text().splitlines(keepends=True)
    lines = own.splitlines(keepends=True)
    (folder / MANIFEST).write_text("".join([*lines[:2], other[1]]))
    with pytest.raises(UserError, match=r"shards 1/3 and 2/3 overlap: both speak of a\.jpg"):
        merge(out)
    (folder / MANIFEST).write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="shard 2/3 was cut off; run it, then merge"):
        merge(out)
    uncounted = lines[0].replace(', "lines": 2', "")  # as versions before wrote it
    assert uncounted != lines[0]
    (folder / MANIFEST).write_text("".join([uncounted, *lines[1:-1]]))
    with pytest.raises(UserError, match="shard 2/3 speaks of 1 of its 2 images; run it again"):
        merge(out)
    (folder / MANIFEST).write_text(own.replace('"device": "cpu"', '"device": "cuda"', 1))
    with pytest.raises(UserError, match=r"shards 1/3 and 2/3 were made with other settings \(device: cpu, now cuda\)"):
        merge(out)
    (folder / MANIFEST).write_text(own)
    assert len(merge(out).entries) == len(NAMES)


def test_one_writes_at_a_time(photos: Path) -> None:
    out = photos.parent / "out"
    run(photos, "out", "plan/2")
    run(photos, "out", "1/2")
    with FolderLock(out):
        assert "is writing there" in refusal_of_lock(photos, "2/2")
    run(photos, "out", "2/2")
    with FolderLock(out / SHARDS / "2-of-2"):
        assert "is writing there" in refusal_of_lock(photos, "2/2")
        assert "2-of-2" in refusal_of_lock(photos, "plan/2")
        with pytest.raises(UserError, match=r"is writing there \(.*2-of-2\)"):
            merge(out)
        run(photos, "out", "1/2")  # shards do not hold each other up
    merge(out)
    assert not (out / LOCK_FILE).exists()


def refusal_of_lock(photos: Path, shard: str) -> str:
    with pytest.raises(UserError) as error:
        run(photos, "out", shard)
    return str(error.value)


@pytest.mark.parametrize("made", ["nothing", "a plain run", "a cut-off run"])
def test_what_is_not_in_shards_is_not_merged(photos: Path, made: str) -> None:
    out = photos.parent / "out"
    if made == "nothing":
        with pytest.raises(UserError, match=f"no {MANIFEST} in it"):
            merge(out)
        assert not out.exists()
        return
    run(photos, "out")
    before = tree(out)
    if made == "a plain run":
        assert merge(out).entries and tree(out) == before
        return
    lines = (out / MANIFEST).read_text().replace("{", '{"unfinished": true, ', 1)
    (out / MANIFEST).write_text(lines)
    with pytest.raises(UserError, match="holds a run that was cut off, and not in shards"):
        merge(out)


def test_no_image_lies_among_the_shards(photos: Path) -> None:
    run(photos, "out")
    manifest = photos.parent / "out" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"output": "e.png"', f'"output": "{SHARDS}/e.png"'))
    with pytest.raises(UserError, match=r"not a manifest of unseg \(line \d: output: '.unseg-shards/e.png'\)"):
        read_manifest(photos.parent / "out")


# --- the commands


def test_the_commands(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["protect", str(photos), "--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--shard", "plan/2"]) == 0
    told = capsys.readouterr().out
    assert "planned: 7 images in 2 shards; run the same command with --shard 1/2 to 2/2" in told.replace("\n", " ")
    assert "protected" not in told.partition("planned:")[2].replace("unseg merge", "")
    assert cli.main([*command, "--shard", "1/2"]) == 0
    assert cli.main([*command, "--shard", "2/2"]) == 1
    assert cli.main(["merge", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().out
    assert "merged: 7 images" in told and "g.png" in told and "f.png" in told
    assert cli.main(["verify", str(tmp_path / "out")]) == 1
    assert cli.main([*command, "--shard", "3"]) == 2
    assert "unseg: error: --shard 3: give plan/N" in capsys.readouterr().err
