"""Finds out by content and layout which format annotations have; what is ambiguous is refused, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations.coco import CITYSCAPES_PANOPTIC, CityscapesPanoptic, CocoInstances, CocoPanoptic
from unseg.data.annotations.core import Annotations, first_few
from unseg.data.annotations.huggingface import HuggingFaceTables
from unseg.data.annotations.image_folder import METADATA, metadata_files, open_image_folder
from unseg.data.annotations.image_tables import TABLES, table_files
from unseg.data.annotations.json_shapes import (
    open_label_studio,
    open_supervisely,
    open_via,
    read_json,
    shape_format,
)
from unseg.data.annotations.json_stream import open_json
from unseg.data.annotations.label_files import Cityscapes, is_cityscapes_label, open_label_files
from unseg.data.annotations.labelme import LabelMe
from unseg.data.annotations.segment_anything import SegmentAnything
from unseg.data.annotations.shapes import Export, ShapeAnnotations
from unseg.data.annotations.xml_shapes import open_cvat, open_voc_xml, xml_format
from unseg.data.annotations.yolo import Yolo, is_empty, label_texts, looks_like_yolo
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES

OPTION = "--annotations-format"
FORMATS = (
    "coco",
    "coco-panoptic",
    "voc",
    "index",
    "binary",
    "soft",
    "trimap",
    "cityscapes",
    "cityscapes-panoptic",
    "yolo",
    "labelme",
    "huggingface",
    "voc-xml",
    "cvat",
    "label-studio",
    "supervisely",
    "via",
    "sa-1b",
)
JSON_FORMATS: dict[str, type[CocoInstances] | type[CocoPanoptic]] = {
    "coco": CocoInstances,
    "coco-panoptic": CocoPanoptic,
    "cityscapes-panoptic": CityscapesPanoptic,
}
SHAPE_FORMATS: dict[str, Callable[[Path], Export]] = {
    "voc-xml": open_voc_xml,
    "cvat": open_cvat,
    "label-studio": open_label_studio,
    "supervisely": open_supervisely,
    "via": open_via,
}
ONE_FILE = ("cvat", "label-studio", "via")  # formats of shapes with one file for all images
MASK_FILES = "masks"  # which of voc, index, binary and so on they are shows only when they are read
FILES_LOOKED_AT = 20  # json or text files of a folder; formats with one file an image have thousands of one kind
VOC_FOLDERS = ("SegmentationClass", "SegmentationClassAug", "SegmentationObject")  # of a VOC data set


def open_annotations(
    path: str | Path,
    images_root: str | Path | None,
    format: str = "auto",
    pool: Executor | None = None,
    progress: Progress = SILENT,
) -> Annotations:
    """Opens and checks the annotations of the images under `images_root`.

    path: a json, a data.yaml, a table, or a folder. format: one of FORMATS, `huggingface:COLUMN` (the column of the
    masks), or "auto". images_root: a folder; None only for tables that hold the images themselves. UserError for
    whatever concerns all images: an unknown or ambiguous format, broken json, names that lead out of the folder, ids
    that are unknown or there twice. Whatever concerns one image is raised when it is read. Of some formats every file
    is looked at first, in the threads of `pool`, and told to `progress`.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--annotations {path}: no such file or folder")
    name, _, column = format.partition(":")
    if (name not in FORMATS and name != "auto") or (column and name != "huggingface"):
        raise UserError(f"{OPTION} {format}: choose from auto, {', '.join(FORMATS)} (or huggingface:COLUMN)")
    found, place = name, path
    if name == "auto":
        found, place = detect(path, None if images_root is None else Path(images_root))
    if images_root is None:
        if found != "huggingface" or not _has_tables(place):
            raise UserError(f"--annotations {path}: {found} annotations need a folder of images")
        return _finished(HuggingFaceTables.open(place, None, column or None, pool, progress), name)
    return _finished(_open(found, place, Path(images_root), column or None, pool, progress), name)


def _finished(annotations: Annotations, named: str) -> Annotations:
    if named == "auto":
        annotations.statement += f" (if they are something else, give {OPTION})"
    return annotations


