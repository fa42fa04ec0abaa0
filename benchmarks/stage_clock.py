"""Where the time of `unseg protect` goes: seconds of every stage, from inside a real run.

The functions that the pipeline calls are wrapped for the length of the run. Stages work at the same time, in threads,
so their seconds add up to more than the run's; processor time is each thread's own, and does not count waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unseg.compute.device import choose_device
from unseg.compute.threads import cores
from unseg.method import noise
from unseg.protecting import pipeline
from unseg.protecting.manifest import ManifestWriter
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.run import protect
from unseg.protecting.settings import ProtectSettings
from unseg.storage import image_decoding, image_encoding

# Stage, and the function that is it. Decoding includes reading and hashing the file; writing includes hashing it and
# waiting until the disk has it; the manifest is one line an image, and now and then a wait for the disk.
STAGES = (
    ("decode", image_decoding, "read_image"),
    ("frame", NetworkProtector, "frame"),
    ("network", NetworkProtector, "noise"),
    ("noise", noise, "apply"),
    ("encode", image_encoding, "encode"),
    ("write", pipeline, "write_blocks"),
    ("manifest", ManifestWriter, "add"),
    ("manifest", ManifestWriter, "announce"),
)


@dataclass
class Stage:
    """Holds what the calls of a stage took together. seconds: on the clock; processor: of the calling threads."""

    calls: int = 0
    seconds: float = 0.0
    processor: float = 0.0


@dataclass
class Clock:
    """Holds what was timed. stages: by name. asked: when each question to the network began and ended. span: when it
    was first asked and last answered, each as the time and the processor seconds of the process until then.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    asked: list[tuple[float, float]] = field(default_factory=list)
    span: list[tuple[float, float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, stage: str, function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            started, processor = time.perf_counter(), time.thread_time()
            if stage == "network" and not self.span:
                self.span.append((started, time.process_time()))
            try:
                return function(*arguments, **named)
            finally:
                ended, processor = time.perf_counter(), time.thread_time() - processor
                with self._lock:
                    entry = self.stages.setdefault(stage, Stage())
                    entry.calls, entry.seconds = entry.calls + 1, entry.seconds + ended - started
                    entry.processor += processor
                    if stage == "network":
                        self.asked.append((started, ended))
                        self.span[1:] = [(ended, time.process_time())]

        return call


def covered(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of what the intervals (start, end) cover together; where several overlap, it counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextmanager
def timed_stages() -> Iterator[Clock]:
    """Times every call of a stage inside the context."""
    clock, before = Clock(), [getattr(owner, name) for _, owner, name in STAGES]
    try:
        for (stage, owner, name), function in zip(STAGES, before, strict=True):
            setattr(owner, name, clock.timed(stage, function))
        yield clock
    finally:
        for (_, owner, name), function in zip(STAGES, before, strict=True):
            setattr(owner, name, function)


def stage_figures(folder: Path, out: Path, settings: ProtectSettings) -> dict[str, Any]:
    """Protects a folder and returns where the time went.

    stages: milliseconds an image, on the clock and of the calling threads' processor time. elapsed: seconds from the
    first question to the network to its last answer. In between, the share of the time that the device did nothing
    (idle_share: of a processor's cores, as far as this process used them; of a GPU, the time without a question to the
    network), and beside: the stage that took most beside the network.
    """
    with timed_stages() as clock:
        summary = protect([folder], out, settings)
    (first, processor), (last, processor_then) = clock.span
    count, elapsed = len(summary.of("protected")), last - first
    stages = {
        name: {
            "calls": stage.calls,
            "milliseconds": 1e3 * stage.seconds / count,
            "processor_ms": 1e3 * stage.processor / count,
        }
        for name, stage in clock.stages.items()
    }
    if choose_device(settings.device).type == "cpu":
        busy = (processor_then - processor) / (elapsed * cores())
    else:
        busy = covered(clock.asked) / elapsed
    return {
        "images": count,
        "elapsed": elapsed,
        "stages": stages,
        "idle_share": max(0.0, 1 - busy),
        "beside": max((name for name in stages if name != "network"), key=lambda name: stages[name]["milliseconds"]),
    }
