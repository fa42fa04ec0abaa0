"""Masks of GeoTIFF: rasters of the same grid, and outlines on a map (GeoJSON, Shapefile, GeoPackage)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.features import bounds, rasterize
from rasterio.transform import array_bounds
from rasterio.warp import transform_geom
from rasterio.windows import transform as window_transform

from unseg.errors import is_there, needs
from unseg.storage.image_limits import ImageError, open_regular, said_of
from unseg.storage.stacks.geotiff_reading import open_raster, raster_errors, sampled, window_of
from unseg.storage.stacks.stack import Labels, Part

OBJECT = 255
MOST_BYTES = 2**28  # of a file of outlines
WGS_84 = CRS.from_epsg(4326)  # of GeoJSON (RFC 7946, 4)
BLOCK_ROWS = 256


def raster_labels(path: Path, max_pixels: int, image: Any) -> RasterLabels:
    """Opens a raster as a mask. image: the raster that it is for, or None. ImageError where it does not fit."""
    data_set = open_raster(path, max_pixels)
    try:
        if data_set.count != 1 or np.dtype(data_set.dtypes[0]).kind not in "iu":
            raise ImageError(path, "a mask has one band of whole numbers")
        if image is not None and (data_set.height, data_set.width) != (image.height, image.width):
            raise ImageError(path, f"is {data_set.width}×{data_set.height}, its image is {image.width}×{image.height}")
        both = image is not None and data_set.crs is not None and image.crs is not None
        if both and not (data_set.crs == image.crs and data_set.transform.almost_equals(image.transform, 1e-6)):
            raise ImageError(path, "lies on another place of the earth than its image")
        with raster_errors(path):
            return RasterLabels(path, data_set, _highest(data_set))
    except ImageError:
        data_set.close()
        raise


def _highest(data_set: Any) -> int:
    height, width = data_set.height, data_set.width
    bands = (((top, min(top + BLOCK_ROWS, height)), (0, width)) for top in range(0, height, BLOCK_ROWS))
    return max(int(data_set.read(1, window=window).max()) for window in bands)


class RasterLabels(Labels):
    """The values of a raster, read window by window. highest: of them all."""

    def __init__(self, path: Path, data_set: Any, highest: int) -> None:
        self._path, self._data_set, self.highest = path, data_set, highest

    def values(self, part: Part) -> np.ndarray:
        with raster_errors(self._path):
            return self._data_set.read(1, window=window_of(part))

    def tall(self) -> np.ndarray:
        with raster_errors(self._path):
            if self._data_set.width * self._data_set.height <= MOST_BYTES // 64:
                return self._data_set.read(1)
            chosen = sampled(self._data_set, 1)
        return chosen[: chosen.size // 64 * 64].reshape(-1, 64)


# --- outlines --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outlines:
    """shapes: as GeoJSON has them. crs: their coordinates; None where the file does not say."""

    shapes: Sequence[dict[str, Any]]
    crs: CRS | None


def vector_labels(path: Path, image: Any) -> VectorLabels:
    """Opens outlines as a mask. image: the raster that they are for, or None: then only whether they can be read."""
    with raster_errors(path):
        outlines = _of_geojson(path) if path.suffix.lower() == ".geojson" else _of_vectors(path)
        if image is None:
            return VectorLabels([], None, ())
        if image.crs is None:
            raise ImageError(path, "its image has no coordinates, and so no place for outlines on a map")
        shapes: list[dict[str, Any]] = list(outlines.shapes)
        if outlines.crs is not None and outlines.crs != image.crs:
            shapes = [transform_geom(outlines.crs, image.crs, shape) for shape in shapes]
        return VectorLabels(shapes, image.transform, [bounds(shape) for shape in shapes])


class VectorLabels(Labels):
    """Outlines drawn window by window: a pixel whose middle lies in one is object."""

    highest = OBJECT

    def __init__(self, shapes: list[dict[str, Any]], transform: Any, boxes: Sequence[Any]) -> None:
        self._shapes, self._transform = shapes, transform
        self._boxes = np.array(boxes, np.float64).reshape(-1, 4)

    def values(self, part: Part) -> np.ndarray:
        size = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
        place = window_transform(window_of(part), self._transform)
        left, bottom, right, top = array_bounds(*size, place)
        low, high = min(bottom, top), max(bottom, top)
        boxes = self._boxes
        near = (boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= high) & (boxes[:, 3] >= low)
        shapes = [self._shapes[number] for number in np.flatnonzero(near)]
        if not shapes:
            return np.zeros(size, np.uint8)
        return rasterize(shapes, size, fill=0, transform=place, default_value=OBJECT, dtype="uint8")

    def tall(self) -> np.ndarray:
        return np.array([[0, OBJECT], [0, OBJECT]], np.uint8)


def _of_geojson(path: Path) -> _Outlines:
    data = _bytes(path)
    try:
        values = json.loads(data)
        found = list(_geometries(values))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ImageError(path, f"is no GeoJSON ({str(error)[:80]})") from error
    named = values.get("crs") or {}
    name = named.get("properties", {}).get("name") if isinstance(named, dict) else None
    return _Outlines(_areas(path, found), CRS.from_user_input(name) if name else WGS_84)


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ImageError(path, f"over {MOST_BYTES >> 20} MB of outlines: give a raster")
    return data


def _geometries(values: Any) -> Iterator[dict[str, Any]]:
    kind = values["type"]
    if kind == "FeatureCollection":
        for feature in values["features"]:
            yield from _geometries(feature)
    elif kind == "Feature":
        if values["geometry"] is not None:
            yield from _geometries(values["geometry"])
    elif kind == "GeometryCollection":
        for part in values["geometries"]:
            yield from _geometries(part)
    else:
        yield {"type": kind, "coordinates": values["coordinates"]}


def _areas(path: Path, shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the shapes; ImageError where one encloses no area."""
    other = next((shape["type"] for shape in shapes if shape["type"] not in ("Polygon", "MultiPolygon")), None)
    if other is not None:
        raise ImageError(path, f"holds a {other}, which encloses no area: give polygons")
    if not shapes:
        raise ImageError(path, "holds no outline")
    return shapes


