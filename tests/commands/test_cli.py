"""The `unseg` command: exit codes, one-line errors, the closing table, and help without torch."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from PIL import Image as Pillow

import unseg.protecting.generators
import unseg.protecting.run
from tests.support.fake_generator import loaded
from unseg import __version__, cli
from unseg.commands import application
from unseg.commands.literal_help import LiteralHelp
from unseg.storage.image_decoding import read_image

ROOT = Path(__file__).resolve().parents[2]
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(unseg.protecting.generators, "fastest_generator", lambda which, device: loaded())
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        Pillow.fromarray(PHOTO).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)


def test_protect_and_verify_end_well(photos: Path, capsys: pytest.CaptureFixture) -> None:
    out = photos.parent / "out"
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "protected" in captured.out and "PSNR" in captured.out and "images/s" in captured.out
    assert "images: 100%" in captured.err and "2/2" in captured.err  # the bar
    assert cli.main(["verify", str(out)]) == 0
    assert "2 of 2 images hold the bound at every pixel; most change 8 on objects" in capsys.readouterr().out
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "2 of them by an earlier run" in captured.out and captured.err == ""


def test_what_is_not_protected_is_listed_and_the_exit_code_is_1(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "empty [red].png").touch()
    masks = photos.parent / "masks"
    masks.mkdir()
    Pillow.new("L", (32, 24), 255).save(masks / "a.png")
    arguments = ["protect", str(photos), "--out", str(photos.parent / "out"), "--masks", str(masks), "--device", "cpu"]
    assert cli.main(arguments) == 1
    out = capsys.readouterr().out
    assert "masks: binary (0 and 255)" in out
    assert "empty [red].png: the file is empty (0 bytes)" in out and "b.jpg: no mask for it" in out
    assert "1 image written in" in out  # neither the one that failed nor the one without a mask
    assert cli.main(["verify", str(photos.parent / "out")]) == 1
    assert "b.jpg: left out: no mask for it" in capsys.readouterr().out


def test_verify_as_json(photos: Path, capsys: pytest.CaptureFixture) -> None:
    out = photos.parent / "out"
    cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "-q"])
    (out / "extra.png").touch()
    capsys.readouterr()
    assert cli.main(["verify", str(out), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["verified"], result["extra"], result["failures"]) == (False, 2, ["extra.png"], [])
    assert (result["images"], result["max_object"], result["max_background"]) == (2, 8, None)


def test_protect_as_json(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "c.png").write_bytes(b"x")
    out = photos.parent / "out"
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "--json"]) == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["ok"], result["protected"], result["failed"], result["copied"]) == (False, 2, 1, 0)
    assert result["not_protected"] == [
        {
            "input": "c.png",
            "input_root": "../photos",
            "status": "failed",
            "reason": "not an image of a known format (JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF, HEIF, JXL)",
        }
    ]
    assert 30 < result["psnr"]["lowest"] <= result["psnr"]["mean"] < 50
    foreseen = result["forecast"]
    assert foreseen["bytes_in"] == sum(path.stat().st_size for path in photos.iterdir()) and foreseen["bytes_free"] > 0
    assert (foreseen["images"], foreseen["finished"], foreseen["seconds"], foreseen["bytes_out"]) == (3, 0, None, None)
    assert "3 images to protect" in captured.err and "3/3" in captured.err  # sentences and bar
    (photos / "c.png").unlink()
    assert (
        cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "--json", "--quiet"])
        == 0
    )
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kept_from_earlier_runs"] == 2 and captured.err == ""
    assert json.loads(captured.out)["forecast"]["finished"] == 2
    other = photos.parent / "other"
    assert (
        cli.main(
            ["protect", "--whole-image", str(photos), "--out", str(other), "--device", "cpu", "--json", "--dry-run"]
        )
        == 0
    )
    foreseen = json.loads(capsys.readouterr().out)["forecast"]  # a dry run tries images
    assert foreseen["seconds"] > 0 and foreseen["bytes_out"] > 0 and not other.exists()


def test_noise_that_is_the_same_all_over_is_told(photos: Path, capsys: pytest.CaptureFixture) -> None:
    """By --whole-image, by masks without a rest, and not where a mask leaves some of the image."""
    masks = photos.parent / "masks"
    masks.mkdir()
    for name, top in (("a.png", 0), ("b.png", 5)):
        shown = np.zeros(PHOTO.shape[:2], np.uint8)
        shown[top:] = 255
        Pillow.fromarray(shown).save(masks / name)
    told = "the noise is all over, which cannot keep networks from learning the objects"
    for what, number in ((["--whole-image"], 2), (["--masks", str(masks), "--mask-type", "binary"], 1)):
        out = str(photos.parent / f"out{number}")
        assert cli.main(["protect", str(photos), *what, "--out", out, "--dry-run"]) == 0
        assert f"In {number} of 2 protected images {told}" in capsys.readouterr().out
        assert cli.main(["protect", str(photos), *what, "--out", out]) == 0
        assert f"In {number} of 2 protected images {told}" in capsys.readouterr().out
        assert cli.main(["protect", str(photos), *what, "--out", out, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["noise_all_over"] == number
    (masks / "a.png").write_bytes((masks / "b.png").read_bytes())
    out = str(photos.parent / "parts")
    assert cli.main(["protect", str(photos), "--masks", str(masks), "--fit-masks", "--out", out]) == 0
    assert told not in capsys.readouterr().out


def test_before_the_run_it_says_how_many_how_big_and_where_to(photos: Path, capsys: pytest.CaptureFixture) -> None:
    out = photos.parent / "out"
    cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in photos.iterdir())
    assert lines[0] == "codes: one pattern on the object, none elsewhere: nothing tells classes apart"
    assert lines[1] == f"2 images to protect ({size / 1000:.1f} kB), into {out}"
    cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu"])
    assert f"0 images to protect (0 bytes), into {out}; 2 are finished already\n" in capsys.readouterr().out


def test_what_decoders_think_of_odd_files_is_not_printed(photos: Path, capsys: pytest.CaptureFixture) -> None:
    odd = photos / "odd.jpg"
    Pillow.fromarray(PHOTO).save(
        odd, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x0f\x01\2\0\x14\0\0\0\xff\xff\xff\x7f" + bytes(4)
    )  # a maker's name of twenty letters far behind the end
    with pytest.warns(UserWarning):
        read_image(odd)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert (
            cli.main(
                ["protect", "--whole-image", str(photos), "--out", str(photos.parent / "out"), "--device", "cpu", "-q"]
            )
            == 0
        )
    assert warned == [] and capsys.readouterr().err == ""


def test_verify_quiet_has_no_bar(photos: Path, capsys: pytest.CaptureFixture) -> None:
    out = photos.parent / "out"
    cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "-q"])
    capsys.readouterr()
    assert cli.main(["verify", str(out)]) == 0 and "verify" in capsys.readouterr().err
    assert cli.main(["verify", str(out), "-q"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["protect", "verify"])
def test_help_documents_the_exit_codes(command: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Exit codes: 0 every image" in text and "; 2 it could not start" in text and "130 Ctrl-C" in text


@pytest.mark.parametrize("command", application.COMMANDS)
def test_help_shows_what_is_written(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text of every option, brackets among them; spaces and line ends may lie elsewhere."""
    monkeypatch.setenv("COLUMNS", "200")
    written = typer.main.get_command(application.app_of(command)).commands[command]
    assert cli.main([command, "--help"]) == 0
    shown = "".join(capsys.readouterr().out.replace("│", "").split())
    for text in (written.help, *(parameter.help for parameter in written.params)):
        assert "".join((text or "").split()) in shown, text


