"""Reads SA-1B: one json an image, with masks as run lengths that no class tells apart. Source: the data set's page.

The file 1.json is `{"image": {"width", "height", "file_name", …}, "annotations": [{"segmentation", "id", …}, …]}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unseg.compute.progress import SILENT, Progress, track
from unseg.data.annotations.coco import add_entry
from unseg.data.annotations.coco_index import need_object
from unseg.data.annotations.core import Annotated, Annotations, ClassTable, Unannotated, check_size
from unseg.data.annotations.json_stream import open_json
from unseg.data.annotations.names import ImagesFolder, ImageStems, whole_number
from unseg.data.annotations.outlines import OutlineCollector
from unseg.data.samples import Problem, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

OBJECT = 1  # the class of all masks
CLASSES = ClassTable({OBJECT: "object"}, None, frozenset(), frozenset({OBJECT}))


class SegmentAnything(Annotations):
    """Reads one json for each image. files: image name → its json."""

    format = "sa-1b"
    classes = CLASSES

    def __init__(self, files: Mapping[str, Path], missing: Sequence[Problem], statement: str) -> None:
        self._files, self.missing, self.statement = dict(files), tuple(missing), statement

    @classmethod
    def open(cls, path: Path, images_root: Path, progress: Progress = SILENT) -> SegmentAnything:
        """Looks at every json of a folder (recursive), or at one file, and finds its image."""
        problems: list[Problem] = []
        root = path.parent if path.is_file() else path
        files = [path] if path.is_file() else [file for file in walk(path, problems) if file.suffix.lower() == ".json"]
        names = {file: file.relative_to(root).as_posix() for file in files}
        folder = ImagesFolder.open(images_root)
        stems = ImageStems(folder, map(stem_of, names.values()))
        found: dict[str, Path] = {}
        broken: list[UserError] = []
        for file in track(progress, files, len(files), "annotations"):
            try:
                said = dict(_contents(file, with_masks=False)).get("image", {}).get("file_name")
            except UserError as error:  # `read` meets it again, if the file has an image
                said, reason = None, str(error)
                broken.append(error)
            else:
                reason = "a json of SA-1B without an image"
            image = stems.image_of(names[file], file, said, "file_name")
            if image is None:
                problems.append(Problem(names[file], reason))
            elif image in found:
                raise UserError(f"{file}: is for {image}, as is {found[image]}; remove one")
            else:
                found[image] = file
        if broken and len(broken) == len(files):
            raise broken[0]
        return cls(found, [*folder.problems, *problems], f"SA-1B: {len(files)} files in {root}")

    def names(self) -> Sequence[str]:
        return sorted([*self._files, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        path = self._files.get(image_name)
        if path is None:
            raise Unannotated(Path(image_name), "no json of SA-1B for it")
        outlines = OutlineCollector(path, height, width, self.classes)
        try:
            for key, value in _contents(path, with_masks=True):
                if key == "image":
                    sides = [whole_number(value.get(side), f"{path}: image.{side}") for side in ("height", "width")]
                    check_size(path, "the image there", (sides[0], sides[1]), height, width)
                else:
                    add_entry(outlines, key, value, OBJECT, crowd=False)
        except ImageError:
            raise
        except UserError as error:  # what is wrong with one file concerns one image
            raise ImageError(path, str(error).removeprefix(f"{path}: ")) from error
        return outlines.finish()


def _contents(path: Path, with_masks: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields "image" with what the file says of it, and each mask behind its name; UserError where it is no such file.

    with_masks: whether masks are looked at.
    """
    seen: set[str] = set()
    with open_json(path) as stream:
        for key in stream.members():
            seen.add(key)
            if key == "image":
                image = stream.value()
                need_object(image, f"{path}: image")
                yield key, image
            elif key == "annotations" and with_masks:
                for number, (entry, _, _) in enumerate(stream.elements()):
                    need_object(entry, f"{path}: annotations[{number}]")
                    yield f"annotations[{number}]", entry
            else:
                stream.skip()
    if not {"image", "annotations"} <= seen:
        raise UserError(f'{path}: has no "image" and "annotations"; is it a json of SA-1B?')
