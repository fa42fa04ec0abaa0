"""Objects that are named on the command line: found in the current folder, and every mistake told in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unseg.compute.plugins import OwnCode, is_spec, load_object
from unseg.errors import UserError


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with modules of a user's own; nothing of them stays imported."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(
        "def build(): return 'built'\nclass Kinds:\n    small = 'small'\n"
    )
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('no such card\\nand more')\n")
    (tmp_path / "own_exit.py").write_text("raise SystemExit('bye')\n")
    (tmp_path / "own_zero.py").write_text("# a division\none = 1 / 0\n")
    (tmp_path / "own_typo.py").write_text("def build(:\n")
    (tmp_path / "own_needy.py").write_text("import no_such_library_here\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_an_object_of_the_current_folder_is_found() -> None:
    assert load_object("own_package.nets:build", "--networks")() == "built"
    assert load_object("own_package.nets:Kinds.small", "--networks") == "small"


def test_only_a_module_and_a_name_are_a_spec() -> None:
    assert is_spec("own_package.nets:build") and is_spec("a:b.c")
    for text in ("compact", "weights/a.pth", "a/b.py:build", "a:", ":b", "a:b:c", "a b:c", "1a:b", "a.:b"):
        assert not is_spec(text), text
    with pytest.raises(UserError, match="^--networks nets.py: give module:name, for example my_networks:build$"):
        load_object("nets.py", "--networks")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_absent:build", "--generator own_absent:build: there is no module own_absent in /"),
        ("own_package.absent:build", "there is no module own_package.absent in /"),
        ("own_needy:build", "module own_needy needs no_such_library_here, which is not installed"),
        (
            "own_broken:build",
            r"own_broken fails on import: RuntimeError: no such card \(own_broken.py, line 1\)$",
        ),
        ("own_exit:build", "module own_exit fails on import: SystemExit: bye"),
        ("own_zero:build", r"module own_zero fails on import: ZeroDivisionError: .* \(own_zero.py, line 2\)$"),
        ("own_typo:build", "module own_typo fails on import: SyntaxError: "),
        ("own_package.nets:biuld", r"module own_package.nets \(.*nets.py\) has no biuld; check the name$"),
    ],
)
def test_a_mistake_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_object(spec, "--generator")
    assert "\n" not in str(caught.value)


def test_what_own_code_raises_is_one_line_unless_it_means_to_stop() -> None:
    message = r"^--networks a:b: cannot be built: KeyError: 'x' \(test_plugins.py, line \d+\)$"
    with pytest.raises(UserError, match=message), OwnCode("--networks a:b: cannot be built"):
        raise KeyError("x")
    for stop in (KeyboardInterrupt, MemoryError):
        with pytest.raises(stop), OwnCode("what"):
            raise stop
