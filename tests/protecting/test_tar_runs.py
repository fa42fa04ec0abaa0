"""unseg protect --webdataset: tars in, tars out, read by webdataset itself; every other member stays, in its place."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.support.acting_progress import Acting
from tests.support.s3_server import BUCKET, served
from tests.support.told_progress import Told
from unseg import cli
from unseg.errors import UserError
from unseg.protecting.container_runs import LOOSE
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import merge_anywhere, verify_anywhere
from unseg.storage.files import files_under
from unseg.storage.mirror import Mirror

SETTINGS = ProtectSettings(workers=2)
KEY = bytes(range(32))


def encoded(values: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for place, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1_000_000 + place, "someone"
            archive.addfile(info, io.BytesIO(data))


def sample(number: int, size: tuple[int, int], form: str = "png", mask: bool = True) -> list[tuple[str, bytes]]:
    draw = np.random.default_rng(number)
    pixels = draw.integers(20, 230, (*size, 3)).astype(np.uint8)
    label = np.zeros(size, np.uint8)
    label[4:20, 7:30] = 255
    parts = [("json", b'{"n": %d}' % number), (form, encoded(pixels, {"jpg": "JPEG"}.get(form, form.upper())))]
    parts += [("mask.png", encoded(label, "PNG"))] if mask else []
    return [(f"{number:05d}.{suffix}", data) for suffix, data in parts]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars, one in a folder; sample 3 has no mask, 4 no image, and 5 is broken."""
    first = [*sample(1, (33, 47), "jpg"), *sample(0, (31, 40)), *sample(2, (30, 52), "webp")]
    second = [*sample(3, (33, 44), mask=False), ("00004.txt", b"words"), *sample(6, (34, 46))]
    second += [("00005.txt", b"x"), ("00005.png", b"\x89PNG\r\n\x1a\nbroken"), sample(5, (30, 30))[2]]
    write_tar(tmp_path / "tars" / "a-0.tar", first)
    write_tar(tmp_path / "tars" / "more" / "b-1.tar", second)
    return tmp_path / "tars"


def run(tars: Path, out: str = "out", **given: Any) -> Any:
    return protect(tars, tars.parent / out, SETTINGS, **{"webdataset": "mask.png", "key": KEY, **given})


def found(folder: Path, **given: Any) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 2, "max_megapixels": 200.0}
    return verify_anywhere(folder, **{**options, **given}, progress=Told())


