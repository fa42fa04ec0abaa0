"""install.sh, with an interpreter that only says what it was asked to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip"*)
        mkdir busy || { echo "ERROR: two at once"; exit 1; }
        echo "$@" >>installs
        case "$*" in *+cpu*) sleep 0.1; rmdir busy; exit "${CPU_BUILDS:-1}" ;; esac
        sleep 0.5
        rmdir busy ;;
    *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    for name in ("install.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON.replace("REAL", sys.executable))
    python.chmod(0o755)
    return tmp_path


def start(tree, **settings):
    return subprocess.Popen(
        ["bash", "install.sh"],
        cwd=tree,
        env={name: value for name, value in os.environ.items() if name != "PROFILE"}
        | {"PYTHON": str(tree / "python")}
        | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def installed(tree: Path) -> list[str]:
    """What pip was asked for, without the try for CPU builds, which machines with a GPU leave out."""
    lines = (tree / "installs").read_text().splitlines()
    return [line.split()[-1] for line in lines if "+cpu" not in line]


FULL = ".[compact,evaluate,formats,train,test]"


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock here")
def test_installations_at_the_same_time_are_one(tree):
    started = [start(tree) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert sorted("waiting for another installation" in out for out, _ in said) == [False, True, True]
    assert installed(tree) == ["setuptools", FULL]
    first = (tree / "installs").read_text().splitlines()[0]
    assert first.endswith("pip setuptools"), "old pips take minutes to resolve"
    left = {path.name for path in tree.iterdir()}
    assert left == {"install.sh", "constraints.txt", "pyproject.toml", "python", ".venv", "installs"}


def test_what_is_installed_is_left_alone_until_its_description_changes(tree):
    for expected in (2, 2):
        assert start(tree).wait(timeout=60) == 0
        assert len(installed(tree)) == expected
    with (tree / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert start(tree).wait(timeout=60) == 0
    assert len(installed(tree)) == 4


def test_a_light_environment_becomes_full_and_a_full_one_stays_full(tree):
    """Each run: the profile that is asked for, and what it makes pip install."""
    everything: list[str] = []
    for profile, added in (
        ("light", ["setuptools", "."]),
        ("light", []),
        ("full", ["setuptools", FULL]),
        ("light", []),
        ("", []),
    ):
        assert start(tree, PROFILE=profile).wait(timeout=60) == 0
        everything += added
        assert installed(tree) == everything, profile
    (tree / "pyproject.toml").write_text("# changed\n")
    assert start(tree, PROFILE="light").wait(timeout=60) == 0
    assert installed(tree) == [*everything, "setuptools", FULL]


def test_an_environment_of_before_there_were_profiles_is_full(tree):
    assert start(tree).wait(timeout=60) == 0
    (tree / ".venv" / "profile").unlink()
    for added in ("", "# another line\n"):
        with (tree / "constraints.txt").open("a") as file:
            file.write(added)
        assert start(tree, PROFILE="light").wait(timeout=60) == 0
    assert installed(tree)[2:] == ["setuptools", FULL]


def test_another_profile_is_refused_before_anything_is_made(tree):
    process = start(tree, PROFILE="tiny")
    assert process.communicate(timeout=60)[1] == "install.sh: PROFILE=tiny: give light or full\n"
    assert process.returncode == 1 and not (tree / ".venv").exists()


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or sys.platform != "linux", reason="a machine with a GPU")
@pytest.mark.parametrize("answer", ["0", "1"])
def test_without_a_gpu_cpu_builds_are_asked_for_in_the_pinned_versions_and_may_be_absent(tree, answer):
    assert start(tree, CPU_BUILDS=answer).wait(timeout=60) == 0
    asked = [line for line in (tree / "installs").read_text().splitlines() if "+cpu" in line]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert [line.split()[-2:] for line in asked] == [
        [f"torch=={pins['torch']}+cpu", f"torchvision=={pins['torchvision']}+cpu"]
    ]
    assert installed(tree) == ["setuptools", FULL]


@pytest.mark.parametrize(("forbidden", "option"), [("", "--no-compile"), ("1", "--compile")])
def test_python_is_compiled_where_imports_may_not_write_what_they_compile(tree, forbidden, option):
    assert start(tree, PYTHONDONTWRITEBYTECODE=forbidden).wait(timeout=60) == 0
    lines = [line for line in (tree / "installs").read_text().splitlines() if "install" in line]
    assert lines and all(option in line.split() for line in lines), lines
