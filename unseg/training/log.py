"""The log of a training run: a line an epoch in `log.jsonl`, its curves in TensorBoard, a picture, and a sentence.

`log.jsonl` has a line an epoch, or one every `log_every` steps for recipes whose phases are steps. A kill at any byte
leaves at most a half line at its end: that is cut off when the run goes on, and so are the lines of steps that will
be run again. Making lines is a pure function; `TrainingLog` puts them where they belong.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError, is_there, needs
from unseg.method.config import PLAYERS
from unseg.storage.files import open_for_appending, open_for_reading, write_durably
from unseg.storage.image_encoding import encode_png
from unseg.training.phases import Phases
from unseg.training.pictures import PictureRow, draw
from unseg.training.validation import MEASURES, SetScore, mean_over_images

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"
PICTURES_FOLDER = "pictures"
EVENTS_FOLDER = "tensorboard"
LINE_START = b'{"step": '
OWN_FIELDS = {"step", "revision", "config"}  # by which a line of this log is told from another program's
DIGITS = 6  # significant ones of a number in the log


@dataclasses.dataclass(frozen=True)
class Report:
    """Holds what is known of a run when its log gets a line.

    step: how many steps have been taken. seconds: of the run so far. losses: player → mean of its own loss since the
    line before. surrogate_age: the steps of the surrogate that was validated with. shown: what the picture shows;
    none if empty.
    """

    step: int
    seconds: float
    losses: Mapping[str, float]
    scores: Sequence[SetScore]
    learning_rates: Mapping[str, float]
    surrogate_age: int
    shown: Sequence[PictureRow] = ()


def log_line(
    report: Report, phases: Phases, *, images_per_second: float | None, waiting_share: float | None, revision: str
) -> dict[str, Any]:
    """Returns a line of the log: everything that JSON can hold, numbers that are not finite as null.

    A player that was not trained has null for its loss. surrogate_noised and surrogate_clean: the surrogate's loss on
    all validation images, with and without noise; their gap is what the noise does. images_per_second: trained on by
    all processes, time for validation left out. waiting_share: the share of that time that passed waiting for data.
    """
    epoch = report.step / phases.steps_per_epoch
    return _plain(
        {
            "step": report.step,
            "epoch": int(epoch) if epoch.is_integer() else round(epoch, 3),
            "seconds": round(report.seconds, 1),
            **{f"{player}_loss": report.losses.get(player) for player in PLAYERS},
            "surrogate_noised": mean_over_images(report.scores, "loss_noised"),
            "surrogate_clean": mean_over_images(report.scores, "loss_clean"),
            "sets": {score.name: _measures(score) for score in report.scores},
            "learning_rates": dict(report.learning_rates),
            "images_per_second": images_per_second,
            "waiting_share": waiting_share,
            "surrogate_age": report.surrogate_age,
            "revision": revision,
            "config": dataclasses.asdict(phases.config),
        }
    )


def _measures(score: SetScore) -> dict[str, Any]:
    return {"images": score.images, "empty": score.empty} | {name: getattr(score, name) for name in MEASURES}


def sentence(line: Mapping[str, Any]) -> str:
    """Returns what a person is told of a line: the losses, and what the noise does to the surrogate."""
    parts = [f"{player} loss {line[f'{player}_loss']:.3f}" for player in PLAYERS if line[f"{player}_loss"] is not None]
    found = [kind for kind in ("noised", "clean") if line[f"surrogate_{kind}"] is not None]
    if found:
        losses = ", ".join(f"{kind} {line[f'surrogate_{kind}']:.3f}" for kind in found)
        parts.append(f"surrogate's loss on validation images: {losses}")
    if line["images_per_second"] is not None:
        parts.append(f"{line['images_per_second']:.3g} images a second")
    return f"step {line['step']}, epoch {line['epoch']}: {'; '.join(parts)}"


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Returns the curves that TensorBoard gets from a line: tag → value. What is null has none."""
    found = {f"loss/{player}": line[f"{player}_loss"] for player in PLAYERS}
    found |= {f"validation/surrogate_{kind}": line[f"surrogate_{kind}"] for kind in ("noised", "clean")}
    found |= {f"{measure}/{name}": score[measure] for name, score in line["sets"].items() for measure in MEASURES}
    found |= {f"learning_rate/{player}": rate for player, rate in line["learning_rates"].items()}
    found |= {f"rate/{name}": line[name] for name in ("images_per_second", "waiting_share")}
    return {tag: value for tag, value in found.items() if value is not None}