def test_brackets_in_help_are_no_markup(capsys: pytest.CaptureFixture) -> None:
    app = typer.Typer(add_completion=False)

    def command(boxes: Annotated[str, typer.Option(help="[[x1, y1], ...] or [bold]NAME[/bold]")] = "") -> None: ...

    app.command(cls=LiteralHelp, help="Takes [a] and [/b].")(command)
    with pytest.raises(SystemExit):
        app(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "Takes [a] and [/b]." in shown and "[[x1, y1], ...] or [bold]NAME[/bold]" in shown


def test_jpeg_says_what_it_costs(photos: Path, capsys: pytest.CaptureFixture) -> None:
    cli.main(
        [
            "protect",
            "--whole-image",
            str(photos),
            "--out",
            str(photos.parent / "out"),
            "--device",
            "cpu",
            "--format",
            "jpeg",
        ]
    )
    out = capsys.readouterr().out
    assert "JPEG breaks the bound: " in out and "PNG keeps it exactly" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--whole-image", "--epsilon", "300"], "--epsilon 300.0: give a number of grey levels"),
        (["--whole-image", "--objects", "cat"], "--objects cat: give `all` or class ids"),
        (["--whole-image", "--format", "gif"], "--format gif: choose from png, tiff, webp, jpeg"),
        (
            [],
            "what is the object? Give --masks (a folder, or auto), --boxes, --points or --annotations",
        ),
        (["--whole-image", "--masks", "masks"], "--masks and --whole-image: give one of them"),
        (["--whole-image", "--fit-masks"], "--fit-masks: is for --masks"),
        (["--whole-image", "--mask-type", "index"], "--mask-type index: is for --masks; leave it out"),
        (["--whole-image", "--ignore-label", "7"], "--ignore-label 7: is for --masks and --annotations; leave it out"),
        (["--boxes", "b.json", "--background-label", "5"], "--background-label 5: is for --masks and --annotations"),
        (["--whole-image", "--mask-frame", "sideways"], "--mask-frame sideways: choose from auto, upright, stored"),
        (["--whole-image", "--unmasked", "burn"], "--unmasked burn: choose from skip, copy, fail, whole"),
        (["--whole-image", "--mask-type", "grey"], "--mask-type grey: choose from auto, binary, index, soft, trimap"),
        (["--whole-image", "--device", "abacus"], "--device abacus"),
        (["--masks", "nowhere"], "--masks nowhere: no such folder"),
        (["--whole-image", "--batch-size", "0"], "--batch-size 0: give 1 or more"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    photos: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    out = photos.parent / "out"
    assert cli.main(["protect", str(photos), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"unseg: error: {message}") and error.count("\n") == 1
    assert not out.exists()


def test_output_inside_input_is_refused(photos: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(photos / "out")]) == 2
    assert "lies in the input folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["protect", "photos"], ["missing option '--out'", "`unseg protect --help` lists"]),
        (["protect", "photos", "--out"], ["'--out' requires an argument", "`--help` lists"]),
        (
            ["protect", "photos", "--out", "out", "--epsilon", "abc"],
            ["'--epsilon'", "valid number", "`unseg protect --help`"],
        ),
        (["evaluate", "--stepz", "3"], ["--stepz", "--steps", "`unseg evaluate --help`"]),
        (["nonsense"], ["no such command 'nonsense'", "`unseg --help`"]),
        (["--nonsense"], ["no such option: --nonsense", "`unseg --help`"]),
        (["verify", "nowhere"], ["nowhere"]),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("unseg: error: ") and error.count("\n") == 1 and all(part in error for part in parts)


def test_verify_without_a_manifest_is_one_line_and_exits_2(photos: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["verify", str(photos)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unseg-manifest.jsonl" in error


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == 0
    out, error = capsys.readouterr()
    assert "protect" in out and "verify" in out and not error


def test_of_several_processes_the_first_tells_a_wrong_option(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others give it time; who still lives then says it, too."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["train", "--threads", "x"]) == 2
        assert "'--threads'" in capsys.readouterr().err
        assert waits == [application.FIRST_TELLS_WITHIN] * int(rank)


def test_ctrl_c_is_one_line_and_exits_130(
    photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(unseg.protecting.run, "protect", interrupted)
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(photos.parent / "out")]) == 130
    error = capsys.readouterr().err
    assert error == "unseg: interrupted; what is finished is kept, run the same command again to go on\n"


def test_info(photos: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert __version__ in out and "fake.safetensors" in out and "0" * 64 in out


def test_info_as_json(photos: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["unseg"] == __version__ and facts["sha256"] == "0" * 64


def test_version_and_help_do_not_import_torch() -> None:
    code = "import sys; from unseg import cli; code = cli.main([{!r}]); print('torch' in sys.modules, code)"
    for option in ("--version", "--help"):
        result = python("-c", code.format(option))
        assert result.stdout.splitlines()[-1] == "False 0", result.stderr
    assert f"unseg {__version__}" in python("-m", "unseg.cli", "--version").stdout


@pytest.mark.parametrize("command", application.COMMANDS)
def test_help_loses_nothing_in_a_narrow_terminal(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where panels have no room for a word, it is cut; plain lines are broken."""
    cut = []
    for columns in (40, 80, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main([command, "--help"]) == 0
        cut.append(capsys.readouterr().out.count("…"))
    assert cut[:2] == [cut[2]] * 2


# --- standard output and standard error that take nothing


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_standard_output_that_takes_nothing_is_one_line_and_exit_2(
    photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.parent / "out"
    assert cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu", "-q"]) == 0
    capsys.readouterr()
    for more in ([], ["--json"]):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Full())
            assert cli.main(["verify", str(out), "-q", *more]) == 2
        assert capsys.readouterr().err == (
            "unseg: error: standard output: cannot be written: No space left on device; what is"
            " finished is kept: send it elsewhere and run the same command again\n"
        )


@pytest.mark.parametrize("stream", [Full(), None], ids=["full", "closed"])
def test_a_standard_error_that_takes_nothing_stops_no_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, stream: object
) -> None:
    out = photos.parent / "out"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert (
            cli.main(["protect", "--whole-image", str(photos), "--out", str(out), "--device", "cpu"]) == 0
        )  # with its bar
        assert cli.main(["protect", str(photos), "--out", str(out), "--masks", "nowhere"]) == 2
    assert cli.main(["verify", str(out)]) == 0


@pytest.mark.skipif(os.name == "nt", reason="descriptors")
def test_closed_descriptors_are_not_given_to_files() -> None:
    """What a C library prints to descriptor 2 would go into the next file that is opened."""
    code = (
        "import os; from unseg.commands.streams import standard_streams\n"
        "with standard_streams(): os._exit(os.open(os.devnull, os.O_RDONLY))"
    )
    closed = subprocess.run(["sh", "-c", f"exec '{sys.executable}' -c \"$0\" <&- >&- 2>&-", code], cwd=ROOT, timeout=60)
    assert closed.returncode >= 3


def test_a_pipe_without_a_reader_leaves_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "unseg.cli", "--version"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    os.close(writer)
    assert (result.returncode, result.stderr.count("\n")) == (
        2,
        1,
    ) and "standard output: cannot be written" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_real_interrupt_leaves_no_temporary_file_and_the_next_run_finishes(tmp_path: Path) -> None:
    """SIGINT to a process in the middle of its images."""
    (tmp_path / "photos").mkdir()
    for number in range(24):
        Pillow.fromarray(np.roll(np.tile(PHOTO, (12, 12, 1)), number, 1)).save(tmp_path / "photos" / f"{number:02}.png")
    # A fifth of a second an image: time to be interrupted on the busiest machine.
    script = (
        "import sys, time;"
        "sys.path.insert(0, {!r});"
        "import unseg.protecting.inputs; from tests.support.fake_generator import loaded; from unseg import cli;"
        "slow = loaded(); fast = slow.network.forward;"
        "slow.network.forward = lambda *given: (time.sleep(0.2), fast(*given))[1];"
        "unseg.protecting.inputs.fastest_generator = lambda which, device: slow;"
        "sys.exit(cli.main(['protect', 'photos', '--whole-image', '--out', 'out', '--noise', 'compact',"
        " '--workers', '1']))"
    )
    command = [sys.executable, "-c", script.format(str(ROOT))]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and len(list((tmp_path / "out").glob("*.png"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.rstrip().endswith("run the same command again to go on")
    done = len(list((tmp_path / "out").glob("*.png")))
    assert 5 <= done < 24 and not list((tmp_path / "out").glob(".unseg-*"))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "by an earlier run" in again.stdout
    assert len(list((tmp_path / "out").glob("*.png"))) == 24
