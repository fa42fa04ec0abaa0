"""What the commands share on the terminal: progress bars, lists that do not flood it, stopping in good order."""
from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from unseg.files import printable

SHOWN = 20
T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, quiet: bool = False) -> Iterable[T]:
    """`items` with a bar on stderr: done, total, rate, time left. In a log file it writes a line every ten seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(items, total=total, desc=what, unit="image", smoothing=0.05, disable=quiet, dynamic_ncols=terminal,
                mininterval=0.2 if terminal else 10)


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


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Inside, decoders do not print what they think of odd files: what matters is in the ledger, by the file's name."""
    import cv2

    log, pillow = cv2.utils.logging, logging.getLogger("PIL")
    levels = log.getLogLevel(), pillow.level
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    pillow.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        log.setLogLevel(levels[0])
        pillow.setLevel(levels[1])
