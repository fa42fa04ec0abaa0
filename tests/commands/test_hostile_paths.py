"""Every path of every command, with something in its place that is no such file: one line, no traceback, no waiting."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.hostile_places import HALF, KINDS, LONG, within, without_override
from tests.support.report_results import results, run, write
from tests.support.scenes import tiny
from unseg import cli
from unseg.commands import application
from unseg.protecting.manifest import EDITION, MANIFEST
from unseg.storage.files import make_folders
from unseg.storage.locks import LOCK_FILE
from unseg.victims.semantic_networks import NETWORKS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="capabilities, pipes and devices as Linux has them")

# A command line of each command that would work, by option; "" is what stands alone.
WORKING: dict[str, dict[str, str]] = {
    "protect": {"": "photos", "--masks": "masks", "--out": "new", "--device": "cpu"},
    "merge": {"": "out"},
    "verify": {"": "out"},
    "train": {"--data-root": "set", "--output": "new", "--device": "cpu", "--recipe": "smoke"},
    "evaluate": {
        "--clean": "photos",
        "--test": "others",
        "--annotations": "masks",
        "--test-annotations": "other-masks",
        "--out": "new",
        "--device": "cpu",
        "--networks": "tiny_one",
        "--preset": "small-scratch",
        "--size": "48x32",
        "--steps": "1",
        "--batch": "2",
        "--conditions": "clean",
    },
    "bench": {"--data-root": "set", "--out": "new"},
    "datasets": {"--root": "set"},
    "report": {"": "results"},
    "info": {},
    "web": {"--port": "0"},
}
TEXTS = ("generator", "protected", "weights")  # options that are no paths to typer, and may name a file
STAND_INS = {"--masks": ("--boxes", "--annotations")}  # of which a command takes one


def path_options() -> Iterator[tuple[str, str]]:
    """Every command with each of its options that takes a path, as its signature has them."""
    for command in WORKING:
        for name, parameter in inspect.signature(application.command_of(command), eval_str=True).parameters.items():
            kind, *declared = get_args(parameter.annotation)
            if "Path" in str(kind) or name in TEXTS:
                named = next((text for text in declared[0].param_decls or () if text.startswith("--")), None)
                stands_alone = type(declared[0]).__name__ == "ArgumentInfo"
                yield command, "" if stands_alone else named or f"--{name.replace('_', '-')}"


OPTIONS = sorted(path_options())


def arguments(command: str, changed: dict[str, str]) -> list[str]:
    given = {**WORKING[command], **changed}
    for option, others in STAND_INS.items():
        if any(other in changed for other in others):
            given.pop(option, None)
    if "--generator" in changed:
        given.pop("--conditions", None)  # of clean images alone, no generator is asked
    alone = [given.pop("")] if "" in given else []
    return [command, *alone, *(word for option, value in given.items() for word in (option, value))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs with masks, a finished output of them, and results of a measurement; the current folder."""
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)
    monkeypatch.chdir(tmp_path)
    for name, pixels in (
        ("photos/p0.png", np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)),
        ("others/q0.png", np.random.default_rng(1).integers(0, 256, (24, 37, 3), dtype=np.uint8)),
        ("other-masks/q0.png", np.uint8(255) * (np.indices((24, 37))[0] > 9).astype(np.uint8)),
        ("masks/p0.png", np.uint8(255) * (np.indices((24, 37))[1] > 20).astype(np.uint8)),
    ):
        Path(name).parent.mkdir()
        Pillow.fromarray(pixels).save(name)
    Path("set").mkdir()
    return tmp_path


def finished(here: Path) -> None:
    assert cli.main(["protect", "photos", "--masks", "masks", "--out", "out", "--device", "cpu", "-q"]) == 0
    write(here / "results", results([run()]))


def ends_well(command: list[str], capsys: pytest.CaptureFixture[str], codes: tuple[int, ...] = (0, 1, 2)) -> str:
    """Runs a command as a person whom permissions concern; what it says on standard error where its code is 2."""
    capsys.readouterr()
    with within(60), without_override():
        code = cli.main(command)
    told = capsys.readouterr()
    assert code in codes, told
    assert "Traceback" not in told.out + told.err
    if code == 2:
        lines = [line for line in told.err.splitlines() if line and "%|" not in line]  # without bars
        assert len(lines) == 1 and lines[0].startswith("unseg: error: "), told.err
    return told.err


def test_every_command_has_its_options_here() -> None:
    assert {command for command, _ in OPTIONS} == set(application.COMMANDS) - {"edition"} and len(OPTIONS) > 30
    assert {("protect", ""), ("protect", "--boxes"), ("evaluate", "--weights"), ("report", "")} <= set(OPTIONS)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_a_path_that_cannot_even_be_looked_at_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    """In a locked folder, of a name that is too long, a link in a circle, half of a character."""
    KINDS["circle"](here / "circle")
    (here / "locked").mkdir(mode=0)
    for value in ("locked/x", LONG, "circle", HALF):
        name = f"NAME={value}" if option == "--protected" else value
        told = ends_well(arguments(command, {option: name}), capsys, (2,))
        assert value[:9] in told or "half" in told or option in told or command == "bench", told


@pytest.mark.parametrize(("command", "option"), OPTIONS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "locked"])
def test_a_path_to_something_else_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, option: str, kind: str
) -> None:
    KINDS[kind](here / "thing")
    finished(here)
    ends_well(arguments(command, {option: "thing"}), capsys)