def content(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def test_tars_come_out_as_they_went_in(tars: Path) -> None:
    made = run(tars)
    assert {entry.input: entry.status for entry in made.entries} == {
        "a-0.tar/00000.png": "protected",
        "a-0.tar/00001.jpg": "protected",
        "a-0.tar/00002.webp": "protected",
        "more/b-1.tar/00003.png": "skipped",
        "more/b-1.tar/00005.png": "failed",
        "more/b-1.tar/00006.png": "protected",
    }
    out = tars.parent / "out"
    assert set(tree(out)) == {"a-0.tar", "more/b-1.tar", MANIFEST}
    entry = read_manifest(out).entries["a-0.tar/00001.jpg", "../tars"]
    assert (entry.output, entry.mask_root) == ("a-0.tar/00001.jpg", "../tars")
    for name, gone in (("a-0.tar", ()), ("more/b-1.tar", ("00003", "00005"))):
        old = [pair for pair in content(tars / name) if not pair[0].startswith(gone or "-")]
        new = content(out / name)
        assert [pair[0] for pair in new] == [pair[0] for pair in old]
        for (member, before), (_, after) in zip(old, new, strict=True):
            if member.partition(".")[2] not in ("png", "jpg", "webp"):
                assert after == before, member
                continue
            change = np.abs(np.asarray(Image.open(io.BytesIO(after))).astype(int) - Image.open(io.BytesIO(before)))
            assert change[4:20, 7:30].max() == 8 and change[:4].max() == 0, member
        with tarfile.open(out / name) as archive:
            assert {info.uname for info in archive} == {"someone"}


def test_webdataset_reads_them(tars: Path) -> None:
    run(tars)
    urls = [str(tars.parent / "out" / "a-0.tar"), str(tars.parent / "out" / "more" / "b-1.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [one["__key__"] for one in samples] == ["00001", "00000", "00002", "00004", "00006"]
    assert samples[0]["jpg"].shape == (33, 47, 3) and samples[0]["json"] == {"n": 1}
    assert samples[0]["mask.png"].shape[:2] == (33, 47) and samples[3]["txt"] == "words"


def test_verify_proves_tars_and_finds_what_changed(tars: Path) -> None:
    run(tars)
    out = tars.parent / "out"
    result = found(out)
    assert (result.failures, result.missing, result.extra, result.other_files) == ([], (), (), ())
    assert (len(result.findings), len(result.unprotected), result.largest_changes()) == (4, 2, (8, 0))
    members = content(out / "a-0.tar")
    members[0] = (members[0][0], b'{"n": 2}')
    image = np.asarray(Image.open(io.BytesIO(members[4][1]))).copy()
    image[0, 0] ^= 64
    members[4] = (members[4][0], encoded(image, "PNG"))
    write_tar(out / "a-0.tar", members)
    members = content(out / "more" / "b-1.tar")
    write_tar(out / "more" / "b-1.tar", [members[1], members[0], *members[2:]])
    (out / "notes.txt").write_text("?")
    result = found(out)
    assert [finding.name for finding in result.failures] == ["a-0.tar/00000.png"]
    assert [(fault.name, fault.problem) for fault in result.other_files] == [
        ("a-0.tar/00001.json", "differs from its original"),
        ("more/b-1.tar", "its members are not those of its original, in their order"),
    ]
    assert result.extra == ("notes.txt",)
    (out / "more" / "b-1.tar").write_bytes(b"no tar" * 300)
    told = [fault.problem for fault in found(out).other_files if fault.name == "more/b-1.tar"]
    assert len(told) == 1 and told[0].startswith("is no plain tar file, or it is damaged")
    (out / "a-0.tar").unlink()
    result = found(out)
    assert ("a-0.tar", "missing") in [(fault.name, fault.problem) for fault in result.other_files]
    assert {"a-0.tar/00000.png", "a-0.tar/00001.jpg", "a-0.tar/00002.webp"} <= set(result.missing)


def test_moved_originals_are_named(tars: Path) -> None:
    run(tars)
    tars.rename(tars.parent / "moved")
    with pytest.raises(UserError, match="the tar files are not there; name their folder with --originals"):
        found(tars.parent / "out")
    assert found(tars.parent / "out", originals=tars.parent / "moved").failures == []


class Stopped(Exception):
    pass


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize("bar", ["images", "tars"])
def test_a_run_that_is_cut_off_goes_on(tars: Path, bar: str) -> None:
    run(tars, "alone")
    with pytest.raises(Stopped):
        run(tars, progress=Acting(1, stop, of=bar))
    assert (tars.parent / "out" / LOOSE).is_dir() and not (tars.parent / "out" / MANIFEST).exists()
    for folder in ("", "more"):  # as a killed run leaves the file that it was writing anew
        (tars.parent / "out" / folder).mkdir(exist_ok=True)
        (tars.parent / "out" / folder / ".unseg-0123456789abcdef.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match="out: its run was cut off, or had --limit; run the same command"):
        found(tars.parent / "out")
    run(tars)
    assert tree(tars.parent / "out") == tree(tars.parent / "alone")
    with pytest.raises(
        UserError, match="is finished; `unseg verify` says what is protected there. Give another folder"
    ):
        run(tars)


def test_several_processes_write_the_same(tars: Path) -> None:
    run(tars, "alone")
    run(tars, processes=2)
    assert tree(tars.parent / "out") == tree(tars.parent / "alone")


def test_scratch_files_of_a_killed_run_go_with_the_next(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed is as good as: its folder is there, and nobody holds its lock."""
    (tars.parent / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tars.parent / "tmp"))
    kept: list[str] = []

    def keep() -> None:
        (scratch,) = (tars.parent / "tmp").iterdir()
        shutil.copytree(scratch, scratch.with_name(f"{scratch.name}x"), copy_function=shutil.copyfile)
        kept.append(scratch.name)
        raise Stopped

    with pytest.raises(Stopped):
        run(tars, progress=Acting(1, keep, of="tars"))
    assert [path.name for path in (tars.parent / "tmp").iterdir()] == [f"{kept[0]}x"]
    run(tars)
    assert list((tars.parent / "tmp").iterdir()) == []


def test_one_tar_and_a_key_beside_the_output(tars: Path) -> None:
    made = run(tars / "a-0.tar", "../one", key=None)
    assert made.exit_code == 0 and (tars.parent / "one.key").is_file()
    assert set(tree(tars.parent / "one")) == {"a-0.tar", MANIFEST}


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("../x.png", b"x")], "the member '../x.png' is no plain file in a folder"),
        ([("a.png", b"x"), ("a.png", b"y")], "holds two members of one name"),
        ([("a.png", b"x"), ("a.jpg", b"y")], "a sample holds two images"),
    ],
)
def test_hostile_tars_are_refused_by_name(tmp_path: Path, members: list[tuple[str, bytes]], told: str) -> None:
    write_tar(tmp_path / "tars" / "x.tar", members)
    with pytest.raises(UserError, match=f"x.tar: {told}"):
        run(tmp_path / "tars")
    assert not (tmp_path / "out").exists()


def test_links_and_broken_tars_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match="the member 'a.png' is no plain file in a folder"):
        run(tmp_path / "tars")
    (tmp_path / "tars" / "x.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(UserError, match="x.tar: is no plain tar file, or it is damaged"):
        run(tmp_path / "tars")
    (tmp_path / "tars" / "x.tar").unlink()
    with pytest.raises(UserError, match=r"no tar file \(.tar\) there"):
        run(tmp_path / "tars")


def test_tars_in_a_bucket_are_protected_onto_the_disk(tars: Path) -> None:
    run(tars, "alone")
    place = f"s3://{BUCKET}/tars"
    with served() as server:
        for path in files_under(tars):
            server.put_file(str(path), f"{place}/{path.relative_to(tars).as_posix()}")
        protect(place, tars.parent / "out", SETTINGS, webdataset="mask.png", key=KEY)
        here, wanted = tree(tars.parent / "out"), tree(tars.parent / "alone")
        assert {name: here[name] for name in here if name != MANIFEST} == {
            name: wanted[name] for name in wanted if name != MANIFEST
        }
        assert {root for _, root in read_manifest(tars.parent / "out").entries} == {place}
        assert found(tars.parent / "out", originals=Path(place)).failures == []


def objects(server: Any, place: str) -> dict[str, bytes]:
    start = len(place.partition("://")[2]) + 1
    return {name[start:]: server.cat_file(name) for name in server.find(place)}


def test_tars_in_a_bucket_become_tars_in_a_bucket(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed when its second tar is sent goes on; its first tar is not made again."""
    run(tars, "alone")
    (tmp_path / "key").write_text(KEY.hex())
    place = f"s3://{BUCKET}/tars"
    options = {"webdataset": "mask.png", "key": tmp_path / "key"}
    with served() as server:
        for path in files_under(tars):
            server.put_file(str(path), f"{place}/{path.relative_to(tars).as_posix()}")
        send = Mirror.send

        def dying(self: Mirror, path: Path, is_new: bool = False) -> None:
            if path.name == "b-1.tar":
                raise Stopped
            send(self, path, is_new)

        monkeypatch.setattr(Mirror, "send", dying)
        with pytest.raises(Stopped):
            protect(place, f"{place}-out", SETTINGS, **options)
        monkeypatch.setattr(Mirror, "send", send)
        assert {"a-0.tar"} < set(objects(server, f"{place}-out")) and MANIFEST not in objects(server, f"{place}-out")
        told = Told()
        protect(place, f"{place}-out", SETTINGS, **options, progress=told)
        assert [total for what, total, _ in told.bars if what == "tars"] == [1]
        there, wanted = objects(server, f"{place}-out"), tree(tars.parent / "alone")
        assert there.keys() == wanted.keys()
        assert {name: there[name] for name in there if name != MANIFEST} == {
            name: wanted[name] for name in wanted if name != MANIFEST
        }
        assert found(Path(f"{place}-out")).failures == []


def test_shards_take_whole_tars(tars: Path) -> None:
    """Three shards of two tars: one of them has nothing to do."""
    run(tars, "alone")
    out = tars.parent / "out"
    with pytest.raises(UserError, match=rf"^--shard 1/3: nothing in --out {out} says which key"):
        run(tars, shard=Shard(1, 3))
    for number in (0, 3, 1):
        run(tars, shard=Shard(number, 3))
    with pytest.raises(UserError, match=r"a-0\.tar is not there; the shard that writes it has not run"):
        merge_anywhere(out)
    with pytest.raises(UserError, match="out: its 3 shards are not merged; run `unseg merge"):
        found(out)
    with pytest.raises(Stopped):
        run(tars, shard=Shard(2, 3), progress=Acting(1, stop, of="tars"))
    run(tars, shard=Shard(2, 3))
    assert merge_anywhere(out).exit_code == 1
    assert tree(out) == tree(tars.parent / "alone")


@pytest.mark.parametrize("shards", [(None,), (Shard(0, 2),), (Shard(0, 2), Shard(2, 2))])
def test_a_file_of_the_user_stays(tars: Path, shards: tuple[Shard | None, ...]) -> None:
    """Also where the folder of loose images is there, and where the plan is."""
    mine = tars.parent / "out" / "more" / "b-1.tar"
    for shard in shards[:-1]:
        run(tars, shard=shard)
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (tars.parent / "out" / LOOSE).mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"more/b-1\.tar exists and was not written by unseg; give another folder"):
        run(tars, shard=shards[-1])
    assert mine.read_text() == "mine"


def test_a_file_of_the_user_stays_after_a_first_run_on_a_few_images(tars: Path) -> None:
    run(tars, limit=1)
    mine = tars.parent / "out" / "more" / "b-1.tar"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"more/b-1\.tar exists and was not written by unseg; give another folder"):
        run(tars)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("shard", [None, Shard(2, 2)])
def test_a_file_that_comes_while_images_are_made_stays(tars: Path, shard: Shard | None) -> None:
    if shard is not None:
        run(tars, shard=Shard(0, 2))
    mine = tars.parent / "out" / "more" / "b-1.tar"

    def come() -> None:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")

    with pytest.raises(UserError, match=r"more/b-1\.tar exists and was not written by unseg; give another folder"):
        run(tars, shard=shard, progress=Acting(1, come, of="images"))
    assert mine.read_text() == "mine"


def test_tars_without_images_or_masks_are_one_line(tars: Path) -> None:
    with pytest.raises(UserError, match=rf"^--webdataset seg\.png: no image in {tars} has a member seg\.png; name"):
        run(tars, webdataset="seg.png")
    shutil.rmtree(tars)
    write_tar(tars / "a.tar", [("1.txt", b"words")])
    with pytest.raises(UserError, match=rf"^{tars}: no image in its tar files$"):
        run(tars)


@pytest.mark.slow
def test_fifteen_hundred_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tars of five hundred samples in; as many, in their order, are read by webdataset itself."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # of loose images, which a slow disk takes minutes for
    label = np.zeros((12, 14), np.uint8)
    label[3:9, 4:11] = 255
    mask = encoded(label, "PNG")
    for tar in range(3):
        members = []
        for number in range(500):
            pixels = np.full((12, 14, 3), 40 + number % 160, np.uint8)
            members += [(f"{number:04d}.png", encoded(pixels, "PNG")), (f"{number:04d}.mask.png", mask)]
            members += [(f"{number:04d}.cls", str(number % 7).encode())]
        write_tar(tmp_path / "tars" / f"{tar}.tar", members)
    assert run(tmp_path / "tars").exit_code == 0
    urls = [str(tmp_path / "out" / f"{tar}.tar") for tar in range(3)]
    keys, changed = [], 0
    for one in webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"):
        keys.append((one["__key__"], one["cls"]))
        change = np.abs(one["png"].astype(int) - (40 + int(one["__key__"]) % 160))
        changed += change[3:9, 4:11].max() == 8 and change[:3].max() == 0
    assert keys == [(f"{number:04d}", number % 7) for _ in range(3) for number in range(500)] and changed == 1500


def test_what_does_not_go_together(tars: Path) -> None:
    for given, told in (
        ({"masks": tars}, "--masks and --webdataset: give one of them"),
        ({"settings": ProtectSettings(unmasked="copy")}, "--unmasked copy: leave it out"),
    ):
        with pytest.raises(UserError, match=told):
            options = {"webdataset": "mask.png", "key": KEY, **given}
            protect(tars, tars.parent / "out", options.pop("settings", SETTINGS), **options)
    with pytest.raises(UserError, match="lies in the folder of the tar files"):
        run(tars, "tars/out")


def test_the_command(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["protect", str(tars), "--webdataset", "mask.png", "--out", out]) == 1
    assert cli.main(["verify", out]) == 1
    assert "4 of 6 images hold the bound at every pixel" in capsys.readouterr().out
    shutil.rmtree(out)
    assert cli.main(["protect", str(tars / "a-0.tar"), "--webdataset", "mask.png", "--out", out]) == 0
    assert cli.main(["verify", out]) == 0


@pytest.mark.parametrize("name", ["00007.tif", "00007.dcm", "00007.nii.gz", "00007.HEIC"])
def test_a_picture_that_would_stay_as_it_is_is_refused(tars: Path, name: str) -> None:
    write_tar(tars / "c-2.tar", [*sample(7, (33, 47)), (name, b"?")])
    with pytest.raises(UserError, match=f"c-2.tar: {name} is a picture"):
        run(tars)


@pytest.mark.parametrize("name", ["00007.left.jpg", "00007.view.webp", "00008.img.png", "00007.bin", "00007"])
def test_a_picture_under_a_name_of_another_kind_is_refused(tars: Path, name: str) -> None:
    """00008 is a sample without an image; 00007.depth.png lies beside one, and is a label map."""
    beside = ("00007.depth.png", encoded(np.arange(33 * 47, dtype=np.uint8).reshape(33, 47), "PNG"))
    write_tar(tars / "c-2.tar", [*sample(7, (33, 47)), beside, (name, picture())])
    with pytest.raises(UserError, match=f"c-2.tar: {name} is a picture that would stay as it is"):
        run(tars)
    write_tar(tars / "c-2.tar", [*sample(7, (33, 47)), beside])
    run(tars)
    assert dict(content(tars.parent / "out" / "c-2.tar"))["00007.depth.png"] == beside[1]


def array(*shape: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8))
    return file.getvalue()


def picture(size: tuple[int, int] = (33, 47)) -> bytes:
    return sample(9, size)[1][1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("00007.right.png", picture()),
        ("00007.right.tif", encoded(np.random.default_rng(3).integers(0, 256, (33, 47, 3)).astype(np.uint8), "TIFF")),
        ("00007.jpg.gz", gzip.compress(picture(), mtime=0)),
        ("00007.npy", array(33, 47, 3)),
        ("00007.chw.npy", array(3, 33, 47)),
    ],
)
def test_a_photograph_that_lies_beside_an_image_is_refused(tars: Path, name: str, data: bytes) -> None:
    """The other eye's view, a packed file, pixels as an array."""
    write_tar(tars / "c-2.tar", [*sample(7, (33, 47)), (name, data)])
    with pytest.raises(UserError, match=f"c-2.tar: {re.escape(name)} is a picture that would stay as it is"):
        run(tars)


def test_what_belongs_to_an_image_and_is_no_picture_comes_along(tars: Path) -> None:
    """Classes in colours, depth in grey and in 16 bits, features, packed words."""
    classes = np.random.default_rng(3).integers(0, 3, (33, 47))
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 64]], np.uint8)[classes]
    depth = np.random.default_rng(4).integers(0, 2**16, (33, 47)).astype(np.uint16)
    beside = [
        ("00007.seg.png", encoded(colours, "PNG")),
        ("00007.depth.png", encoded((depth >> 8).astype(np.uint8), "PNG")),
        ("00007.deep.png", encoded(depth, "PNG")),
        ("00007.npy", array(33, 47, 16)),
        ("00007.vector.npy", array(512)),
        ("00007.txt.gz", gzip.compress(b"words " * 100, mtime=0)),
    ]
    write_tar(tars / "c-2.tar", [*sample(7, (33, 47)), *beside])
    run(tars)
    made = dict(content(tars.parent / "out" / "c-2.tar"))
    assert {name: made[name] for name, _ in beside} == dict(beside)


