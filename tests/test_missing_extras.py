"""Wherever a package of an extra is missing, one line names what needs it, it, and the command that brings it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unseg
from unseg import cli
from unseg.compute.engine import Engine
from unseg.errors import UserError
from unseg.storage import store_library
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.stack_kinds import KINDS, open_labels

ROOT = Path(__file__).resolve().parents[1]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
JPEG_XL = b"\xff\x0a" + bytes(400)


def read(data: bytes) -> Callable[[Path], object]:
    def do(folder: Path) -> object:
        (folder / "a.png").write_bytes(data)
        return read_image(folder / "a.png")

    return do


def outlines(folder: Path) -> object:
    (folder / "a.gpkg").write_bytes(b"SQLite format 3\0" + bytes(84))
    return open_labels(folder / "a.gpkg", 10**6)


def bucket(folder: Path) -> object:
    store_library._driver.cache_clear()
    return store_library.filesystem("s3://bucket/photos")


def transforms(folder: Path) -> object:
    return importlib.import_module("unseg.transforms")


def folder_of(path: Path) -> Path:
    write_png(path / "in" / "a.png", np.full((40, 63, 3), 119, np.uint8))
    return path / "in"


def protect(**options: object) -> Callable[[Path], object]:
    return lambda path: unseg.protect_folder(folder_of(path), path / "out", **options)


@pytest.mark.parametrize(
    ("do", "what", "package", "extra"),
    [
        (protect(whole_image=True, quality=True), "--quality:", "skimage", "quality"),
        (protect(whole_image=True, quality=True), "--quality:", "scipy", "quality"),
        (lambda _: unseg.Protector(quality=True), "quality:", "skimage", "quality"),
        (protect(masks="auto"), "--masks auto:", "rembg", "auto"),
        (protect(masks="auto"), "--masks auto:", "onnxruntime", "auto"),
        (read(HEIC), "a.png: HEIC", "pillow_heif", "formats"),
        (read(JPEG_XL), "a.png: JPEG XL", "pillow_jxl", "formats"),
        (lambda path: KINDS["DICOM"].open(path / "a.dcm", 1), "a.dcm: DICOM", "pydicom", "formats"),
        (lambda path: KINDS["NIfTI"].open(path / "a.nii", 1), "a.nii: NIfTI", "nibabel", "formats"),
        (lambda path: KINDS["GeoTIFF"].open(path / "a.tif", 1), "a.tif: GeoTIFF", "rasterio", "formats"),
        (outlines, "a.gpkg: a file of outlines", "pyogrio", "formats"),
        (bucket, "s3://bucket/photos:", "fsspec", "scale"),
        (bucket, "s3://bucket/photos:", "s3fs", "scale"),
        (protect(whole_image=True, engine=Engine()), "--engine ray:", "ray", "scale"),
        (transforms, "unseg.transforms:", "torch", "sam"),
        (transforms, "unseg.transforms:", "torchvision", "sam"),
    ],
)
def test_the_line_names_the_extra(
    do: Callable[[Path], object],
    what: str,
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "unseg.transforms", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((UserError, ImageError)) as told:
        do(tmp_path)
    line = str(told.value).removeprefix(f"{tmp_path}/")
    assert line.startswith(f"{what} needs {package}, which is not installed; run: pip install 'unseg[{extra}]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_the_page_names_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["web", "--no-browser"]) == 2
    line = f"unseg web: needs {package}, which is not installed; run: pip install 'unseg[web]'"
    assert capsys.readouterr().err == f"unseg: error: {line}\n"


def test_the_command_is_spelled_in_one_place() -> None:
    spelled = [path for path in (ROOT / "unseg").rglob("*.py") if "unseg[" in path.read_text(encoding="utf-8")]
    assert [path.name for path in spelled] == ["errors.py"]