INSIDE = [
    (f"out/{MANIFEST}", {"verify": {}, "protect": {"--out": "out"}}),
    (f"out/{LOCK_FILE}", {"verify": {}, "protect": {"--out": "out"}}),
    (f"out/{EDITION}", {"verify": {}}),
    ("out/p0.png", {"verify": {}, "protect": {"--out": "out"}}),
    ("photos/p0.png", {"verify": {}, "protect": {}, "evaluate": {}}),
    ("masks/p0.png", {"verify": {}, "protect": {}, "evaluate": {}}),
    *[
        (f"marks/{name}", {"protect": {"--annotations": "marks"}, "evaluate": {"--annotations": "marks"}})
        for name in ("a.json", "p0.txt", "x.parquet", "x.arrow", "metadata.jsonl", "metadata.csv", "data.yaml", "p.png")
    ],
    ("marks/p0_gtFine_labelIds.png", {"protect": {"--annotations": "marks"}}),
    ("results/results.json", {"report": {}, "evaluate": {"--out": "results"}}),
    ("results/report.html", {"report": {}}),
    ("results/report.md", {"report": {}}),
    ("new/results.json", {"evaluate": {}}),
    ("new/log.jsonl", {"train": {}}),
]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("name", "command", "changed"),
    [(name, command, changed) for name, commands in INSIDE for command, changed in commands.items()],
)
def test_a_file_that_is_something_else_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, command: str, changed: dict[str, str], kind: str
) -> None:
    """Nothing is waited for, nothing is read without end, and nothing but the one line is said where a command ends."""
    finished(here)
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).unlink(missing_ok=True)
    KINDS[kind](here / name)
    codes = (1, 2) if name.startswith(("photos", "masks")) else (0, 1, 2)
    ends_well(arguments(command, changed), capsys, codes)


def test_a_thousand_nested_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in ("photos", "masks"):
        deep = here / root / Path(*["d"] * 1000)
        make_folders(deep)
        (here / root / "p0.png").rename(deep / "p0.png")
    try:
        assert cli.main(arguments("protect", {})) == 0
        assert cli.main(["verify", "new"]) == 0
        assert (here / "new" / Path(*["d"] * 1000) / "p0.png").is_file()
        make_folders(here / "photos" / Path(*["e" * 200] * 15))
        inner = here / "photos" / Path(*["e" * 200] * 15)
        subprocess.run(["sh", "-c", f"cd {inner} && mkdir -p $(printf '{'f' * 200}/%.0s' 1 2 3 4 5 6 7)"], check=True)
        told = ends_well(arguments("protect", {"--out": "other"}), capsys, (1,))  # a path of over 4096 bytes
        assert told == "" or "Traceback" not in told
    finally:
        subprocess.run(["rm", "-rf", *(str(here / name) for name in ("photos", "masks", "new", "other"))], check=True)


# --- standard output that is not UTF-8


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_standard_output_of_another_encoding_takes_every_text(
    here: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    finished(here)
    (here / "photos" / "日本.png").write_text("no image")
    Path("out", "日本.txt").write_text("a stranger")
    lines = [[command, "--help"] for command in application.COMMANDS]
    lines += [arguments("protect", {}), ["verify", "out"], ["verify", "out", "--json"], ["report", "results"]]
    lines += [["datasets"], ["protect", "日本", "--out", "x"], ["report", "日本"], ["info"], ["日本"]]
    for line in lines:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            code = cli.main(line)
        said = b"".join(stream.buffer.getvalue() for stream in streams if not stream.flush())
        assert code == (2 if "日本" in line else int("out" in line or "photos" in line)) and said, (line, said)
        assert b"Traceback" not in said and all(stream.errors == "strict" for stream in streams)
        if "photos" in line or "out" in line:
            assert b"\\u65e5\\u672c" in said


# --- names with half of a character, out of files


def test_half_of_a_character_in_a_file_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(here)
    half = '"half\\ud800.png"'
    manifest = Path("out", MANIFEST)
    manifest.write_text(manifest.read_text().replace('"p0.png"', half))
    told = ends_well(["verify", "out"], capsys, (2,))
    assert f"out/{MANIFEST}: not a manifest of unseg (line 2: input: 'half\\ud800.png'" in told
    ends_well(arguments("protect", {"--out": "out"}), capsys, (2,))
    for name in ("root", "dataset", "split"):
        values = {"edition": 1, "dataset": "pascal", "split": "train", "root": "..", "sets": {}, name: "half\ud800"}
        Path("out", EDITION).write_text(json.dumps(values))
        ends_well(["verify", "out"], capsys, (2,))
    Path("out", EDITION).unlink()
    Path("boxes.json").write_text(f"{{{half}: [[0, 0, 3, 3]]}}")
    ends_well(arguments("protect", {"--boxes": "boxes.json"}), capsys, (1,))
    Path("c.yaml").write_text('masks: "half\\uD800"')
    ends_well(["protect", "photos", "--out", "new", "--config", "c.yaml"], capsys, (2,))
    results = Path("results", "results.json")
    results.write_text(results.read_text().replace("clean", "cle\\ud800an"))
    ends_well(["report", "results"], capsys, (0, 2))
    ends_well(["report", "results", "--title", "half\ud800"], capsys, (0, 2))