@pytest.mark.parametrize("beside", [True, False])
def test_a_picture_behind_the_first_of_its_suffix_takes_its_sample_along(tars: Path, beside: bool) -> None:
    """25 members come first; the picture is a member of sample 26, or stands alone. Shards tell the same."""
    members = [*sample(7, (33, 47)), *((f"{number:05d}.feature", b"numbers") for number in range(100, 125))]
    members += [*(sample(26, (30, 41)) if beside else ()), ("00026.feature", sample(1, (5, 6))[1][1])]
    write_tar(tars / "c-2.tar", [*members, ("00026.txt", b"words")])
    made, out = run(tars), tars.parent / "out"
    (line,) = [entry for entry in made.entries if "00026" in entry.input]
    told = {
        True: (
            "c-2.tar/00026.png",
            "its sample is left out, since 00026.feature in it is a picture that would stay as",
        ),
        False: ("c-2.tar/00026.feature", "is a picture that would stay as it is; its sample is left out"),
    }[beside]
    assert (line.input, line.status) == (told[0], "failed") and line.reason.startswith(told[1])
    assert read_manifest(out).entries[line.key] == line
    assert [name for name, _ in content(out / "c-2.tar")] == [name for name, _ in members if "00026" not in name]
    result = found(out)
    assert result.failures == [] and result.other_files == () and line.input in [one.name for one in result.unprotected]
    for number in range(4):
        run(tars, "shards", shard=Shard(number, 3))
    merge_anywhere(tars.parent / "shards")
    assert tree(tars.parent / "shards") == tree(out)


