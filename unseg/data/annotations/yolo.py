"""YOLO segmentation labels: one text file an image, one object a line: class x1 y1 x2 y2 …, of width and height.

Source: Ultralytics' description of the format. A line of five numbers is a box of its detection format, not an outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from unseg.data.annotations.core import Annotated, Annotations, ClassTable, Unannotated
from unseg.data.annotations.names import ImagesFolder, shown, whole_number
from unseg.data.annotations.outlines import OutlineCollector
from unseg.data.name_matching import paired_names
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError, open_regular, read_bytes
from unseg.storage.text_encoding import decode_text, open_text

MAX_FILE = 8 << 20  # bytes a label file
MAX_NAMES_FILE = 128 << 10  # bytes; PyYAML takes seconds for as much as that
LINES_LOOKED_AT = 10
BORDER = 0.01  # how far a coordinate may be outside 0 to 1: rounding, and outlines cut by other tools
NO_LABELS = (  # what lies beside labels, unless it holds some
    "classes.txt",
    "labels.txt",
    "train.txt",
    "val.txt",
    "test.txt",
    "readme.txt",
    "notes.txt",
    "requirements.txt",
    "license.txt",
)
CLASSES_FILE = "classes.txt"


class Yolo(Annotations):
    """Reads one text file of outlines for each image. names: class id → name, as far as a file tells."""

    format = "yolo"

    def __init__(
        self, files: Mapping[str, Path], names: Mapping[int, str], missing: Sequence[Problem], statement: str
    ) -> None:
        self._files, self.missing, self.statement = dict(files), tuple(missing), statement
        self.classes = ClassTable(names, "all", frozenset(), frozenset(names) or None)

    @classmethod
    def open(cls, path: Path, images_root: Path) -> Yolo:
        """Lists the label files, pairs them with the images, and reads the names of the classes.

        path: the labels' folder, or the data set's (with labels/ somewhere below), or its data.yaml.
        """
        names_file = path if path.is_file() else _names_file(path)
        within = path.parent if path.is_file() else path
        folder = ImagesFolder.open(images_root)
        problems: list[Problem] = []
        texts = [text for text in label_texts(within, problems) if not _is_beside_labels(text)]
        labels = {stem_of(text.relative_to(within).as_posix()): text for text in texts}
        if not labels:
            raise UserError(f"{path}: no YOLO label file (.txt) there")
        files, used = _pair(folder.names, labels, images_root.resolve(), within.resolve())
        left = [labels[stem] for stem in sorted(labels.keys() - used)]
        unused = [text.relative_to(within).as_posix() for text in left if text.name.lower() not in NO_LABELS]
        missing = [*folder.problems, *problems, *(Problem(name, "a label file without an image") for name in unused)]
        names = {} if names_file is None else read_names(names_file)
        told = f"{len(names)} classes named in {names_file.name}" if names_file else "no file of class names"
        return cls(files, names, missing, f"YOLO segmentation: {len(labels)} label files in {within}, {told}")

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "no YOLO label file for it")
        outlines = OutlineCollector(path, height, width, self.classes)
        for number, line in enumerate(_lines(path), 1):
            if line.strip():
                class_id, corners = self._parse(path, number, line)
                outlines.add_polygons(f"line {number}", [corners * (width, height)], class_id, number)
        return outlines.finish()

    def _parse(self, path: Path, number: int, line: str) -> tuple[int, np.ndarray]:
        """Returns the class, and N×2 corners as shares of width and height; a class alone has none."""
        fields = line.split()
        if len(fields) == 5:
            raise ImageError(
                path,
                f"line {number}: five numbers are a box (YOLO detection); segmentation needs an"
                " outline of three corners or more",
            )
        if len(fields) % 2 == 0:
            raise ImageError(path, f"line {number}: expected class x1 y1 x2 y2 x3 y3 …, found {len(fields)} fields")
        try:
            values = np.array(fields, np.float64)
        except ValueError as error:
            raise ImageError(path, f"line {number}: holds something that is no number") from error
        if not np.isfinite(values).all():
            raise ImageError(path, f"line {number}: holds a number that is not finite")
        class_id, corners = values[0], values[1:].reshape(-1, 2)
        if not _is_class_id(class_id):
            raise ImageError(path, f"line {number}: {shown(fields[0])} is no class id")
        if self.classes.ids is not None and int(class_id) not in self.classes.ids:
            raise ImageError(
                path, f"line {number}: class {int(class_id)} is not among the {len(self.classes.ids)} named classes"
            )
        if corners.size and (corners.min() < -BORDER or corners.max() > 1 + BORDER):
            raise ImageError(
                path,
                f"line {number}: a polygon outside the image: coordinates from {corners.min():g} to"
                f" {corners.max():g}, they must be shares from 0 to 1",
            )
        return int(class_id), corners.clip(0, 1)


def label_texts(folder: Path, problems: list[Problem]) -> list[Path]:
    """Returns the .txt files under a folder that may be labels; where there is a labels/ folder, only those in it."""
    texts = [path for path in walk(folder, problems) if path.suffix.lower() == ".txt"]
    below = [path for path in texts if "labels" in path.relative_to(folder).parts[:-1]]
    return below or texts


def looks_like_yolo(path: Path) -> bool:
    """Returns whether the first lines are classes, as `Yolo` reads them, and one of them has an outline or a box."""
    try:
        with open_text(path, errors="replace") as file:
            lines = [file.readline(1 << 20).split() for _ in range(LINES_LOOKED_AT)]
            rows = [np.array(fields, np.float64) for fields in lines if fields]
    except (OSError, ValueError):
        return False
    return all(_is_class_id(row[0]) and np.isfinite(row).all() for row in rows) and any(row.size >= 5 for row in rows)


def _is_class_id(value: float) -> bool:
    """Returns whether a number is a class; some exporters write 0.0."""
    return 0 <= value < 2**31 and float(value).is_integer()


def _is_beside_labels(text: Path) -> bool:
    """Returns whether a text is a list or a note that lies beside labels, by its name and by what it holds.

    An image may be called train or notes, too; its labels are labels, also where they are empty.
    """
    return text.name.lower() in NO_LABELS and not looks_like_yolo(text) and not is_empty(text)


def is_empty(path: Path) -> bool:
    """Returns whether a file has no content; False where that cannot be told."""
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def read_names(path: Path) -> dict[int, str]:
    """Returns class id → name, from data.yaml's `names` (a list, or id: name) or from a text of one name a line."""
    data = read_bytes(path)
    if len(data) > MAX_NAMES_FILE:
        raise UserError(f"{path}: over {MAX_NAMES_FILE >> 10} kB; a file of class names is smaller")
    try:
        text = decode_text(data)
        if path.suffix.lower() == ".txt":
            return {number: line.strip() for number, line in enumerate(text.splitlines()) if line.strip()}
        content = yaml.load(text, yaml.BaseLoader)  # texts only: no merge keys, which can grow without bound
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "text" if path.suffix == ".txt" else "YAML"
        raise UserError(f"{path}: cannot be read as {kind}: {_reason(error)}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return {}
    found: dict[int, str] = {}
    for key, name in _pairs(names, path):
        number = whole_number(_number(key), f"{path}: names", 0, 2**31 - 1)
        if not isinstance(name, str) or number in found:
            raise UserError(f"{path}: names: expected one text for the id {number}, found {shown(name)}")
        found[number] = name
    return found


def _reason(error: Exception) -> str:
    """Returns what is wrong, without the lines around it: a file given by mistake may hold anything."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem or error.context} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())[:200]


def _pairs(names: object, path: Path) -> Iterator[tuple[object, object]]:
    if isinstance(names, dict):
        yield from names.items()
    elif isinstance(names, list):
        yield from enumerate(names)
    else:
        raise UserError(f"{path}: names: expected a list of names, or id: name")


def _number(key: object) -> object:
    """Returns the number that a text of digits stands for, anything else as it is."""
    return int(key) if isinstance(key, str) and key.isdigit() and len(key) < 12 else key


def _pair(
    names: Iterable[str], labels: Mapping[str, Path], images_root: Path, labels_root: Path
) -> tuple[dict[str, Path], set[str]]:
    """Returns image name → label file, and the stems of the label files that have an image."""
    stems_of = {name: _label_stems(stem_of(name), images_root, labels_root) for name in names}
    files = {name: stem for name, stems in stems_of.items() for stem in reversed(stems) if stem in labels}
    left = {name: stems for name, stems in stems_of.items() if name not in files}
    pairs = paired_names((stem for stems in left.values() for stem in stems), labels.keys() - set(files.values()))
    files |= {name: pairs[stem] for name, stems in left.items() for stem in reversed(stems) if stem in pairs}
    return {name: labels[stem] for name, stem in files.items()}, set(files.values())


def _names_file(folder: Path) -> Path | None:
    """Returns data.yaml of the folder or the one above it, else classes.txt."""
    for place in (folder, folder.parent):
        for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", CLASSES_FILE):
            file = place / name
            if file.is_file() and not (name == CLASSES_FILE and looks_like_yolo(file)):
                return file
    return None


def _label_stems(stem: str, images_root: Path, labels_root: Path) -> list[str]:
    """Returns where an image's labels may be, relative to their folder: its path with images as labels, or its name."""
    full = images_root / stem
    parts = list(full.parts)
    places = [full]
    if "images" in parts[:-1]:  # the last one, as Ultralytics does
        last = len(parts) - 2 - parts[-2::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    inside = [place.relative_to(labels_root).as_posix() for place in places if place.is_relative_to(labels_root)]
    return [*inside, stem, f"labels/{stem}"]


def _lines(path: Path) -> list[str]:
    if is_empty(path):
        return []  # an image without objects
    with open_regular(path) as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ImageError(path, f"over {MAX_FILE >> 20} MB; a label file is smaller")
    try:
        return decode_text(data).splitlines()
    except UnicodeDecodeError as error:
        raise ImageError(path, f"is no text ({error.reason})") from error
