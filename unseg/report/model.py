"""The types that a report is drawn from: a section for each task, its networks, conditions and runs. Nothing here
knows HTML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg.evaluation.condition_names import RESERVED, shown_name
from unseg.evaluation.results import Spread, spread
from unseg.report.charts import Points


@dataclass(frozen=True)
class Quality:
    """How far a run's training images are from the clean ones.

    psnr: dB. max_change_…: grey levels of 255. delta_e, s_cielab: mean ΔE2000 on objects, by pixel and after the blur
    of the eye. None stands for what was not measured.
    """

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    max_change_object: float | None = None
    max_change_background: float | None = None
    delta_e: float | None = None
    s_cielab: float | None = None


@dataclass(frozen=True)
class Picture:
    """A picture file that the JSON names, relative to its own folder."""

    folder: Path
    file: str


@dataclass(frozen=True)
class Example:
    """A clean test image, its true labels, and the prediction of a run's network."""

    name: str
    image: Picture
    truth: Picture
    prediction: Picture


@dataclass(frozen=True)
class Change:
    """A training image before and after."""

    name: str
    clean: Picture
    changed: Picture


@dataclass(frozen=True)
class Run:
    """One network trained on one condition's images with one seed.

    final, best, curve hold the task's metric. retained: against the clean run of the same seed, None if there is none.
    numbers: every metric that is one number, under its own name. by_class: name of a metric → class → number; None for
    what the test images do not show.
    """

    seed: int
    final: float
    best: float
    curve: Points
    retained: float | None
    numbers: Mapping[str, float | None]
    by_class: Mapping[str, Mapping[str, float | None]]
    quality: Quality
    stored: Quality | None
    seconds: float | None
    examples: Sequence[Example]
    changes: Sequence[Change]


@dataclass(frozen=True)
class Condition:
    """What the networks were trained on.

    name: BASE, BASE@SHARE or one of these +jpegQ, as `unseg.evaluation.condition_names` defines them. runs: at least
    one, in the order of their seeds.
    """

    name: str
    runs: Sequence[Run]

    @property
    def shown(self) -> str:
        """Returns the name for readers."""
        return shown_name(self.name)

    @property
    def base(self) -> str:
        """Returns the name without share and re-encoding."""
        return re.split("[@+]", self.name)[0]

    @property
    def share(self) -> int | None:
        """Returns the per cent of the images that are the base's, for clean@SHARE those left out; None outside a
        sweep.
        """
        match = re.search(r"@([1-9]\d?)(?:\+|$)", self.name, re.ASCII)
        return int(match[1]) if match else None

    @property
    def protects(self) -> bool:
        """Returns whether these are protected images and nothing else: no control, no mixture, not re-encoded."""
        return self.base == self.name and self.name not in RESERVED

    def spread(self, pick: Callable[[Run], float | None]) -> Spread | None:
        """Returns mean and deviation of a number over the seeds; None if no run has it."""
        return spread(map(pick, self.runs))

    def final(self) -> Spread:
        """Returns mean and deviation over the seeds of the metric after the last step."""
        found = self.spread(lambda run: run.final)
        assert found is not None, "a condition has at least one run, and every run a final metric"
        return found


@dataclass(frozen=True)
class Network:
    """All conditions of one network, in the order of tables.

    trivial: the metric of an answer that was not learned from images.
    """

    name: str
    trivial: float
    conditions: Sequence[Condition]

    def main(self) -> list[Condition]:
        """Returns the conditions that are compared with each other: all but the sweep over shares."""
        return [condition for condition in self.conditions if condition.share is None]

    def protected(self) -> list[Condition]:
        """Returns the conditions whose images are protected and nothing else."""
        return [condition for condition in self.conditions if condition.protects]

    def find(self, name: str) -> Condition | None:
        """Returns the condition of that name, None if the network was not trained on it."""
        return next((condition for condition in self.conditions if condition.name == name), None)


@dataclass(frozen=True)
class Section:
    """One task of one results.json.

    metric: its key. settings: name → values, more than one where runs differ.
    made: condition → how its images were made, in words.
    """

    source: str
    sha256: str
    task: str
    metric: str
    networks: Sequence[Network]
    subtitle: str
    settings: Mapping[str, Sequence[str]]
    made: Mapping[str, str]
    remarks: Sequence[str]

    def runs(self) -> Iterator[Run]:
        """Returns every run of the section."""
        return (run for network in self.networks for condition in network.conditions for run in condition.runs)

    def seeds(self) -> list[int]:
        """Returns the seeds that occur, in rising order."""
        return sorted({run.seed for run in self.runs()})
