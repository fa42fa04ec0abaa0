"""GeoTIFF: any bands, in windows of bounded size, read and written by rasterio. Bands that are not chosen stay."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, MaskFlags, Resampling

from unseg.storage.files import temporary_in
from unseg.storage.image_limits import ImageError
from unseg.storage.picture_kinds import VECTOR_SUFFIXES
from unseg.storage.stacks.geotiff_labels import raster_labels, vector_labels
from unseg.storage.stacks.geotiff_proof import GeoTiffProof
from unseg.storage.stacks.geotiff_reading import open_raster, raster_errors, sampled, window_of
from unseg.storage.stacks.stack import (
    PERCENTILES,
    Labels,
    Layout,
    Part,
    Samples,
    Stack,
    ValueRange,
    range_of_values,
)

FULL = 2**20  # bytes of room, below which a disk takes nothing more
BLOCK = 1024  # pixels: side of the windows, each with noise of its own, as networks are trained on parts of this size
BLOCK_BYTES = 2**27  # of a window in all its bands; more bands have smaller windows
LOSSLESS = {"deflate", "lzw", "zstd", "packbits", "lzma"}
KEPT_OPTIONS = ("tiled", "blockxsize", "blockysize", "interleave")


def open_stack(path: Path, max_pixels: int, bands: tuple[int, ...] | None) -> GeoTiffStack:
    """Opens a GeoTIFF whose values can be protected; ImageError names what cannot. bands: those to protect, from 1;
    None: all but transparency."""
    data_set = open_raster(path, max_pixels)
    try:
        with raster_errors(path):
            chosen = _chosen(path, data_set, bands)
            return GeoTiffStack(path, data_set, _layout(path, data_set, chosen))
    except ImageError:
        data_set.close()
        raise


def open_proof(original: Path, output: Path, max_pixels: int, bands: tuple[int, ...] | None) -> GeoTiffProof:
    """Opens a protected file beside its original, both read by tifffile."""
    with (
        raster_errors(output),
        rasterio.open(original, driver="GTiff") as before,
        rasterio.open(output, driver="GTiff") as after,
    ):
        same_place = before.crs == after.crs and before.transform.almost_equals(after.transform, 1e-12)
        return GeoTiffProof.open(original, output, _chosen(original, before, bands), same_place)


def open_labels(path: Path, max_pixels: int, stack: Stack | None) -> Labels:
    """Opens a mask: a raster of the image's size and place, or outlines in the coordinates of a map."""
    data_set = stack.data_set if isinstance(stack, GeoTiffStack) else None
    if path.suffix.lower() in VECTOR_SUFFIXES:
        if stack is not None and data_set is None:
            raise ImageError(path, f"outlines on a map are for GeoTIFF, and its image is {stack.kind}")
        return vector_labels(path, data_set)
    return raster_labels(path, max_pixels, data_set)


class GeoTiffStack(Stack):
    """The chosen bands of a GeoTIFF. data_set: rasterio's. layout: checked."""

    kind = "GeoTIFF"

    def __init__(self, path: Path, data_set: Any, layout: Layout) -> None:
        self.path, self.data_set, self.layout = path, data_set, layout
        assert layout.bands is not None, "a raster has bands"
        self._bands = list(layout.bands)
        self._none = data_set.nodatavals[self._bands[0] - 1]
        self._has_mask = not {MaskFlags.all_valid, MaskFlags.nodata} & set(data_set.mask_flag_enums[0])
        size = BLOCK
        while size > 64 and size * size * len(self._bands) * 8 > BLOCK_BYTES:
            size //= 2
        self.block = size

    def read(self, part: Part) -> Samples:
        window = window_of(part)
        with raster_errors(self.path):
            values = np.moveaxis(self.data_set.read(self._bands, window=window), 0, -1)
            void = ~np.isfinite(values)
            if self._none is not None:
                void |= values == self._none
            fixed = void.all(axis=2)  # a yellow field has blue 0, and is none where 0 means no value
            if self._has_mask:
                fixed |= self.data_set.read_masks(self._bands[0], window=window) == 0
        forbidden = None if self._none is None or math.isnan(self._none) else (self._none, self._none)
        return Samples(np.ascontiguousarray(values), fixed, forbidden)

    def write(self, path: Path, changed: Iterable[tuple[Part, np.ndarray]], key: bytes) -> None:
        try:
            self._write(path, changed)
        except ImageError as error:  # GDAL does not say that a disk is full
            if shutil.disk_usage(path.parent).free < FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise

    def _write(self, path: Path, changed: Iterable[tuple[Part, np.ndarray]]) -> None:
        source = self.data_set
        with temporary_in(path.parent) as work, raster_errors(self.path):
            # Unpacked first: parts of a packed file that are written anew would leave the old ones in it.
            options = {**_creation(source), "compress": "NONE", "predictor": 1}
            rasterio.shutil.copy(source, os.fspath(work), driver="GTiff", **options)
            with rasterio.open(os.fspath(work), "r+", driver="GTiff") as open_work:
                for part, values in changed:
                    open_work.write(np.moveaxis(values, -1, 0), indexes=self._bands, window=window_of(part))
            _finish(source, work, path)

    def _close(self) -> None:
        self.data_set.close()


