"""The whole matrix: sets × noises × defences × victims × seeds, each cell one training, each set one results.json.

The cells come in an order in which a table is useful early: all sets without a defence first, clean images before
noises, the first victim and seed before the others. A cell that its set's results.json holds is not trained again, so
the same call goes on after any stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace

from unseg.compute.progress import SILENT, Progress
from unseg.data.measuring_sets import measuring_set
from unseg.errors import UserError
from unseg.evaluation.bench_study import BenchSetup, study_of_set
from unseg.evaluation.coded_images import LEARNED
from unseg.evaluation.condition_names import without_defence
from unseg.evaluation.defences.defence_names import NO_DEFENCE, NO_PHOTOGRAPHS, parse_chain
from unseg.evaluation.defences.early import EARLY
from unseg.evaluation.measuring_images import open_measuring_set
from unseg.evaluation.results import Json, read_results, results_folder
from unseg.evaluation.sets import PartOfImages
from unseg.evaluation.sources import MADE, known_bases
from unseg.evaluation.study import RunName, RunOptions, Study
from unseg.evaluation.study_runs import carry_out, results_of
from unseg.evaluation.trainer import train
from unseg.storage.locks import Held

CLEAN = "clean"
TRIAL_STEPS = (2, 8)  # of a short trial, and of a longer one
TRIAL_IMAGES, TRIAL_TESTS = 12, 2
HOUR = 3600.0
RUN_NAME = tuple(field.name for field in fields(RunName))


@dataclass(frozen=True)
class Matrix:
    """What is crossed. defences: chains such as `jpeg75+grey`, and `none`. Clean images and no defence are always
    among them, since everything else is compared with those."""

    sets: Sequence[str]
    noises: Sequence[str]
    defences: Sequence[str]
    networks: Sequence[str]
    seeds: Sequence[int]

    def cells(self) -> Iterator[Cell]:
        """Yields every cell once, in the order in which they are trained."""
        noises = dict.fromkeys((CLEAN, *self.noises))
        defences = dict.fromkeys((NO_DEFENCE, *self.defences))
        for seed in self.seeds:
            for network in self.networks:
                for defence in defences:
                    for name in self.sets:
                        for noise in noises:
                            yield Cell(name, noise, defence, network, seed)

    def check(self) -> None:
        """Raises UserError for the first set, noise or defence that there is not."""
        for name in self.sets:
            measuring_set(name)
        bases = known_bases([MADE, LEARNED])
        for noise in self.noises:
            if noise not in bases:
                raise UserError(f"--noises: unknown noise '{noise}'; available: {', '.join(bases)}")
        for defence in self.defences:
            try:
                parse_chain(defence, NO_PHOTOGRAPHS)
            except UserError as error:
                raise UserError(f"--defences {defence}: {error}") from None


@dataclass(frozen=True)
class Cell:
    """One training. set: the name of its set."""

    set: str
    noise: str
    defence: str
    network: str
    seed: int

    @property
    def condition(self) -> str:
        """Returns the condition as results.json names it."""
        return self.noise if self.defence == NO_DEFENCE else f"{self.noise}+{self.defence}"

    @property
    def run(self) -> RunName:
        """Returns the run within the set."""
        return RunName(self.network, self.condition, self.seed)


@dataclass(frozen=True)
class Pace:
    """How long a step of a network takes on a set, seconds.

    measured: in whole trainings there, with their tests; else in a short trial.
    """

    seconds: float
    measured: bool


class Bench:
    """A matrix over the sets of one data root, with its results under OUT/SET.

    Each set is opened once, when it is needed first.
    """

    def __init__(self, setup: BenchSetup, matrix: Matrix, progress: Progress = SILENT) -> None:
        matrix.check()
        self.setup, self.matrix, self.progress = setup, matrix, progress
        self._studies: dict[str, Study] = {}
        self._paces: dict[tuple[str, str], Pace] = {}

    def study(self, name: str) -> Study:
        """Returns the study of a set over all its conditions, networks and seeds."""
        if name not in self._studies:
            cells = [cell for cell in self.matrix.cells() if cell.set == name]
            conditions = tuple(dict.fromkeys(cell.condition for cell in cells))
            opened = open_measuring_set(self.setup.data_root, measuring_set(name))
            study = study_of_set(opened, self.setup, conditions, self.progress)
            results_of(study)  # raises UserError where its folder holds runs that cannot be compared
            self._studies[name] = study
        return self._studies[name]

    def open(self) -> None:
        """Opens every set, so that what is missing is told before anything is trained."""
        for name in self.matrix.sets:
            self.study(name)

    def left(self) -> list[Cell]:
        """Returns the cells that are not trained yet, in their order."""
        done = {name: finished(self.study(name)) for name in self.matrix.sets}
        return [cell for cell in self.matrix.cells() if cell.run not in done[cell.set]]

    def run(self, hours: float | None = None) -> list[Cell]:
        """Trains what is left and returns the cells that a limit left over.

        hours: no training begins that would not end within so many hours from now, by the pace of those before it.
        """
        with ExitStack() as stack:
            held = {name: stack.enter_context(results_folder(self.study(name).out)) for name in self.matrix.sets}
            return self._train(self.left(), held, hours)

    def _train(self, left: list[Cell], held: dict[str, Held | None], hours: float | None) -> list[Cell]:
        began = time.monotonic()
        for place, cell in enumerate(left):
            if hours is not None and time.monotonic() - began + self._expected(cell) > hours * HOUR:
                return left[place:]
            self.progress.say(f"{place + 1} of {len(left)}: {cell.set}, {cell.run}")
            study = self.study(cell.set)
            one = replace(study, networks=(cell.network,), conditions=(cell.condition,), seeds=(cell.seed,))
            carry_out(one, held[cell.set], progress=self.progress)
        return []

    def seconds(self, cells: Sequence[Cell]) -> list[float]:
        """Returns how long each cell will take, seconds; a network that was never trained on a set is tried.

        A cell that follows from the curve of another one takes no time.
        """
        return [0.0 if self._follows(cell) else self.pace(cell).seconds * self.setup.schedule.steps for cell in cells]

    def _follows(self, cell: Cell) -> bool:
        whole = without_defence(cell.condition, EARLY)
        runs = ((other.set, other.run) for other in self.matrix.cells())
        return whole != cell.condition and (cell.set, replace(cell.run, condition=whole)) in runs

    def pace(self, cell: Cell) -> Pace:
        """Returns how fast a cell's network is trained on its set."""
        key = cell.set, cell.network
        if key not in self._paces:
            study = self.study(cell.set)
            self._paces[key] = measured_pace(study, cell.network) or tried_pace(study, cell.network)
        return self._paces[key]

    def _expected(self, cell: Cell) -> float:
        """Returns how long a training will take by those that were measured, seconds; 0 where there was none."""
        found = measured_pace(self.study(cell.set), cell.network)
        return 0.0 if found is None or self._follows(cell) else found.seconds * self.setup.schedule.steps


