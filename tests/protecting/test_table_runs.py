"""unseg protect --huggingface: tables in, tables out, loaded by `datasets` itself; other columns stay as they are."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import unseg
from tests.support.geotiff_files import raster, scene
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

SETTINGS = ProtectSettings(workers=2)
KEY = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(values: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def picture(number: int, size: tuple[int, int] = (33, 47), form: str = "PNG") -> bytes:
    draw = np.random.default_rng(number)
    return encoded(draw.integers(20, 230, (*size, 3)).astype(np.uint8), form)


def mask(size: tuple[int, int] = (33, 47)) -> bytes:
    label = np.zeros(size, np.uint8)
    label[4:20, 7:30] = 255
    return encoded(label)


def packed(number: int) -> str:
    return base64.b64encode(picture(number)).decode()


def cell(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def table(**more: list[Any]) -> pa.Table:
    """Six rows: 2 has no image, 3 no mask, 4 an image that is only a path."""
    images = [cell(picture(0), "a.png"), cell(picture(1, form="JPEG"), "b.jpg"), None]
    images += [cell(picture(3), "d.png"), cell(None, "/elsewhere/e.png"), cell(picture(5), None)]
    columns: dict[str, Any] = {
        "id": pa.array([7, 6, None, 4, 3, 2], pa.int32()),
        "image": pa.array(images, CELL),
        "word": pa.array(["ä", None, "c", "d", "e", ""]).dictionary_encode(),
        "mask": pa.array([cell(mask()), cell(mask()), cell(mask()), None, cell(mask()), cell(mask())], CELL),
        "scores": pa.array([[1.5, float("nan")], [], None, [2.0], [3.0], [4.0]], pa.list_(pa.float32())),
    }
    made = pa.table({**columns, **more})
    return made.replace_schema_metadata({"huggingface": '{"info": {}}', "mine": "kept"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tables, one with row groups of two rows."""
    (tmp_path / "in" / "data").mkdir(parents=True)
    pq.write_table(table(), tmp_path / "in" / "data" / "train-0.parquet", row_group_size=2, compression="zstd")
    pq.write_table(table().slice(0, 2), tmp_path / "in" / "data" / "train-1.parquet")
    (tmp_path / "in" / "README.md").write_text("what it is")
    (tmp_path / "in" / "notes.txt").write_text("not of the set")
    return tmp_path / "in"


def run(source: Path, out: str = "out", **given: Any) -> Any:
    return protect(source, source.parent / out, SETTINGS, **{"huggingface": "mask", "key": KEY, **given})


def found(folder: Path, **given: Any) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 2, "max_megapixels": 200.0}
    return verify_anywhere(folder, **{**options, **given}, progress=Told())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def is_noised(before: bytes, after: bytes) -> bool:
    change = np.abs(pixels(after) - pixels(before))
    return bool(change[4:20, 7:30].max() == 8 and change[:4].max() == 0 and change[20:].max() == 0)


