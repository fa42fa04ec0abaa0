"""Rasters made with rasterio, as agencies keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin

PLACE = from_origin(500_000, 5_000_000, 10, 20)  # metres of UTM zone 33N, pixels not square
NONE = -9999


def scene(height: int, width: int, bands: int, dtype: str) -> np.ndarray:
    """Returns smooth values with texture, bands×H×W, unlike in each band; some stand for none where that is signed."""
    rows, columns = np.mgrid[:height, :width]
    texture = np.random.default_rng(5).integers(0, 60, (bands, height, width))
    values = np.stack([300 + 900 * band + rows * 2 + columns for band in range(bands)]) + texture
    if dtype == "uint8":
        return (values % 200 + 20).astype(np.uint8)
    values = values.astype(dtype)
    if np.dtype(dtype).kind in "if":
        values[:, : height // 6, : width // 5] = NONE
    return values


def raster(path: Path, values: np.ndarray, overviews: tuple[int, ...] = (), **options: Any) -> Path:
    """Writes bands×H×W with place, tags, descriptions, scales and units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    given = {"crs": "EPSG:32633", "transform": PLACE, "compress": "deflate", **options}
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=values.dtype, **given
    ) as to:
        to.write(values)
        to.update_tags(SENSOR="a & b", TIFFTAG_ARTIST="agency")
        to.update_tags(1, wavelength="490")
        to.set_band_description(bands, "last")
        to.scales, to.offsets = (0.5,) * bands, (2.0,) * bands
        if overviews:
            to.build_overviews(list(overviews), Resampling.average)
    return path
