"""What the commands share on the terminal: progress bars, lists that do not flood it, names that may hold any byte."""
from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

SHOWN = 20
T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, quiet: bool = False) -> Iterable[T]:
    """`items` with a bar on stderr: done, total, rate, time left. In a log file it writes a line every ten seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(items, total=total, desc=what, unit="image", smoothing=0.05, disable=quiet, dynamic_ncols=terminal,
                mininterval=0.2 if terminal else 10)


def printable(name: str) -> str:
    """`name` without the bytes that are no text, which terminals and encodings refuse."""
    return name.encode(errors="backslashreplace").decode()


def print_list(console: Console, title: str, lines: Sequence[str], style: str, where_more: str) -> None:
    """A title and at most `SHOWN` lines, then how many more and where they are."""
    if not lines:
        return
    console.print(Text(f"{title} ({len(lines)}):", style=style))
    for line in lines[:SHOWN]:
        console.print(Text(f"  {printable(line)}"), soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(Text(f"  … and {len(lines) - SHOWN} more in {where_more}"), soft_wrap=True)