def test_tables_come_out_as_they_went_in(source: Path) -> None:
    made = run(source)
    assert {entry.input: entry.status for entry in made.entries} == {
        "data/train-0.parquet/000000.png": "protected",
        "data/train-0.parquet/000001.jpg": "protected",
        "data/train-0.parquet/000003.png": "skipped",
        "data/train-0.parquet/000004.png": "failed",
        "data/train-0.parquet/000005.png": "protected",
        "data/train-1.parquet/000000.png": "protected",
        "data/train-1.parquet/000001.jpg": "protected",
    }
    out = source.parent / "out"
    assert set(tree(out)) == {"README.md", "data/train-0.parquet", "data/train-1.parquet", MANIFEST}
    assert (out / "README.md").read_text() == "what it is"
    old = pq.read_table(source / "data" / "train-0.parquet").take([0, 1, 2, 5])
    new = pq.read_table(out / "data" / "train-0.parquet")
    assert new.schema.equals(old.schema, check_metadata=True)
    for name in ("id", "word", "mask"):
        assert new.column(name).to_pylist() == old.column(name).to_pylist()
    assert repr(new.column("scores").to_pylist()) == repr(old.column("scores").to_pylist())
    for before, after in zip(old.column("image").to_pylist(), new.column("image").to_pylist(), strict=True):
        if before is None:
            assert after is None
            continue
        assert after["path"] == before["path"] and after["bytes"][1:4] == b"PNG"
        assert is_noised(before["bytes"], after["bytes"])
    groups = pq.ParquetFile(out / "data" / "train-0.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [2, 1, 1]
    assert groups.row_group(0).column(0).compression == "ZSTD"


def test_datasets_reads_parquet(source: Path, tmp_path: Path) -> None:
    run(source)
    files = [str(source.parent / "out" / "data" / f"train-{number}.parquet") for number in (0, 1)]
    features = datasets.Features(
        {"id": datasets.Value("int32"), "image": datasets.Image(), "word": datasets.Value("string")}
    )
    features |= {"mask": datasets.Image(), "scores": datasets.List(datasets.Value("float32"))}
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", features=datasets.Features(features), cache_dir=tmp_path / "cache"
    )
    assert loaded["id"] == [7, 6, None, 2, 7, 6]
    assert is_noised(picture(0), encoded(np.asarray(loaded[0]["image"])))
    assert loaded[2]["image"] is None and loaded[3]["mask"].size == (47, 33)


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "gt": datasets.Image(), "n": datasets.Value("int64")})
    rows = {"image": [cell(picture(n)) for n in range(5)], "gt": [cell(mask()) for _ in range(5)], "n": [0, 1, 2, 3, 4]}
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})
    made.save_to_disk(tmp_path / "set", num_shards={"train": 2})
    assert protect(tmp_path / "set", tmp_path / "out", SETTINGS, huggingface="auto", key=KEY).exit_code == 0
    assert set(tree(tmp_path / "out")) - {MANIFEST} == set(tree(tmp_path / "set"))
    loaded = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert loaded.features == features and loaded["n"] == [0, 1, 2, 3, 4]
    for number in range(5):
        assert is_noised(picture(number), encoded(np.asarray(loaded[number]["image"])))
    result = found(tmp_path / "out")
    assert (result.exit_code, len(result.findings), result.largest_changes()) == (0, 5, (8, 0))


def test_verify_proves_tables_and_finds_what_changed(source: Path) -> None:
    run(source)
    out = source.parent / "out"
    result = found(out)
    assert (result.failures, result.missing, result.extra, result.other_files) == ([], (), (), ())
    assert (len(result.findings), len(result.unprotected), result.largest_changes()) == (5, 2, (8, 0))
    path = out / "data" / "train-0.parquet"
    there = pq.read_table(path)
    cells = there.column("image").to_pylist()
    values = pixels(cells[0]["bytes"])
    values[0, 0] ^= 64
    cells[0] = cell(encoded(values.astype(np.uint8)), cells[0]["path"])
    cells[1]["path"] = "other.jpg"
    changed = there.set_column(1, "image", pa.array(cells, CELL))
    changed = changed.set_column(0, "id", pa.array([7, 6, None, 3], pa.int32()))
    pq.write_table(changed.replace_schema_metadata(there.schema.metadata), path)
    (out / "notes.txt").write_text("?")
    (out / "README.md").write_text("another")
    result = found(out)
    assert [finding.name for finding in result.failures] == [
        "data/train-0.parquet/000000.png",
    ]
    assert {(fault.name, fault.problem.partition(",")[0]) for fault in result.other_files} == {
        ("README.md", "differs from its original"),
        ("data/train-0.parquet/column image", "differs from its original"),
        ("data/train-0.parquet/column id", "differs from its original"),
    }
    assert result.extra == ("notes.txt",)
    pq.write_table(there.slice(1), path)
    assert [fault.problem for fault in found(out).other_files if fault.name == "data/train-0.parquet"] == [
        "has 3 rows, not the 4 of its original that stay"
    ]
    path.unlink()
    assert ("data/train-0.parquet", "missing") in [(fault.name, fault.problem) for fault in found(out).other_files]


def test_masks_of_a_folder_by_the_name_in_the_cell_or_by_the_row(source: Path, tmp_path: Path) -> None:
    path = source / "data" / "train-1.parquet"
    path.unlink()
    (tmp_path / "masks" / "data" / "train-0.parquet").mkdir(parents=True)
    for name in ("a", "b", "d", "data/train-0.parquet/000005"):
        (tmp_path / "masks" / f"{name}.png").write_bytes(mask())
    there = pq.read_table(source / "data" / "train-0.parquet").drop_columns(["mask"])
    pq.write_table(there, source / "data" / "train-0.parquet")
    made = run(source, huggingface="auto", masks=tmp_path / "masks")
    assert [entry.input[-10:-4] for entry in made.entries if entry.status == "protected"] == [
        "000000",
        "000001",
        "000003",
        "000005",
    ]
    result = found(source.parent / "out")
    assert (result.failures, len(result.findings), result.other_files) == ([], 4, ())
    assert result.largest_changes() == (8, 0)


