"""Malformed annotations: seeded mutations of valid sets, and files made to exhaust a reader.

    python tests/support/annotation_hostile.py mutations SEED COUNT
    python tests/support/annotation_hostile.py commands SEED COUNT      each through `unseg protect`, one process each
    python tests/support/annotation_hostile.py bombs [PART OF]          every OF-th, from PART, which counts from 0

In a process of its own, so that a crash of a decoder shows as one and memory is that of the readers alone. Prints one
json line: what was refused, what was still readable, the slowest case (seconds of the processor), and the peak memory.
Of commands, it says how many ended with exit code 2 and one line, how many with 1 and a line for every image; whatever
else ends this script with an error.
"""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from tests.support.annotation_check import use
from tests.support.annotation_sets import BUILDERS, Built, build, photographs, write_json
from tests.support.hostile_places import KINDS
from tests.support.odd_annotations import FORMS, odd_set, packed
from tests.support.own_memory import peak_memory_mib
from tests.support.own_processes import wait_for_threads

NASTY = (
    None,
    True,
    -1,
    0,
    0.5,
    2**31,
    10**40,
    -1e308,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "../x",
    "9" * 300,
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"id": 1},
    [1e9] * 6,
    [[0, 0]] * 3,
    "A" * 5000,
    "7",
    7.0,
    "cafe\u0301.png",
    "\ufeffx.png",
    "images\\x.png",
    [[3, 3]],
    [3, 3, 3, 3],
    {"size": [3.0, "4"], "counts": [1.0, 11.5]},
)
SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".yaml", ".png", ".parquet", ".arrow")


# --- mutations -------------------------------------------------------------------------------------------------------


