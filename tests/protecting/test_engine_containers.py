"""--engine ray on tars and tables, in this process: every file is a shard; lost and repeated work changes nothing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.actors_here import ActorsHere, Lost
from tests.support.s3_server import BUCKET, served
from tests.support.told_progress import Told
from unseg.compute.engine import Engine
from unseg.compute.progress import Tick
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.container_runs import FACTS, LOOSE
from unseg.protecting.manifest import MANIFEST, SHARDS
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import merge_anywhere, verify_anywhere
from unseg.storage.files import files_under
from unseg.storage.tar_files import TarContainer

SETTINGS = ProtectSettings(workers=1)
KEY = bytes(range(32))
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TARS, JSONS, TABLES = {"webdataset": "mask.png"}, {"webdataset": "json"}, {"huggingface": "mask"}
ROOT = f"s3://{BUCKET}/parts"


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def photo(number: int) -> bytes:
    return png(np.random.default_rng(number).integers(20, 230, (31, 44 + number, 3)).astype(np.uint8))


def mask(number: int) -> bytes:
    label = np.zeros((31, 44 + number), np.uint8)
    label[4:20, 7:30] = 255
    return png(label)


def outlines(number: int, label: str) -> bytes:
    shape = {"label": label, "points": [[7, 4], [30, 4], [30, 20], [7, 20]]}
    other = {"label": "rest", "points": [[31, 2], [40, 2], [40, 29]]}
    return json.dumps({"imagePath": "x", "shapes": [shape, other]}).encode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three tars and two tables. Of the third tar an image is broken, and a picture would stay; the second table has a
    row without a mask."""
    (tmp_path / "tars").mkdir()
    for tar in range(3):
        members = [(f"{tar}.feature", photo(tar))] if tar == 2 else []
        for number in range(3 * tar, 3 * tar + 3):
            data = b"\x89PNG\r\n\x1a\nbroken" if number == 7 else photo(number)
            members += [(f"x/{number}.png", data), (f"x/{number}.mask.png", mask(number))]
            members += [(f"x/{number}.json", outlines(number, f"label {tar}")), (f"x/{number}.cls", b"3")]
        if tar == 2:
            members = [*((f"{number:05d}.feature", b"numbers") for number in range(25)), *members]
        with tarfile.open(tmp_path / "tars" / f"{tar}.tar", "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    (tmp_path / "tables").mkdir()
    for number in range(2):
        images = [{"bytes": photo(row), "path": "a.png"} for row in range(4)]
        masks = [{"bytes": mask(row), "path": None} for row in range(3)] + [None] * number + [images[3]] * (1 - number)
        columns = {"image": pa.array(images, CELL), "mask": pa.array(masks, CELL), "id": pa.array(range(4))}
        pq.write_table(pa.table(columns), tmp_path / "tables" / f"{number}.parquet", row_group_size=3)
    (tmp_path / "tables" / "README.md").write_text("what it is")
    (tmp_path / "key").write_text(KEY.hex())
    return tmp_path


def run(place: Path, what: dict[str, str], out: str = "out", **given: Any) -> Summary:
    source = place / ("tables" if "huggingface" in what else "tars")
    settings = given.pop("settings", SETTINGS)
    return protect(source, place / out, settings, **{"key": place / "key", "engine": Engine(), **what, **given})


def found(folder: Path, **given: Any) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 1, "max_megapixels": 200.0}
    return verify_anywhere(folder, **{**options, **given}, progress=Told())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def lose_at(monkeypatch: pytest.MonkeyPatch, *writes: int) -> None:
    """An actor is lost when the outputs of these numbers are to be written, or, at 0, when a tar is to be."""
    write, done, rewrite, tars = Pipeline._write, [], TarContainer.rewrite, []

    def writing(pipeline: Pipeline, *arguments: Any) -> str:
        done.append(1)
        if len(done) in writes:
            raise Lost
        return write(pipeline, *arguments)

    def rewriting(tar: TarContainer, *arguments: Any) -> None:
        tars.append(1)
        if len(tars) == 1 and 0 in writes:
            raise Lost
        rewrite(tar, *arguments)

    monkeypatch.setattr(Pipeline, "_write", writing)
    monkeypatch.setattr(TarContainer, "rewrite", rewriting)


@pytest.mark.parametrize("what", [TARS, JSONS, TABLES])
def test_actors_write_what_one_run_writes(
    place: Path, actors: ActorsHere, monkeypatch: pytest.MonkeyPatch, what: dict[str, str]
) -> None:
    alone, told = run(place, what, "alone", engine=None), Told()
    assert alone.exit_code == 1 and len(alone.of("protected")) >= 5
    lose_at(monkeypatch, 0, 2, 5)
    made = run(place, what, progress=told)
    assert actors.lost == (2 if what is TABLES else 3)
    assert tree(place / "out") == tree(place / "alone")
    assert (made.entries, made.exit_code) == (alone.entries, 1)
    assert made.kept == (2 if what is TABLES else 3)  # what lost actors had made counts as found
    assert any(what == "images" and total == done for what, total, done in told.bars)
    assert not any("--shard" in text for text in told.sentences)
    with pytest.raises(UserError, match="is finished; `unseg verify` says what is protected there"):
        run(place, what)
    proven = found(place / "out", engine="ray")
    assert proven == found(place / "out") and (proven.failures, proven.other_files) == ([], ())


