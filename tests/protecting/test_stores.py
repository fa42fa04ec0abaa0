"""unseg protect, merge and verify on a store: an S3 server on loopback holds images, masks and outputs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from PIL import Image

from tests.support.annotation_sets import build
from tests.support.killed_sends import killed_after
from tests.support.s3_server import BUCKET, SECRET, served
from tests.support.told_progress import Told
from unseg import cli
from unseg.errors import UserError
from unseg.protecting import stores
from unseg.protecting.manifest import MANIFEST, SHARDS
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import merge_anywhere, verify_anywhere
from unseg.storage import kept_contents
from unseg.storage.files import files_under, sha256_of
from unseg.storage.mirror import LOCK, PREFIX, Mirror, as_written, mirrored, url_of
from unseg.storage.mounts import BROUGHT
from unseg.storage.store_library import files_at

SETTINGS = ProtectSettings(workers=2)
NAMES = ("a.jpg", "a.png", "b/c.png", "b/d.png", "e.png", "g.png")
ROOT = f"s3://{BUCKET}/set"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with served() as files:
        yield files


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and masks of classes, one photograph broken, and what a run on the disk makes of them."""
    folder = tmp_path_factory.mktemp("local")
    draw = np.random.default_rng(8)
    for place, name in enumerate(NAMES):
        for part in ("photos", "masks"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        size = (33, 47 + max(place, 1))
        Image.fromarray(draw.integers(20, 230, (*size, 3)).astype(np.uint8)).save(folder / "photos" / name)
        labels = np.array([1, 2, 5], np.uint8)[(np.arange(size[1])[None] // 9 + np.arange(33)[:, None] // 20) % 3]
        Image.fromarray(labels).save(folder / "masks" / f"{name.partition('.')[0]}.png")
    (folder / "photos" / "g.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "key").write_text("3c" * 32 + "\n")
    assert (
        protect(folder / "photos", folder / "out", SETTINGS, masks=folder / "masks", key=folder / "key").exit_code == 1
    )
    return folder


@pytest.fixture
def there(server: Any, local: Path) -> Iterator[Any]:
    """The server with photographs and masks, and without any output."""
    if server.exists(ROOT):
        server.rm(ROOT, recursive=True)
    for part in ("photos", "masks"):
        for path in files_under(local / part):
            server.put_file(str(path), f"{ROOT}/{path.relative_to(local).as_posix()}")
    server.pipe_file(f"{ROOT}/photos/empty/", b"")  # how some tools write a folder
    yield server


def run(local: Path, out: object = f"{ROOT}/out", shard: str | None = None, **given: Any) -> Any:
    parsed = None if shard is None else Shard.parse(shard)
    given = {"masks": f"{ROOT}/masks", "key": local / "key", **given}
    return protect(f"{ROOT}/photos", out, SETTINGS, shard=parsed, **given)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def objects(server: Any, place: str = f"{ROOT}/out") -> dict[str, bytes]:
    start = len(place.removeprefix("s3://")) + 1
    return {name[start:]: server.cat_file(name) for name in server.find(place)}


def found(folder: str | Path, **given: Any) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 2, "max_megapixels": 200.0}
    return verify_anywhere(Path(folder), **{**options, **given}, progress=Told())


# --- the same as on a disk


@pytest.mark.parametrize("processes", [1, 2])
def test_a_store_gets_what_the_disk_gets_to_the_byte(there: Any, local: Path, processes: int) -> None:
    told = Told()
    made = run(local, processes=processes, progress=told)
    assert objects(there) == tree(local / "out")
    assert (made.exit_code, len(made.entries)) == (1, len(NAMES))
    assert any(f"into {ROOT}/out" in text for text in told.sentences)
    assert not any(
        "/tmp" in text or "unseg-" in text.replace(MANIFEST, "").replace(BUCKET, "") for text in told.sentences
    )
    result = found(f"{ROOT}/out")
    assert (result.failures, result.missing, result.extra, result.other_files) == ([], (), (), ())
    assert len(result.findings) == 5 and result.as_dict() == found(local / "out").as_dict()
    run(local)
    assert objects(there) == tree(local / "out")


def test_verify_sees_what_changed_in_the_store(there: Any, local: Path) -> None:
    run(local)
    there.cp_file(f"{ROOT}/out/e.png", f"{ROOT}/out/b/c.png")
    there.rm_file(f"{ROOT}/out/b/d.png")
    there.pipe_file(f"{ROOT}/out/more.txt", b"?")
    there.rm_file(f"{ROOT}/photos/a.jpg")
    result = found(f"{ROOT}/out")
    told = {finding.name: finding.problem for finding in result.failures}
    assert result.missing == ("b/d.png",) and result.extra == ("more.txt",)
    assert f"its original {ROOT}/out/../photos/a.jpg is not there" in told["a.jpg.png"]
    assert {"a.jpg.png", "b/c.png", "b/d.png"} == set(told)


def test_images_in_a_store_are_protected_onto_the_disk(there: Any, local: Path, tmp_path: Path) -> None:
    made = run(local, tmp_path / "out")
    assert made.exit_code == 1
    here, wanted = tree(tmp_path / "out"), tree(local / "out")
    assert {name: data for name, data in here.items() if name != MANIFEST} == {
        name: data for name, data in wanted.items() if name != MANIFEST
    }
    line = json.loads(here[MANIFEST].splitlines()[1])
    assert (line["input_root"], line["mask_root"]) == (f"{ROOT}/photos", f"{ROOT}/masks")
    lost = found(tmp_path / "out")
    assert len(lost.failures) == 5 and "give --originals" in lost.failures[0].problem
    result = found(tmp_path / "out", originals=Path(f"{ROOT}/photos"), masks=Path(f"{ROOT}/masks"))
    assert (result.failures, len(result.findings)) == ([], 5)


def test_images_of_the_disk_are_protected_into_a_store(there: Any, local: Path) -> None:
    protect(local / "photos", f"{ROOT}/out", SETTINGS, masks=local / "masks", key=local / "key")
    here, wanted = objects(there), tree(local / "out")
    assert {name: here[name] for name in here if name != MANIFEST} == {
        name: wanted[name] for name in wanted if name != MANIFEST
    }
    line = json.loads(here[MANIFEST].splitlines()[1])
    assert line["input_root"] == (local / "photos").as_uri()
    result = found(f"{ROOT}/out", originals=local / "photos", masks=local / "masks")
    assert (result.failures, len(result.findings)) == ([], 5)


def test_annotations_in_a_store(there: Any, local: Path, tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 1, "file_name": "b/c.png", "width": 49, "height": 33}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 27, 21], "area": 567, "iscrowd": 0,
             "segmentation": [[3, 4, 30, 4, 30, 25, 3, 25]]}
        ],
    }  # fmt: skip
    there.pipe_file(f"{ROOT}/coco.json", json.dumps(coco).encode())
    made = run(local, masks=None, annotations=f"{ROOT}/coco.json")
    assert [entry.input for entry in made.of("protected")] == ["b/c.png"]
    (local / "coco.json").write_text(json.dumps(coco))
    alone = local.parent / "coco-out"
    protect(local / "photos", local / "coco-out", SETTINGS, annotations=local / "coco.json", key=local / "key")
    assert objects(there) == tree(local / "coco-out") and not alone.exists()
    there.rm(f"{ROOT}/out", recursive=True)
    run(local, masks=None, annotations=f"{ROOT}/coco.json", processes=2)
    assert objects(there) == tree(local / "coco-out")


