"""The wheel holds what it must and nothing else, and works away from the checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import unseg

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("unseg", "segment_anything_training")
WEIGHTS = "unseg/weights/compact.safetensors"


def run(*command: str | Path, **options) -> str:
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert finished.returncode == 0, f"{command} answered {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build/ of the checkout leaks in, and without network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "conformance"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", built, source)
    return next(built.glob("unseg-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    assert wheel.name == f"unseg-{unseg.__version__}-py3-none-any.whl"


def test_wheel_holds_every_module_and_nothing_but_the_two_packages(wheel: Path) -> None:
    names = names_in(wheel)
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"unseg-{unseg.__version__}.dist-info"}


def test_wheel_holds_the_weights_and_the_masks(wheel: Path) -> None:
    assert (ROOT / WEIGHTS).is_file(), f"{WEIGHTS} is not in the checkout: train the compact generator and put it there"
    masks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "unseg/quickstart_data").iterdir()}
    assert len(masks) >= 5
    assert {WEIGHTS, *masks} <= names_in(wheel)


def test_weights_are_at_most_16_megabytes() -> None:
    assert (ROOT / WEIGHTS).stat().st_size <= 16e6


def test_wheel_installs_the_command(wheel: Path) -> None:
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        entry_points.read_string(archive.read(f"unseg-{unseg.__version__}.dist-info/entry_points.txt").decode())
    assert dict(entry_points["console_scripts"]) == {"unseg": "unseg.cli:main"}


@pytest.mark.slow
def test_installed_wheel_protects_with_its_own_weights(installed: Path, tmp_path: Path) -> None:
    """In an empty folder, with the wheel before the checkout on the path: only its files are there to be used."""
    from unseg.storage.image_decoding import read_image
    from unseg.storage.image_encoding import write_png

    environment = os.environ | {"PYTHONPATH": str(installed)}
    (tmp_path / "photographs").mkdir()
    photograph = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    write_png(tmp_path / "photographs" / "one.png", photograph)
    where = "import unseg, segment_anything_training as networks; print(unseg.__file__, networks.__file__)"
    imported = run(sys.executable, "-c", where, cwd=tmp_path, env=environment)
    assert imported.split() == [str(installed / package / "__init__.py") for package in PACKAGES]

    run(
        sys.executable,
        installed / "bin" / "unseg",
        "protect",
        "photographs",
        "--out",
        "protected",
        cwd=tmp_path,
        env=environment,
    )
    change = read_image(tmp_path / "protected" / "one.png").pixels.astype(int) - photograph
    assert 0 < np.abs(change).max() <= 8
