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
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.files import open_text
from unseg.storage.image_limits import ImageError, read_bytes

MAX_FILE = 8 << 20  # bytes a label file
MAX_NAMES_FILE = 128 << 10  # bytes; PyYAML takes seconds for as much as that
BORDER = 0.01  # how far a coordinate may be outside 0 to 1: rounding, and outlines cut by other tools
NO_LABELS = (
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
        labels = {stem_of(label.relative_to(within).as_posix()): label for label in label_texts(within, problems)}
        if not labels:
            raise UserError(f"{path}: no YOLO label file (.txt) there")
        files, used = _pair(folder.names, labels, images_root.resolve(), within.resolve())
        unused = [labels[stem].relative_to(within).as_posix() for stem in sorted(labels.keys() - used)]
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
        """Returns the class, and N×2 corners as shares of width and height."""
        fields = line.split()
        if len(fields) == 5:
            raise ImageError(
                path,
                f"line {number}: five numbers are a box (YOLO detection); segmentation needs an"
                " outline of three corners or more",
            )
        if len(fields) < 7 or len(fields) % 2 == 0:
            raise ImageError(path, f"line {number}: expected class x1 y1 x2 y2 x3 y3 …, found {len(fields)} fields")
        try:
            values = np.array(fields, np.float64)
        except ValueError as error:
            raise ImageError(path, f"line {number}: holds something that is no number") from error
        if not np.isfinite(values).all():
            raise ImageError(path, f"line {number}: holds a number that is not finite")
        class_id, corners = values[0], values[1:].reshape(-1, 2)
        if not (0 <= class_id < 2**31 and class_id.is_integer()):
            raise ImageError(path, f"line {number}: {shown(fields[0])} is no class id")
        if self.classes.ids is not None and int(class_id) not in self.classes.ids:
            raise ImageError(
                path, f"line {number}: class {int(class_id)} is not among the {len(self.classes.ids)} named classes"
            )
        if corners.min() < -BORDER or corners.max() > 1 + BORDER:
            raise ImageError(
                path,
                f"line {number}: a polygon outside the image: coordinates from {corners.min():g} to"
                f" {corners.max():g}, they must be shares from 0 to 1",
            )
        return int(class_id), corners.clip(0, 1)


def label_texts(folder: Path, problems: list[Problem]) -> list[Path]:
    """Returns the .txt files under a folder that may be labels; where there is a labels/ folder, only those in it."""
    texts = [
        path for path in walk(folder, problems) if path.suffix.lower() == ".txt" and path.name.lower() not in NO_LABELS
    ]
    below = [path for path in texts if "labels" in path.relative_to(folder).parts[:-1]]
    return below or texts


def looks_like_yolo(path: Path) -> bool:
    """Returns whether the first line that is not empty is a class and an outline."""
    try:
        with open_text(path, errors="replace") as file:
            lines = (file.readline(1 << 20) for _ in range(10))
            fields = next((line.split() for line in lines if line.strip()), [])
        return len(fields) >= 5 and fields[0].isdigit() and bool(np.isfinite(np.array(fields, np.float64)).all())
    except (OSError, ValueError):
        return False


def read_names(path: Path) -> dict[int, str]:
    """Returns class id → name, from data.yaml's `names` (a list, or id: name) or from a text of one name a line."""
    data = read_bytes(path)
    if len(data) > MAX_NAMES_FILE:
        raise UserError(f"{path}: over {MAX_NAMES_FILE >> 10} kB; a file of class names is smaller")
    try:
        text = data.decode("utf-8-sig")
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
    files: dict[str, Path] = {}
    used: set[str] = set()
    for name in names:
        stems = _label_stems(stem_of(name), images_root, labels_root)
        stem = next((stem for stem in stems if stem in labels), None)
        if stem is not None:
            files[name] = labels[stem]
            used.add(stem)
    return files, used


def _names_file(folder: Path) -> Path | None:
    """Returns data.yaml of the folder or the one above it, else classes.txt."""
    for place in (folder, folder.parent):
        for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", CLASSES_FILE):
            if (place / name).is_file():
                return place / name
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
    try:
        if path.stat().st_size == 0:
            return []  # an image without objects
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    data = read_bytes(path) if path.stat().st_size <= MAX_FILE else b""
    if not data:
        raise ImageError(path, f"over {MAX_FILE >> 20} MB; a label file is smaller")
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ImageError(path, f"is no text ({error.reason})") from error
