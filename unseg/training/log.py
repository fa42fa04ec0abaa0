"""What a person watches while a generator trains: progress bar, log, TensorBoard, pictures.

`log.jsonl` has a line an epoch, or one every `log_every` steps for recipes whose phases are steps. A kill at any byte leaves at
most a half line at its end: that is cut off when the run goes on, and so are the lines of steps that will be run again.
Drawing and the making of lines are pure functions; `Watch` puts them where they belong.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unseg.errors import UserError
from unseg.method.config import PLAYERS, Budget, TrainConfig
from unseg.storage.files import write_durably
from unseg.storage.image_encoding import encode_png
from unseg.storage.panels import INK, MISSED, NOISE_GAIN, WRONG, answer_panel, captioned_grid, mask_panel, noise_panel
from unseg.training.validation import MEASURES, SetScore, Shown, mean_over_images

LOG_FILE = "log.jsonl"
PICTURES_FOLDER = "pictures"
EVENTS_FOLDER = "tensorboard"
LINE_START = b'{"step": '
OWN_FIELDS = {"step", "revision", "config"}  # by which a line of this log is told from another program's
DIGITS = 6  # significant ones of a number in the log
REDRAW_SECONDS, REDRAW_SECONDS_IN_FILES = 0.5, 30.0  # a bar that goes to a file grows with every redraw
HALF_RANGE = 128.0  # from grey to black or white
LEGEND = (("surrogate's masks:  white: found", INK), ("orange: not object", WRONG), ("blue: missed", MISSED))


# --- lines -----------------------------------------------------------------------------------------------------------


def is_due(config: TrainConfig, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Whether the log gets a line after `step` steps: at the end of an epoch where phases are epochs, else every `log_every`."""
    every = config.log_every if config.steps_per_phase else steps_per_epoch
    return step % every == 0 or step == total_steps


