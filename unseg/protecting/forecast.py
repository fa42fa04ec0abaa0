"""What a long run will take is told before it starts: how many images, how big, how long, where to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.filesize import decimal

from unseg.counts import count_of

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """What one image took that was protected without being written.

    generator_seconds, worker_seconds: of one thread of each kind. bytes_in, bytes_out: sizes of the files.
    """

    generator_seconds: float
    worker_seconds: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    images: all of them. finished: by an earlier run. bytes_in: of those to do. seconds, bytes_out: None where no image
    was tried. bytes_free: on the output's disk, None where the system does not say.
    """

    images: int
    finished: int
    bytes_in: int
    seconds: float | None = None
    bytes_out: int | None = None
    bytes_free: int | None = None

    def sentences(self, out: str) -> list[str]:
        """Returns what the user is told before the run."""
        to_do = self.images - self.finished
        begun = f"; {self.finished:,} are finished already" if self.finished else ""
        said = [f"{count_of(to_do, 'image')} to protect ({decimal(self.bytes_in)}), into {out}{begun}"]
        if self.seconds is not None and self.bytes_out is not None:
            room = "" if self.bytes_free is None else f"; {decimal(self.bytes_free)} are free"
            said.append(f"this will take about {duration(self.seconds)} and {decimal(self.bytes_out)} on disk{room}")
            if self.bytes_free is not None and self.bytes_out > self.bytes_free:
                said.append(
                    "note: that is not enough room; the run will stop when the disk is full, and can go on once"
                    " there is more"
                )
        return said


def forecast(
    images: int,
    finished: int,
    sizes: Sequence[int],
    trials: Sequence[Trial],
    generators: int,
    workers: int,
    bytes_free: int | None = None,
) -> Forecast:
    """Returns what the whole will take, from a few trials.

    sizes: bytes of every input to do. generators, workers: threads of each kind. A generator's time is counted by the
    image, since all are brought to one size; decoding and encoding by the byte.
    """
    total = sum(sizes)
    if not trials or not sizes:
        return Forecast(images, finished, total, bytes_free=bytes_free)
    tried = sum(trial.bytes_in for trial in trials)
    share = total / tried
    generating = sum(trial.generator_seconds for trial in trials) / len(trials) * len(sizes) / generators
    around = sum(trial.worker_seconds for trial in trials) * share / workers
    bytes_out = round(sum(trial.bytes_out for trial in trials) * share)
    return Forecast(images, finished, total, generating + around, bytes_out, bytes_free)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Returns `count` of the items, evenly over their order: the middles of as many equal parts."""
    if len(items) < count:
        return list(items)
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]


def duration(seconds: float) -> str:
    """Returns seconds as people say them: "a second", "40 seconds", "14 minutes", "3.2 hours", "2.5 days"."""
    for unit, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    if seconds >= 90:
        return f"{round(seconds / 60)} minutes"
    return f"{round(seconds)} seconds" if seconds >= 1.5 else "a second"