@pytest.mark.parametrize(("name", "place"), [("coco-panoptic", "panoptic.json"), ("yolo", "data.yaml")])
def test_annotations_with_what_lies_beside_them(server: Any, tmp_path: Path, name: str, place: str) -> None:
    """A folder of PNG files beside COCO's panoptic json, and YOLO's labels beside data.yaml."""
    built = build(name, tmp_path / "set")
    root = f"s3://{BUCKET}/{name}"
    server.put(f"{tmp_path / 'set'}/", f"{root}/set", recursive=True)
    images = built.images.relative_to(tmp_path).as_posix()
    (tmp_path / "key").write_text("3c" * 32 + "\n")
    given = {"key": tmp_path / "key"}
    protect(built.images, tmp_path / "out", SETTINGS, annotations=tmp_path / "set" / place, **given)
    protect(f"{root}/{images}", f"{root}/out", SETTINGS, annotations=f"{root}/set/{place}", **given)
    assert objects(server, f"{root}/out") == tree(tmp_path / "out")
    result = verify_anywhere(f"{root}/out")
    assert result.findings and not result.failures


# --- shards, killed and repeated


def test_who_planned_is_told_the_next_step_and_a_run_that_goes_on_is_not(there: Any, local: Path) -> None:
    told = Told()
    given = {"masks": local / "masks", "key": local / "key", "progress": told}
    protect(local / "photos", f"{ROOT}/out", SETTINGS, **given)
    assert not any(line.startswith("planned: ") for line in told.sentences)
    protect(local / "photos", f"{ROOT}/other", SETTINGS, **given, shard=Shard(0, 2))
    (line,) = [line for line in told.sentences if line.startswith("planned: ")]
    assert line.endswith(f"--shard 1/2 to 2/2, in any order and on any machines, then `unseg merge {ROOT}/other`")