def test_every_column_of_images_is_protected_and_a_row_goes_as_a_whole(tmp_path: Path) -> None:
    small = [cell(picture(9)), cell(picture(10)), cell(picture(11, (12, 9)))]
    rows = {"image": [cell(picture(n)) for n in range(3)], "view": small, "mask": [cell(mask())] * 3}
    path = tmp_path / "in" / "x.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({name: pa.array(cells, CELL) for name, cells in rows.items()}), path)
    made = run(path, "../out")
    assert [(entry.input, entry.status) for entry in made.entries] == [
        ("x.parquet/000000.0.png", "protected"),
        ("x.parquet/000000.1.png", "protected"),
        ("x.parquet/000001.0.png", "protected"),
        ("x.parquet/000001.1.png", "protected"),
        ("x.parquet/000002.0.png", "failed"),
        ("x.parquet/000002.1.png", "failed"),
    ]
    out = pq.read_table(tmp_path / "out" / "x.parquet").to_pylist()
    assert len(out) == 2 and is_noised(picture(10), out[1]["view"]["bytes"])
    result = found(tmp_path / "out")
    assert (result.failures, len(result.findings), result.other_files) == ([], 4, ())
    again = read_manifest(tmp_path / "out").entries["x.parquet/000002.0.png", "../in"]
    assert again.reason == "its row is left out, since another image in it could not be protected"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"frames": pa.array([[cell(b"x")]] * 6, pa.list_(CELL))}, "the column frames holds images in lists"),
        (
            {"jpg": pa.array([None, *[picture(1)] * 5], pa.binary())},
            "the column jpg holds pictures as plain bytes or texts",
        ),
        ({"jpg": pa.array([b"", b"no", *[picture(1)] * 4])}, "the column jpg holds pictures as plain bytes or texts"),
        (
            {"jpg": pa.array([picture(1)] * 6).dictionary_encode()},
            "the column jpg holds pictures as plain bytes or texts",
        ),
        ({"jpgs": pa.array([[], *[[picture(1)]] * 5])}, "the column jpgs holds pictures as plain bytes or texts"),
        ({"said": pa.array([None, "no", packed(1), *["no"] * 3])}, "the column said holds pictures as plain bytes or"),
        (
            {"of": pa.array([{"json": ["no", '{"n": 1, "imageData" : "x"}']}] * 6)},
            "the column of holds pictures as plain bytes or texts",
        ),
        (
            {"of": pa.array([{"a": [b"no"] * 9, "z": [{"k": picture(1)}]}] * 6)},
            "the column of holds pictures as plain bytes or texts",
        ),
        (
            {"of": pa.array([[("a", picture(1))]] * 6, pa.map_(pa.string(), pa.binary()))},
            "the column of holds pictures as plain bytes or texts",
        ),
    ],
)
def test_images_that_would_stay_are_refused(source: Path, columns: dict[str, Any], told: str) -> None:
    pq.write_table(table(**columns), source / "data" / "train-0.parquet")
    with pytest.raises(UserError, match=f"train-0.parquet: {told}.*would stay as they are"):
        run(source)
    assert not (source.parent / "out").exists()


