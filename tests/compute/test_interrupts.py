"""Ctrl-C and SIGTERM at any moment, that of an import included: one line, 130 or 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unseg.compute.interrupts import Terminated, in_good_order, kept_from_children

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")

# Runs a command as the console script does. The process sends itself a signal when it begins to import a module.
PROGRAM = """
import os, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)
module, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
sys.meta_path.insert(0, Sender())
from unseg.cli import main
sys.exit(main())
"""


def stopped(module: str, number: int, *command: str) -> tuple[int, str]:
    """The exit code and standard error of a command that was sent a signal while it began to import a module."""
    run = [sys.executable, "-c", PROGRAM, module, str(int(number)), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "rich.console", "unseg.commands.verify", "cv2"])
def test_a_command_that_is_being_imported_ends_in_one_line(module: str, number: int) -> None:
    assert stopped(module, number, "verify", "nowhere") == (128 + number, "unseg: interrupted\n")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("torch", ["info", "--generator", "none.safetensors"]),
        ("unseg.protecting.run", ["protect", "nowhere", "--out", "none"]),
        ("unseg.protecting.lone_image", ["protect", "-", "--out", "-"]),
        ("unseg.evaluation.study_runs", ["evaluate", "--out", "none", "--test", "none", "--clean", "none"]),
        ("unseg.report.writing", ["report", "nowhere"]),
        ("unseg.editions.survey", ["datasets"]),
    ],
)
def test_what_a_command_imports_when_it_runs_ends_in_one_line(module: str, command: list[str]) -> None:
    assert stopped(module, signal.SIGTERM, *command) == (143, "unseg: interrupted\n")


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PROGRAM
    run = [sys.executable, "-c", code, "typer", str(int(signal.SIGINT)), "--version"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")


def test_work_in_good_order_hears_either_signal_and_leaves_the_handlers_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with pytest.raises(KeyboardInterrupt) as caught, in_good_order():
            os.kill(os.getpid(), number)
            time.sleep(10)
        assert type(caught.value) is kind
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_one_ctrl_c_that_arrives_twice_does_not_disturb_the_tidying() -> None:
    tidied = False
    with pytest.raises(KeyboardInterrupt), in_good_order():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            tidied = True
    assert tidied


def test_an_interrupt_that_a_callback_swallows_arrives_all_the_same() -> None:
    """Exceptions in `__del__` and in callbacks of weak references go to nobody."""

    class Fragile:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    fragile = [Fragile()]
    with pytest.raises(Terminated), in_good_order():
        fragile.clear()
        time.sleep(10)


def test_an_interrupt_of_which_a_library_makes_an_error_is_an_interrupt() -> None:
    def importing() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt as stop:
            raise ImportError("initialization failed") from stop

    with pytest.raises(KeyboardInterrupt), in_good_order():
        importing()


def test_other_errors_and_ends_pass() -> None:
    with pytest.raises(ValueError, match="so it is"), in_good_order():
        raise ValueError("so it is")
    with in_good_order():
        pass


def test_children_do_not_hear_ctrl_c_and_the_parent_does_afterwards() -> None:
    code = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05); print('there')"
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with kept_from_children():
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (child.stdout, child.stderr, heard) == ("there\n", "", [signal.SIGINT])