def test_shards_in_a_store_need_no_common_disk(there: Any, local: Path) -> None:
    with pytest.raises(UserError, match=f"--shard 1/2: nothing in --out {ROOT}/out says"):
        run(local, shard="1/2")
    for shard in ("plan/2", "2/2", "plan/2"):
        run(local, shard=shard)
    assert set(objects(there)) == {MANIFEST, f"{SHARDS}/2-of-2/{MANIFEST}", "b/d.png", "e.png"}
    with pytest.raises(UserError, match=f"{ROOT}/out: shard 1/2 has not run"):
        merge_anywhere(Path(f"{ROOT}/out"))
    run(local, shard="1/2")
    assert len(merge_anywhere(Path(f"{ROOT}/out")).entries) == len(NAMES)
    assert objects(there) == tree(local / "out")
    merge_anywhere(Path(f"{ROOT}/out"))
    assert objects(there) == tree(local / "out")


@pytest.mark.parametrize("sends", (1, 2, 3, 4, 5, 6, 9, 11))
def test_a_run_that_is_killed_at_any_file_goes_on(
    there: Any, local: Path, sends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three shards of two images: plan, then for each the word on what comes, its outputs, its mark; then the whole."""
    monkeypatch.setattr(stores, "IMAGES_A_SHARD", 3)
    killed_after(sends, lambda: run(local), monkeypatch)
    run(local)
    assert objects(there) == tree(local / "out")


def test_a_shard_that_is_done_is_not_protected_again(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "IMAGES_A_SHARD", 3)
    run(local, shard="plan/3")
    run(local, shard="2/3")
    told = Told()
    run(local, progress=told)
    assert [total for what, total, _ in told.bars if what == "images"] == [2, 2]
    assert objects(there) == tree(local / "out")


def test_two_plans_at_once(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Mirror.listed

    def then_another(self: Mirror, url: str | Path) -> Path:
        place = listed(self, url)
        if str(url).endswith("/out"):
            there.pipe_file(f"{ROOT}/out/{MANIFEST}", b"another's")
        return place

    monkeypatch.setattr(Mirror, "listed", then_another)
    with pytest.raises(UserError, match=f"--out {ROOT}/out: another run planned there at the same time"):
        run(local, shard="plan/2")
    assert objects(there) == {MANIFEST: b"another's"}


# --- memory, names, keys, passwords


def test_contents_stay_within_their_room(there: Any, tmp_path: Path) -> None:
    for number in range(5):
        there.pipe_file(f"{ROOT}/bits/{number}", bytes([number]) * 1000)
    mirror = Mirror(tmp_path / "mirror", room=2500)
    place = mirror.listed(f"{ROOT}/bits")
    for number in (0, 1, 2, 3, 4, 0):
        with mirror.held(place / str(number)):
            assert (place / str(number)).read_bytes() == bytes([number]) * 1000
        kept = [path for path in place.iterdir() if path.stat().st_mode & 0o777 == 0o400]
        assert len(kept) <= 2
    assert {path.stat().st_size for path in place.iterdir()} == {1000}


def test_only_so_many_contents_stay(there: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_contents, "MOST", 2)
    for name in "abcd":
        there.pipe(f"{ROOT}/few/{name}", name.encode())
    with mirrored() as mirror:
        folder = mirror.listed(f"{ROOT}/few")
        for name in "abcab":
            assert sha256_of(folder / name) == hashlib.sha256(name.encode()).hexdigest()
        brought = [name for name in "abcd" if (folder / name).stat().st_mode & 0o777 == BROUGHT]
    assert brought == ["a", "b"]


def test_a_listing_holds_a_page_at_a_time(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:02d}/x" for number in range(7)]
    for name in names:
        there.pipe(f"{ROOT}/pages/{name}", name.encode() * 3)
    there.pipe(f"{ROOT}/pages-beside/x", b"another folder")
    asked = []
    whole = type(there).call_s3

    def paged(self: Any, method: str, **options: Any) -> Any:
        asked.append(method)
        return whole(self, method, **options, MaxKeys=3)

    monkeypatch.setattr(type(there), "call_s3", paged)
    listed = files_at(f"{ROOT}/pages")
    first = next(listed)
    assert (first.url, first.size) == (f"{ROOT}/pages/00/x", 12) and first.time_ns > 0 and len(asked) == 1
    assert [first.url, *(file.url for file in listed)] == [f"{ROOT}/pages/{name}" for name in names]
    assert asked == 3 * ["list_objects_v2"]


def test_a_key_is_drawn_on_this_machine_and_never_sent(there: Any, local: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out s3://unseg-test/set/out: a key does not lie in a store"):
        run(local, key=None)
    published = tmp_path / "published"
    protect(local / "photos", published, SETTINGS, masks=local / "masks")
    with pytest.raises(UserError, match=r"--key .*in\.key: lies in .*published, a protected folder"):
        run(local, key=published / "in.key")
    assert objects(there) == {} and not (published / "in.key").exists()
    run(local, key=tmp_path / "new.key")
    key = (tmp_path / "new.key").read_text().strip()
    assert not any(key.encode() in data or bytes.fromhex(key) in data for data in objects(there).values())
    assert not [name for name in there.find(f"s3://{BUCKET}") if name.endswith(".key")]


def test_a_dry_run_sends_nothing(there: Any, local: Path, tmp_path: Path) -> None:
    made = run(local, key=tmp_path / "new.key", dry_run=True)
    assert made.dry and len(made.entries) == len(NAMES)
    assert objects(there) == {} and not (tmp_path / "new.key").exists()


def test_what_is_not_there_is_told_by_its_address(there: Any, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ["--key", str(local / "key"), "--masks", f"{ROOT}/masks"]
    assert cli.main(["protect", f"{ROOT}/none", *key, "--out", f"{ROOT}/out"]) == 2
    assert f"unseg: error: {ROOT}/none: no such file or folder" in capsys.readouterr().err
    assert cli.main(["protect", f"{ROOT}/photos", *key, "--out", "s3://no-such-bucket/out"]) == 2
    told = capsys.readouterr().err
    assert f"unseg: error: s3://no-such-bucket/out/{MANIFEST}: cannot be written: " in told and told.count("\n") <= 12
    assert cli.main(["protect", f"{ROOT}/photos", *key, "--out", "nostore://x/out"]) == 2
    assert "unseg: error: nostore://x/out: " in capsys.readouterr().err
    assert cli.main(["protect", f"{ROOT}/photos", *key, "--out", f"s3://me:{SECRET}@bucket/out"]) == 2
    told = capsys.readouterr().err
    assert "s3://…: name no password in an address" in told and SECRET not in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(f"Key {SECRET} does not exist"), "the store refuses access; look at the credentials in use"),
        (NoCredentialsError(), "no credentials are found, neither in AWS_ACCESS_KEY_ID nor"),
        (EndpointConnectionError(endpoint_url=f"http://{SECRET}"), "nobody answers at the server; is AWS_ENDPOINT_URL"),
    ],
)
def test_what_lacks_to_reach_a_store_is_told_without_secrets(
    error: Exception, told: str, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As s3fs and botocore raise it where a server says 403, where there is nobody to sign as, and where none is."""

    def isfile(url: str) -> bool:
        raise error

    monkeypatch.setattr("unseg.storage.store_library.filesystem", lambda url: SimpleNamespace(isfile=isfile))
    command = ["protect", str(local / "photos"), "--masks", "s3://bucket/masks", "--out", str(local / "new")]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.replace("\n", " ").startswith(f"unseg: error: s3://bucket/masks: cannot be listed: {told}")
    assert SECRET not in said and not (local / "new").exists()


def test_the_commands(there: Any, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--key", str(local / "key"), "--masks", f"{ROOT}/masks", "--out", f"{ROOT}/out"]
    assert cli.main(["protect", f"{ROOT}/photos", *options]) == 1
    assert cli.main(["verify", f"{ROOT}/out"]) == 1
    assert f"{ROOT}/out: 5 of 6 images hold the bound at every pixel" in capsys.readouterr().out
    assert cli.main(["merge", f"{ROOT}/out"]) == 1
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize("key", ["a/../../b.png", "x//y.png"])
def test_names_that_no_folder_has_are_refused(there: Any, local: Path, key: str) -> None:
    there.call_s3("put_object", Bucket=BUCKET, Key=f"set/odd/{key}", Body=b"x")
    with pytest.raises(UserError, match=r"s3://unseg-test/set/odd.*: (has no name that a folder can have|may be)"):
        protect(f"{ROOT}/odd", f"{ROOT}/out", SETTINGS, whole_image=True, key=local / "key")


def test_addresses() -> None:
    assert url_of(Path("s3://bucket/a/b/")) == as_written(Path("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert as_written(Path("photos/a")) == str(Path("photos/a"))
    with pytest.raises(ValueError, match="is no place in a store"):
        url_of("photos/a")


def test_what_killed_processes_left_of_mirrors_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, new = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}new"
    for folder in (left, new):
        (folder / "stores" / "s3").mkdir(parents=True)
    (left / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    with mirrored() as one:
        assert not left.exists() and new.exists()
        with mirrored() as other:
            assert one.folder.is_dir() and other.folder.is_dir() and one.folder != other.folder
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{PREFIX}link", f"{PREFIX}new"]