def test_a_picture_behind_the_first_values_takes_its_row_along(tmp_path: Path) -> None:
    """Rows 21 to 23 hold one each, the last without an image; the values before are none, at any depth."""
    (tmp_path / "in").mkdir()
    images = [cell(picture(number, (12, 17)), "x.png") for number in range(23)] + [None]
    labels = [cell(mask((12, 17)))] * 24
    plain = [*[b"numbers"] * 22, picture(1, (5, 6)), b"numbers"]
    texts = [
        *["A" * 200, "data:text/plain;base64,AA", "words, and data:image/png;base64,AAAA"] * 7,
        packed(2),
        "x",
        "y",
    ]
    nested = [*[{"a": [b"no", b"no"]}] * 23, {"a": [b"no", picture(2, (5, 6))]}]
    made = pa.table({"image": pa.array(images, CELL), "mask": pa.array(labels, CELL), "plain": plain, "nested": nested})
    made = made.append_column("texts", pa.array(texts, pa.large_string()))
    pq.write_table(made, tmp_path / "in" / "x.parquet", row_group_size=5)
    lines = {entry.input: entry for entry in run(tmp_path / "in").entries}
    for row, column in ((21, "texts"), (22, "plain")):
        told = f"its row is left out, since its column {column} holds a picture that would stay as it is"
        assert lines[f"x.parquet/{row:06d}.png"].reason == told
    assert lines["x.parquet/000023"].reason == (
        "the column nested of this row holds a picture that would stay as it is; the row is left out"
    )
    assert [entry.status for entry in lines.values()].count("failed") == 3 and len(lines) == 24
    assert pq.read_table(tmp_path / "out" / "x.parquet").column("plain").to_pylist() == [b"numbers"] * 21
    result = found(tmp_path / "out")
    assert (result.failures, result.other_files, len(result.findings)) == ([], (), 21)
    words = made.drop_columns(["nested", "texts"]).set_column(2, "plain", made.column("plain").dictionary_encode())
    pq.write_table(words, tmp_path / "in" / "x.parquet")
    with pytest.raises(UserError, match="the column plain holds pictures as plain bytes or texts"):
        run(tmp_path / "in", "other")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_broken_table_is_one_line(source: Path, place: float) -> None:
    path = source / "data" / "train-0.parquet"
    data = bytearray(path.read_bytes())
    at = int(len(data) * place)
    path.write_bytes(data[:at])
    with pytest.raises(UserError, match=r"train-0\.parquet: is broken"):
        run(source)
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    with suppress(UserError):  # what lies there may be an image alone, whose row goes
        assert run(source).exit_code == 1


def test_what_does_not_go_together(source: Path) -> None:
    for given, told in (
        ({"huggingface": "label"}, r"--huggingface label: .*train-0.parquet has no such column of images"),
        ({"webdataset": "mask.png"}, "--webdataset and --huggingface: give one of them"),
        ({"whole_image": True}, "--huggingface and --whole-image|--whole-image and --huggingface"),
        ({"shard": Shard(0, 2), "limit": 1}, "--huggingface: --shard takes whole files"),
    ):
        with pytest.raises(UserError, match=told):
            run(source, **given)
    with pytest.raises(UserError, match="lies in the folder of the tables"):
        run(source, "in/out")
    (source.parent / "out").mkdir()
    (source.parent / "out" / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md exists and was not written by unseg"):
        run(source)
    assert tree(source.parent / "out") == {"README.md": b"mine"}


def test_tables_without_images_or_masks_are_one_line(source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()
    path = source / "t.parquet"
    pq.write_table(table().slice(3, 1), path)
    with pytest.raises(UserError, match=rf"^--huggingface mask: no image in {source} has a mask in this column; name"):
        run(source)
    pq.write_table(table().slice(0, 0), path)
    with pytest.raises(UserError, match=rf"^{source}: no image in its tables$"):
        run(source)


def test_a_table_without_rows_comes_along(source: Path) -> None:
    pq.write_table(table().slice(0, 0), source / "data" / "train-2.parquet")
    run(source)
    old, new = (pq.read_table(folder / "data" / "train-2.parquet") for folder in (source, source.parent / "out"))
    assert new.num_rows == 0 and new.schema.equals(old.schema, check_metadata=True)
    assert found(source.parent / "out").other_files == ()


def test_auto_finds_the_masks_whatever_the_images_are_called(tmp_path: Path) -> None:
    """From one table into a folder beside it."""
    columns = {"left": pa.array([cell(picture(1))], CELL), "right": pa.array([cell(picture(2))], CELL)}
    pq.write_table(pa.table({**columns, "mask": pa.array([cell(mask())], CELL)}), tmp_path / "x.parquet")
    assert protect(tmp_path / "x.parquet", tmp_path / "out", SETTINGS, huggingface="auto", key=KEY).exit_code == 0
    assert unseg.verify(str(tmp_path / "out")).failures == []
    out = pq.read_table(tmp_path / "out" / "x.parquet").to_pylist()[0]
    assert is_noised(picture(1), out["left"]["bytes"]) and is_noised(picture(2), out["right"]["bytes"])
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="the masks may be left or right; name their column: --huggingface COLUMN"):
        protect(tmp_path / "x.parquet", tmp_path / "other", SETTINGS, huggingface="auto", key=KEY)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet: no column holds images to protect \(n\)"):
        protect(tmp_path / "x.parquet", tmp_path / "other", SETTINGS, huggingface="auto", key=KEY)


def test_shards_take_whole_tables(source: Path) -> None:
    run(source, "alone")
    with pytest.raises(UserError, match="--shard 1/2: nothing in --out .* says which key"):
        run(source, shard=Shard(1, 2))
    out = source.parent / "out"
    run(source, shard=Shard(0, 2))
    run(source, shard=Shard(2, 2))
    assert set(tree(out)) >= {"data/train-1.parquet"} and not (out / "data" / "train-0.parquet").exists()
    with pytest.raises(UserError, match=r"data/train-0\.parquet is not there"):
        merge_anywhere(out)
    run(source, shard=Shard(1, 2))
    assert run(source, shard=Shard(1, 2)).kept == 5
    assert merge_anywhere(out).exit_code == 1
    assert tree(out) == tree(source.parent / "alone")
    assert merge_anywhere(out).exit_code == 1 and not (out / LOOSE).exists()


def test_tables_in_a_bucket(source: Path, tmp_path: Path) -> None:
    run(source, "alone")
    (tmp_path / "key").write_text(KEY.hex())
    place = f"s3://{BUCKET}/set"
    with served() as server:
        for path in files_under(source):
            server.put_file(str(path), f"{place}/in/{path.relative_to(source).as_posix()}")
        protect(f"{place}/in", f"{place}/out", SETTINGS, huggingface="mask", key=tmp_path / "key")
        start = len(f"{BUCKET}/set/out/")
        there = {name[start:]: server.cat_file(name) for name in server.find(f"{place}/out")}
        wanted = tree(source.parent / "alone")
        assert {name: there[name] for name in there if name != MANIFEST} == {
            name: wanted[name] for name in wanted if name != MANIFEST
        }
        assert there.keys() == wanted.keys()
        result = found(Path(f"{place}/out"))
        assert (result.failures, len(result.findings), result.other_files, result.extra) == ([], 5, (), ())


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["protect", str(source), "--huggingface", "auto", "--out", out]) == 1
    assert cli.main(["verify", out]) == 1
    assert "5 of 7 images hold the bound at every pixel" in capsys.readouterr().out
    shutil.rmtree(out)
    assert cli.main(["protect", str(source / "data" / "train-1.parquet"), "--huggingface", "mask", "--out", out]) == 0
    assert cli.main(["verify", out]) == 0