def finished(study: Study) -> set[RunName]:
    """Returns the runs that results.json holds as they would be made now."""
    held = ((run["settings"], RunName(*(run["settings"][name] for name in RUN_NAME))) for run in _runs(study))
    return {
        name for settings, name in held if name.condition in study.conditions and settings == study.settings_of(name)
    }


def measured_pace(study: Study, network: str) -> Pace | None:
    """Returns the mean of the network's trainings that results.json holds; None where there is none."""
    paces = [
        run["result"]["seconds"] / run["settings"]["steps"]
        for run in _runs(study)
        if run["settings"]["network"] == network and run["result"].get("seconds")
    ]
    return Pace(sum(paces) / len(paces), True) if paces else None


def tried_pace(study: Study, network: str) -> Pace:
    """Returns the pace of a few steps on the first clean images; it is above 0.

    A shorter trial is taken off, so that the first step, which takes longer, and the tests do not count. A step before
    both takes what is done once in a process. Where the shorter trial took longer all the same, because the machine was
    busy, the longer one counts whole.
    """
    _seconds_of(study, network, 1)
    short, long = (_seconds_of(study, network, steps) for steps in TRIAL_STEPS)
    if long <= short:
        return Pace(long / TRIAL_STEPS[1], False)
    return Pace((long - short) / (TRIAL_STEPS[1] - TRIAL_STEPS[0]), False)


def _seconds_of(study: Study, network: str, steps: int) -> float:
    count, tests = min(TRIAL_IMAGES, len(study.train)), min(TRIAL_TESTS, len(study.test))
    train_part, test_part = PartOfImages(study.train, range(count)), PartOfImages(study.test, range(tests))
    learner = study.make(network, train_part, test_part, RunOptions(0, (), SILENT))
    return train(learner, replace(study.schedule, steps=steps, eval_every=steps), 0).seconds


def _runs(study: Study) -> list[Json]:
    path = study.out / "results.json"
    return read_results(path)["runs"] if path.exists() else []
