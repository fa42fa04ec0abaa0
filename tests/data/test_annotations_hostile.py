"""Malformed and exhausting annotations of every format: refused in one line, in bounded time and memory.

The cases are in annotation_hostile.py, which runs as a process of its own; fuzz_annotations.py looks for new ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import fuzz_annotations
from tests.support.annotation_check import use
from tests.support.annotation_hostile import BOMBS

TESTS = Path(__file__).parents[1]
PEAK_MB = 1024


def run(*arguments: str, timeout: int) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    finished = subprocess.run(
        [sys.executable, str(TESTS / "support" / "annotation_hostile.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


def test_mutated_annotations_of_all_formats_are_refused_or_read() -> None:
    """Among 420, most must do harm, or the mutations are too tame; and none may take long."""
    result = run("mutations", "1", "420", timeout=300)
    assert result["cases"] == 420 and result["refused"] > 80 and result["cases"] - result["whole"] > 210
    assert result["seconds"] < 20 and result["peak_mb"] < PEAK_MB, result


def test_the_fuzzer_starts_from_annotations_that_reach_the_decoders(tmp_path: Path) -> None:
    fuzz_annotations.seeds(tmp_path / "corpus")
    for seed, place in (("coco-x", "x.json"), ("panoptic-x", "pan.json"), ("labelme-x", "labelme")):
        folder = tmp_path / seed
        fuzz_annotations.prepare(folder)
        data = (tmp_path / "corpus" / seed).read_bytes()
        (folder / fuzz_annotations.TARGETS[data[0]]).write_bytes(data[1:])
        assert use(folder / place, folder / "images", {"x.png": fuzz_annotations.SIZE}) == 1


@pytest.mark.slow(seconds=130)
def test_annotations_made_to_exhaust_a_reader_stay_within_bounds() -> None:
    """In two processes, each with half of them.

    The slowest takes a processor 17 seconds on an Intel Xeon, up to twice as many while its core has two threads.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda part: run("bombs", part, "2", timeout=560), ("0", "1")))
    assert sum(result["cases"] for result in results) == len(BOMBS)
    for result in results:
        assert result["peak_mb"] < PEAK_MB and result["seconds"] < 45, result