def kept_lines(data: bytes, step: int, source: str | Path = LOG_FILE) -> bytes:
    """Returns what stays of a log when its run goes on after `step` steps: whole lines of steps up to that one.

    A kill can leave a half line, at the end only. UserError where anything else is in the file: it is not a log of
    ours.
    """
    *whole, rest = data.split(b"\n")
    kept = []
    for number, text in enumerate([*whole, rest], 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        torn = number > len(whole) and (text.startswith(LINE_START) or LINE_START.startswith(text))
        if isinstance(line, dict) and line.keys() >= OWN_FIELDS:
            kept += [text + b"\n"] if line["step"] <= step else []
        elif not torn:
            raise UserError(
                f"{source}: line {number} is no line of a training log; move the file away or use another --output"
            )
    return b"".join(kept)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


class TrainingLog:
    """Writes the log of a run on the process that leads; on the others every method does nothing.

        with TrainingLog(output, phases, step=…, …) as log:
            for each step:
                log.count(step, player, loss, waited)
                if phases.logs_after(step):
                    log.write(report)  # before the checkpoint of that step, so that no line is missing after a resume

    step: the steps that the run has taken (0, or those of the checkpoint that it goes on from). images_per_step: of all
    processes. tensorboard: None writes events if the package is there, and says so if not; True asks for it (UserError
    if missing); False writes none.
    """

    def __init__(
        self,
        output: Path,
        phases: Phases,
        *,
        step: int,
        images_per_step: int,
        revision: str,
        tensorboard: bool | None = None,
        leads: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        self._output, self._phases, self._step, self._leads = output, phases, step, leads
        self._images_per_step, self._revision = images_per_step, revision
        self._tensorboard, self._progress = tensorboard, progress
        self._events: SummaryWriter | None = None
        self._said_empty = False
        self._images = 0
        self._seconds = 0.0
        self._waited = self._waited_before = 0.0
        self._mark = 0.0

    def __enter__(self) -> TrainingLog:
        """Cuts off the lines of steps that will be run again, and opens TensorBoard's events."""
        if self._leads:
            _cut(self._output / LOG_FILE, self._step)
            self._events = _open_events(self._output / EVENTS_FOLDER, self._step, self._tensorboard, self._progress)
        self._mark = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def count(self, step: int, player: str, loss: float, waited: float) -> None:
        """Counts a step in, after it. loss: the player's. waited: seconds for data since the run began."""
        if not self._leads:
            return
        now = time.monotonic()
        self._seconds, self._mark = self._seconds + now - self._mark, now
        self._images, self._waited = self._images + self._images_per_step, waited
        if self._events is not None and step % self._phases.config.log_every == 0:
            self._events.add_scalar(f"step_loss/{player}", loss, step)

    def write(self, report: Report) -> None:
        """Writes a line, its curves and the picture, and tells a sentence."""
        if not self._leads:
            return
        line = log_line(
            report,
            self._phases,
            images_per_second=self._images / self._seconds if self._seconds else None,
            waiting_share=(self._waited - self._waited_before) / self._seconds if self._seconds else None,
            revision=self._revision,
        )
        _append(self._output / LOG_FILE, line)
        picture = draw(report.shown, self._phases.config.budget) if report.shown else None
        if picture is not None:
            write_durably(self._output / PICTURES_FOLDER / self._picture_name(report.step), encode_png(picture))
        self._add_events(line, picture)
        self._progress.say(sentence(line))
        self._say_empty(report.scores)
        # What passed since the last step was validation and drawing: no part of the rates.
        self._images, self._seconds, self._waited_before, self._mark = 0, 0.0, self._waited, time.monotonic()

    def _add_events(self, line: Mapping[str, Any], picture: np.ndarray | None) -> None:
        if self._events is None:
            return
        for tag, value in scalars(line).items():
            self._events.add_scalar(tag, value, line["step"])
        if picture is not None:
            self._events.add_image("pictures", picture, line["step"], dataformats="HWC")
        self._events.flush()

    def _picture_name(self, step: int) -> str:
        epoch, rest = divmod(step, self._phases.steps_per_epoch)
        return f"step_{step:06d}.png" if self._phases.config.steps_per_phase or rest else f"epoch_{epoch:03d}.png"

    def _say_empty(self, scores: Sequence[SetScore]) -> None:
        """Tells once of the validation images that show no object."""
        if self._said_empty:
            return
        self._said_empty = True
        for score in scores:
            if score.empty:
                more = ", …" if score.empty > len(score.empty_names) else ""
                self._progress.say(
                    f"validation set {score.name}: {score.empty} of {score.images + score.empty} images show no object "
                    f"and are left out ({', '.join(score.empty_names)}{more})"
                )


def _cut(path: Path, step: int) -> None:
    """Leaves of the log what `kept_lines` says."""
    try:
        with open_for_reading(path) as file:
            data = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    kept = kept_lines(data, step, path)
    if kept != data:
        write_durably(path, kept)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to the log; when this returns, the disk has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_for_appending(path) as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that says that this step is done
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room and start the same command again"
        ) from None


def _open_events(folder: Path, step: int, wanted: bool | None, progress: Progress) -> SummaryWriter | None:
    """Returns TensorBoard's writer, which forgets events past `step`; None where there are to be no events."""
    if wanted is False:
        return None
    if not is_there("tensorboard"):
        if wanted:
            raise UserError(f"--tensorboard: {needs('tensorboard')}")
        progress.say(f"TensorBoard {needs('tensorboard')}; the log and the pictures are written all the same")
        return None
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=step + 1)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); check space and permissions, or leave it out "
            "with --no-tensorboard"
        ) from None