def test_classes_of_outlines_are_known_to_every_actor(place: Path, actors: ActorsHere) -> None:
    settings = ProtectSettings(workers=1, rule=ObjectRule(by_class=True))
    run(place, JSONS, "alone", engine=None, settings=settings)
    run(place, JSONS, settings=settings)
    assert tree(place / "out") == tree(place / "alone")


def test_what_is_sent_of_a_tar_does_not_grow_with_their_number(place: Path, actors: ActorsHere) -> None:
    run(place, JSONS)
    few = list(actors.sizes)
    actors.sizes.clear()
    for number in range(30):
        (place / "tars" / f"a{number}.tar").write_bytes((place / "tars" / "0.tar").read_bytes())
    run(place, JSONS, "more")
    # The plan holds how many images each shard has.
    assert max(actors.sizes[1:]) < 1.05 * max(few[1:]) and actors.sizes[0] < 1.05 * few[0]


class Cut(Told):
    """Ends a run, as Ctrl-C does, once so many images are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        with super().bar(what, total) as tick:

            def act() -> None:
                tick()
                self._left -= what == "images"
                if self._left == 0:
                    raise KeyboardInterrupt

            yield act


@pytest.mark.parametrize("what", [TARS, TABLES])
def test_another_driver_goes_on_where_the_first_was_cut_off(
    place: Path, actors: ActorsHere, what: dict[str, str]
) -> None:
    run(place, what, "alone", engine=None)
    with pytest.raises(KeyboardInterrupt):
        run(place, what, progress=Cut(2))
    with pytest.raises(UserError, match="its . shards are not merged; run `unseg merge"):
        found(place / "out")
    with pytest.raises(UserError, match="is planned for . shards; give --shard, --engine ray if that planned them"):
        run(place, what, engine=None)
    run(place, what, shard=Shard(2, 3 if what is TARS else 2), engine=None)
    made = run(place, what)
    assert made.kept > 3 and tree(place / "out") == tree(place / "alone")


def test_shards_that_actors_left_can_be_merged_by_hand(place: Path, actors: ActorsHere) -> None:
    run(place, TARS, "alone", engine=None)
    with pytest.raises(KeyboardInterrupt):
        run(place, TARS, progress=Cut(9))
    assert sorted(path.name for path in (place / "out" / LOOSE).iterdir()) == [SHARDS, FACTS, MANIFEST]
    merge_anywhere(place / "out")
    assert tree(place / "out") == tree(place / "alone")


@pytest.mark.parametrize("what", [TARS, JSONS, TABLES])
def test_from_bucket_to_bucket_and_to_a_disk(
    place: Path, actors: ActorsHere, monkeypatch: pytest.MonkeyPatch, what: dict[str, str]
) -> None:
    alone = run(place, what, "alone", engine=None)
    folder = "tables" if what is TABLES else "tars"
    with served() as server:
        server.put(f"{place / folder}/", f"{ROOT}/in", recursive=True)
        lose_at(monkeypatch, 2)
        made = protect(f"{ROOT}/in", f"{ROOT}/out", SETTINGS, key=place / "key", engine=Engine(), **what)
        start = len(f"{ROOT}/out".removeprefix("s3://")) + 1
        there = {name[start:]: server.cat_file(name) for name in server.find(f"{ROOT}/out")}
        wanted = tree(place / "alone")
        assert there.keys() == wanted.keys() and actors.lost == 1
        assert {name: data for name, data in there.items() if name != MANIFEST} == {
            name: data for name, data in wanted.items() if name != MANIFEST
        }
        assert [entry.status for entry in made.entries] == [entry.status for entry in alone.entries]
        proven = found(Path(f"{ROOT}/out"), engine=Engine())
        assert proven == found(Path(f"{ROOT}/out")) and (proven.failures, proven.other_files) == ([], ())
        protect(f"{ROOT}/in", place / "disk", SETTINGS, key=place / "key", engine=Engine(), **what)
        assert {name: data for name, data in tree(place / "disk").items() if name != MANIFEST} == {
            name: data for name, data in wanted.items() if name != MANIFEST
        }


@pytest.mark.parametrize("what", [TARS, JSONS])
def test_actors_find_what_changed(place: Path, actors: ActorsHere, what: dict[str, str]) -> None:
    run(place, what)
    with tarfile.open(place / "out" / "1.tar") as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]
    with tarfile.open(place / "out" / "1.tar", "w") as archive:
        for info, data in members:
            data = {"x/3.png": photo(3), "x/4.cls": b"4", "x/5.png": png(np.zeros((31, 49, 3), np.uint8))}.get(
                info.name, data
            )
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (place / "out" / "0.tar").unlink()
    actors.started = 0
    proven = found(place / "out", engine="ray")
    assert actors.started and proven == found(place / "out")
    assert {"1.tar/x/3.png", "1.tar/x/5.png", "0.tar/x/0.png"} <= {one.name for one in proven.failures}
    assert [fault.name for fault in proven.other_files] == ["0.tar", "1.tar/x/4.cls"]


def test_what_does_not_go_together(place: Path) -> None:
    with pytest.raises(UserError, match="--webdataset: --engine ray takes whole files; leave out --limit"):
        run(place, TARS, limit=1)
    (place / "tables" / "metadata.jsonl").write_text('{"file_name": "a.png", "mask_file_name": "b.png"}\n')
    for name in ("0.parquet", "1.parquet"):
        (place / "tables" / name).unlink()
    with pytest.raises(UserError, match="--engine ray: a folder of images with metadata is written in one run"):
        run(place, TABLES)
    assert not (place / "out").exists()
