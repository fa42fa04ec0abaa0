"""Parquet and arrow files whose content becomes far more than what is stored: read part by part, or refused."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from unseg.data.annotations import open_annotations
from unseg.data.annotations.table_files import Compact, arrow_errors, arrow_pieces, parquet_pieces
from unseg.errors import UserError
from unseg.protecting.run import ProtectSettings, protect

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROOT = Path(__file__).resolve().parents[2]


def png(mode: str, value: object) -> bytes:
    file = io.BytesIO()
    Pillow.new(mode, (17, 11), value).save(file, "PNG")
    return file.getvalue()


def cells(*contents: bytes) -> pa.Array:
    return pa.array([{"bytes": content, "path": "a.png"} for content in contents], CELL)


def shared(rows: int, weight: int) -> pa.Table:
    """Rows that all hold the same picture, `weight` bytes long, and the same mask."""
    picture = png("RGB", (9, 90, 200)) + bytes(weight)
    return pa.table({"image": cells(*[picture] * rows), "mask": cells(*[png("L", 255)] * rows)})


PEAK = """
import resource, sys
from unseg.data.annotations import open_annotations
tables = open_annotations(sys.argv[1], None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lengths = {len(tables.image_bytes(name)) for name in tables.names()}
print(len(tables.names()), lengths, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize(
    "options",
    [
        {"dictionary_pagesize_limit": 1 << 30},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY"}},
    ],
)
def test_rows_that_share_what_is_stored_are_read_part_by_part(tmp_path: Path, options: dict) -> None:
    """540 MB of cells in a file of some kB: a dictionary of one value, and values that only say "as the one before"."""
    path = tmp_path / "bomb.parquet"
    pq.write_table(shared(600, 900_000), path, compression="zstd", **options)
    assert path.stat().st_size < 2_000_000
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, cwd=ROOT, check=True)
    count, lengths, more = done.stdout.replace("{", "").replace("}", "").split()
    assert count == "600" and int(lengths) == len(png("RGB", (9, 90, 200))) + 900_000
    assert int(more) < 200


def test_a_page_that_becomes_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "page.parquet"
    table = pa.table({"image": cells(bytes(200 << 20)), "mask": cells(png("L", 255))})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    tables = open_annotations(path, None, "huggingface")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"page\.parquet: a page that becomes 200 MB; at most 128 MB are decoded"):
        tables.image_bytes(tables.names()[0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_rows_can_be_asked_for_in_any_order(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    contents = [draw.bytes(300_000 + 7 * row) for row in range(40)]
    path = tmp_path / "rows.parquet"
    table = pa.table({"image": cells(*contents), "mask": cells(*[png("L", 255)] * 40)})
    pq.write_table(table, path, row_group_size=13, data_page_size=100_000)
    tables = open_annotations(path, None, "huggingface")
    for row in (39, 0, 12, 13, 5, 38, 1):
        assert tables.image_bytes(f"rows/{row:06d}.png") == contents[row]


def test_page_headers_are_those_that_arrow_writes(tmp_path: Path) -> None:
    """The sizes of all pages, with their headers, are the size of the column that arrow itself tells."""
    table = pa.table({"x": pa.array([f"{number % 7}" * (number % 50) for number in range(5000)])})
    for options in ({}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"write_page_checksum": True}):
        path = tmp_path / "x.parquet"
        pq.write_table(table, path, data_page_size=2000, compression="snappy", **options)
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
        data = path.read_bytes()
        at = chunk.dictionary_page_offset or chunk.data_page_offset
        end, pages, decoded = at + chunk.total_compressed_size, 0, 0
        while at < end:
            fields, sizes = Compact(data[at:end]), {}
            for number, kind in fields.struct():
                sizes[number] = fields.integer() if number in (1, 2, 3) else fields.skip(kind)
            decoded += fields.at + sizes[2]
            at += fields.at + sizes[3]
            pages += 1
        assert at == end and pages > 2 and decoded == chunk.total_uncompressed_size


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_arrow_files_are_mapped_and_compressed_ones_refused(tmp_path: Path, kind: str, compression: str | None) -> None:
    path = tmp_path / "rows.arrow"
    table = shared(3, 1_000_000)
    make = ipc.new_stream if kind == "stream" else ipc.new_file
    with make(path, table.schema, options=ipc.IpcWriteOptions(compression=compression)) as file:
        file.write_table(table, max_chunksize=2)
    if compression:
        with pytest.raises(UserError, match="is compressed, and what it takes to read it is not known"):
            arrow_pieces(path)
        return
    tables = open_annotations(path, None, "huggingface")
    assert arrow_pieces(path).lengths == [2, 1] and len(tables.image_bytes("rows/000002.png")) > 1_000_000


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"ARROW1\0\0", b"\xff" * 99, b"ARROW1\0\0\xff\xff\xff\xff\x10\0\0\0"]
)
def test_what_is_no_table_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: "):
        open_annotations(tmp_path / name, None, "huggingface")


def test_headers_of_pages_made_to_break_parsers_are_one_line(tmp_path: Path) -> None:
    """Every byte of a page's header is changed in turn: refused in one line, or read as before."""
    path = tmp_path / "x.parquet"
    pq.write_table(shared(3, 10), path, compression="zstd")
    data = path.read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).dictionary_page_offset
    for at in range(start, start + 40):
        for value in (0, 0x7F, 0x80, 0xFF, data[at] ^ 1):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try:
                for part in parquet_pieces(path).read(0, "image"):
                    part.validate(full=True)
            except (UserError, *arrow_errors()):
                pass


def test_a_table_without_rows_is_an_error_and_not_a_success(tmp_path: Path) -> None:
    pq.write_table(shared(1, 0).slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="--annotations .*none.parquet: holds no image; name the images' folder"):
        protect([], tmp_path / "out", ProtectSettings(device="cpu"), annotations=tmp_path / "none.parquet")
    assert not (tmp_path / "out").exists()
