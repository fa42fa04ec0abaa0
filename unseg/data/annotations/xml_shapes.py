"""XML of CVAT ("CVAT for images 1.1") and of Pascal VOC (boxes), read without entities or document types.

VOC's numbers count from 1, and a box holds both of its ends (VOCdevkit); CVAT's count from 0, at the borders of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from unseg.data.annotations.names import shown, whole_number
from unseg.data.annotations.shapes import (
    Described,
    Export,
    Shape,
    corners_in,
    decimal_in,
    document_bytes,
    ellipse,
    label_in,
    rectangle,
    turned,
)
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.files import open_for_reading
from unseg.storage.image_limits import IMAGE_SUFFIXES

DEEPEST = 50
START = 1 << 16
VOC_ROOT, CVAT_ROOT = "annotation", "annotations"
WITHOUT_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
XML_FORMATS = {VOC_ROOT: "voc-xml", CVAT_ROOT: "cvat"}


def xml_format(path: Path) -> str | None:
    """Returns the format of an XML file, by its outermost element; None where it is none that is known."""
    found: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: found.append(name)
    try:
        with open_for_reading(path) as file:
            parser.Parse(file.read(START), False)
    except (expat.ExpatError, OSError, ValueError):
        pass
    return XML_FORMATS.get(found[0]) if found else None


def read_xml(path: Path) -> Element:
    """Returns the outermost element; UserError for broken files, and for those that declare types or entities."""
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def refuse(*_: Any) -> None:
        raise UserError(f"{path}: declares a document type, which is not read: remove it")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(f"{path}: over {DEEPEST} elements in each other")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    data = document_bytes(path)
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"{path}: broken XML ({error})") from error


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def open_voc_xml(path: Path) -> Export:
    """Returns VOC's boxes: one file an image, or a folder of them."""
    problems: list[Problem] = []
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [file for file in walk(path, problems) if file.suffix.lower() == ".xml"]
    images: list[tuple[Callable[[], Described], Described]] = []
    for file in files:
        source = partial(_voc, file, root)
        try:
            images.append((source, source()))
        except UserError as error:
            problems.append(Problem(file.relative_to(root).as_posix(), str(error)))
    if not images:
        raise UserError(f"{path}: no annotation of VOC there" + (f" ({problems[0].reason})" if problems else ""))
    return Export(path, "voc-xml", "VOC boxes", (), images, problems)


