"""Ctrl-C and SIGTERM (Slurm, a system that shuts down) as a request that a loop obeys between two steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType

from unseg.compute.interrupts import INSISTED_AFTER, Handler

EXIT_ORPHANED = 3
"""Exit code of a process of `multiprocessing` whose parent is gone."""


def end_with_the_parent() -> None:
    """Lets this process of `multiprocessing` end as soon as its parent does, however that ends.

    Nobody else would stop it. Called in the main process, which has no such parent, it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


class StopRequest:
    """A context in which the first SIGINT or SIGTERM sets `signal`; a second Ctrl-C interrupts at once.

    A signal that the process was started to ignore stays ignored, as for a job in a shell's background.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > INSISTED_AFTER:
            raise KeyboardInterrupt
