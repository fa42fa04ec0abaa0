"""A process without what POSIX alone has, whose files are refused as Windows refuses them.

`python -m tests.support.as_on_windows ARGUMENTS...` runs the command `unseg`. `os.statvfs` and `os.uname` stay, because
libraries that are built for this machine need them. What this cannot show: drives, backslashes and the console.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

POSIX_MODULES = ("fcntl", "grp", "posix_spawn", "pty", "pwd", "resource", "syslog", "termios", "tty")
POSIX_NAMES = re.findall(
    r"\w+",
    "O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown confstr ctermid fchmod fchown fork forkpty getegid geteuid getgid getpgid"
    " getsid getuid killpg lchown mkfifo mknod nice posix_fadvise posix_fallocate register_at_fork sched_getaffinity"
    " sched_yield setsid sysconf waitid",
)
POSIX_SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "alarm", "pthread_sigmask")


def without_posix() -> None:
    """Takes away modules, functions and signals that Windows has not; before anything else is imported."""
    sys.modules.update(dict.fromkeys(POSIX_MODULES))  # type: ignore[arg-type]  # None: the import fails
    for module, names in ((os, POSIX_NAMES), (signal, POSIX_SIGNALS)):
        for name in names:
            with suppress(AttributeError):
                delattr(module, name)


def with_windows_files() -> None:
    """Refuses to remove, replace or rename what this process has open, and to open folders."""
    for name in ("replace", "rename", "remove", "unlink"):
        setattr(os, name, _refusing(getattr(os, name)))
    open_as_posix = os.open

    def open_as_windows(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return open_as_posix(path, *arguments, **options)

    os.open = open_as_windows


def _refusing(change: Callable[..., None]) -> Callable[..., None]:
    def refused(*paths: Any, **options: Any) -> None:
        for path in paths:
            if os.path.realpath(path) in _open_files():
                raise PermissionError(errno.EACCES, "the file is used by a process", os.fspath(path))
        change(*paths, **options)

    return refused


def _open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def main(arguments: list[str]) -> int:
    """Runs `unseg` with the arguments."""
    without_posix()
    with_windows_files()
    warnings.filterwarnings("ignore", "only soft file lock is available")  # what filelock says without fcntl
    from unseg.storage import files

    files.WINDOWS = True  # before whoever takes it from there is imported
    from unseg.cli import main as unseg

    return unseg(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