def places(content: object, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value of a json."""
    yield path
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*path, key))


def mutate_json(data: bytes, generator: np.random.Generator) -> bytes:
    """One to three values replaced by something nasty, removed, repeated, or nested deeply."""
    content = json.loads(data)
    for _ in range(generator.integers(1, 4)):
        ways = [way for way in places(content) if way]
        if not ways:
            break
        *way, last = ways[generator.integers(len(ways))]
        holder = content
        for key in way:
            holder = holder[key]
        match generator.integers(6):
            case 0 if isinstance(holder, dict):
                del holder[last]
            case 0 | 1 if isinstance(holder, list):
                holder.append(holder[last])
            case 2:
                holder[last] = json.loads("[" * 150 + "]" * 150)
            case _:
                holder[last] = NASTY[generator.integers(len(NASTY))]
    return json.dumps(content).encode()


def mutate_bytes(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut, flipped, repeated or filled."""
    array = bytearray(data)
    place, length = int(generator.integers(len(array))), int(generator.integers(1, 9))
    match generator.integers(5):
        case 0:
            return bytes(array[:place])
        case 1:
            for _ in range(length):
                array[generator.integers(len(array))] = generator.integers(256)
        case 2:
            array[place : place + length] = array[place : place + length] * 40
        case 3:
            array[place : place + length] = b"\xff" * length
        case _:
            array[place : place + length] = b"-9e9"
    return bytes(array)


def odd_bases(root: Path) -> Iterator[tuple[str, Built, list[Path], dict[str, tuple[int, int]]]]:
    """Sets of every format that are odd already, before anything is mutated."""
    for number in range(3 * len(FORMS)):
        odd = odd_set(1, number, root / str(number))
        if odd.images is not None:
            files = [file for file in sorted(odd.path.parent.rglob("*")) if file.suffix.lower() in SUFFIXES]
            yield odd.what, Built(odd.path, odd.images), files, {odd.name: (odd.height, odd.width)}


def mutated(root: Path, seed: int, count: int) -> Iterator[tuple[str, Built, dict[str, tuple[int, int]]]]:
    """`count` cases: what was mutated, the set with one file mutated, and its images' names and sizes."""
    sets: list[tuple[str, Built, list[Path], dict[str, tuple[int, int]]]] = []
    for number, name in enumerate(BUILDERS):
        built = build(name, root / str(number))
        inside = [built.path] if built.path.is_file() else sorted(built.path.rglob("*"))
        if built.path.with_suffix("").is_dir():  # the PNG files beside a panoptic json
            inside += sorted(built.path.with_suffix("").iterdir())
        files = [file for file in inside if file.is_file() and file.suffix in SUFFIXES]
        named = {built.name(image): pixels.shape[:2] for image, (pixels, _) in photographs().items()}
        assert use(built.path, built.images, named) == len(named), name
        sets.append((name, built, files, named))
    sets += odd_bases(root / "odd")
    for case in range(count):
        generator = np.random.default_rng((seed, case))
        name, built, files, named = sets[case % len(sets)]
        file = files[generator.integers(len(files))]
        data = file.read_bytes() or b" "
        is_json = file.suffix == ".json" and generator.random() < 0.7
        file.write_bytes((mutate_json if is_json else mutate_bytes)(data, generator))
        try:
            yield f"{name} {file.name}", built, named
        finally:
            file.write_bytes(data)


def mutations(root: Path, seed: int, count: int) -> Iterator[tuple[str, Callable[[], int], int]]:
    """(what was mutated, what tells how many images it still gives, of how many) for `count` cases."""
    for name, built, named in mutated(root, seed, count):
        yield name, partial(use, built.path, built.images, named), len(named)


def commands(root: Path, seed: int, count: int) -> dict[str, int]:
    """Returns how many of `count` cases `unseg protect` ended in which way. It is forked, to spare the imports."""
    from unseg import cli
    from unseg.protecting.manifest import read_manifest

    codes = {1: 0, 2: 0}
    (root / "outputs").mkdir()
    for number, (name, built, named) in enumerate(mutated(root, seed, count)):
        out, said = root / "outputs" / str(number), root / "said.txt"
        inputs = [str(built.images)] if built.images.is_dir() and not built.path.is_relative_to(built.images) else []
        arguments = [
            "protect",
            *inputs,
            "--annotations",
            str(built.path),
            "--out",
            str(out),
            "--device",
            "cpu",
            "--workers",
            "1",
            "-q",
        ]
        wait_for_threads()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                with open(said, "wb") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                code = cli.main(arguments)
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text = said.read_text(errors="replace")
        assert code in codes and "Traceback" not in text, (name, code, text[-3000:])
        if code == 2:
            assert text.startswith("unseg: error: ") and text.count("\n") == 1 and not out.exists(), (
                name,
                text[-3000:],
            )
        else:  # one image of every set has no object
            assert len(read_manifest(out).entries) >= len(named), (name, text[-3000:])
        codes[code] += 1
    return {
        "cases": count,
        "refused_in_one_line": codes[2],
        "told_image_by_image": codes[1],
        "peak_mb": peak_memory_mib(),
    }


# --- bombs -----------------------------------------------------------------------------------------------------------


def coco(root: Path, segmentations: list, height: int = 4000, width: int = 5000) -> dict:
    return {
        "images": [{"id": 1, "file_name": "x.png", "height": height, "width": width}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1 + number % 3, "segmentation": shape}
            for number, shape in enumerate(segmentations)
        ],
        "categories": [{"id": number, "name": "a"} for number in (1, 2, 3)],
    }


def text_file(text: str, name: str = "x.json") -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / name).write_text(text)
        return root / name

    return make


def coco_of(segmentations: Callable[[], list], **size: int) -> Callable[[Path], Path]:
    return lambda root: write_json(root / "x.json", coco(root, segmentations(), **size))


def sparse(before: bytes, after: bytes, megabytes: int) -> Callable[[Path], Path]:
    """A json on one line that takes no room on disk: zeros where a text goes on."""

    def make(root: Path) -> Path:
        with open(root / "x.json", "wb") as file:
            file.write(before)
            file.seek(megabytes << 20)
            file.write(after)
        return root / "x.json"

    return make


