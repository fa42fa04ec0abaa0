"""docs/explanation/trust.md names a test for each promise: each must exist, in the file that the page says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "trust.md"


def functions_of(file: Path) -> set[str]:
    return {
        node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    }


def faults(page: str, tests: Path = TESTS) -> list[str]:
    """Returns what the page names and the tests do not have.

    A name's file is the last one named before it in its line. "…" ends a beginning that exactly one function has.
    """
    found = []
    files = {path.stem: path for path in tests.rglob("test_*.py")}
    for line in page.splitlines():
        known: set[str] = set()
        for script in re.findall(r"`python tests/([\w/]+\.py)", line):
            if not (tests / script).is_file():
                found.append(script)
        for name, cut in re.findall(r"`(test_\w*)(…?)`", line):
            if name in files and not cut:
                known = functions_of(files[name])
            elif sum(function == name or bool(cut) and function.startswith(name) for function in known) != 1:
                found.append(f"{name}{cut}")
    return found


def test_every_test_and_script_on_the_page_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert faults(page) == [] and len(re.findall("`test_", page)) > 60


def test_names_that_are_not_there_are_found() -> None:
    assert faults("| `test_trust_page`: `test_every_test_…`, `test_none`, `test_…` | `python tests/none.py` |") == [
        "none.py",
        "test_none",
        "test_…",
    ]