# --- what is read ----------------------------------------------------------------------------------------------------


def _chosen(path: Path, data_set: Any, bands: tuple[int, ...] | None) -> tuple[int, ...]:
    """Returns the bands to protect; ImageError where there are none of these numbers."""
    if ColorInterp.palette in data_set.colorinterp:
        raise ImageError(path, "its values are colours of a palette: save it as RGB first")
    if bands is None:
        found = tuple(number for number, means in enumerate(data_set.colorinterp, 1) if means is not ColorInterp.alpha)
        return found or (1,)
    beyond = [band for band in bands if band > data_set.count]
    if beyond:
        raise ImageError(path, f"--bands {beyond[0]}: it has {data_set.count} bands")
    return bands


def _layout(path: Path, data_set: Any, bands: tuple[int, ...]) -> Layout:
    kind, tags = np.dtype(data_set.dtypes[bands[0] - 1]), data_set.tags(bands[0], ns="IMAGE_STRUCTURE")
    bits = int(tags.get("NBITS", kind.itemsize * 8))
    if bits < 8:
        raise ImageError(path, f"{bits} bits a value: 8 and more are protected")
    highest = 2**bits - 1 if kind.kind == "u" and bits < kind.itemsize * 8 else None
    if kind == np.uint8:
        ranges, origin = (ValueRange(0, 255),) * len(bands), "type"
    else:
        found = [range_of_values(_valid(data_set, band)) for band in bands]
        flat = [band for band, span in zip(bands, found, strict=True) if span is None]
        if flat:
            raise ImageError(path, f"band {flat[0]} has no range of values: leave it out with --bands")
        ranges, origin = tuple(span for span in found if span is not None), PERCENTILES
    packing = data_set.profile.get("compress")
    lossy = packing is not None and str(packing).lower() not in LOSSLESS
    return Layout(
        planes=1,
        height=data_set.height,
        width=data_set.width,
        channels=len(bands),
        ranges=ranges,
        range_of=origin,
        highest=highest,
        notes=(f"packed as DEFLATE, since {str(packing).upper()} would change its values",) if lossy else (),
        bands=bands,
    )


def _valid(data_set: Any, band: int) -> np.ndarray:
    """Returns a regular choice of a band's values, without those that stand for none."""
    values = sampled(data_set, band)
    none = data_set.nodatavals[band - 1]
    return values if none is None else values[values != none]


# --- what is written -------------------------------------------------------------------------------------------------


def _creation(source: Any) -> dict[str, Any]:
    """Returns how a file is stored, as GDAL's driver is told; values that lose nothing are packed as they were."""
    profile = source.profile
    structure = source.tags(ns="IMAGE_STRUCTURE")
    options = {name: profile[name] for name in KEPT_OPTIONS if profile.get(name) is not None}
    if not profile.get("tiled"):
        options.pop("blockxsize", None)
    packing = str(profile.get("compress") or "none").lower()
    options["compress"] = (packing if packing in LOSSLESS else "none" if packing == "none" else "deflate").upper()
    if packing in ("deflate", "lzw", "zstd"):
        options["predictor"] = int(structure.get("PREDICTOR", 1))
    bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    return {**options, "bigtiff": "IF_SAFER", **({"nbits": bits} if bits else {})}


def _finish(source: Any, work: Path, path: Path) -> None:
    """Packs the changed file as its source is, with overviews made anew."""
    options, levels = _creation(source), source.overviews(1)
    method = _resampling(source) if levels else Resampling.nearest
    if source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG":
        kept: dict[str, Any] = {name: options[name] for name in ("compress", "bigtiff", "nbits") if name in options}
        if options.get("predictor", 1) != 1:
            kept["predictor"] = "YES"
        kept |= {"blocksize": options.get("blockxsize", 512), "overview_resampling": method.name.upper()}
        kept |= {"overviews": "IGNORE_EXISTING", "overview_count": len(levels)} if levels else {"overviews": "NONE"}
        rasterio.shutil.copy(os.fspath(work), os.fspath(path), driver="COG", **kept)
        return
    rasterio.shutil.copy(os.fspath(work), os.fspath(path), driver="GTiff", **options)
    if levels:
        with rasterio.open(os.fspath(path), "r+", driver="GTiff") as made:
            made.build_overviews(levels, method)


def _resampling(source: Any) -> Resampling:
    """Returns how the source's overviews were made, as far as they say it; else by the nearest pixel."""
    with rasterio.open(source.name, driver="GTiff", overview_level=0) as overview:
        said = overview.tags(1).get("RESAMPLING", "").lower()
    return Resampling[said] if said in Resampling.__members__ else Resampling.nearest
