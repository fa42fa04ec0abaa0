"""install.sh, with an interpreter that only says what it was asked to install."""

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


def start(tree):
    return subprocess.Popen(
        ["bash", "install.sh"],
        cwd=tree,
        env=os.environ | {"PYTHON": str(tree / "python")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock here")
def test_installations_at_the_same_time_are_one(tree):
    started = [start(tree) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert sorted("waiting for another installation" in out for out, _ in said) == [False, True, True]
    assert len((tree / "installs").read_text().splitlines()) == 2  # setuptools, then the project
    left = {path.name for path in tree.iterdir()}
    assert left == {"install.sh", "constraints.txt", "pyproject.toml", "python", ".venv", "installs"}


def test_what_is_installed_is_left_alone_until_its_description_changes(tree):
    for expected in (2, 2):
        assert start(tree).wait(timeout=60) == 0
        assert len((tree / "installs").read_text().splitlines()) == expected
    with (tree / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert start(tree).wait(timeout=60) == 0
    assert len((tree / "installs").read_text().splitlines()) == 4
