"""GeoTIFF protected and verified: bands, places, values that stand for none, overviews, and masks of two kinds."""

from __future__ import annotations

import json
import resource
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import tifffile
from PIL import Image
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


def test_a_value_that_means_none_in_one_band_alone_stays_and_its_pixel_has_noise(tmp_path: Path) -> None:
    """A yellow field has blue 0; where 0 means no value, GDAL takes a pixel for none if all bands are 0."""
    values = scene(HEIGHT, WIDTH, 3, "uint8")
    values[2, :, 60:200] = 0
    values[:, :, :50] = 0
    raster(tmp_path / "in" / "a.tif", values, photometric="rgb", nodata=0)
    region = _mask(tmp_path / "masks")
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected", entry.reason
    with rasterio.open(tmp_path / "out" / "a.tif") as after:
        change = after.read().astype(int) - values
    valid = region & values.any(axis=0)
    assert not change[values == 0].any() and not change[:, ~valid].any()
    moved = np.abs(change).max(axis=0)
    assert np.mean(moved[valid] > 0) > 0.95 and entry.object_share == pytest.approx(valid.mean())
    assert verify(tmp_path / "out").exit_code == 0


def test_an_object_without_any_value_is_told(tmp_path: Path) -> None:
    values = scene(HEIGHT, WIDTH, 1, "int16")
    _mask(tmp_path / "masks")
    values[:, 20:150, 40:260] = NONE
    raster(tmp_path / "in" / "a.tif", values, nodata=NONE)
    (entry,) = _protect(tmp_path).entries
    assert (entry.status, entry.reason) == (
        "failed",
        "every pixel of its object stands for no value (nodata, padding or a mask)",
    )


def test_pixels_without_a_value_do_not_count_as_contrast(tmp_path: Path) -> None:
    """The usual value for none in floats is the lowest there is: its square is beyond all floats."""
    values = scene(HEIGHT, WIDTH, 1, "float32")
    values[0, :30] = np.finfo(np.float32).min
    raster(tmp_path / "in" / "a.tif", values, nodata=float(np.finfo(np.float32).min))
    region = _mask(tmp_path / "masks")
    (entry,) = _protect(tmp_path, replace(SETTINGS, mask_by_contrast=True)).entries
    assert entry.status == "protected", entry.reason
    with rasterio.open(tmp_path / "out" / "a.tif") as after:
        change = np.abs(after.read(1).astype(np.float64) - values[0])
    region[:30] = False
    assert np.mean(change[region] > 0) > 0.95 and not change[:30].any()
    assert verify(tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("float32", "-9999.0"),
        ("float32", "-9999."),
        ("float32", "-3.4e+38"),
        ("float32", "-3.40282306073709653e+38"),
        ("float64", "-1.7976931348623157e+308"),
        ("float32", "NaN"),
        ("int16", "-32768.000000"),
        ("int64", "-9223372036854775808"),
    ],
)
def test_the_value_for_none_may_be_worded_in_any_way(tmp_path: Path, dtype: str, text: str) -> None:
    (tmp_path / "in").mkdir()
    values = scene(HEIGHT, WIDTH, 1, "int16")[0].astype(dtype)
    values[:9] = np.iinfo(dtype).min if dtype.startswith("int") else np.float64(text)
    place = [(33550, "d", 3, (2.0, 2.0, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4.6e6, 0.0))]
    tags = [(code, kind, count, value, True) for code, kind, count, value in place]
    tifffile.imwrite(tmp_path / "in" / "a.tif", values, extratags=[*tags, (42113, "s", 0, text, True)])
    region = np.zeros((HEIGHT, WIDTH), np.uint8)
    region[20:150, 40:260] = 1
    tifffile.imwrite(tmp_path / "masks.tif", region, extratags=tags)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks.tif").rename(tmp_path / "masks" / "a.tif")
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected", entry.reason
    assert verify(tmp_path / "out").exit_code == 0


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


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_picture_whose_bands_are_not_chosen_says_so(tmp_path: Path, dry_run: bool) -> None:
    raster(tmp_path / "in" / "a.tif", scene(HEIGHT, WIDTH, 4, "uint16"))
    Image.fromarray(np.moveaxis(scene(HEIGHT, WIDTH, 3, "uint8"), 0, 2)).save(tmp_path / "in" / "b.png")
    settings, key = ProtectSettings(workers=1, bands=(2, 4)), bytes(range(32))
    map_, picture = protect(
        tmp_path / "in", tmp_path / "out", settings, whole_image=True, key=key, dry_run=dry_run
    ).entries
    assert picture.note == "--bands is for GeoTIFF with noise of codes, and chooses nothing here" != map_.note
    assert picture.status == map_.status == "protected"


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
