"""GeoTIFF protected and verified: bands, places, values that stand for none, overviews, and masks of two kinds."""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import tifffile
from rasterio.transform import from_origin

from tests.support.geotiff_files import NONE, PLACE, raster, scene
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.stacks.stack_kinds import KINDS

KEY = bytes(range(32))
HEIGHT, WIDTH = 230, 310
SETTINGS = ProtectSettings(workers=1)


def _mask(folder: Path, name: str = "a.tif", value: int = 1) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:150, 40:260] = value
    raster(folder / name, mask[None])
    return mask > 0


def _protect(folder: Path, settings: ProtectSettings = SETTINGS) -> Summary:
    return protect(folder / "in", folder / "out", settings, masks=folder / "masks", key=KEY)


@pytest.mark.parametrize(
    ("dtype", "bands", "options"),
    [
        ("uint8", 3, {"photometric": "rgb", "compress": "lzw"}),
        ("uint16", 5, {"tiled": True, "blockxsize": 64, "blockysize": 128, "interleave": "band", "compress": "zstd"}),
        ("int16", 1, {"nodata": NONE, "compress": "none"}),
        ("float32", 2, {"nodata": NONE, "predictor": 3}),
        ("float64", 1, {"nodata": NONE}),
        ("uint32", 1, {"predictor": 2}),
    ],
)
def test_all_but_the_values_stays(tmp_path: Path, dtype: str, bands: int, options: dict) -> None:
    values = scene(HEIGHT, WIDTH, bands, dtype)
    raster(tmp_path / "in" / "a.tif", values, (2, 4), **options)
    region = _mask(tmp_path / "masks")
    (entry,) = _protect(tmp_path).entries
    assert (entry.status, entry.output, entry.kind) == ("protected", "a.tif", "GeoTIFF"), entry.reason
    with rasterio.open(tmp_path / "in" / "a.tif") as before, rasterio.open(tmp_path / "out" / "a.tif") as after:
        assert after.profile == before.profile and after.tags() == before.tags() and after.tags(1) == before.tags(1)
        assert (after.descriptions, after.scales, after.offsets) == (before.descriptions, before.scales, before.offsets)
        assert after.overviews(1) == before.overviews(1) == [2, 4]
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        found = (
            file.pages[0]
            .asarray()
            .reshape(values.shape if options.get("interleave") == "band" else (HEIGHT, WIDTH, -1))
        )
    found = found if options.get("interleave") == "band" else np.moveaxis(found, -1, 0)
    change = found.astype(np.float64) - values
    is_value = values != options.get("nodata", -1)
    assert not change[:, ~region].any() and not change[~is_value].any()
    for band in range(bands):
        valid = values[band][is_value[band]]
        low, high = (0, 255) if dtype == "uint8" else np.percentile(valid, (0.1, 99.9))
        assert entry.value_ranges is not None and entry.value_ranges[band] == pytest.approx((low, high))
        most = 8 * (high - low) / 255
        inside = np.abs(change[band][region & is_value[band]])
        assert most - 1 < inside.max() <= most and np.median(inside) > 0.9 * most - 1
    result = verify(tmp_path / "out")
    assert result.exit_code == 0, result


