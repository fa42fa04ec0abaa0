"""Malformed and exhausting annotations of every format: refused in one line, in bounded time and memory.

The cases are in annotation_hostile.py, which runs as a process of its own; fuzz_annotations.py looks for new ones.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from annotation_check import use
from annotation_hostile import BOMBS

TESTS = Path(__file__).parent
PEAK_MB = 1024


def run(*arguments: str, timeout: int) -> dict:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    finished = subprocess.run([sys.executable, str(TESTS / "annotation_hostile.py"), *arguments], capture_output=True,
                              text=True, timeout=timeout, env=environment)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


def test_mutated_annotations_of_all_formats_are_refused_or_read() -> None:
    """Among 320, most must do harm, or the mutations are too tame; and none may take long."""
    result = run("mutations", "1", "320", timeout=300)
    assert result["cases"] == 320 and result["refused"] > 60 and result["cases"] - result["whole"] > 160
    assert result["seconds"] < 20 and result["peak_mb"] < PEAK_MB, result


@pytest.mark.slow
def test_annotations_made_to_exhaust_a_reader_stay_within_bounds() -> None:
    result = run("bombs", timeout=560)
    assert result["cases"] == len(BOMBS) and result["peak_mb"] < PEAK_MB and result["seconds"] < 60, result