def _open(
    found: str, place: Path, images_root: Path, column: str | None, pool: Executor | None, progress: Progress
) -> Annotations:
    if found in JSON_FORMATS:
        if place.is_dir():
            place = _only_file(place, found)
        return JSON_FORMATS[found].open(place, images_root)
    if found in SHAPE_FORMATS:
        one = place.is_dir() and found in ONE_FILE
        return ShapeAnnotations.of(SHAPE_FORMATS[found](_only_file(place, found) if one else place), images_root)
    if found == "labelme":
        return LabelMe.open(place, images_root, progress)
    if found == "sa-1b":
        return SegmentAnything.open(place, images_root, progress)
    if found == "yolo":
        return Yolo.open(place, images_root)
    if found == "huggingface":
        reads = HuggingFaceTables.open if _has_tables(place) else open_image_folder
        return reads(place, images_root, column, pool, progress)
    if not place.is_dir():
        raise UserError(f"--annotations {place}: {found} annotations are a folder, this is a file")
    if found == "cityscapes":
        return Cityscapes.open(place, images_root)
    return open_label_files(place, images_root, None if found == MASK_FILES else found, pool, progress)


def _has_tables(place: Path) -> bool:
    problems: list[Problem] = []
    return bool(table_files(place, problems)) and not metadata_files(place, problems)


def _only_file(folder: Path, wanted: str) -> Path:
    """Returns the one json or xml of a format in a folder that the user named without the file."""
    problems: list[Problem] = []
    files = [file for file in walk(folder, problems) if file.suffix.lower() in (".json", ".xml")]
    fitting = [file for file in files if format_in(file) == wanted]
    if len(fitting) != 1:
        raise UserError(
            f"--annotations {folder}: {len(fitting) or 'no'} {wanted} files there; name one"
            + (f" ({first_few(file.name for file in fitting)})" if fitting else "")
        )
    return fitting[0]


# --- detection -------------------------------------------------------------------------------------------------------


def detect(path: Path, images_root: Path | None) -> tuple[str, Path]:
    """Returns the format, and the file or folder that holds it. "masks" stands for image files, whose values decide."""
    if path.is_file():
        return _detect_file(path), path
    problems: list[Problem] = []
    found = _formats_in(path, images_root, walk(path, problems))
    if not found:
        raise UserError(
            f"--annotations {path}: no annotations of a known format there; name one with {OPTION}"
            f" ({', '.join(FORMATS)})"
        )
    if len(found) > 1:
        choices = "; ".join(f"{format} ({_relative(path, places)})" for format, places in sorted(found.items()))
        raise UserError(
            f"--annotations {path}: holds several formats: {choices}. Name one with {OPTION}, or give the"
            " file or folder of one"
        )
    ((format, places),) = found.items()
    if format == MASK_FILES:
        within = [path / name for name in VOC_FOLDERS if (path / name).is_dir()]
        if len(within) > 1:
            raise UserError(f"--annotations {path}: holds {_relative(path, within)}; give one of these folders")
        return format, within[0] if within else path
    if format in JSON_FORMATS or format in ONE_FILE:
        if len(places) > 1:
            raise UserError(
                f"--annotations {path}: holds {len(places)} {format} files ({_relative(path, places)});"
                " name one of them"
            )
        return format, places[0]
    return format, path


def _relative(folder: Path, places: list[Path]) -> str:
    return first_few(place.relative_to(folder).as_posix() for place in places)


def _detect_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".json", ".xml"):
        found = format_in(path)
        if found is None:
            raise UserError(
                f"--annotations {path}: neither COCO's lists (images, annotations, categories), nor shapes of LabelMe,"
                " SA-1B, CVAT, Label Studio, Supervisely, VIA or VOC"
            )
        return found
    if suffix in TABLES or path.name in METADATA:
        return "huggingface"
    if suffix in (".yaml", ".yml"):
        return "yolo"
    raise UserError(
        f"--annotations {path}: give a folder, a .json, an .xml, a data.yaml, a metadata.jsonl or .csv, or a"
        " .parquet or .arrow file"
    )


