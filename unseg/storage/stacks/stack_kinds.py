"""The formats of owners' files, one row each: what they need, and which modules read, write and prove them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from unseg.errors import is_there, needs
from unseg.storage.files import sha256_of
from unseg.storage.image_limits import MAX_PIXELS, ImageError
from unseg.storage.label_decoding import Label, open_label
from unseg.storage.mounts import held, is_in_a_file
from unseg.storage.picture_kinds import VECTOR_SUFFIXES, look_at, side_files, tells_by_name
from unseg.storage.stacks.stack import Labels, Proof, Stack


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
        module = self._module(path)
        with ExitStack() as contents:
            contents.enter_context(_at_hand(path))
            stack: Stack = module.open_stack(path, max_pixels, bands)
            stack.contents = contents.pop_all()
            return stack

    def proof(self, original: Path, output: Path, max_pixels: int, bands: tuple[int, ...] | None) -> Proof:
        """Opens a protected file beside its original, by other means than `open` and `Stack.write`."""
        module = self._module(output)
        with ExitStack() as contents:
            for path in (original, output):
                contents.enter_context(_at_hand(path))
            proof: Proof = module.open_proof(original, output, max_pixels, bands)
            proof.contents = contents.pop_all()
            return proof

    def labels(self, path: Path, max_pixels: int, stack: Stack | None) -> Labels:
        """Opens a mask for a file of planes, or for itself; ImageError says where it is none, or does not fit.

        It stays open as long as the file that it is for.
        """
        module = self._module(path)
        with ExitStack() as contents:
            contents.enter_context(_at_hand(path))
            labels: Labels = module.open_labels(path, max_pixels, stack)
            if stack is not None:
                stack.contents.push(contents.pop_all())
            return labels

    @property
    def is_there(self) -> bool:
        """Returns whether the library is installed."""
        return is_there(self.package)

    def is_picture(self, path: Path) -> bool:
        """Returns whether a file of the format can be read as a picture, too, if without its place on earth."""
        try:
            return look_at(path).raster == "picture"
        except OSError:
            return False

    def _module(self, path: Path) -> Any:
        if not self.is_there:
            raise ImageError(path, f"{self.name} {needs(self.package)}")
        if is_in_a_file(path):
            raise ImageError(path, f"{self.name} in tars and tables is not protected: give it as a file of its own")
        return import_module(self.module)


@contextmanager
def _at_hand(path: Path) -> Iterator[None]:
    """Inside, the content of a file is here, and of those beside it that belong to it: libraries open them by name."""
    with ExitStack() as contents:
        try:
            contents.enter_context(held(path, *side_files(path)))
        except OSError as error:
            raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
        yield


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
    if tells_by_name(path):
        return None
    try:
        kind, raster = look_at(path)
    except OSError:
        return None
    if kind == "TIFF":
        is_one = raster is not None and (KINDS["GeoTIFF"].is_there or raster == "raster")
        return KINDS["GeoTIFF"] if is_one else None
    return KINDS.get(kind or "")


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