def giant_png(side: int) -> bytes:
    """The header of a grey PNG of side² pixels, with a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def giant_mask_folder(root: Path) -> Path:
    (root / "masks").mkdir()
    (root / "masks" / "x.png").write_bytes(giant_png(60_000))
    return root / "masks"


def giant_labelme_mask(root: Path) -> Path:
    shape = {
        "label": "a",
        "shape_type": "mask",
        "points": [[0, 0], [4999, 3999]],
        "mask": base64.b64encode(giant_png(60_000)).decode(),
    }
    return write_json(root / "labels" / "x.json", {"imagePath": "x.png", "shapes": [shape]}).parent


def giant_panoptic(root: Path) -> Path:
    (root / "p").mkdir()
    (root / "p" / "x.png").write_bytes(giant_png(60_000))
    content = coco(root, []) | {"annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": []}]}
    return write_json(root / "p.json", content)


def yolo_of(text: Callable[[], str], names: str = "") -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / "labels").mkdir()
        (root / "labels" / "x.txt").write_text(text())
        if names:
            (root / "labels" / "data.yaml").write_text(names)
        return root / "labels"

    return make


def labelme_of(shapes: Callable[[], list[dict]], data: str = "") -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        named = [{"label": "a", **shape} for shape in shapes()]
        content = {"imagePath": "x.png", "imageData": data, "shapes": named}
        return write_json(root / "labels" / "x.json", content).parent

    return make


def full_mask() -> dict:
    """A LabelMe mask of the whole image in 20 kB."""
    buffer = io.BytesIO()
    Pillow.new("1", (5000, 4000), 1).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"shape_type": "mask", "points": [[0, 0], [4999, 3999]], "mask": text}


def deep_names(root: Path) -> Path:
    """Names of two thousand folders, none of which is there."""
    names = ["a/" * 2040 + f"{number}.png" for number in range(400)]
    images = [{"id": number, "file_name": name, "height": 9, "width": 9} for number, name in enumerate(names)]
    return write_json(root / "x.json", coco(root, [SQUARE]) | {"images": images})


def zigzag(corners: int) -> list[float]:
    """From border to border of 5000×4000 pixels and back."""
    return np.stack([np.arange(corners) % 2 * 5000, np.linspace(0, 4000, corners)], 1).ravel().tolist()


def alternating(runs: int, pixels: int) -> list[int]:
    """Run lengths of single pixels, and the rest."""
    return [1] * runs + [pixels - runs]


def shared_cells(root: Path) -> Path:
    """2 kB that hold 2,000 masks of 900 kB each: they all refer to one value."""
    return parquet(root, [large_mask()] * 2000, compression="zstd", dictionary_pagesize_limit=1 << 30)


def prefixed_cells(root: Path) -> Path:
    """The same, where each value only says that it goes on as the one before."""
    encoding = {"use_dictionary": False, "column_encoding": {"mask.bytes": "DELTA_BYTE_ARRAY"}}
    return parquet(root, [large_mask()] * 2000, compression="zstd", **encoding)


def packed_page(root: Path) -> Path:
    """A mask of 300 MB of zeros, packed into some kB."""
    return parquet(root, [bytes(300 << 20)], compression="zstd", use_dictionary=False)


def packed_batch(root: Path) -> Path:
    """An arrow file whose one batch becomes 300 MB."""

    def write() -> None:
        import pyarrow.ipc

        table = cells([bytes(300 << 20)])
        options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
        with pyarrow.ipc.new_file(root / "x.arrow", table.schema, options=options) as file:
            file.write_table(table)

    elsewhere(write)
    return root / "x.arrow"


def large_mask() -> bytes:
    return giant_png(1) + bytes(900_000)


def cells(masks: list[bytes]) -> Any:
    import pyarrow

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    names = ["x.png", *(f"{row}.png" for row in range(1, len(masks)))]
    image = pyarrow.array([{"bytes": None, "path": name} for name in names], kind)
    column = pyarrow.array([{"bytes": mask, "path": None} for mask in masks], kind)
    return pyarrow.table({"image": image, "mask": column})


def parquet(root: Path, masks: list[bytes], **options: object) -> Path:
    def write() -> None:
        import pyarrow.parquet

        pyarrow.parquet.write_table(cells(masks), root / "x.parquet", **options)

    elsewhere(write)
    return root / "x.parquet"


def elsewhere(make: Callable[[], None]) -> None:
    """Makes a file in another process: it is the memory of reading it that is measured in this one."""
    wait_for_threads()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            make()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def in_the_place_of(name: str, kind: str, whole: bool = False) -> Callable[[Path], Path]:
    """A pipe, device or folder of that name; returns its folder, where whole the very thing."""

    def make(root: Path) -> Path:
        KINDS[kind](root / name)
        return root / name if whole else root

    return make


SQUARE = [[0, 0, 4999, 0, 4999, 3999, 0, 3999]]
SQUARE_POINTS = [[0, 0], [4999, 0], [4999, 3999]]
MERGE_BOMB = "a0: &a0 {x: y}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
BOMBS: dict[str, Callable[[Path], Path]] = {
    "2 GB of a file name": sparse(b'{"images": [{"id": 1, "file_name": "', b'"}]}', 2048),
    "100 MB of a text to pass over": sparse(b'{"shapes": [], "imageData": "', b'"}', 100),
    "an entry of empty lists": text_file('{"annotations": [[' + "[]," * 3_000_000 + "[]]]}"),
    "an entry of empty objects": text_file('{"annotations": [[' + "{}," * 2_700_000 + "{}]]}"),
    "an entry over the limit": text_file('{"annotations": [[' + "[]," * 9_000_000 + "[]]]}"),
    "a million brackets": text_file('{"annotations": ' + "[" * 1_000_000),
    "a million keys": text_file("{" + ",".join(f'"{number}":0' for number in range(1_000_000)) + "}"),
    "a number of ten million digits": text_file('{"annotations": [' + "9" * 8_000_000 + "]}"),
    "two hundred thousand images": text_file(
        '{"images": ['
        + ",".join(f'{{"id":{number},"file_name":"{number}.png","height":1,"width":1}}' for number in range(200_000))
        + '], "annotations": [], "categories": []}'
    ),
    "a zigzag within the limit": coco_of(lambda: [[zigzag(790)]]),
    "a zigzag over it": coco_of(lambda: [[zigzag(400_000)]]),
    "five hundred zigzags": coco_of(lambda: [[zigzag(790)]] * 500),
    "ten thousand squares": coco_of(lambda: [SQUARE] * 10_000),
    "a hundred thousand squares": coco_of(lambda: [SQUARE] * 100_000),
    "disjoint run lengths": coco_of(
        lambda: [
            {"size": [4000, 5000], "counts": [2000 * number, *alternating(2000, 20_000_000 - 2000 * number)]}
            for number in range(4_000)
        ]
    ),
    "full run lengths, many times": coco_of(lambda: [{"size": [4000, 5000], "counts": [0, 20_000_000]}] * 9_000),
    "crossing run lengths": coco_of(lambda: [{"size": [4000, 5000], "counts": alternating(10_000, 20_000_000)}] * 300),
    "back and forth along one line": coco_of(lambda: [[[0, 7, 5000, 7] * 395]] * 300),
    "a painted run length and many full ones": coco_of(
        lambda: (
            [{"size": [4000, 5000], "counts": packed([1] * 1_000_000 + [19_000_000])}]
            + [{"size": [4000, 5000], "counts": [0, 20_000_000]}] * 9_000
        )
    ),
    "names of two thousand folders": deep_names,
    "a text of escapes": labelme_of(lambda: [{"points": SQUARE_POINTS}], "\\" * 1_000_000),
    "LabelMe masks of the whole image": labelme_of(lambda: [full_mask()] * 100),
    "annotation ids that are texts": text_file(
        '{"images": [], "categories": [], "annotations": ['
        + ",".join(f'{{"id":"{number:020d}","image_id":1,"category_id":1}}' for number in range(30_000))
        + "]}"
    ),
    "packed counts that overflow": coco_of(lambda: [{"size": [4000, 5000], "counts": "oooooo3" * 500_000}]),
    "a declared size of 10^12 pixels": coco_of(lambda: [SQUARE], height=1_000_000, width=1_000_000),
    "a mask of 3.6 gigapixels": giant_mask_folder,
    "a LabelMe mask of 3.6 gigapixels": giant_labelme_mask,
    "a panoptic PNG of 3.6 gigapixels": giant_panoptic,
    "a YOLO line of a million corners": yolo_of(lambda: "0" + " 0.1 0.9 0.9 0.1" * 500_000),
    "a YOLO file of a million lines": yolo_of(lambda: "0 0 0 1 0 1 1\n" * 500_000),
    "a YOLO file of empty lines": yolo_of(lambda: "0 0 0 1 0 1 1\n" + "\n" * 8_000_000),
    "YAML merge keys": yolo_of(lambda: "0 0 0 1 0 1 1\n", MERGE_BOMB),
    "YAML brackets": yolo_of(lambda: "0 0 0 1 0 1 1\n", "names: " + "[" * 100_000),
    "a dictionary that all rows share": shared_cells,
    "values that go on as the one before": prefixed_cells,
    "a page that becomes 300 MB": packed_page,
    "an arrow batch that becomes 300 MB": packed_batch,
    **{
        f"a {kind} named {name}": in_the_place_of(name, kind, whole)
        for kind in ("pipe", "device", "folder")
        for name, whole in (
            ("x.json", False),
            ("x.txt", False),
            ("data.yaml", True),
            ("x.parquet", True),
            ("x.arrow", False),
            ("metadata.jsonl", True),
            ("metadata.csv", False),
            ("x.png", False),
            ("x_gtFine_labelIds.png", False),
        )
    },
    "YAML commas": yolo_of(lambda: "0 0 0 1 0 1 1\n", "names: [" + "a," * 60_000 + "a]"),
}


def bombs(root: Path, part: int, of: int) -> Iterator[tuple[str, Callable[[], int], int]]:
    """As `mutations`; every `of`-th case, from `part`. The image x.png is taken for 5000×4000; nothing decodes it."""
    (root / "images").mkdir()
    Pillow.new("L", (1, 1)).save(root / "images" / "x.png")
    for number, (name, make) in list(enumerate(BOMBS.items()))[part::of]:
        folder = root / str(number)
        folder.mkdir()
        yield name, partial(use, make(folder), root / "images", {"x.png": (4000, 5000)}), 1


def main(kind: str, seed: str = "0", count: str = "1") -> None:
    warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # protect lifts Pillow's limit for its own
    taken: list[tuple[float, str, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        if kind == "commands":
            print(json.dumps(commands(Path(folder), int(seed), int(count))))
            return
        if kind == "bombs":
            cases = bombs(Path(folder), int(seed), int(count))
        else:
            cases = mutations(Path(folder), int(seed), int(count))
        for name, read, of in cases:
            before = time.process_time()  # making the file is not what is measured
            readable = read()
            seconds = time.process_time() - before
            taken.append((seconds, name, readable, of))
            print(
                f"{len(taken)} {name}: {readable} readable, {seconds:.2f} s, {peak_memory_mib()} MB",
                file=sys.stderr,
                flush=True,
            )
    seconds, slowest, *_ = max(taken)
    print(
        json.dumps(
            {
                "cases": len(taken),
                "refused": sum(readable == 0 for *_, readable, _ in taken),
                "whole": sum(readable == of for *_, readable, of in taken),
                "slowest": slowest,
                "seconds": seconds,
                "peak_mb": peak_memory_mib(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
