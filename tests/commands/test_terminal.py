"""The terminal as the progress of a command: sentences here, bars there, nothing where it is quiet."""

from __future__ import annotations

import pytest

from unseg.commands.console import Terminal
from unseg.compute.progress import track


def test_sentences_go_to_stdout_and_bars_to_stderr(capsys: pytest.CaptureFixture) -> None:
    terminal = Terminal()
    terminal.say("note: [red] a\x1b[31m name")
    assert list(track(terminal, iter("abc"), 3, "images")) == ["a", "b", "c"]
    out, error = capsys.readouterr()
    assert out == "note: [red] a\\x1b[31m name\n" and "\x1b" not in error
    assert "images: 100%" in error and "3/3" in error


def test_with_json_on_stdout_sentences_go_to_stderr(capsys: pytest.CaptureFixture) -> None:
    Terminal(to_stderr=True).say("so it is")
    assert capsys.readouterr() == ("", "so it is\n")


def test_a_quiet_terminal_says_nothing_and_ticks(capsys: pytest.CaptureFixture) -> None:
    terminal = Terminal(quiet=True)
    terminal.say("so it is")
    with terminal.bar("images", 2) as tick:
        tick()
    assert capsys.readouterr() == ("", "")


def test_a_long_sentence_stays_one_line(capsys: pytest.CaptureFixture) -> None:
    Terminal().say("word " * 100 + "end")
    assert capsys.readouterr().out.count("\n") == 1