PEAK = """
import sys
from contextlib import suppress
from pathlib import Path
import pyarrow
from unseg.data import table_containers
from unseg.data.annotations import table_files
table_containers.PART = table_files.BATCH = 1 << 20
here = Path(sys.argv[1])
for name in sys.argv[2:]:
    table = table_containers.TableContainer.open(here / name, name, "mask", True)
    table.rewrite(here / "out", {image: here / "new.png" for image, _ in table.images()}, here)
    print(pyarrow.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, suffix: str) -> None:
    """All memory of arrow while tables of 8 and 24 MB are written anew: row groups of 2 MB, or one record batch."""
    (tmp_path / "new.png").write_bytes(bytes(60_000))
    names = [f"{rows}{suffix}" for rows in (200, 600)]
    for name, rows in zip(names, (200, 600), strict=True):
        data = np.random.default_rng(rows).bytes(40_000)
        cells = [cell(data[number:] + data[:number], "a.png") for number in range(rows)]
        made = pa.table({"n": list(range(rows)), "image": pa.array(cells, CELL), "mask": pa.array([None] * rows, CELL)})
        if suffix == ".parquet":
            pq.write_table(made, tmp_path / name, use_dictionary=["n"], row_group_size=50)
        else:
            with pa.ipc.new_stream(tmp_path / name, made.schema) as file:
                file.write_table(made)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path, *names], capture_output=True, text=True, check=True, cwd=ROOT
    )
    small, large = map(int, done.stdout.split())
    assert large < small + 2_000_000 and large < 12_000_000, (small, large)


def test_a_raster_in_a_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    planes = raster(tmp_path / "a.tif", scene(33, 47, 5, "uint16")).read_bytes()
    cells = {"image": [cell(planes, "a.tif"), cell(picture(1), "b.png")], "mask": [cell(mask()), cell(mask())]}
    pq.write_table(
        pa.table({name: pa.array(values, CELL) for name, values in cells.items()}), tmp_path / "in" / "t.parquet"
    )
    made = protect(tmp_path / "in", tmp_path / "out", SETTINGS, huggingface="mask", key=KEY)
    assert [entry.reason for entry in made.of("failed")] == [
        "GeoTIFF in tars and tables is not protected: give it as a file of its own"
    ]
    assert pq.read_table(tmp_path / "out" / "t.parquet").num_rows == 1
