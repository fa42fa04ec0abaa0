"""The worked example of docs/guide/evaluate.md, own network, noise and folder, run as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.scenes import write_splits
from unseg.evaluation.results import read_results
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "evaluate.md"
SECTION = re.compile(r"^## Your own network, noise and folder\n(.*?)^## ", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """Returns language and text of every code block of the section."""
    section = SECTION.search(GUIDE.read_text(encoding="utf-8"))[1]
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_own_parts_are_compared(tmp_path: Path) -> None:
    """The guide's noise is stripes of the whole budget, 8 pixels wide at 256 pixels, and its folder is ours."""
    data = write_splits(tmp_path / "data")
    for ours, theirs in (("images/train", "photos"), ("labels/train", "masks")):
        (data / ours).rename(tmp_path / theirs)
        (data / ours.replace("train", "test")).rename(tmp_path / f"test_{theirs}")
    for path in (tmp_path / "photos").iterdir():
        write_png(tmp_path / "photos_changed" / path.name, read_image(path).pixels ^ 3)
    (module, command) = (text for _, text in blocks())
    (tmp_path / "own_parts.py").write_text(module, encoding="utf-8")
    run = [sys.executable, "-c", "import sys; from unseg.cli import main; sys.exit(main())", *command.split()[1:]]
    ran = subprocess.run([*run, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    runs = {run["settings"]["condition"]: run for run in read_results(tmp_path / "runs/own/results.json")["runs"]}
    assert list(runs) == ["clean", "protected", "mine", "clean+grey", "protected+grey"]
    code = sha256_of(tmp_path / "own_parts.py")
    assert {run["settings"]["code"] for run in runs.values()} == {code}
    assert runs["protected"]["settings"]["images"]["generator"] == code
    assert runs["protected"]["result"]["quality"]["max_change_object"] == 8
    assert runs["mine"]["result"]["quality"]["max_change_object"] == 3
    assert np.isfinite([run["result"]["final"] for run in runs.values()]).all()
