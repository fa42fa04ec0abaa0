"""What a process held at most, for tests that bound memory."""

from __future__ import annotations

from pathlib import Path


def peak_memory_mib() -> int:
    """The most memory that this process ever held, by Linux's own book; getrusage counts its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
