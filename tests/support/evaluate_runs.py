"""Calls `unseg evaluate` as a person does, and reads what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.whole_app import app
from unseg.evaluation.results import read_results


def arguments(options: dict[str, Any]) -> list[str]:
    """Returns options as a command line: True is a flag, None and False are left out, lists are given again and
    again.
    """
    words: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for item in value for word in (option, str(item))]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words


def evaluate(out: Path, **options: Any) -> dict[str, Any]:
    """Runs the command into `out` and returns the results; a UserError reaches the caller as it is."""
    app(args=["evaluate", *arguments({"out": out, **options})], prog_name="unseg", standalone_mode=False)
    return read_results(out / "results.json")
