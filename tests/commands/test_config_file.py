"""Options from a YAML file, options in groups, and options that are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer

from unseg import cli
from unseg.commands.config_file import ConfigFile
from unseg.commands.option_groups import grouped
from unseg.errors import UserError


@dataclass(frozen=True)
class Sizes:
    PANEL: ClassVar[str] = "How large"
    width: Annotated[float, typer.Option(help="Pixels.")]
    height: Annotated[float, typer.Option("--height", "-h", help="Pixels.")] = 2.0


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Runs a command with options of every kind, and returns what it was given."""
    seen: dict[str, Any] = {}

    @grouped
    def draw(
        sizes: Sizes,
        names: Annotated[list[str] | None, typer.Option("--name", help="Any number.")] = None,
        objects: Annotated[str, typer.Option(help="Ids.")] = "all",
        place: Annotated[Path | None, typer.Option(help="A folder.")] = None,
        loud: Annotated[bool, typer.Option("--loud", help="Say it.")] = False,
        config: ConfigFile = None,
    ) -> None:
        """Draw something."""
        given = {"names": names, "objects": objects, "place": place, "loud": loud}
        seen.update(given, width=sizes.width, height=sizes.height)

    app = typer.Typer()
    app.command("draw")(draw)
    app.command("erase")(lambda: None)

    def call(*arguments: str) -> dict[str, Any]:
        seen.clear()
        app(args=["draw", *arguments], prog_name="unseg", standalone_mode=False)
        return dict(seen)

    return call


def write(folder: Path, text: str) -> str:
    (folder / "run.yaml").write_text(text)
    return str(folder / "run.yaml")


def test_a_file_gives_options_of_every_kind(run: Callable[..., dict], tmp_path: Path) -> None:
    file = write(
        tmp_path, "width: 3\nheight: 4.5\nname: [a, b]\nobjects: [3, 4]\nplace: there/it/is\nloud: true  # so\n"
    )
    expected = {"names": ["a", "b"], "objects": "3,4", "place": Path("there/it/is"), "loud": True}
    assert run("--config", file) == {"width": 3.0, "height": 4.5, **expected}
    assert run("--config", write(tmp_path, "width: 1\nname: one\nobjects: 7\nplace:\nloud: false")) == {
        "names": ["one"],
        "objects": "7",
        "place": None,
        "loud": False,
        "width": 1.0,
        "height": 2.0,
    }


def test_values_are_taken_as_they_are_written(run: Callable[..., dict], tmp_path: Path) -> None:
    """YAML 1.1 would read 8, 90, 685230 and False."""
    file = write(tmp_path, "width: 1\nobjects: 010\nplace: 1:30\nname: [190:20:30, no]\nloud: yes")
    given = run("--config", file)
    assert (given["objects"], given["place"], given["names"]) == ("010", Path("1:30"), ["190:20:30", "no"])
    assert given["loud"] is True


def test_the_command_line_wins(run: Callable[..., dict], tmp_path: Path) -> None:
    file = write(tmp_path, "width: 3\nheight: 4\nname: [a, b]\nobjects: all")
    given = run("--width", "9", "--config", file, "--name", "c", "--objects", "1-2")
    assert (given["width"], given["height"], given["names"], given["objects"]) == (9.0, 4.0, ["c"], "1-2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht: 3", "widht is no option of `unseg draw`; `unseg draw --help` lists what there is"),
        ("config: other.yaml", "config is no option of `unseg draw`"),
        ("help: true", "help is no option of `unseg draw`"),
        ("- width", "give names of options and their values, such as `objects: 3,4`"),
        ("3: 4", "3 is no option of `unseg draw`"),
        ("[a]: 4", "cannot be read as YAML: while constructing"),
        ("width: many", "invalid value for '--width': Input should be a valid number"),
        ("name: {a: 1}", "name: give a value, or a list of values"),
        ("objects: [[3], 4]", "objects: give a value, or a list of values"),
        ("", "give names of options and their values"),
        ("width: 4\nname: a\nwidth: 5", "width is there twice; give it once"),
        ("a: [", "cannot be read as YAML: while parsing"),
        ("a: !!python/object/apply:os.abort []", "a is no option of `unseg draw`"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(run: Callable[..., dict], tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        run("--config", write(tmp_path, text))
    assert str(error.value).startswith(f"--config {tmp_path / 'run.yaml'}: {message}") and "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(run: Callable[..., dict], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config .*none.yaml: cannot be read: No such file"):
        run("--config", str(tmp_path / "none.yaml"))


def test_protect_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, "epsilon: 300\nout: nowhere")
    assert cli.main(["protect", str(tmp_path), "--config", file]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"unseg: error: --config {file}: --epsilon 300.0: give a number of grey levels")
    assert cli.main(["protect", str(tmp_path), "--config", file, "--epsilon", "400"]) == 2
    assert capsys.readouterr().err.startswith("unseg: error: --epsilon 400.0: give a number of grey levels")
    file = write(tmp_path, "epsilon: many\nout: nowhere")
    assert cli.main(["protect", str(tmp_path), "--config", file]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"unseg: error: --config {file}: invalid value for '--epsilon': ") and error.count("\n") == 1
    )
    file = write(tmp_path, "compile: true\nout: nowhere")
    assert cli.main(["protect", str(tmp_path), "--config", file]) == 2
    assert capsys.readouterr().err.startswith(f"unseg: error: --config {file}: --compile was removed in 0.2: each ")


def test_options_of_a_group_stand_in_its_panel(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["protect", "--help"]) == 0
    text = capsys.readouterr().out
    panels = ["What is protected", "What the object is", "How much may change", "Output", "Speed and device"]
    places = [text.index(f"─ {panel} ─") for panel in [*panels, "A try first"]]
    assert places == sorted(places)
    assert places[1] < text.index("--background-label") < places[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "folded"], "--attention was removed in 0.2: each device computes in one exact form; leave it"),
        (["--compile"], "--compile was removed in 0.2"),
        (["--graph"], "--graph was removed in 0.2"),
        (["--precision", "auto"], "--precision auto: was removed in 0.2: choose from float32, bfloat16"),
        (["--precision", "float16"], "--precision float16: was removed in 0.2: choose from float32, bfloat16"),
        (["--precision", "float8"], "--precision float8: choose from float32, bfloat16"),
    ],
)
def test_an_option_that_is_gone_ends_in_a_line_that_names_its_successor(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["protect", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"unseg: error: {message}") and error.count("\n") == 1


def test_verify_knows_no_removed_options(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["verify", "x", "--compile"]) == 2
    assert "no such option: --compile" in capsys.readouterr().err