def test_verify_finds_a_picture_that_an_older_run_let_through(tars: Path) -> None:
    members = [*sample(7, (33, 47)), *((f"{number:05d}.feature", b"numbers") for number in range(100, 125))]
    write_tar(tars / "c-2.tar", [*members, ("00126.feature", b"numbers")])
    run(tars)
    picture = ("00126.feature", sample(1, (5, 6))[1][1])
    write_tar(tars / "c-2.tar", [*members, picture])
    kept = content(tars.parent / "out" / "c-2.tar")
    write_tar(tars.parent / "out" / "c-2.tar", [*kept[:-1], picture])
    assert "c-2.tar" in [fault.name for fault in found(tars.parent / "out").other_files]


def test_a_key_lies_beside_the_output_and_a_dry_run_makes_none(tars: Path) -> None:
    run(tars, key=None, dry_run=True)
    assert [path.name for path in tars.parent.iterdir()] == ["tars"]
    run(tars, key=None)
    assert sorted(path.name for path in tars.parent.iterdir()) == ["out", "out.key", "tars"]
    (tars.parent / "more").mkdir()
    (tars.parent / "out.key").rename(tars.parent / "more" / "my.key")
    with pytest.raises(UserError, match=r"my\.key: lies in --out .*more, with which"):
        run(tars, "more", key=tars.parent / "more" / "my.key")