def _voc(file: Path, root: Path) -> Described:
    tree = read_xml(file)
    if tree.tag != VOC_ROOT:
        raise UserError(f"{file}: its outermost element is {shown(tree.tag)}, not {VOC_ROOT}")
    said = (tree.findtext("filename") or "").replace("\\", "/").rpartition("/")[2].strip()
    relative = file.relative_to(root)
    beside = (relative.parent / said).as_posix() if said else ""
    stem = stem_of(relative.as_posix())
    # The file's own name counts first, with the suffix that it says, and with any other last.
    own = f"{stem}{Path(said).suffix or '.jpg'}"
    others = [f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    shapes = [_voc_object(item, f"{file}: object {number}") for number, item in enumerate(tree.iter("object"), 1)]
    return Described(str(file), [name for name in (own, beside, said, *others) if name], _voc_size(tree, file), shapes)


def _voc_size(tree: Element, file: Path) -> tuple[int, int] | None:
    height, width = (tree.findtext(f"size/{side}") for side in ("height", "width"))
    if height is None or width is None or {height.strip(), width.strip()} == {"0"}:
        return None
    return whole_number(height.strip(), f"{file}: height"), whole_number(width.strip(), f"{file}: width")


def _voc_object(item: Element, what: str) -> Shape:
    box = item.find("bndbox")
    if box is None:
        raise UserError(f"{what}: has no bndbox")
    left, top, right, bottom = (
        decimal_in((box.findtext(name) or "").strip(), f"{what}: {name}") for name in ("xmin", "ymin", "xmax", "ymax")
    )
    if right < left or bottom < top:
        raise UserError(f"{what}: its box ends before it begins")
    return Shape(what, label_in(item.findtext("name"), what), rectangle(left - 1, top - 1, right, bottom))


# --- CVAT ------------------------------------------------------------------------------------------------------------


def open_cvat(path: Path) -> Export:
    """Returns what a CVAT file says of its images."""
    tree = read_xml(path)
    if tree.tag != CVAT_ROOT:
        raise UserError(f"{path}: its outermost element is {shown(tree.tag)}, not {CVAT_ROOT}")
    if tree.find("track") is not None:
        raise UserError(f"{path}: holds tracks of a video: export it as “CVAT for images 1.1”")
    labels = [label_in(name.text, f"{path}: label") for name in tree.iterfind("meta//labels/label/name")]
    return Export(path, "cvat", "CVAT", labels, _cvat_images(tree, path))


def _cvat_images(tree: Element, path: Path) -> Iterator[tuple[Callable[[], Described], Described]]:
    for number, image in enumerate(tree.iterfind("image")):
        where = f"{path}: image {image.get('id', number)}"
        height, width = (whole_number(image.get(side), f"{where}: {side}") for side in ("height", "width"))
        left_out = [f"{where}: {item.tag}" for item in image if item.tag in WITHOUT_AREA]
        shapes = [_cvat_shape(item, f"{where}: {item.tag}") for item in image if item.tag not in WITHOUT_AREA]
        described = Described(where, [image.get("name") or ""], (height, width), shapes, left_out)
        yield partial(_same, described), described


def _same(described: Described) -> Described:
    return described


def _cvat_shape(item: Element, what: str) -> Shape:
    label = label_in(item.get("label"), what)
    number = partial(_attribute, item, what)
    if item.tag == "polygon":
        pairs = [point.split(",") for point in (item.get("points") or "").split(";") if point]
        return Shape(what, label, corners_in(pairs, what))
    if item.tag == "box":
        left, top, right, bottom = (number(name) for name in ("xtl", "ytl", "xbr", "ybr"))
        corners = rectangle(left, top, right, bottom)
        return Shape(what, label, turned(corners, number("rotation", 0.0), ((left + right) / 2, (top + bottom) / 2)))
    if item.tag == "ellipse":
        middle = number("cx"), number("cy")
        corners = ellipse(*middle, number("rx"), number("ry"))
        return Shape(what, label, turned(corners, number("rotation", 0.0), middle))
    if item.tag == "mask":
        place = [whole_number(item.get(name), f"{what}: {name}") for name in ("left", "top", "width", "height")]
        return Shape(what, label, mask=partial(_cvat_mask, item.get("rle") or "", place, what))
    raise UserError(f"{what}: unknown shape; box, polygon, ellipse and mask are read")


def _attribute(item: Element, what: str, name: str, otherwise: float | None = None) -> float:
    value = item.get(name)
    return otherwise if value is None and otherwise is not None else decimal_in(value, f"{what}: {name}")


def _cvat_mask(runs: str, place: list[int], what: str, height: int, width: int) -> np.ndarray:
    """Returns a mask out of run lengths, off and on in turn, row by row in a box."""
    left, top, wide, high = place
    if not wide or not high or left + wide > width or top + high > height:
        raise UserError(f"{what}: its box lies outside the image of {width}×{height}")
    parts = runs.replace(" ", "").split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UserError(f"{what}: expected run lengths")
    lengths = np.array(parts, np.int64)
    if lengths.sum() != wide * high:
        raise UserError(f"{what}: its run lengths are {lengths.sum()} pixels, its box has {wide * high}")
    mask = np.zeros((height, width), bool)
    mask[top : top + high, left : left + wide] = np.repeat(np.arange(lengths.size) % 2 == 1, lengths).reshape(
        high, wide
    )
    return mask