def log_line(
    config: TrainConfig,
    *,
    step: int,
    steps_per_epoch: int,
    seconds: float,
    losses: Mapping[str, float],
    scores: Sequence[SetScore],
    learning_rates: Mapping[str, float],
    images_per_second: float | None,
    waiting_share: float | None,
    revision: str,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A line of the log: everything that JSON can hold, numbers that are not finite as null.

    losses: player → mean of its own loss since the line before; null for one that was not trained. surrogate_noised and
    surrogate_clean: the surrogate's loss on all validation images, with and without noise; their gap is what the noise does.
    images_per_second: trained on by all processes, time for validation left out. waiting_share: of that time, what was spent
    waiting for data. facts: put in as they are.
    """
    epoch = step / steps_per_epoch
    return _plain(
        {
            "step": step,
            "epoch": int(epoch) if epoch.is_integer() else round(epoch, 3),
            "seconds": round(seconds, 1),
            **{f"{player}_loss": losses.get(player) for player in PLAYERS},
            "surrogate_noised": mean_over_images(scores, "loss_noised"),
            "surrogate_clean": mean_over_images(scores, "loss_clean"),
            "sets": {
                score.name: {"images": score.images, "empty": score.empty}
                | {name: getattr(score, name) for name in MEASURES}
                for score in scores
            },
            "learning_rates": dict(learning_rates),
            "images_per_second": images_per_second,
            "waiting_share": waiting_share,
            **(facts or {}),
            "revision": revision,
            "config": dataclasses.asdict(config),
        }
    )


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The curves that TensorBoard gets from a line: tag → value. What is null has none."""
    found = {f"loss/{player}": line[f"{player}_loss"] for player in PLAYERS}
    found |= {f"validation/surrogate_{kind}": line[f"surrogate_{kind}"] for kind in ("noised", "clean")}
    found |= {f"{measure}/{name}": score[measure] for name, score in line["sets"].items() for measure in MEASURES}
    found |= {f"learning_rate/{player}": rate for player, rate in line["learning_rates"].items()}
    found |= {f"rate/{name}": line[name] for name in ("images_per_second", "waiting_share")}
    return {tag: value for tag, value in found.items() if value is not None}


def kept_lines(data: bytes, step: int, source: str | Path = LOG_FILE) -> bytes:
    """What stays of a log when its run goes on after `step` steps: whole lines of steps up to that one.

    A kill can leave a half line, at the end only. UserError where anything else is in the file: it is not a log of ours.
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


# --- pictures --------------------------------------------------------------------------------------------------------


def noise_gain(budget: Budget) -> float:
    """By how much noise is enlarged in pictures: × 16 where the budget is 8, more for less, so that it can be seen."""
    largest = max(budget.object, budget.background)
    return HALF_RANGE / largest if largest else NOISE_GAIN


def draw(shown: Sequence[Shown], budget: Budget) -> np.ndarray:
    """A row for each image: image, noise, unlearnable image, the surrogate's masks without and with noise, label. H×W×3 uint8."""
    gain = noise_gain(budget)
    rows = [
        [
            (item.name, item.pixels),
            (f"noise x{gain:g}", noise_panel(item.noise, gain)),
            ("unlearnable", item.noised),
            (f"surrogate, clean: IoU {item.iou_clean:.2f}", answer_panel(item.label, item.mask_clean)),
            (f"surrogate, noised: IoU {item.iou_noised:.2f}", answer_panel(item.label, item.mask_noised)),
            ("label", mask_panel(item.label)),
        ]
        for item in shown
    ]
    return captioned_grid(rows, LEGEND)


# --- the writer ------------------------------------------------------------------------------------------------------


class Watch:
    """Shows a run and writes it down, on the main process; on the others every method does nothing.

        with Watch(output, config, step=…, …) as watch:
            for each step:
                watch.advance(step, player, loss, waited)
                if is_due(config, step, steps_per_epoch, total_steps):
                    watch.record(step, …)   # before the checkpoint of that step, so that no line is missing after a resume

    step: the steps that the run has taken (0, or those of the checkpoint that it goes on from). images_per_step: of all
    processes. tensorboard: None writes events if the package is there, and says so if not; True asks for it (UserError
    if missing). say: how sentences reach the person.
    """

    def __init__(
        self,
        output: Path,
        config: TrainConfig,
        *,
        step: int,
        total_steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        revision: str,
        tensorboard: bool | None = None,
        quiet: bool = False,
        main: bool = True,
        say: Callable[[str], None] = tqdm.write,
    ) -> None:
        self.output, self.config, self.main, self.say = output, config, main, say
        self.steps_per_epoch, self.images_per_step, self.revision = steps_per_epoch, images_per_step, revision
        self._events = None
        if main:
            self._resume_log(step)
            self._events = _open_events(output / EVENTS_FOLDER, step, tensorboard, say)
        self._in_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps * images_per_step,
            initial=step * images_per_step,
            unit="img",
            dynamic_ncols=True,
            disable=quiet or not main,
            mininterval=REDRAW_SECONDS if self._in_terminal else REDRAW_SECONDS_IN_FILES,
        )
        self._latest: dict[str, str] = {}
        self._said_empty = False
        self._validated = 0
        self._images = 0
        self._seconds = 0.0
        self._waited = self._waited_before = 0.0
        self._mark = time.monotonic()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def advance(self, step: int, player: str, loss: float, waited: float = 0.0) -> None:
        """After every step: `step` counts it. loss: the player's. waited: seconds for data since the run began."""
        if not self.main:
            return
        now = time.monotonic()
        self._seconds, self._mark = self._seconds + now - self._mark, now
        self._images, self._waited = self._images + self.images_per_step, waited
        self._latest[player] = f"{loss:.3f}"
        self._bar.set_postfix({"epoch": f"{step / self.steps_per_epoch:.2f}", **self._latest}, refresh=False)
        self._bar.update(self.images_per_step)
        if self._events is not None and step % self.config.log_every == 0:
            self._events.add_scalar(f"step_loss/{player}", loss, step)

    def validated(self, images: int) -> None:
        """While `validate` runs (its `progress`): `images` more are done, so that the bar does not seem to stand still."""
        self._validated += images
        self._bar.set_description(f"validation, image {self._validated}", refresh=self._in_terminal)

    def record(
        self,
        step: int,
        *,
        seconds: float,
        losses: Mapping[str, float],
        scores: Sequence[SetScore],
        learning_rates: Mapping[str, float],
        shown: Sequence[Shown] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """A line of the log, its curves, and the picture of `shown`. seconds: of the run so far; the others: see `log_line`."""
        if not self.main:
            return
        line = log_line(
            self.config,
            step=step,
            steps_per_epoch=self.steps_per_epoch,
            seconds=seconds,
            losses=losses,
            scores=scores,
            learning_rates=learning_rates,
            images_per_second=self._images / self._seconds if self._seconds else None,
            waiting_share=(self._waited - self._waited_before) / self._seconds if self._seconds else None,
            revision=self.revision,
            facts=facts,
        )
        self._append(line)
        picture = draw(shown, self.config.budget) if shown else None
        if picture is not None:
            write_durably(self.output / PICTURES_FOLDER / self._picture_name(step), encode_png(picture))
        if self._events is not None:
            for tag, value in scalars(line).items():
                self._events.add_scalar(tag, value, step)
            if picture is not None:
                self._events.add_image("pictures", picture, step, dataformats="HWC")
            self._events.flush()
        for kind in ("noised", "clean"):
            if line[f"surrogate_{kind}"] is not None:
                self._latest[kind] = f"{line[f'surrogate_{kind}']:.3f}"
        self._say_empty(scores)
        self._validated = 0
        self._bar.set_description(refresh=False)
        # What passed since the last step was validation and drawing: no part of the rates.
        self._images, self._seconds, self._waited_before, self._mark = 0, 0.0, self._waited, time.monotonic()

    def _picture_name(self, step: int) -> str:
        epoch, rest = divmod(step, self.steps_per_epoch)
        return f"step_{step:06d}.png" if self.config.steps_per_phase or rest else f"epoch_{epoch:03d}.png"

    def _say_empty(self, scores: Sequence[SetScore]) -> None:
        for score in () if self._said_empty else scores:
            if score.empty:
                more = ", …" if score.empty > len(score.empty_names) else ""
                self.say(
                    f"validation set {score.name}: {score.empty} of {score.images + score.empty} images show no object and "
                    f"are left out ({', '.join(score.empty_names)}{more})"
                )
        self._said_empty = True

    def _resume_log(self, step: int) -> None:
        path = self.output / LOG_FILE
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
        kept = kept_lines(data, step, path)
        if kept != data:
            write_durably(path, kept)

    def _append(self, line: Mapping[str, Any]) -> None:
        path = self.output / LOG_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that says that this step is done
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); make room and start the same command again"
            ) from None


def _open_events(folder: Path, step: int, wanted: bool | None, say: Callable[[str], None]) -> Any:
    """TensorBoard's writer, which forgets events past `step`, or None."""
    if wanted is False:
        return None
    if find_spec("tensorboard") is None:
        missing = "TensorBoard is not installed (pip install 'unseg[train]')"
        if wanted:
            raise UserError(f"--tensorboard: {missing}")
        say(f"{missing}: the log and the pictures are written all the same")
        return None
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=step + 1)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); check space and permissions, or leave it out "
            "with --no-tensorboard"
        ) from None