def _of_vectors(path: Path) -> _Outlines:
    if not is_there("pyogrio"):
        raise ImageError(path, f"a file of outlines {needs('pyogrio')}")
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyogrio.raw import read

    if path.stat().st_size > MOST_BYTES:
        raise ImageError(path, f"over {MOST_BYTES >> 20} MB of outlines: give a raster")
    try:
        meta, _, geometries, _ = read(path, columns=[], force_2d=True)
        shapes = [_of_wkb(bytes(geometry)) for geometry in geometries if geometry is not None]
    except (DataSourceError, DataLayerError, struct.error) as error:
        raise ImageError(path, f"outlines that cannot be read ({said_of(error, path)})") from error
    crs = meta.get("crs")
    return _Outlines(_areas(path, shapes), CRS.from_user_input(crs) if crs else None)


def _of_wkb(data: bytes) -> dict[str, Any]:
    """Returns a shape as GeoJSON has it, from its binary form in two dimensions (OGC 06-103r4, 8.2)."""
    return _wkb(data, 0)[0]


def _wkb(data: bytes, place: int) -> tuple[dict[str, Any], int]:
    order = "<" if data[place] == 1 else ">"
    (kind, count), place = struct.unpack_from(f"{order}II", data, place + 1), place + 9
    if kind == 3:
        rings = []
        for _ in range(count):
            (points,) = struct.unpack_from(f"{order}I", data, place)
            numbers = struct.unpack_from(f"{order}{2 * points}d", data, place + 4)
            rings.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
            place += 4 + 16 * points
        return {"type": "Polygon", "coordinates": rings}, place
    if kind == 6:
        parts = []
        for _ in range(count):
            part, place = _wkb(data, place)
            parts.append(part["coordinates"])
        return {"type": "MultiPolygon", "coordinates": parts}, place
    return {"type": f"geometry of kind {kind}"}, place