def _formats_in(folder: Path, images_root: Path | None, files: list[Path]) -> dict[str, list[Path]]:
    """Returns every format that the files of a folder show, with the files that show it."""
    found: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    by_suffix: dict[str, list[Path]] = {}
    for file in files:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    hugging = [*metadata_files(folder, problems), *table_files(folder, problems)]
    if hugging:
        found["huggingface"] = hugging
    cityscapes = [file for file in by_suffix.get(".png", ()) if is_cityscapes_label(file)]
    if cityscapes:
        found["cityscapes"] = cityscapes
    for format, file in _documents_in(folder, by_suffix, bool(cityscapes)):
        found.setdefault(format, []).append(file)
    labels = (file for file in label_texts(folder, problems) if not is_empty(file))  # empty: an image without objects
    texts = [file for file in islice(labels, FILES_LOOKED_AT) if looks_like_yolo(file)]
    if texts:
        found["yolo"] = texts
    if not found:
        masks = _mask_files(folder, images_root, files)
        if masks:
            found[MASK_FILES] = masks
    return found


def _documents_in(folder: Path, by_suffix: Mapping[str, list[Path]], cityscapes: bool) -> Iterator[tuple[str, Path]]:
    """Yields the formats of a folder's json and xml files. Boxes do not count where VOC's masks lie beside them."""
    for file in by_suffix.get(".json", ())[:FILES_LOOKED_AT]:
        if not (cityscapes and file.name.endswith("_polygons.json")):  # Cityscapes' own, beside its label files
            format = json_format(file, quiet=True) or _shapes_in(file)
            if format is not None:
                yield format, file
    if any((folder / name).is_dir() for name in VOC_FOLDERS):
        return
    for file in by_suffix.get(".xml", ())[:FILES_LOOKED_AT]:
        format = xml_format(file)
        if format is not None:
            yield format, file


def _mask_files(folder: Path, images_root: Path | None, files: list[Path]) -> list[Path]:
    """Returns images that can be masks: any of a folder of their own, .png files beside images of the same name."""
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images_root is None or images_root.resolve() != folder.resolve():
        return pictures
    photographs = {stem_of(file.relative_to(folder).as_posix()) for file in pictures if file.suffix.lower() != ".png"}
    return [
        file
        for file in pictures
        if file.suffix.lower() == ".png" and stem_of(file.relative_to(folder).as_posix()) in photographs
    ]


def format_in(path: Path) -> str | None:
    """Returns the format of a json or an xml by its content; None where that is nothing known."""
    if path.suffix.lower() == ".xml":
        return xml_format(path)
    return json_format(path, quiet=True) or _shapes_in(path) or json_format(path)


def _shapes_in(path: Path) -> str | None:
    """Returns the format of shapes in a json among many; None where that is none, or cannot be read."""
    try:
        return shape_format(read_json(path))
    except UserError:
        return None


def json_format(path: Path, quiet: bool = False) -> str | None:
    """Returns what a json holds, by its keys and its first annotation; None where that is nothing known.

    quiet: None also where it cannot be read, as for a json among many.
    """
    try:
        with open_json(path) as stream:
            keys = set()
            for key in stream.members():
                keys.add(key)
                if key == "annotations":
                    for entry, _, _ in stream.elements():
                        return _entry_format(entry)
                    return "sa-1b" if "image" in keys else "coco"  # a list without entries
                if key == "shapes":
                    return "labelme"
                stream.skip()
            return "coco" if "images" in keys and "categories" in keys else None
    except UserError:
        if quiet:
            return None
        raise


def _entry_format(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return None
    if "segments_info" in entry:
        cityscapes = str(entry.get("file_name")).endswith(CITYSCAPES_PANOPTIC)
        return "cityscapes-panoptic" if cityscapes else "coco-panoptic"
    if "image_id" in entry:
        return "coco"
    return "sa-1b" if "segmentation" in entry else None
