"""What actors are told and do, in this process: parts that are lost or repeated change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import unseg
from tests.support.actors_here import ActorsHere, Lost
from tests.support.s3_server import BUCKET, served
from tests.support.told_progress import Told
from unseg import cli
from unseg.compute.engine import Engine
from unseg.compute.progress import Tick
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting import engine_runs
from unseg.protecting.manifest import AGREED, MANIFEST, SHARDS, read_manifest
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import verify_anywhere
from unseg.storage.files import files_under
from unseg.storage.locks import FolderLock
from unseg.storage.mirror import Mirror
from unseg.storage.packing import packed, unpacked

SETTINGS = ProtectSettings(workers=1, unmasked="copy")
KEY = bytes(range(32))
NAMES = ("a.jpg", "a.png", "b/c.png", "b/d.png", "e.png", "f.png", "g.png")  # a.jpg has to change its name
ROOT = f"s3://{BUCKET}/parts"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Seven images with masks of classes; f has no mask, and g is no image under its name. `one`: of a plain run."""
    draw = np.random.default_rng(5)
    for place, name in enumerate(NAMES):
        for folder in ("photos", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        size = (31, 44 + max(place, 1))
        Image.fromarray(draw.integers(20, 230, (*size, 3)).astype(np.uint8)).save(tmp_path / "photos" / name)
        labels = np.array([1, 2, 5], np.uint8)[(np.arange(size[1])[None] // 9 + np.arange(31)[:, None] // 20) % 3]
        if name != "f.png":
            Image.fromarray(labels).save(tmp_path / "masks" / f"{name.partition('.')[0]}.png")
    (tmp_path / "photos" / "g.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    run(tmp_path, "one", engine=None)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Any]:
    with served() as files:
        yield files


def run(local: Path, out: str = "out", settings: ProtectSettings = SETTINGS, **given: Any) -> Summary:
    options = {"masks": local / "masks", "key": local / "key", "engine": Engine(), **given}
    return protect(local / "photos", local / out, settings, **options)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def objects(server: Any) -> dict[str, bytes]:
    start = len(f"{ROOT}/out".removeprefix("s3://")) + 1
    return {name[start:]: server.cat_file(name) for name in server.find(f"{ROOT}/out")}


def lose_at(monkeypatch: pytest.MonkeyPatch, *writes: int) -> None:
    """An actor is lost when the outputs of these numbers are to be written."""
    write, done = Pipeline._write, []

    def writing(pipeline: Pipeline, *arguments: Any) -> str:
        done.append(1)
        if len(done) in writes:
            raise Lost
        return write(pipeline, *arguments)

    monkeypatch.setattr(Pipeline, "_write", writing)


# --- the same bytes


@pytest.mark.parametrize("rule", [ObjectRule(), ObjectRule(by_class=True)])
def test_lost_and_repeated_parts_write_what_one_run_writes(
    local: Path, actors: ActorsHere, monkeypatch: pytest.MonkeyPatch, rule: ObjectRule
) -> None:
    settings, told = replace(SETTINGS, rule=rule, auto_objects=False), Told()
    alone = run(local, "alone", settings, engine=None)
    lose_at(monkeypatch, 2, 4)
    made = run(local, settings=settings, progress=told)
    assert (actors.lost, actors.started) == (2, 3)
    assert tree(local / "out") == tree(local / "alone") and not (local / "out" / SHARDS).exists()
    assert (made.entries, made.exit_code, made.kept) == (alone.entries, 1, 0)
    assert ("images", 7, 7) in told.bars
    assert not any("--shard" in text for text in told.sentences)
    before = {path: path.stat().st_mtime_ns for path in files_under(local / "out") if path.name != MANIFEST}
    again = run(local, settings=settings)
    assert again.kept == 5 and tree(local / "out") == tree(local / "alone")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_stores_hold_what_one_run_writes(
    local: Path, server: Any, actors: ActorsHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("photos", "masks"):
        server.put(f"{local / part}/", f"{ROOT}/{part}", recursive=True)
    given = {"masks": f"{ROOT}/masks", "key": local / "key", "engine": Engine()}
    lose_at(monkeypatch, 1, 4)
    made = protect(f"{ROOT}/photos", f"{ROOT}/out", SETTINGS, **given)
    assert (actors.lost, made.kept) == (2, 0) and objects(server) == tree(local / "one")
    assert protect(f"{ROOT}/photos", f"{ROOT}/out", SETTINGS, **given).kept == 5  # the copy is made again
    assert objects(server) == tree(local / "one")
    protect(f"{ROOT}/photos", local / "disk", SETTINGS, **given)
    assert {**tree(local / "disk"), MANIFEST: b""} == {**tree(local / "one"), MANIFEST: b""}
    server.cp_file(f"{ROOT}/out/e.png", f"{ROOT}/out/b/c.png")
    server.rm_file(f"{ROOT}/out/b/d.png")
    options = {"masks": None, "annotations": None, "workers": 1, "max_megapixels": 200.0, "progress": Told()}
    found = verify_anywhere(Path(f"{ROOT}/out"), originals=None, **options, engine=Engine())
    assert found == verify_anywhere(Path(f"{ROOT}/out"), originals=None, **options)
    assert found.missing == ("b/d.png",) and len(found.failures) == 2


def annotations(local: Path, name: str) -> None:
    """Writes annotations of some of the images to `set`: a file of all, a folder with a file for each, or a table."""
    (local / "set").mkdir()
    if name == "labels":
        shutil.copytree(local / "masks", local / "set" / name)
    elif name == "coco.json":
        sizes = [44 + max(place, 1) for place in range(len(NAMES))]
        images = [
            {"id": number, "file_name": NAMES[number], "width": sizes[number], "height": 31} for number in (1, 2, 4)
        ]
        shape = {"category_id": 3, "iscrowd": 0, "area": 567, "bbox": [3, 4, 27, 21]}
        shape["segmentation"] = [[3, 4, 30, 4, 30, 25, 3, 25]]
        entries = [{**shape, "id": number, "image_id": number} for number in (1, 2, 4)]
        thing = {"id": 3, "name": "thing"}
        (local / "set" / name).write_text(json.dumps({"images": images, "categories": [thing], "annotations": entries}))
    else:
        rows = {
            column: [{"bytes": (local / folder / image).read_bytes(), "path": image} for image in ("a.png", "e.png")]
            for column, folder in (("image", "photos"), ("mask", "masks"))
        }
        cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({name: pa.array(cells, cell) for name, cells in rows.items()}), local / "set" / name)


@pytest.mark.parametrize(
    ("name", "form", "count"), [("coco.json", "coco", 3), ("labels", "index", 5), ("masks.parquet", "huggingface", 2)]
)
def test_annotations_in_a_store(
    local: Path,
    server: Any,
    actors: ActorsHere,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    form: str,
    count: int,
) -> None:
    annotations(local, name)
    for part in ("photos", "set"):
        server.put(f"{local / part}/", f"{ROOT}/{part}", recursive=True)
    given = {"annotations_format": form, "key": local / "key"}
    made = protect(local / "photos", local / "alone", SETTINGS, annotations=local / "set" / name, **given)
    assert len(made.of("protected")) == count
    lose_at(monkeypatch, 1, 4)
    protect(f"{ROOT}/photos", f"{ROOT}/out", SETTINGS, annotations=f"{ROOT}/set/{name}", **given, engine=Engine())
    assert actors.lost == 2 and objects(server) == tree(local / "alone")
    found = verify_anywhere(f"{ROOT}/out")
    assert len(found.findings) == count and not found.failures
    assert verify_anywhere(f"{ROOT}/out", engine=Engine()) == found
    assert verify_anywhere(f"{ROOT}/out", annotations=f"{ROOT}/set/{name}", engine=Engine()) == found


def test_what_is_sent_of_a_part_does_not_grow_with_the_set(local: Path, actors: ActorsHere) -> None:
    run(local)
    few = list(actors.sizes)
    actors.sizes.clear()
    for name in range(40):
        for folder in ("photos", "masks"):
            (local / folder / f"z{name:02}.png").write_bytes((local / folder / "e.png").read_bytes())
    run(local, "more")
    assert len(actors.sizes) > 2 * len(few) and max(actors.sizes[1:]) < 1.5 * max(few[1:])
    assert actors.sizes[0] < 1.05 * few[0]


# --- a driver that was killed


def planned(local: Path) -> int:
    """Returns how many shards there are to be."""
    manifest = read_manifest(local / "out")
    assert manifest is not None
    return manifest.header[AGREED]["count"]


class Cut(Told):
    """Ends a run, as Ctrl-C does, once it is planned."""

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        if what == "images":
            raise KeyboardInterrupt
        with super().bar(what, total) as tick:
            yield tick


def test_another_driver_goes_on_where_the_first_was_cut_off(local: Path, actors: ActorsHere) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(local, progress=Cut())
    assert list(tree(local / "out")) == [MANIFEST]
    protect(local / "photos", local / "out", SETTINGS, masks=local / "masks", key=KEY, shard=Shard(2, planned(local)))
    with pytest.raises(UserError, match="--engine ray: is not what was planned"):
        run(local, settings=replace(SETTINGS, unmasked="skip"))
    (local / "out" / "a.jpg.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a\.jpg\.png exists and was not written by unseg"):
        run(local)
    (local / "out" / "a.jpg.png").unlink()
    assert run(local).kept > 0
    assert tree(local / "out") == tree(local / "one")


@pytest.mark.parametrize("at", ["driver", "actor"])
def test_whoever_has_a_shard_still_is_waited_for(
    at: str, local: Path, actors: ActorsHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(local, progress=Cut())
    shard = Shard(1, planned(local)).folder(local / "out")
    with ExitStack() as holding:
        holding.enter_context(FolderLock(shard))
        waits = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            holding.close()

        monkeypatch.setattr("unseg.protecting.engine_runs.time.sleep", sleep)
        if at == "actor":
            monkeypatch.setattr(engine_runs, "_wait_for_the_last", lambda out: None)
            monkeypatch.setattr("unseg.protecting.run.check_alone", lambda out, shard: None)
        run(local)
    assert len(waits) == 1 and tree(local / "out") == tree(local / "one")


# --- what is refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "spark"], "--engine spark: give ray, or leave it out"),
        (["--ray-address", "head:6379"], "--ray-address head:6379: is for --engine ray"),
        (["--engine", "ray", "--shard", "1/2"], "--engine ray: does not go with --shard"),
        (["--engine", "ray", "--watch"], "--engine ray: shares out a run that ends, and --watch goes on"),
        (["--engine", "ray", "--gpus", "1"], "--gpus 1: is for one machine"),
        (["--engine", "ray", "--processes", "0"], "--processes 0: give 1 or more"),
        (["--engine", "ray", "--ray-address", "head"], "--ray-address head: give HOST:PORT"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:9"], "--ray-address 127.0.0.1:9: no cluster of Ray could be"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "--ray-address ray://head:10001: give HOST:PORT"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    options: list[str], told: str, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["protect", str(local / "photos"), "--masks", str(local / "masks"), "--out", str(local / "out")]
    assert cli.main([*command, *options]) == 2
    assert capsys.readouterr().err.startswith(f"unseg: error: {told}")
    assert not (local / "out").exists()


def test_python_takes_the_engine_by_its_name(local: Path, actors: ActorsHere) -> None:
    run(local, engine="ray")
    assert actors.started and tree(local / "out") == tree(local / "one")
    started = actors.started
    assert unseg.verify(local / "out", engine="ray").failures == [] and actors.started > started
    for wrong in ("spark", 4):
        with pytest.raises(UserError, match=f"--engine {wrong}: give ray"):
            run(local, "other", engine=wrong)


def test_processes_of_verify_are_those_of_an_engine(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(local / "one"), "--processes", "2"]) == 2
    assert "--processes 2: is for --engine ray" in capsys.readouterr().err


# --- on the way to another machine


def test_places_in_a_mirror_are_places_in_the_other(tmp_path: Path) -> None:
    here, there = Mirror(tmp_path / "a" / "here"), Mirror(tmp_path / "b")
    value = {"path": here.folder / "s3" / "x.png", "text": str(here.folder / "s3"), "root": [here.folder]}
    others = {"beside": Path(f"{here.folder}2/x"), "text": "here", "none": None}
    assert unpacked(packed((value, others), [here.folder]), [there.folder]) == (
        {"path": there.folder / "s3" / "x.png", "text": str(there.folder / "s3"), "root": [there.folder]},
        others,
    )
    assert unpacked(packed(value, [None]), [there.folder]) == value
    both = unpacked(packed(value, [None, here.folder / "s3"]), [Path("/no"), there.folder])
    assert both == {"path": there.folder / "x.png", "text": str(there.folder), "root": [here.folder]}
