"""Ctrl-C and SIGTERM at any moment of a command: one line, and exit code 130 or 143.

`end_at_once` is for a process that has nothing to put in order: while it imports modules, and where it only reads. The
line and the end come from the signal's handler itself. An exception would not always arrive: while modules are
imported, it can be lost in a callback of the interpreter, or become another error in a library's own code.
`in_good_order` is for work that leaves files: inside, a signal is a KeyboardInterrupt.

This module is imported before all others, so it needs the standard library's light ones alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGNAL = 128
"""Exit code of a process that a signal stopped: this plus its number."""
INSISTED_AFTER = 1.0  # seconds: one Ctrl-C may arrive twice, from the terminal and through the launcher
SENT_AGAIN_AFTER = 0.05  # seconds, for a signal whose exception was lost

LAUNCHER = "UNSEG_TOLD"
"""Environment variable of processes that `unseg.compute.launch` starts: the file that says that they told their end."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class Terminated(KeyboardInterrupt):
    """The system asked the process to end, as job schedulers do before they kill it."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Returns the exit code of a process that was stopped so."""
    return EXIT_SIGNAL + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def end_at_once(name: str = "unseg") -> None:
    """From now on, Ctrl-C or SIGTERM ends this process with one line that begins with `name`.

    A signal that the process was started to ignore stays ignored, as for a job in a shell's background.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        new_line = "\n" if _on_a_terminal() else ""  # behind the ^C, and behind a bar
        if speaks() and not (number == signal.SIGTERM and was_launched()):
            with suppress(OSError):
                os.write(2, f"{new_line}{name}: interrupted\n".encode())
            tell_the_launcher()
        os._exit(EXIT_SIGNAL + number)

    for number in _heard():
        signal.signal(number, end)


def speaks() -> bool:
    """Returns whether this process tells what happens: of several that `torchrun` started, the first one does."""
    return os.environ.get("RANK", "0") == "0"


def was_launched() -> bool:
    """Returns whether `unseg.compute.launch` started this process.

    Its SIGTERM is no news: the launcher sends it where another process failed, and tells why it was sent.
    """
    return LAUNCHER in os.environ


def tell_the_launcher() -> None:
    """Lets the launcher know, where there is one, that a person has read why this process ends."""
    if was_launched() and speaks():
        with suppress(OSError):
            os.close(os.open(os.environ[LAUNCHER], os.O_WRONLY | os.O_CREAT, 0o600))


def ignore_from_now_on() -> None:
    """Leaves the end of this process, whose work is done, to itself: it takes no second any more."""
    for number in _heard():
        signal.signal(number, signal.SIG_IGN)


class in_good_order:  # noqa: N801  # used as a function is
    """A context in which Ctrl-C raises KeyboardInterrupt, and SIGTERM its kind `Terminated`.

    A second one within `INSISTED_AFTER` is the same one. Where a library's code swallows the exception in a callback,
    the signal is sent again; where it makes another error of it, that error is replaced.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._since = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> in_good_order:
        self._before = {number: signal.signal(number, self._take) for number in _heard()}
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._lost
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler that is not Python's
        if self._number is not None and error is not None and not isinstance(error, KeyboardInterrupt):
            raise _interrupt(self._number) from None

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._number is None or now - self._since > INSISTED_AFTER:
            self._number, self._since = number, now
            raise _interrupt(number)

    def _lost(self, found: sys.UnraisableHookArgs) -> None:
        """Is told of an exception that nobody can catch, such as one in a weak reference's callback."""
        if self._number is None or not isinstance(found.exc_value, KeyboardInterrupt):
            self._hook(found)
            return
        self._since = -INSISTED_AFTER
        again = threading.Timer(SENT_AGAIN_AFTER, _send_to_us, [self._number])
        again.daemon = True
        again.start()


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Inside, processes may be started that Ctrl-C does not reach: a terminal sends it to all, and the parent answers.

    It arrives here when the context ends, if not before.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker  # slow to import, and asked for with processes alone

    resource_tracker.ensure_running()  # it would unblock the signal when the first process is spawned
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # a mask is inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send_to_us(number: int) -> None:
    if os.name == "nt":
        signal.raise_signal(number)  # os.kill would end the process there
    else:
        os.kill(os.getpid(), number)


def _interrupt(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _heard() -> list[int]:
    """Returns the signals that this thread may answer: only the main one may, and only what is not ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _on_a_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False
