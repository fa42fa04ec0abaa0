"""NIfTI: slices of a volume along the axis it was acquired on. Its bytes stay but for the values; nibabel proves it.

Sources: the NIfTI-1 and NIfTI-2 standards (nifti1.h, nifti2.h).
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from unseg.storage.image_headers import METADATA_BYTES
from unseg.storage.image_limits import ImageError, image_errors, open_regular, said_of
from unseg.storage.stacks.stack import (
    PERCENTILES,
    Labels,
    Layout,
    Part,
    Proof,
    Samples,
    Stack,
    ValueRange,
    check_pixels,
    range_of_values,
)

GZIP = b"\x1f\x8b"
SIZES = {348: (Nifti1Header, Nifti1Image), 540: (Nifti2Header, Nifti2Image)}
SAMPLED = 2**24  # values that tell the range, at most; of smaller files all
COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
LEVEL = 4  # of packing
SPACE = 3  # axes of the volume; those behind them are time and others


@dataclass(frozen=True)
class Volume:
    """A file's content. data: its bytes, unpacked. offset: where the values begin. shape: of at least three axes.
    axis: along which the slices lie."""

    data: bytes
    packed: bool
    header: Any
    kind: np.dtype
    offset: int
    shape: tuple[int, ...]
    axis: int

    @property
    def slices(self) -> int:
        """Returns the slices of one volume."""
        return self.shape[self.axis]

    @property
    def planes(self) -> int:
        """Returns the slices of all volumes."""
        return self.slices * int(np.prod(self.shape[SPACE:], dtype=np.int64))

    @property
    def plane_size(self) -> tuple[int, int]:
        """Returns height and width of a slice: the other two axes, in their order."""
        height, width = (self.shape[axis] for axis in range(SPACE) if axis != self.axis)
        return height, width

    def array(self, data: bytes | bytearray) -> np.ndarray:
        """Returns a view of the values in `data`, which is this file's or a copy of it."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(data, self.kind, count, self.offset).reshape(self.shape, order="F")

    def plane(self, values: np.ndarray, number: int) -> np.ndarray:
        """Returns a view of one slice, H×W; the slices of the first volume come first."""
        beyond = np.unravel_index(number // self.slices, self.shape[SPACE:] or (1,), order="F")
        here: list[Any] = [slice(None)] * SPACE
        here[self.axis] = number % self.slices
        return values[(*here, *(beyond if len(self.shape) > SPACE else ()))]


def open_stack(path: Path, max_pixels: int, bands: tuple[int, ...] | None) -> NiftiStack:
    """Opens a volume whose values can be protected; ImageError names what cannot."""
    with _errors(path):
        volume = read_volume(path, max_pixels)
        return NiftiStack(path, volume, _layout(path, volume))


def open_proof(original: Path, output: Path, max_pixels: int, bands: tuple[int, ...] | None) -> NiftiProof:
    """Opens a protected file beside its original, both read by nibabel."""
    with _errors(output):
        return NiftiProof(read_volume(original, max_pixels), read_volume(output, max_pixels))


def open_labels(path: Path, max_pixels: int, stack: Stack | None) -> NiftiLabels:
    """Opens a mask of whole numbers, which has the size and the place of its volume."""
    with _errors(path):
        volume = read_volume(path, max_pixels)
        values = volume.array(volume.data)
        if values.dtype.kind == "f" and np.array_equal(values, np.rint(values)):
            values = values.astype(np.int32)
        if values.dtype.kind not in "iu":
            raise ImageError(path, "a mask has whole numbers, one a voxel")
        if stack is None:
            return NiftiLabels(volume, values)
        if not isinstance(stack, NiftiStack):
            raise ImageError(path, f"is a NIfTI mask, and its image is {stack.kind}: give one of its own format or PNG")
        image = stack.volume
        sizes = "×".join(map(str, volume.shape)), "×".join(map(str, image.shape))
        if volume.shape[:SPACE] != image.shape[:SPACE] or volume.shape[SPACE:] not in ((), image.shape[SPACE:]):
            raise ImageError(path, f"is {sizes[0]}, its image is {sizes[1]}")
        if not np.allclose(volume.header.get_best_affine(), image.header.get_best_affine(), atol=1e-3):
            raise ImageError(path, "lies elsewhere in space than its image (another affine)")
        same_axis = Volume(**{**vars(volume), "axis": image.axis})
        return NiftiLabels(same_axis, values)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    with image_errors(path):
        try:
            yield
        except (HeaderDataError, ImageFileError, WrapStructError) as error:
            raise ImageError(path, f"broken image: {said_of(error, path)}") from error


def read_volume(path: Path, max_pixels: int) -> Volume:
    """Returns a file's content; nothing is unpacked beyond what its header promises and `max_pixels` allows."""
    with open_regular(path) as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        start = stream.read(max(SIZES))
        size = next((size for size in SIZES for order in ("little", "big") if _int(start, order) == size), None)
        if size is None or len(start) < size:
            raise ImageError(path, "broken image: no header of NIfTI")
        header = SIZES[size][0].from_fileobj(io.BytesIO(start), check=False)
        kind, offset, shape = _promised(path, header, max_pixels)
        promised = offset + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        data = start + stream.read(promised + METADATA_BYTES + 1 - len(start))
    if len(data) < promised:
        raise ImageError(path, f"its values are cut short: {promised - len(data):,} bytes are missing")
    if len(data) > promised + METADATA_BYTES:
        raise ImageError(path, "holds far more bytes than its header promises")
    return Volume(data, packed, header, kind, offset, shape, _axis(header, shape))


def _int(start: bytes, order: Any) -> int:
    return int.from_bytes(start[:4], order)


def _promised(path: Path, header: Any, max_pixels: int) -> tuple[np.dtype, int, tuple[int, ...]]:
    """Returns type, place and shape of the values; ImageError where they are absurd, or no values of pictures."""
    if bytes(header["magic"].tobytes())[:3] not in (b"n+1", b"n+2"):
        raise ImageError(path, "a header whose values lie in another file: convert them to one .nii first")
    axes = int(header["dim"][0])
    shape = tuple(int(length) for length in header["dim"][1 : axes + 1])
    offset = int(header["vox_offset"])
    smallest = int(header["sizeof_hdr"])
    if not 2 <= axes <= 7 or min(shape) < 1 or not smallest <= offset <= METADATA_BYTES:
        raise ImageError(path, f"broken image: a header of {axes} axes {shape} with values at {offset}")
    shape = (*shape, *(1,) * (SPACE - axes)) if axes < SPACE else shape
    pixels = 1
    for length in shape:
        pixels *= length
    check_pixels(path, 1, 1, pixels, max_pixels)
    kind = header.get_data_dtype()
    if kind.names is not None and kind != COLOURS:
        raise ImageError(path, "colours with transparency are not protected: save RGB first")
    if kind.names is None and (kind.kind not in "iuf" or kind.itemsize > 8):
        raise ImageError(path, f"{kind.name} values are not protected: save whole numbers or floats of 32 bits first")
    return kind, offset, shape


def _axis(header: Any, shape: tuple[int, ...]) -> int:
    """Returns the axis that slices follow: the named one, else that with the thickest voxels, the last of several."""
    named = header.get_dim_info()[2]
    if named is not None and named < SPACE:
        return int(named)
    thickness = [float(header["pixdim"][axis + 1]) if shape[axis] > 1 else -1.0 for axis in range(SPACE)]
    if shape[2] == 1:
        return 2  # one slice
    return max(range(SPACE), key=lambda axis: (thickness[axis], axis))


def _layout(path: Path, volume: Volume) -> Layout:
    channels = 3 if volume.kind == COLOURS else 1
    height, width = volume.plane_size
    if channels == 3 or volume.kind == np.uint8:
        ranges, origin = (ValueRange(0, 255),) * channels, "type"
    else:
        values = volume.array(volume.data).ravel(order="K")
        found = range_of_values(values[:: max(1, values.size // SAMPLED)])
        if found is None:
            raise ImageError(path, "its values do not vary, so that there is no range for a bound")
        ranges, origin = (found,), PERCENTILES
    return Layout(volume.planes, height, width, channels, ranges, origin)


class NiftiStack(Stack):
    """The slices of a NIfTI file. volume: its content. layout: checked."""

    kind = "NIfTI"

    def __init__(self, path: Path, volume: Volume, layout: Layout) -> None:
        self.path, self.volume, self.layout = path, volume, layout
        self._values = volume.array(volume.data)

    def read(self, part: Part) -> Samples:
        values = _channels(self.volume.plane(self._values, part.plane)[part.rows, part.columns])
        return Samples(values, ~np.isfinite(values).all(axis=2))

    def write(self, path: Path, changed: Iterable[tuple[Part, np.ndarray]], key: bytes) -> None:
        data = bytearray(self.volume.data)
        values = self.volume.array(data)
        for part, new_HWC in changed:
            here = self.volume.plane(values, part.plane)[part.rows, part.columns]
            if self.volume.kind == COLOURS:
                for channel, name in enumerate(("R", "G", "B")):
                    here[name] = new_HWC[..., channel]
            else:
                here[...] = new_HWC[..., 0]
        with open(path, "xb") as file:
            if not self.volume.packed:
                file.write(data)
                return
            with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as stream:
                stream.write(data)

    def _close(self) -> None:
        pass  # all of it was read


def _channels(values: np.ndarray) -> np.ndarray:
    """Returns values as H×W×C of this machine's byte order."""
    if values.dtype == COLOURS:
        return np.stack([values[name] for name in ("R", "G", "B")], axis=2)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))[..., None])


class NiftiLabels(Labels):
    """A mask of slices. values: whole numbers in the volume's shape; one volume stands for all."""

    def __init__(self, volume: Volume, values: np.ndarray) -> None:
        self._volume, self._values = volume, values
        self.highest = int(values.max(initial=0))

    def values(self, part: Part) -> np.ndarray:
        plane = self._volume.plane(self._values, part.plane % self._volume.planes)[part.rows, part.columns]
        return np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder("=")))

    def tall(self) -> np.ndarray:
        height, width = self._volume.plane_size
        planes = range(self._volume.planes)
        return np.concatenate([self.values(Part(plane, slice(0, height), slice(0, width))) for plane in planes])


class NiftiProof(Proof):
    """Reads both files with nibabel, which wrote neither."""

    def __init__(self, before: Volume, after: Volume) -> None:
        self._before, self._after = before, after
        self._values = [_by_nibabel(volume) for volume in (before, after)]

    def pair(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        before, after = (
            _channels(self._before.plane(values, part.plane)[part.rows, part.columns]) for values in self._values
        )
        return before, after

    def differences(self) -> Iterator[str]:
        before, after = self._before, self._after
        if before.data[: before.offset] != after.data[: before.offset]:
            yield "its header is not the original's"
        end = before.offset + self._values[0].nbytes
        if before.data[end:] != after.data[end:]:
            yield "what follows its values is not the original's"
        if before.packed != after.packed:
            yield "it is packed, and its original is not, or the other way round"

    def _close(self) -> None:
        pass  # all of it was read


def _by_nibabel(volume: Volume) -> np.ndarray:
    image: Any = SIZES[int(volume.header["sizeof_hdr"])][1].from_bytes(volume.data)
    values = np.asanyarray(image.dataobj.get_unscaled())
    return values.reshape((*values.shape, *(1,) * (SPACE - values.ndim))) if values.ndim < SPACE else values
