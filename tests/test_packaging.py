"""The wheel holds what it must and nothing else, and works away from the checkout."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import unseg

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("unseg", "segment_anything_training")
WEIGHTS = ("unseg/weights/compact.safetensors", "unseg/weights/compact.onnx")


def run(*command: str | Path, **options) -> str:
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert finished.returncode == 0, f"{command} answered {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build/ of the checkout leaks in, and without network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
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


def base_of(wheel: Path) -> set[str]:
    """The distributions that pip would bring with the wheel alone: its requirements, and theirs."""
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read(f"unseg-{unseg.__version__}.dist-info/METADATA").decode()
    asked = [line.partition(": ")[2] for line in about.splitlines() if line.startswith("Requires-Dist: ")]
    found: set[str] = set()
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(requirement.name)
            asked += metadata.requires(requirement.name) or []
    return found


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its base, and nothing else; no program in it reaches another machine."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    target = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    for name in base_of(wheel):
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not top.endswith(".pth") and not (target / top).exists():
                (target / top).symlink_to(found.locate_file(top))
    (target / "sitecustomize.py").write_text("import socket\nsocket.socket.connect = None\n")
    return folder


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


def test_wheel_holds_the_weights_the_photographs_and_the_masks(wheel: Path) -> None:
    for weights in WEIGHTS:
        assert (ROOT / weights).is_file(), f"{weights} is not in the checkout"
    shown = (path for path in (ROOT / "unseg/quickstart_data").rglob("*") if path.is_file())
    files = {path.relative_to(ROOT).as_posix() for path in shown}
    assert len(files) == 9  # four photographs, their masks, and what they are
    assert {*WEIGHTS, *files} <= names_in(wheel)


def test_wheel_holds_the_page(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "unseg/web/static").iterdir()}
    assert len(files) >= 5
    assert files <= names_in(wheel)


def test_wheel_holds_the_licences_and_says_that_it_is_typed(wheel: Path) -> None:
    about = f"unseg-{unseg.__version__}.dist-info"
    assert {f"{about}/licenses/LICENSE", "unseg/weights/LICENSE.md"} <= names_in(wheel)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names_in(wheel)
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{about}/METADATA").decode()
        assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "License-Expression: Apache-2.0\n" in metadata


def test_the_licence_of_the_weights_says_what_their_data_allows() -> None:
    licence = (ROOT / "unseg/weights/LICENSE.md").read_text(encoding="utf-8")
    assert "BSDS500" in licence and "non-commercial" in licence


def test_every_place_names_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {unseg.__version__}\n" in citation
    assert next(line for line in changes.splitlines() if line.startswith("## [")).startswith(
        f"## [{unseg.__version__}]"
    )


def test_what_the_test_environment_needs_is_pinned_to_one_version() -> None:
    """Each name of an extra has a line in constraints.txt; install.sh installs exactly these."""
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=~! ]", name)[0].lower() for name in asked} - {"unseg"}
    assert names and names <= pinned


def test_weights_are_at_most_16_megabytes() -> None:
    assert sum((ROOT / weights).stat().st_size for weights in WEIGHTS) <= 16e6


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
        "--whole-image",
        "--out",
        "protected",
        cwd=tmp_path,
        env=environment,
    )
    change = read_image(tmp_path / "protected" / "one.png").pixels.astype(int) - photograph
    assert 0 < np.abs(change).max() <= 8


def test_the_base_is_small(wheel: Path) -> None:
    """What a reader of the README waits for; each of them is named in pyproject.toml, or needed by one that is."""
    assert base_of(wheel) <= {
        "numpy",
        "opencv-python-headless",
        "pillow",
        "Pillow",
        "pycocotools",
        "PyYAML",
        "tifffile",
        "isal",
        "filelock",
        "tqdm",
        "rich",
        "markdown-it-py",
        "mdurl",
        "pygments",
        "typer",
        "annotated-doc",
        "shellingham",
        "click",
        "typing-extensions",
        "typing-inspection",
        "pydantic",
        "pydantic-core",
        "annotated-types",
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links")
def test_the_wheel_and_its_base_protect_and_verify_offline(light: Path, tmp_path: Path) -> None:
    """The quick start with its own photographs; and what needs an extra says so."""
    python = light / "bin" / "python"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    listed = run(python, "-c", "import sys, unseg; print(unseg.__file__, sys.prefix)", cwd=tmp_path, env=environment)
    assert all(Path(path).is_relative_to(light) for path in listed.split())
    told = run(python, "-m", "unseg.quickstart", "shown", cwd=tmp_path, env=environment)
    assert "4 of 4 images hold the bound at every pixel; most change 8 on objects" in told
    assert len(list((tmp_path / "shown" / "pictures").iterdir())) == 4
    absent = (
        "import importlib.util as util; print([util.find_spec(name) for name in ('torch', 'scipy', 'onnxruntime')])"
    )
    assert run(python, "-c", absent, cwd=tmp_path, env=environment) == "[None, None, None]\n"
    line = [python, "-m", "unseg.cli", "protect", "shown/photographs", "--masks", "shown/masks", "--out", "out"]
    refused = subprocess.run(
        [*line, "--noise", "compact"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.endswith("which is not installed; run: pip install 'unseg[compact]'\n")
