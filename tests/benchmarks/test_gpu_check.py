"""The check of a machine with a GPU, as far as a processor shows it: limits, counts, shares, and what it ends with."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check

ROOT = Path(__file__).resolve().parents[2]

FIGURES: dict[str, dict[str, Any]] = {
    "rates": {"float32": 50.0, "bfloat16": 800.0},
    "tests": {"passed": 30, "skipped": 0, "broken": []},
    "compact": {"ways": {"float32": {"images_per_second": 900.0}}},
    "vit": {"ways": {"float32": {"encoder_tflops": 20.0}, "bfloat16": {"encoder_tflops": 300.0}}},
    "training": {"step_tflops": 200.0, "this": {"images_per_second": 40.0}, "ratio": 5.0},
}


def faked(monkeypatch: pytest.MonkeyPatch, **failing: str) -> dict[str, float]:
    """Every part has its figures at once, but those that fail; returns the limits that parts were given."""
    limits: dict[str, float] = {}

    def measured(part: str, quick: bool, device: object, limit: float) -> dict[str, Any]:
        limits[part] = limit
        return {"failed": failing[part], "took": 0.0} if part in failing else FIGURES[part] | {"took": 1.0}

    monkeypatch.setattr(gpu_check, "measured", measured)
    monkeypatch.setattr(
        gpu_check.tables, "table", lambda figures: f"table of {sorted(set(figures) & {'compact', 'vit'})}"
    )
    return limits


def test_all_parts_fit_into_eight_minutes() -> None:
    assert sum(gpu_check.LIMITS.values()) <= 8 * 60 - 10 and list(gpu_check.LIMITS) == list(gpu_check.PARTS)


def test_without_a_gpu_it_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path / "a.json")]) == 2
    told = capsys.readouterr()
    assert told.err == "unseg: error: --device cuda: torch sees no GPU here; give --device cpu\n"
    assert told.out == "" and not (tmp_path / "a.json").exists()


def test_the_script_starts_the_check_and_names_its_file() -> None:
    script = (ROOT / "scripts" / "gpu_check.sh").read_text()
    assert script.rstrip().endswith('-m benchmarks.gpu_check --out "${OUT:-runs/gpu-check.json}" "$@"')
    assert subprocess.run(["bash", "-n", ROOT / "scripts" / "gpu_check.sh"]).returncode == 0


def test_a_processor_is_only_for_the_quick_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path / "a.json")]) == 2
    assert "add --quick" in capsys.readouterr().err


def test_figures_shares_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    limits = faked(monkeypatch)
    out = tmp_path / "new" / "check.json"
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["achieved"] == {
        "image encoder, float32": 0.4,
        "image encoder, bfloat16": 0.375,
        "training step, bfloat16": 0.25,
    }
    assert {part: written[part] for part in FIGURES} == {part: FIGURES[part] | {"took": 1.0} for part in FIGURES}
    assert written["quick"] is True and written["device"] == "CPU" and written["machine"]["torch"]
    assert limits == {part: 3 * limit for part, limit in gpu_check.LIMITS.items()}
    said = capsys.readouterr().out
    assert "table of ['compact', 'vit']" in said and "tests: 30 passed, 0 skipped" in said
    assert "training step: 40 images/s, 5.00 times the plain one" in said
    assert "image encoder, bfloat16: 38% of the measured rate" in said and "failed" not in said


@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_a_part_that_fails_leaves_the_others(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    faked(monkeypatch, **{part: "was not done within 9 seconds"})
    out = tmp_path / "check.json"
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(out)]) == 1
    written = json.loads(out.read_text())
    assert all(("failed" in written[name]) == (name == part) for name in gpu_check.PARTS)
    assert f"failed: {part}: was not done within 9 seconds" in capsys.readouterr().out


def test_tests_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/></testcase>"
        "<testcase name='c'><skipped/></testcase><testcase name='d'><error/></testcase></testsuite></testsuites>"
    )
    assert gpu_check.counted(report) == {"passed": 1, "skipped": 1, "broken": ["b", "d"]}


def test_a_process_that_hangs_is_ended_with_its_own(tmp_path: Path) -> None:
    """The process of a part starts others, which would keep the GPU."""
    child = f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = time.perf_counter()
    assert gpu_check.limited(["-c", program], 5) == "was not done within 5 seconds"
    assert time.perf_counter() - started < 20
    child_id = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not _runs(child_id):
            break
        time.sleep(0.1)
    assert not _runs(child_id)


def _runs(process: int) -> bool:
    """Returns whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_fails_is_told_by_its_last_words() -> None:
    assert gpu_check.limited(["-c", "pass"], 30) is None
    program = "import sys; print('first', file=sys.stderr); sys.exit('no memory')"
    assert gpu_check.limited(["-c", program], 30) == "exit code 1: no memory"


@pytest.mark.slow
def test_parts_run_in_processes_of_their_own(tmp_path: Path) -> None:
    """The quick check on a processor, but for the two kinds of generator, which the test of the benchmark runs."""

    figures = {
        part: gpu_check.measured(part, True, torch.device("cpu"), 200) for part in ("rates", "tests", "training")
    }
    assert all(rate > 0 for rate in figures["rates"].values()) and set(figures["rates"]) == {
        "float32",
        "bfloat16",
        "took",
    }
    assert figures["tests"]["passed"] == 0 and figures["tests"]["skipped"] > 20 and figures["tests"]["broken"] == []
    assert figures["training"]["ratio"] > 0 and figures["training"]["step_tflops"] > 0
