"""The formats of owners' files, one row each: what they need, and which modules read, write and prove them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from unseg.errors import is_there, needs
from unseg.storage.files import open_for_reading, sha256_of
from unseg.storage.image_limits import IMAGE_SUFFIXES, MAX_PIXELS, ImageError
from unseg.storage.label_decoding import Label, open_label
from unseg.storage.mounts import is_mounted
from unseg.storage.picture_kinds import START, VECTOR_SUFFIXES, kind_of
from unseg.storage.stacks.stack import Labels, Proof, Stack
from unseg.storage.tiff_structure import raster_in

PICTURES = frozenset(IMAGE_SUFFIXES) - {".tif", ".tiff"}


@dataclass(frozen=True)
class StackKind:
    """A format of planes.

    name: as messages and manifests say it. package: the library that it needs. module: its `open_stack(path,
    max_pixels, bands)`, `open_proof(original, output, max_pixels, bands)` and `open_labels(path, max_pixels, stack)`,
    see `unseg.storage.stacks.stack`.
    """

    name: str
    package: str
    module: str

    def open(self, path: Path, max_pixels: int, bands: tuple[int, ...] | None = None) -> Stack:
        """Opens a file; ImageError says where that cannot be."""
        return self._module(path).open_stack(path, max_pixels, bands)

    def proof(self, original: Path, output: Path, max_pixels: int, bands: tuple[int, ...] | None = None) -> Proof:
        """Opens a protected file beside its original, by other means than `open` and `Stack.write`."""
        return self._module(output).open_proof(original, output, max_pixels, bands)

    def labels(self, path: Path, max_pixels: int, stack: Stack | None) -> Labels:
        """Opens a mask for a file of planes, or for itself; ImageError says where it is none, or does not fit."""
        return self._module(path).open_labels(path, max_pixels, stack)

    @property
    def is_there(self) -> bool:
        """Returns whether the library is installed."""
        return is_there(self.package)

    def is_picture(self, path: Path) -> bool:
        """Returns whether a file of the format can be read as a picture, too, if without its place on earth."""
        try:
            with open_for_reading(path) as file:
                return kind_of(file.read(START)) == "TIFF" and raster_in(file) == "picture"
        except OSError:
            return False

    def check_here(self, path: Path) -> None:
        """Raises ImageError where a path is a store's: the libraries open files by name, and others beside them."""
        if is_mounted(path):
            raise ImageError(path, f"{self.name} is read and written in folders of this machine alone: copy it there")

    def _module(self, path: Path) -> Any:
        if not self.is_there:
            raise ImageError(path, f"{self.name} {needs(self.package)}")
        self.check_here(path)
        return import_module(self.module)


_ALL = (
    StackKind("DICOM", "pydicom", "unseg.storage.stacks.dicom_stack"),
    StackKind("GeoTIFF", "rasterio", "unseg.storage.stacks.geotiff_stack"),
    StackKind("NIfTI", "nibabel", "unseg.storage.stacks.nifti_stack"),
)
KINDS = {kind.name: kind for kind in _ALL}


def stack_kind_of(path: Path) -> StackKind | None:
    """Returns the format of planes that a file is of, by its first bytes; None for pictures and all else.

    Files that are called as pictures are not opened.
    """
    if path.suffix.lower() in PICTURES:
        return None
    try:
        with open_for_reading(path) as file:
            kind = kind_of(file.read(START))
            if kind == "TIFF":
                raster = raster_in(file)
                is_one = raster is not None and (KINDS["GeoTIFF"].is_there or raster == "raster")
                return KINDS["GeoTIFF"] if is_one else None
            return KINDS.get(kind or "")
    except OSError:
        return None


def is_vector_name(path: Path) -> bool:
    """Returns whether a file is called as outlines in the coordinates of a map are."""
    return path.suffix.lower() in VECTOR_SUFFIXES


def open_labels(path: Path, max_pixels: int, stack: Stack | None = None) -> Labels | None:
    """Returns a mask of planes, which fits `stack` where that is given; None where the file is an ordinary mask."""
    kind = KINDS["GeoTIFF"] if is_vector_name(path) else stack_kind_of(path)
    return None if kind is None else kind.labels(path, max_pixels, stack)


def any_label(path: Path, max_pixels: int = MAX_PIXELS) -> Label:
    """Returns a mask of any format by itself; of one of planes, as `Labels.tall` has it."""
    labels = open_labels(path, max_pixels)
    if labels is None:
        return open_label(path, max_pixels)
    return Label(labels.tall(), None, False, sha256_of(path) or "")
