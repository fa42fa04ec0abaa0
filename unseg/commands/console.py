"""What the commands share on the terminal: progress bars, lists that do not flood it, stopping in good order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from unseg.storage.files import printable
from unseg.storage.image_limits import quiet_decoders

__all__ = ["SHOWN", "Terminated", "print_list", "printable", "progress", "quiet_decoders", "terminated_as_interrupt"]

SHOWN = 20
T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, quiet: bool = False) -> Iterable[T]:
    """`items` with a bar on stderr: done, total, rate, time left. In a log file it writes a line every ten seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        desc=what,
        unit="image",
        smoothing=0.05,
        disable=quiet,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10,
    )


def print_list(console: Console, title: str, lines: Sequence[str], style: str, where_more: str) -> None:
    """A title and at most `SHOWN` lines, then how many more and where they are."""
    if not lines:
        return
    console.print(Text(f"{title} ({len(lines)}):", style=style))
    for line in lines[:SHOWN]:
        console.print(Text(f"  {printable(line)}"), soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(Text(f"  … and {len(lines) - SHOWN} more in {where_more}"), soft_wrap=True)


class Terminated(KeyboardInterrupt):
    """The system asked the process to end, as job schedulers do before they kill it."""


@contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends a run in good order, as Ctrl-C does."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: a handler that is not Python's
