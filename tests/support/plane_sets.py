"""One folder of files of planes with masks of every kind: what owners keep, some of it broken."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import pyogrio
import rasterio.shutil
from PIL import Image

from tests.support.dicom_files import made, segmentation
from tests.support.geotiff_files import PLACE, raster, scene

HEIGHT, WIDTH = 70, 110
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
RING = [list(PLACE * corner) for corner in ((12, 9), (81, 9), (12, 52), (12, 9))]
# What is protected, sorted as a manifest is; pictures are among them, whose names depend on what lies beside them.
PROTECTED = (
    *("maps/cloud.tif", "maps/grid.tif", "maps/lakes.tif", "maps/roads.tif", "maps/town.tif"),
    *("photo.png", "photo.tif", "scans/IM1", "scans/first.dcm", "scans/slices", "volume.nii.gz"),
)
SKIPPED = ("scans/other.dcm",)
# What is refused, and what its line says.
FAILED = {
    "bad/elsewhere.nii": "another affine",
    "bad/mask.nii": "mask: holds far more bytes than its header promises",
    "bad/outlines.tif": "mask: is no GeoJSON",
    "bad/shapes.tif": "mask: outlines that cannot be read (Unable to open shapes.shx",
    "bad/values.tif": "broken image",
}


def make_planes(folder: Path) -> None:
    """Writes images to `in` and masks to `masks`."""
    _maps(folder / "in" / "maps", folder / "masks" / "maps")
    _scans(folder / "in" / "scans", folder / "masks")
    _volumes(folder / "in", folder / "masks")
    _bad(folder / "in" / "bad", folder / "masks" / "bad")
    colours = scene(HEIGHT, WIDTH, 3, "uint8").transpose(1, 2, 0)
    for name in ("photo.png", "photo.tif"):  # of which the second becomes photo.tif.png
        Image.fromarray(np.ascontiguousarray(colours)).save(folder / "in" / name)
    Image.fromarray(_region() * np.uint8(255)).save(folder / "masks" / "photo.png")


def _region() -> np.ndarray:
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[14:51, 23:88] = True
    return region


def _maps(images: Path, masks: Path) -> None:
    for number, name in enumerate(("grid", "lakes", "roads", "town"), 1):
        raster(images / f"{name}.tif", scene(HEIGHT + number, WIDTH, number, "uint16"), overviews=(2,))
    raster(images / "plain.tif", scene(HEIGHT, WIDTH, 1, "float32"))
    rasterio.shutil.copy(images / "plain.tif", images / "cloud.tif", driver="COG", compress="DEFLATE", blocksize=128)
    (images / "plain.tif").unlink()
    for name, extra in (("grid", 1), ("cloud", 0)):
        mask = np.zeros((1, HEIGHT + extra, WIDTH), np.uint8)
        mask[0, :HEIGHT] = _region()
        raster(masks / f"{name}.tif", mask)
    (masks / "lakes.geojson").write_text(_geojson())
    outlines(masks / "roads.shp")
    outlines(masks / "town.gpkg")


def _geojson() -> str:
    crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [RING]}}
    return json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]})


def outlines(path: Path) -> None:
    """Writes a triangle as a Shapefile or GeoPackage, by the path's suffix."""
    numbers = [number for point in RING for number in point]
    polygon = struct.pack(f"<BIII{len(numbers)}d", 1, 3, 1, len(RING), *numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyogrio.raw.write(
        path,
        geometry=np.array([polygon], object),
        field_data=[np.array([7])],
        fields=np.array(["kind"]),
        geometry_type="Polygon",
        crs="EPSG:32633",
    )


def _scans(images: Path, masks: Path) -> None:
    words = (np.arange(3 * 10 * 14, dtype=np.uint8).reshape(3, 10, 14) % 90) + 80
    made(images / "first.dcm", words)
    made(images / "IM1", words[:1], SOPInstanceUID="1.2.3.4.6")
    made(images / "other.dcm", words[:1], SOPInstanceUID="1.2.3.4.7")
    made(images / "slices", words, SOPInstanceUID="1.2.3.4.8")
    shown = np.zeros((3, 10, 14), bool)
    shown[0, 2:5, 3:9], shown[1, 6:9, 1:12], shown[2, 1:5, 2:11] = True, True, True
    sources = [("1.2.3.4.5", 2), ("1.2.3.4.5", 3), ("1.2.3.4.6", None)]
    segmentation(masks / "whole-series.dcm", shown, sources, [1, 1, 1])
    (masks / "scans").mkdir(parents=True, exist_ok=True)
    Image.fromarray(shown[1] * np.uint8(255)).save(masks / "scans" / "slices.png")


def _volumes(images: Path, masks: Path) -> None:
    shape = (14, 18, 5)
    values = (np.arange(np.prod(shape), dtype=np.int16).reshape(shape) * 7) % 900
    ball = np.zeros(shape, np.uint8)
    ball[2:13, 4:15, 1:4] = 1
    for image, name, content, affine in (
        (images, "volume.nii.gz", values, AFFINE),
        (masks, "volume.nii", ball, AFFINE),
        (images, "bad/elsewhere.nii", values, AFFINE),
        (masks, "bad/elsewhere.nii", ball, AFFINE + np.diag([0, 0, 1, 0])),
        (images, "bad/mask.nii", values, AFFINE),
    ):
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(content, affine), image / name)
    bomb = (masks / "volume.nii").read_bytes() + bytes(100_000_000)
    (masks / "bad" / "mask.nii.gz").write_bytes(gzip.compress(bomb, 1))


def _bad(images: Path, masks: Path) -> None:
    for name in ("outlines", "shapes", "values"):
        raster(images / f"{name}.tif", scene(HEIGHT, WIDTH, 1, "float32"))
    good = (images / "values.tif").read_bytes()
    (images / "values.tif").write_bytes(good[: len(good) // 2])
    (masks / "outlines.geojson").write_text('{"type": "FeatureCollection"')
    (masks / "values.geojson").write_text(_geojson())
    outlines(masks / "shapes.shp")
    (masks / "shapes.shx").unlink()