def test_a_cog_stays_a_cog(tmp_path: Path) -> None:
    raster(tmp_path / "plain.tif", scene(HEIGHT * 3, WIDTH * 3, 1, "uint16"))
    (tmp_path / "in").mkdir()
    rasterio.shutil.copy(
        tmp_path / "plain.tif", tmp_path / "in" / "a.tif", driver="COG", blocksize=128, compress="deflate"
    )
    (entry,) = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert entry.status == "protected"
    with rasterio.open(tmp_path / "in" / "a.tif") as before, rasterio.open(tmp_path / "out" / "a.tif") as after:
        assert after.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and after.overviews(1) == before.overviews(1) != []
        half = after.read(1, out_shape=(after.height // 2, after.width // 2))
        assert not np.array_equal(half, before.read(1, out_shape=half.shape))  # no clean copy is left in them
    assert verify(tmp_path / "out").exit_code == 0


def test_chosen_bands_and_an_internal_mask(tmp_path: Path) -> None:
    values = scene(HEIGHT, WIDTH, 4, "uint16")
    path = raster(tmp_path / "in" / "a.tif", values)
    shown = np.full((HEIGHT, WIDTH), True)
    shown[30:60, 50:90] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as file:
        file.write_mask(shown)
    region = _mask(tmp_path / "masks") & shown
    (entry,) = _protect(tmp_path, ProtectSettings(workers=1, bands=(2, 4))).entries
    assert entry.bands == (2, 4) and entry.value_ranges is not None and len(entry.value_ranges) == 2
    with rasterio.open(tmp_path / "out" / "a.tif") as file:
        change = file.read().astype(int) - values
        assert np.array_equal(file.dataset_mask() > 0, shown)
    assert not change[[0, 2]].any() and not change[:, ~region].any() and (change[1][region] != 0).all()
    assert verify(tmp_path / "out").exit_code == 0
    with rasterio.open(tmp_path / "out" / "a.tif", "r+") as file:
        file.write(values[0] + 1, 1)
    assert "bands that were not to change" in str(verify(tmp_path / "out").findings[0].problem)


def _polygon() -> list[list[float]]:
    """Returns a triangle on the map: corners at columns and rows (40, 30), (240, 30), (40, 180)."""
    return [list(PLACE * corner) for corner in ((40, 30), (240, 30), (40, 180), (40, 30))]


def _triangle() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (columns > 40) & (rows > 30) & ((columns - 40) / 200 + (rows - 30) / 150 < 1)


@pytest.mark.parametrize("suffix", [".geojson", ".shp", ".gpkg"])
def test_outlines_on_a_map(tmp_path: Path, suffix: str) -> None:
    values = scene(HEIGHT, WIDTH, 1, "uint16")
    raster(tmp_path / "in" / "a.tif", values)
    (tmp_path / "masks").mkdir()
    ring = _polygon()
    if suffix == ".geojson":
        shape = {"type": "Polygon", "coordinates": [ring]}
        crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
        text = json.dumps(
            {"type": "FeatureCollection", "crs": crs, "features": [{"type": "Feature", "geometry": shape}]}
        )
        (tmp_path / "masks" / "a.geojson").write_text(text)
    else:
        numbers = [number for point in ring for number in point]
        polygon = struct.pack(f"<BIII{len(numbers)}d", 1, 3, 1, len(ring), *numbers)
        pyogrio.raw.write(
            tmp_path / "masks" / f"a{suffix}",
            geometry=np.array([polygon], object),
            field_data=[np.array([7])],
            fields=np.array(["kind"]),
            geometry_type="Polygon",
            crs="EPSG:32633",
        )
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected" and entry.mask == f"a{suffix}", entry.reason
    with rasterio.open(tmp_path / "out" / "a.tif") as file:
        changed = file.read(1) != values[0]
    assert np.count_nonzero(changed != _triangle()) <= 2  # pixels whose middle lies on the slanting side
    assert verify(tmp_path / "out").exit_code == 0


def test_a_mask_of_another_place_is_refused(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "a.tif", scene(HEIGHT, WIDTH, 1, "uint16"))
    raster(tmp_path / "masks" / "a.tif", np.ones((1, HEIGHT, WIDTH), np.uint8), transform=from_origin(0, 0, 10, 20))
    (entry,) = _protect(tmp_path).entries
    assert "another place of the earth" in (entry.reason or "")


def test_hostile_rasters_are_refused_within_little_memory(tmp_path: Path) -> None:
    options = {"crs": "EPSG:32633", "transform": PLACE, "driver": "GTiff", "count": 1}
    (tmp_path / "in").mkdir()
    for name, dtype, size, more in (
        ("sparse", "uint16", 90_000, {"sparse_ok": True, "tiled": True, "bigtiff": "YES"}),
        ("endless", "uint8", 131_073, {"sparse_ok": True, "tiled": True, "bigtiff": "YES"}),
        ("one-strip", "float64", 20_000, {"sparse_ok": True, "blockysize": 20_000, "compress": "deflate"}),
        ("complex", "complex64", 20, {}),
    ):
        with rasterio.open(
            tmp_path / "in" / f"{name}.tif", "w", dtype=dtype, width=size, height=size, **options, **more
        ):
            pass
    good = raster(tmp_path / "in" / "cut.tif", scene(HEIGHT, WIDTH, 1, "float32")).read_bytes()
    (tmp_path / "in" / "cut.tif").write_bytes(good[: len(good) // 2])
    raster(tmp_path / "in" / "flat.tif", np.full((1, 20, 20), 7, np.uint16))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    entries = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    reasons = {entry.input: entry.reason or "" for entry in entries}
    assert [entry.status for entry in entries] == ["failed"] * 6, reasons
    assert "far more than it holds" in reasons["sparse.tif"] and "over all limits" in reasons["endless.tif"]
    assert "broken image" in reasons["cut.tif"] and "no range of values" in reasons["flat.tif"]
    assert "complex64 values" in reasons["complex.tif"] and reasons["one-strip.tif"]


def test_without_the_extra_rasters_name_the_command_and_pictures_stay_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster(tmp_path / "in" / "five.tif", scene(HEIGHT, WIDTH, 5, "uint16"))
    raster(tmp_path / "in" / "rgb.tif", scene(HEIGHT, WIDTH, 3, "uint8"), photometric="rgb")
    monkeypatch.setattr(type(KINDS["GeoTIFF"]), "is_there", False)
    entries = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert entries[0].reason == "GeoTIFF needs rasterio, which is not installed; run: pip install 'unseg[formats]'"
    assert entries[1].output == "rgb.png" and "its georeference (GeoTIFF) was left out" in (entries[1].note or "")


def test_bands_that_are_not_there_are_refused(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "a.tif", scene(HEIGHT, WIDTH, 2, "uint16"))
    settings = ProtectSettings(workers=1, bands=(3,))
    (entry,) = protect(tmp_path / "in", tmp_path / "out", settings, whole_image=True, key=KEY).entries
    assert "--bands 3: it has 2 bands" in (entry.reason or "")
