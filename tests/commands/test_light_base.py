"""The light base: what protects and verifies runs without torch, and whatever needs more says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from tests.support.light_base import BLOCK
from tests.support.whole_app import app
from unseg.commands.application import COMMANDS, command_of
from unseg.errors import EXTRA_OF, EXTRA_OF_COMMAND
from unseg.storage.image_encoding import write_png

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; from unseg import cli; code = cli.main(sys.argv[1:])\n"
# Of what takes seconds to load, or hundreds of megabytes of memory.
HEAVY = {"torch", "torchvision", "timm", "safetensors", "segment_anything", "scipy", "skimage", "transformers"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    mask = np.zeros((40, 66), np.uint8)
    mask[5:30, 20:61] = 255
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "photos" / name, draw.integers(0, 256, (40, 66, 3), np.uint8))
        write_png(tmp_path / "masks" / name, mask[..., None])
    return tmp_path


def python(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


PROTECT = ("protect", "photos", "--masks", "masks", "--out")


@pytest.mark.parametrize(
    "lines",
    [
        [["--help"]],
        [["--version"]],
        [["datasets"]],
        [[*PROTECT, "out"], ["verify", "out"]],
        [[*PROTECT, "out", "--noise", "compact"], ["verify", "out"]],
        [[*PROTECT, "out", "--noise", "compact", "--region", "published"], ["verify", "out"]],
        [[*PROTECT, "out", "--dry-run"]],
        [["info"]],
    ],
    ids=lambda lines: " ".join(lines[0][:1] + lines[0][5:]),
)
def test_nothing_heavy_is_loaded(lines: list[list[str]], photos: Path) -> None:
    for line in lines:
        told = python(photos, RUN + f"print(sorted({HEAVY!r} & set(sys.modules)), code)", *line)
        assert told.stdout.splitlines()[-1] == "[] 0", told.stdout + told.stderr


def test_the_python_face_loads_nothing_heavy(photos: Path) -> None:
    code = (
        "import numpy as np, unseg\n"
        "image, mask = np.zeros((30, 44, 3), np.uint8) + 99, np.zeros((30, 44), bool)\nmask[3:20, 9:40] = True\n"
        "for generator in (None, 'compact'):\n"
        "    assert (unseg.protect(image, mask=mask, generator=generator)[mask] != 99).any()\n"
        "unseg.protect_folder('photos', 'out', masks='masks')\n"
        "assert unseg.verify('out').exit_code == 0\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    told = python(photos, code)
    assert told.stdout == "[]\n", told.stdout + told.stderr


def test_the_base_alone_protects_verifies_and_lists(photos: Path) -> None:
    """As in an environment without any extra: the packages of all of them cannot be imported."""
    for line in ([*PROTECT, "out"], ["verify", "out"], ["datasets"], ["--help"], ["protect", "--help"]):
        told = python(photos, BLOCK + RUN + "sys.exit(code)", *line)
        assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(
    ("line", "what", "package", "extra"),
    [
        ([*PROTECT, "out", "--noise", "compact"], "--noise compact", "onnxruntime", "compact"),
        ([*PROTECT, "out", "--noise", "tint", "--mask-type", "index"], "--noise tint", "onnxruntime", "compact"),
        ([*PROTECT, "out", "--generator", "compact"], "--generator compact", "onnxruntime", "compact"),
        ([*PROTECT, "out", "--noise", "sam", "--generator", "w.pth"], "--noise sam", "torch", "sam"),
        ([*PROTECT, "out", "--generator", "w.safetensors"], "--generator w.safetensors", "torch", "sam"),
        ([*PROTECT, "out", "--device", "cuda", "--noise", "compact"], "--device cuda", "torch", "sam"),
        (["train", "--data-root", ".", "--output", "run"], "unseg train", "torch", "train"),
        (["evaluate", "--out", "run", "--clean", ".", "--test", "."], "unseg evaluate", "torch", "evaluate"),
        (["bench", "--data-root", ".", "--out", "run", "--sets", "camvid-binary"], "unseg bench", "torch", "evaluate"),
        (["info", "--generator", "w.safetensors"], "--generator w.safetensors", "torch", "sam"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_missing_extra_is_one_line_with_its_command(
    line: list[str], what: str, package: str, extra: str, photos: Path
) -> None:
    told = python(photos, BLOCK + RUN + "sys.exit(code)", *line)
    sentence = f"needs {package}, which is not installed; run: pip install 'unseg[{extra}]'"
    assert told.stderr.splitlines()[-1] == f"unseg: error: {what}: {sentence}", told.stderr
    assert told.returncode == 2 and not (photos / "out").exists()


def test_every_extra_that_is_named_is_one() -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {*EXTRA_OF.values(), *EXTRA_OF_COMMAND.values()} <= extras.keys()


def test_the_list_of_commands_says_what_their_help_begins_with() -> None:
    """It is written where it needs no import; the help is the function's own."""
    assert typer.main.get_command(app).commands.keys() == COMMANDS.keys()
    for name, home in COMMANDS.items():
        assert " ".join((command_of(name).__doc__ or "").split("\n\n")[0].split()) == home.sentence


def test_a_run_loads_its_own_command_alone(photos: Path) -> None:
    code = RUN + "print([name for name in sys.modules if name.startswith('unseg.commands.')])"
    told = python(photos, code, "info", "--json")
    assert json.loads(told.stdout[: told.stdout.rindex("}") + 1])["onnxruntime"]
    loaded = told.stdout.splitlines()[-1]
    assert "'unseg.commands.info'" in loaded and "'unseg.commands.protect'" not in loaded
