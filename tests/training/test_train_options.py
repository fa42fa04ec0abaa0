"""`unseg train` on the command line: its options stand in groups, and it tells a person what happens."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from tests.support.whole_app import app
from unseg.cli import main

GROUPS = {
    "Data": {"--data-root", "--splits", "--watch", "--allow-missing"},
    "What is trained, and how": {"--recipe", "--set", "--sam", "--mae"},
    "The run and what it leaves": {
        "--output",
        "--resume",
        "--keep",
        "--validation-images",
        "--tensorboard",
        "--quiet",
    },
    "Machine": {"--device", "--threads", "--workers"},
}


def test_every_option_stands_in_a_group() -> None:
    found: dict[str, set[str]] = {}
    for parameter in get_command(app).commands["train"].params:
        found.setdefault(parameter.rich_help_panel, set()).add(parameter.opts[0])
    assert found == GROUPS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Four photographs of noise that are not square, each with a rectangle as its object."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (50, 80, 3), dtype=np.uint8)).save(root / f"images/{number}.png")
        mask = np.zeros((50, 80), np.uint8)
        mask[5:40, 10 + number : 60] = 255
        Image.fromarray(mask).save(root / f"masks/{number}.png")
    return root


@pytest.mark.parametrize("quiet", [False, True])
def test_sentences_are_told_and_bars_are_drawn_unless_quiet(folder, tmp_path, capsys, quiet: bool) -> None:
    arguments = ["train", "--recipe", "smoke", "--data-root", str(folder), "--output", str(tmp_path / "run")]
    options = ["--device", "cpu", "--workers", "0", "--no-tensorboard", "--set", "total_phases=4"]
    assert main([*arguments, *options, *(["--quiet"] if quiet else [])]) == 0
    told, bars = capsys.readouterr()
    assert "4 images to train on" in told and "compact generator on cpu, 1 process, 2 images a step" in told
    assert "step 4, epoch 2: surrogate loss " in told and "surrogate's loss on validation images: noised " in told
    assert told.index("step 4, epoch 2") < told.index("generator: ") < told.index("log:       ")
    if quiet:
        assert bars == ""
    else:
        assert "training: 100%" in bars and "4/4" in bars and "validation: " in bars
