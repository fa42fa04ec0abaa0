"""Rasters, opened by rasterio with what lies beside them left alone: what promises too much is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from unseg.storage.image_limits import ImageError, image_errors, said_of
from unseg.storage.stacks.stack import Part
from unseg.storage.tiff_structure import check_entries

STORED_BLOCK_BYTES = 2**29  # of a tile or strip of the file, that has to be unpacked at once
MOST_PIXELS, MOST_BANDS = 2**34, 2**12
UNFOLDS = 2000  # times its bytes: more than packing of rasters makes of any values but equal ones
SAMPLED = 2**22  # values of a band, about, that tell its range; of small files all
ROWS = 1024  # that are read at a time


@contextmanager
def raster_errors(path: Path) -> Iterator[None]:
    """Sets GDAL up for files alone, without what lies beside them, and turns its errors into one ImageError."""
    options: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_TIFF_INTERNAL_MASK": "YES",
        "GDAL_CACHEMAX": 128,
        "GDAL_NUM_THREADS": "1",
    }
    with image_errors(path), rasterio.Env(**options):
        try:
            yield
        except (RasterioError, CPLE_BaseError) as error:
            raise ImageError(path, f"broken image: {said_of(error, path)}") from error


def open_raster(path: Path, max_pixels: int) -> Any:
    """Opens a file as a raster; ImageError where its header promises what would take too much."""
    check_entries(path)
    with raster_errors(path):
        data_set = rasterio.open(os.fspath(path), driver="GTiff")
    try:
        _check(path, data_set, max_pixels)
    except ImageError:
        data_set.close()
        raise
    return data_set


def _check(path: Path, data_set: Any, max_pixels: int) -> None:
    pixels, size = data_set.width * data_set.height, np.dtype(data_set.dtypes[0]).itemsize
    promised = pixels * data_set.count * size
    if pixels > MOST_PIXELS or data_set.count > MOST_BANDS:
        raise ImageError(path, f"{data_set.width}×{data_set.height} in {data_set.count} bands is over all limits")
    if pixels > max_pixels and promised > UNFOLDS * os.stat(path).st_size:
        raise ImageError(path, f"promises {promised:,} bytes of values, far more than it holds: it is damaged")
    height, width = data_set.block_shapes[0]
    together = data_set.count if str(data_set.profile.get("interleave")) == "pixel" else 1
    if height * width * size * together > STORED_BLOCK_BYTES and data_set.profile.get("compress") is not None:
        raise ImageError(path, f"packed in parts of {width}×{height} pixels: store it in tiles first")
    if data_set.subdatasets:
        raise ImageError(path, f"holds {len(data_set.subdatasets)} pages: save each as a file of its own first")
    kinds = {np.dtype(name).kind if not name.startswith("complex_") else "c" for name in data_set.dtypes}
    if not kinds <= set("iuf"):
        raise ImageError(path, f"{data_set.dtypes[0]} values are not protected: save real numbers first")


def window_of(part: Part) -> Window:
    """Returns a part as rasterio names it."""
    rows, columns = part.rows, part.columns
    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


def sampled(data_set: Any, band: int) -> np.ndarray:
    """Returns every so-and-so-manieth value of every so-and-so-manieth row of a band, about `SAMPLED`, in one row.

    They are the file's own: overviews, which may hold means, are not asked.
    """
    step = max(1, math.isqrt(max(1, data_set.width * data_set.height // SAMPLED)))
    rows = max(1, ROWS // step) * step
    found = []
    for top in range(0, data_set.height, rows):
        window = Window(0, top, data_set.width, min(rows, data_set.height - top))
        found.append(data_set.read(band, window=window)[::step, ::step].ravel())
    return np.concatenate(found)
