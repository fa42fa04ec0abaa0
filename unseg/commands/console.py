"""What the commands share on the terminal: sentences and bars, lists that do not flood it, stopping in good order."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from unseg.compute.interrupts import in_good_order
from unseg.compute.progress import Tick
from unseg.storage.files import printable
from unseg.storage.image_limits import quiet_decoders

__all__ = [
    "SHOWN",
    "Terminal",
    "print_list",
    "printable",
    "quiet_decoders",
    "to_go_on_later",
]

GOES_ON = "interrupted; what is finished is kept, run the same command again to go on"
SHOWN = 20
IN_A_LOG = 10  # seconds between two lines of a bar that goes into a file


class Terminal:
    """The progress of a command: sentences on standard output, bars on standard error.

    quiet: neither sentences nor bars. to_stderr: sentences go to standard error, which leaves standard output to JSON.
    console: where tables of the same command are printed.
    """

    def __init__(self, quiet: bool = False, to_stderr: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(highlight=False, stderr=to_stderr)

    def say(self, text: str) -> None:
        """Prints one sentence on lines of its own, above an open bar."""
        if not self.quiet:
            with tqdm.external_write_mode(file=self.console.file):
                self.console.print(printable(text), markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        """Opens a bar: what, done, total, rate and time left. In a log file it writes a line every ten seconds."""
        terminal = sys.stderr.isatty()
        with tqdm(
            total=total,
            desc=what,
            unit="",
            smoothing=0.05,
            disable=self.quiet,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else IN_A_LOG,
        ) as bar:

            def tick() -> None:
                bar.update()

            yield tick


def print_list(console: Console, title: str, lines: Sequence[str], style: str, where_more: str) -> None:
    """Prints a title and at most `SHOWN` lines, then how many more there are and where."""
    if not lines:
        return
    console.print(Text(f"{title} ({len(lines)}):", style=style))
    for line in lines[:SHOWN]:
        console.print(Text(f"  {printable(line)}"), soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(Text(f"  … and {len(lines) - SHOWN} more in {where_more}"), soft_wrap=True)


@contextmanager
def to_go_on_later(how: str = GOES_ON) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end a run in good order, as a KeyboardInterrupt that says how the run goes on.

    how: what it says where the run itself says nothing.
    """
    try:
        with in_good_order():
            yield
    except KeyboardInterrupt as stop:
        raise type(stop)(str(stop) or how) from None
