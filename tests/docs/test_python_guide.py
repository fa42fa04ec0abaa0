"""The examples of docs/guide/python.md, run from top to bottom as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "python.md"


def blocks() -> list[tuple[str, str]]:
    """Returns language and text of every code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_command(line: str, folder: Path) -> None:
    command = [sys.executable, "-c", "import sys; from unseg.cli import main; sys.exit(main())", *line.split()[1:]]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    draw = np.random.default_rng(0)
    mask = np.zeros((90, 140), np.uint8)
    mask[20:70, 30:120] = 255
    Image.fromarray(draw.integers(0, 256, (90, 140, 3), np.uint8)).save(tmp_path / "photo.jpg")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(50, 70), (64, 31)]):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask[20 : 20 + size[0], 20 : 20 + size[1]]).save(tmp_path / "masks" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {}
    for language, text in blocks():
        file = re.match(r"# (\w+\.py)\n", text)
        if file is not None:
            (tmp_path / file[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(GUIDE), "exec"), names)
        else:
            run_command(text, tmp_path)
    sys.modules.pop("my_generators")
    protected = np.asarray(Image.open("protected.png")).astype(int)
    change = np.abs(protected - np.asarray(Image.open("photo.jpg"))).max(2)
    assert change[mask > 0].max() == 8 and change[mask == 0].max() == 0
    assert {path.name for path in (tmp_path / "checkerboard").glob("*.png")} == {"0.png", "1.png"}
    said = capsys.readouterr().out
    assert (
        said.startswith("protected 3")
        and "\n2 protected, 0 failed\n" in said
        and said.endswith("got 90×140×3 float64\n")
    )
    assert (tmp_path / "from-bytes.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "checked.png").exists()
    assert names["flipped"]["image"].shape == (3, 90, 140) and (tmp_path / "row.png").exists()
    languages = [language for language, _ in blocks()]
    assert languages.count("python") == 13 and languages.count("bash") == 1
