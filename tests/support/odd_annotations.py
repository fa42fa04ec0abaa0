"""Odd but sound annotations, drawn from a seed: one image with regions a set, written as careless tools write.

Oddities are in names (Unicode forms, folders, backslashes, suffixes), encodings (byte order marks, line ends, escapes),
orders of keys and entries, kinds of values (numbers as texts or floats, null), and entries that say nothing (no area,
crowds, rows without an image). The regions are drawn first; what is written must show exactly these.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image as Pillow

from tests.support import plain_readers
from tests.support.annotation_sets import full_voc_palette
from tests.support.plain_readers import Region, filled

LABELS = {1: "cat", 2: "dog", 3: "zebra"}  # in the order of the alphabet, which numbers LabelMe's labels
NAMES = ("a.png", "caf\u00e9.png", "sub/x.png", "b c.jpg", "train.png", "na\u00efve.v2.png", "100%.png", "#1.bmp")
NAMES += (
    "\u30d0\u30ca\u30ca 7.png",
    "-x.png",
    "it's.png",
    "\u00fcn\u00ef/\u00e5.png",
    "D.JPG",
    "labels.png",
    "classes.webp",
)
MASK = "m\u00e4sk.png"
CORNERS = list[tuple[int, int]]


@dataclass(frozen=True)
class Odd:
    """One set. images: None where the set holds them. expected: the regions, as a plain reader finds them, too."""

    what: str
    path: Path
    images: Path | None
    name: str
    height: int
    width: int
    expected: tuple[Region, ...]
    plain: Callable[[Path, str, int, int], list[Region]]
    format: str

    def mask(self, classes: tuple[int, ...] | None = None) -> np.ndarray:
        """The union of the regions of some classes, of all where none are named: H×W bool."""
        union = np.zeros((self.height, self.width), bool)
        for class_id, mask in self.expected:
            if classes is None or class_id in classes:
                union |= mask
        return union


class Draw:
    """What is drawn for one set. chance: whether an oddity is there."""

    def __init__(self, seed: int, number: int, root: Path) -> None:
        self.random = np.random.default_rng((seed, number))
        self.root = root
        self.name = self.one(NAMES)
        self.height, self.width = int(self.random.integers(7, 19)), int(self.random.integers(7, 23))
        if self.height == self.width:
            self.width += 2

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.random.random() < share)

    def one(self, choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def shuffled(self, items: list) -> list:
        return [items[place] for place in self.random.permutation(len(items))]

    # --- regions

    def corners(self) -> CORNERS:
        """A rectangle, or one without its lower right quarter: whole numbers, inside the image, of some area."""
        left, top = int(self.random.integers(self.width - 3)), int(self.random.integers(self.height - 3))
        right = int(self.random.integers(left + 2, self.width + 1))
        bottom = int(self.random.integers(top + 2, self.height + 1))
        if self.chance(0.4):
            return [(left, top), (right, top), (right, bottom), (left, bottom)]
        x, y = int(self.random.integers(left + 1, right)), int(self.random.integers(top + 1, bottom))
        return [(left, top), (right, top), (right, y), (x, y), (x, bottom), (left, bottom)]

    def outlines(self, apart: bool = False) -> list[tuple[int, CORNERS, np.ndarray]]:
        """One to four regions: class, corners, mask. apart: no two of them share a pixel."""
        found: list[tuple[int, CORNERS, np.ndarray]] = []
        taken = np.zeros((self.height, self.width), bool)
        while not found or (len(found) < 4 and self.chance(0.6)):
            corners = self.corners()
            mask = filled([(float(x), float(y)) for x, y in corners], self.height, self.width)
            if apart:
                mask &= ~taken
            if mask.any():
                taken |= mask
                found.append((self.one([1, 2, 3]), corners, mask))
        return found

    def turned(self, corners: CORNERS) -> list[tuple[float, float]]:
        """The same outline from another corner on, perhaps the other way round, perhaps closed by its first corner."""
        start = int(self.random.integers(len(corners)))
        turned: list[tuple[float, float]] = [*corners[start:], *corners[:start]]
        if self.chance():
            turned.reverse()
        if self.chance(0.3):
            turned.append(turned[0])
        return [(float(x), float(y)) for x, y in turned] if self.chance() else turned

    # --- values, names and files

    def number(self, value: int) -> Any:
        """A whole number as a number, a float or a text."""
        return self.one([value, value, float(value), str(value)])

    def form(self, name: str) -> str:
        return unicodedata.normalize(self.one(["NFC", "NFD"]), name)

    def written(self, name: str, folder: str | None = "images") -> str:
        """An image's name as annotations may give it. folder: what may stand before it."""
        name = self.form(name)
        if folder is not None and self.chance(0.2):
            name = f"{folder}/{name}"
        if self.chance(0.2):
            name = f"./{name}"
        if self.chance(0.2):
            stem, dot, suffix = name.rpartition(".")
            name = f"{stem}{dot}{suffix.swapcase()}"
        return name.replace("/", "\\") if self.chance(0.3) else name

    def keys(self, content: dict) -> dict:
        """The keys in another order, with some that nobody asked for."""
        extra = {"": None, "attributes": {"occluded": [True, {"x": []}]}, "\u540d": '\\"\u00e9', "score": 1e-3}
        items = [*content.items(), *((key, value) for key, value in extra.items() if self.chance(0.3))]
        return dict(self.shuffled(items))

    def save(self, path: Path, text: str, marks: tuple[str, ...] = ("utf-8", "utf-8-sig", "utf-16")) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(self.one(marks)))
        return path

    def save_json(self, path: Path, content: dict) -> Path:
        text = json.dumps(self.keys(content), indent=self.one([None, 1, "\t"]), ensure_ascii=self.chance())
        return self.save(path, self.one(["", " \n"]) + text + self.one(["", "\n\n"]))

    def photograph(self) -> np.ndarray:
        return self.random.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)

    def images(self, folder: Path, name: str | None = None) -> Path:
        """Saves the image, and often another one of which nothing is said."""
        path = folder / self.form(self.name if name is None else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(self.photograph()).save(path)
        self.saved = path.relative_to(folder).as_posix()
        if self.chance():
            Pillow.new("RGB", (3, 5)).save(folder / "other.png")
        return folder


def of_outlines(draw: Draw) -> tuple[list[tuple[int, CORNERS, np.ndarray]], tuple[Region, ...]]:
    found = draw.outlines()
    return found, tuple((class_id, mask) for class_id, _, mask in found)


# --- COCO ------------------------------------------------------------------------------------------------------------


def counts_of(mask: np.ndarray) -> list[int]:
    counts, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    text = ""
    for place, count in enumerate(counts):
        rest, more = count - (counts[place - 2] if place > 2 else 0), True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
    return text


def segmentation(draw: Draw, corners: CORNERS, mask: np.ndarray) -> Any:
    size = [draw.height, draw.width]
    match draw.one(["polygon", "flat", "counts", "floats", "packed"]):
        case "polygon":
            flat = [value for corner in draw.turned(corners) for value in corner]
            stray = [[], [[1.5, 1]], [[2, 2, 2, 2]]]
            return [flat, *draw.one(stray)] if draw.chance(0.7) else [*draw.one(stray), flat]
        case "flat":
            return [value for corner in draw.turned(corners) for value in corner]
        case "counts":
            counts = counts_of(mask)
            return {"size": size, "counts": [*counts[:1], 0, 0, *counts[1:]] if draw.chance(0.3) else counts}
        case "floats":
            return {"counts": [float(count) for count in counts_of(mask)], "size": [float(side) for side in size]}
        case _:
            return {"size": size, "counts": packed(counts_of(mask))}


def strays(draw: Draw, full: list[int]) -> list[dict]:
    """Entries that show nothing: without an area, or crowds."""
    point = [[3, 3]]
    return [
        entry
        for entry in (
            {"segmentation": point, "bbox": [3, 3, 0, 0], "area": 0},
            {"segmentation": [], "bbox": [0, 0, 0, 0]},
            {"segmentation": None},
            {"segmentation": [[]]},
            {"segmentation": [[3, 3, 3, 3, 3, 3]], "iscrowd": False},
            {"segmentation": {"size": [draw.height, draw.width], "counts": full}, "iscrowd": draw.one([1, True, "1"])},
            {"bbox": [1, 1, 4, 4], "iscrowd": 1},
        )
        if draw.chance(0.3)
    ]


def coco(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    found, regions = of_outlines(draw)
    images = draw.images(draw.root / "images")
    own_id = draw.one([7, "7", 0, "img-\u00e9", 2**40])
    said_id = draw.number(own_id) if isinstance(own_id, int) else draw.one([own_id, own_id])
    entries = [
        {"category_id": draw.number(class_id), "segmentation": segmentation(draw, corners, mask)}
        for class_id, corners, mask in found
    ]
    entries += [{"category_id": draw.one([1, 2, 3]), **stray} for stray in strays(draw, [0, draw.height * draw.width])]
    entries = [{"image_id": said_id, **entry} for entry in draw.shuffled(entries)]
    match draw.one(["numbers", "texts", "null", "none", "mixed"]):
        case "numbers":
            entries = [{"id": 10 + place, **entry} for place, entry in enumerate(entries)]
        case "texts":
            entries = [{"id": f"5f3c-{place}", **entry} for place, entry in enumerate(entries)]
        case "null":
            entries = [{"id": None, **entry} for entry in entries]
        case "mixed":
            entries = [{"id": (place, f"x{place}", None)[place % 3], **entry} for place, entry in enumerate(entries)]
    size = {"height": draw.number(draw.height), "width": draw.number(draw.width)}
    listed = [draw.keys({"id": own_id, "file_name": draw.written(draw.name), **size})]
    if draw.chance():
        listed.append({"id": "second", "file_name": "is not there.png", "height": 4, "width": 5})
    categories = [
        {"id": draw.number(number), "name": draw.one([name, name, None, 5])} for number, name in LABELS.items()
    ]
    content = {
        "images": draw.shuffled(listed),
        "annotations": [draw.keys(entry) for entry in entries],
        "categories": draw.shuffled(categories),
    }
    return draw.save_json(draw.root / "instances.json", content), images, regions


def panoptic(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    found = draw.outlines(apart=True)
    images = draw.images(draw.root / "images")
    ids = [int(value) for value in draw.random.choice(2**24 - 2, len(found) + 1, replace=False) + 1]
    coded = np.zeros((draw.height, draw.width, 3), np.uint8)
    segments = []
    for (class_id, _, mask), own in zip(found, ids, strict=False):
        coded[mask] = own % 256, own // 256 % 256, own // 65536
        segments.append(draw.keys({"id": draw.number(own), "category_id": draw.number(class_id), "iscrowd": None}))
    regions = tuple((class_id, mask) for class_id, _, mask in found)
    if len(found) > 1 and draw.chance(0.3):
        segments[-1]["iscrowd"] = draw.one([1, True, "1"])
        regions = regions[:-1]
    (draw.root / "pan").mkdir()
    Pillow.fromarray(coded).save(draw.root / "pan" / draw.form(MASK))
    content = {
        "images": [
            {"id": "a", "file_name": draw.written(draw.name), "height": draw.height, "width": draw.number(draw.width)}
        ],
        "annotations": [
            draw.keys(
                {
                    "image_id": "a",
                    "file_name": draw.form(draw.one([MASK, f"pan/{MASK}", f"pan\\{MASK}"])),
                    "segments_info": draw.shuffled(segments),
                    "id": draw.one([None, "x", 3]),
                }
            )
        ],
        "categories": [
            {"id": draw.number(number), "name": name, "isthing": draw.one([1, True, "1"])}
            for number, name in LABELS.items()
        ],
    }
    return draw.save_json(draw.root / "pan.json", content), images, regions


# --- a text or json an image -----------------------------------------------------------------------------------------


def yolo(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    found, regions = of_outlines(draw)
    images = draw.images(draw.root / "images")
    lines = []
    for class_id, corners, _ in found:
        class_text = draw.one([str(class_id), f"{class_id}.0", f"{class_id}e0", f"+{class_id}"])
        shares = [share for x, y in draw.turned(corners) for share in (x / draw.width, y / draw.height)]
        lines.append(draw.one([" ", "\t", "  "]).join([class_text, *(f"{share:.17g}" for share in shares)]))
    lines += [stray for stray in ("1", "", "2 0.5 0.5", "   ") if draw.chance(0.3)]
    end = draw.one(["\n", "\r\n"])
    text = end.join(draw.shuffled(lines)) + draw.one(["", end])
    stem = str(Path(draw.name).with_suffix(""))
    draw.save(draw.root / "labels" / f"{draw.form(stem)}{draw.one(['.txt', '.txt', '.TXT'])}", text)
    names = draw.one(
        [
            "names: [no, cat, dog, zebra]",
            "nc: 4\nnames:\n  0: no\n  1: cat\n  2: dog\n  3: zebra",
            "names: {'1': cat, '2': dog, '3': zebra}",
        ]
    )
    data = draw.save(draw.root / "data.yaml", f"path: .\n{names}\n")
    return draw.one([draw.root / "labels", data, draw.root]), images, regions


def labelme_shape(draw: Draw, corners: CORNERS, mask: np.ndarray) -> dict:
    if draw.chance(0.25):
        rows, columns = np.nonzero(mask)
        top, bottom, left, right = (int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max()))
        inside, buffer = mask[top : bottom + 1, left : right + 1], io.BytesIO()
        level = draw.one([None, 1, 255])
        Pillow.fromarray(inside if level is None else inside * np.uint8(level)).save(buffer, "PNG")
        text = base64.b64encode(buffer.getvalue()).decode()
        return {"shape_type": "mask", "points": [[left, top], [float(right), bottom]], "mask": text}
    if len(corners) == 4 and draw.chance(0.7):
        ends = draw.one([[corners[0], corners[2]], [corners[2], corners[0]], [corners[1], corners[3]]])
        return draw.one(
            [
                {"shape_type": "rectangle", "points": ends},
                {"shape_type": "rectangle", "points": corners},
                {"shape_type": "rotation", "points": corners, "direction": 0.0},
            ]
        )
    return {"shape_type": draw.one(["polygon", None]), "points": draw.turned(corners)}


def labelme(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    found, _ = of_outlines(draw)
    images = draw.images(draw.root / "images")
    numbers = {class_id: place for place, class_id in enumerate(sorted({one for one, _, _ in found}), 1)}
    shapes = [{"label": LABELS[one], **labelme_shape(draw, corners, mask)} for one, corners, mask in found]
    label = LABELS[found[0][0]]
    shapes += [
        {"label": draw.one([label, "__ignore__"]), **stray}
        for stray in (
            {"shape_type": "point", "points": [[2, 2]]},
            {"shape_type": "linestrip", "points": [[2, 2], [5, 6], [1, 1]]},
            {"shape_type": "polygon", "points": []},
            {"shape_type": "rectangle", "points": [[4, 4]]},
        )
        if draw.chance(0.3)
    ]
    group = draw.one([None, "car 3", 4, 4.0, "4"])
    content = {
        "version": "2.4.4",
        "imagePath": draw.one([draw.written(draw.name, "../images"), "elsewhere\\" + "other.png"]),
        "imageData": draw.one([None, "QUJD", '\\"\\\\' * 30]),
        "imageHeight": draw.one([draw.number(draw.height), None]),
        "imageWidth": draw.number(draw.width),
        "shapes": [draw.keys({**shape, "group_id": group}) for shape in draw.shuffled(shapes)],
    }
    stem = str(Path(draw.name).with_suffix(""))
    draw.save_json(draw.root / "labels" / f"{draw.form(stem)}.json", content)
    return draw.root / "labels", images, tuple((numbers[one], mask) for one, _, mask in found)


# --- masks -----------------------------------------------------------------------------------------------------------


def class_map(draw: Draw, kind: str) -> tuple[Pillow.Image, tuple[Region, ...]]:
    """A mask of class ids (with a strip that is ignored), in VOC's colours, or of black and white."""
    found = draw.outlines(apart=True)
    values = np.zeros((draw.height, draw.width), np.uint8)
    for class_id, _, mask in found:
        values[mask] = class_id
    if kind == "binary":
        union = values > 0
        levels = Pillow.fromarray(union) if draw.chance() else Pillow.fromarray(union * np.uint8(255))
        return levels, ((1, union),)
    if draw.chance():
        values[0, : draw.width // 2] = 255
    image = Pillow.fromarray(values)
    if kind == "voc":
        image.putpalette(full_voc_palette())
    elif draw.chance(0.3):
        image = Pillow.fromarray(values.astype(np.uint16))
    return image, tuple((one, values == one) for one in (1, 2, 3) if (values == one).any())


def mask_folder(kind: str) -> Callable[[Draw], tuple[Path, Path, tuple[Region, ...]]]:
    def make(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
        image, regions = class_map(draw, kind)
        images = draw.images(draw.root / "images")
        path = draw.root / "masks" / draw.form(str(Path(draw.name).with_suffix(".png")))
        path.parent.mkdir(parents=True)
        image.save(path)
        return draw.root / "masks", images, regions

    return make


def cityscapes(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    found = draw.outlines(apart=True)
    key = draw.one(["ulm_000001_000019", "k\u00f6ln_000000_000001"])
    draw.name = f"train/{key.partition('_')[0]}/{key}_leftImg8bit.png"
    images = draw.images(draw.root / "leftImg8bit")
    size, void = (draw.height, draw.width), draw.one([0, 3, 4])
    labels, instances = np.full(size, void, np.uint8), np.full(size, void, np.uint16)
    regions = []
    for place, (class_id, _, mask) in enumerate(found):
        city = 24 if class_id == 1 else 26
        labels[mask], instances[mask] = city, city * 1000 + place
        regions.append((city, mask))
    folder = draw.root / "gtFine" / draw.one(["train/x", "."])
    folder.mkdir(parents=True)
    written = draw.form(key)
    Pillow.fromarray(labels).save(folder / f"{written}_gtFine_labelIds.png")
    if draw.chance():
        Pillow.fromarray(instances).save(folder / f"{written}_gtFine_instanceIds.png")
    return draw.root / "gtFine", images, tuple(regions)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def encoded(image: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def table(draw: Draw) -> tuple[Path, Path | None, tuple[Region, ...]]:
    mask, regions = class_map(draw, "index")
    images = draw.images(draw.root / "images") if draw.chance() else None
    bare = {"bytes": None if images else encoded(Pillow.fromarray(draw.photograph())), "path": draw.written(draw.name)}
    if images is None and draw.chance():
        bare["path"] = None
    rows = [{"image": bare, "mask": {"bytes": encoded(mask), "path": None}, "caption": "x.png"}]
    rows += [row for row in ({"image": None, "mask": None}, {"image": None, "mask": rows[0]["mask"]}) if draw.chance()]
    order = draw.shuffled(list(range(len(rows))))
    rows = [rows[place] for place in order]
    binary = pyarrow.large_binary() if draw.chance(0.3) else pyarrow.binary()
    kind = pyarrow.struct([("bytes", binary), ("path", pyarrow.string())])
    columns = {name: pyarrow.array([row[name] for row in rows], kind) for name in draw.shuffled(["image", "mask"])}
    content = pyarrow.table({**columns, "caption": [None] * len(rows)})
    folder = draw.root / "data"
    folder.mkdir()
    match draw.one(["parquet", "stream", "file"]):
        case "parquet":
            path = folder / "train-0.parquet"
            pyarrow.parquet.write_table(content, path, row_group_size=draw.one([1, 5]))
        case form:
            path = folder / "train-0.arrow"
            new = pyarrow.ipc.new_stream if form == "stream" else pyarrow.ipc.new_file
            with pyarrow.OSFile(str(path), "wb") as file, new(file, content.schema) as writer:
                writer.write_table(content, max_chunksize=draw.one([1, 5]))
    if images is None:
        suffix = Path((bare["path"] or "").replace("\\", "/")).suffix.lower() or ".png"
        draw.saved = f"train-0/{order.index(0):06d}{suffix}"
    return path, images, regions


def metadata(draw: Draw) -> tuple[Path, Path, tuple[Region, ...]]:
    mask, regions = class_map(draw, "index")
    draw.name = Path(draw.name).name
    folder = draw.images(draw.root / "set")
    (folder / "masks").mkdir()
    written = f"masks/{draw.form(MASK)}"
    mask.save(folder / written)
    rows: list[dict[str, Any]] = [
        {"file_name": draw.form(draw.name), "mask_file_name": draw.form(written), "text": 'a "cat"', "n": None}
    ]
    if draw.chance():
        Pillow.new("RGB", (4, 4)).save(folder / "second.png")
        rows.append({"file_name": "second.png", "mask_file_name": None, "text": None, "n": 1})
    if draw.chance(0.3):
        rows.append({"file_name": None, "mask_file_name": draw.form(written), "text": "", "n": None})
    rows = draw.shuffled(rows)
    end = draw.one(["\n", "\r\n"])
    if draw.chance():
        lines = [json.dumps(draw.keys(row), ensure_ascii=draw.chance()) for row in rows]
        draw.save(folder / "metadata.jsonl", end.join([*lines, ""]) + draw.one(["", end]))
    else:
        text = io.StringIO()
        columns = draw.shuffled(list(rows[0]))
        writer = csv.DictWriter(text, columns, quoting=draw.one([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
        draw.save(folder / "metadata.csv", text.getvalue())
    return folder, folder, regions


FORMS: dict[str, tuple[Callable[[Draw], tuple], Callable, str]] = {
    "coco": (coco, plain_readers.coco, "coco"),
    "panoptic": (panoptic, plain_readers.panoptic, "coco-panoptic"),
    "yolo": (yolo, plain_readers.yolo, "yolo"),
    "labelme": (labelme, plain_readers.labelme, "labelme"),
    "index": (mask_folder("index"), plain_readers.masks, "index"),
    "voc": (mask_folder("voc"), plain_readers.masks, "voc"),
    "binary": (mask_folder("binary"), plain_readers.masks, "binary"),
    "cityscapes": (cityscapes, plain_readers.cityscapes, "cityscapes"),
    "table": (table, plain_readers.table, "huggingface"),
    "metadata": (metadata, plain_readers.metadata, "huggingface"),
}


def odd_set(seed: int, number: int, root: Path) -> Odd:
    """Writes the set of that number under `root`, which must be empty."""
    what = list(FORMS)[number % len(FORMS)]
    make, plain, form = FORMS[what]
    root.mkdir(parents=True)
    draw = Draw(seed, number, root)
    path, images, regions = make(draw)
    return Odd(what, path, images, draw.saved, draw.height, draw.width, regions, plain, form)
