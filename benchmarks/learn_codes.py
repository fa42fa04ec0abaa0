"""Trains a generator that starts from the codes: noise that networks find early, less visible or harder to remove.

    python -m benchmarks.learn_codes --data-root DATA --out runs/learned --visibility 0.5 --hours 4

DATA holds CCP as `ccp`; its first 300 training images are used, which nothing is measured on. With --visibility 0.5 the
noise is to be half as visible as the codes; with 1 no more visible than they; without, within the budget alone. With
--fill 0.9 its mean absolute change is to be 0.9 of theirs at least. What happens is in `benchmarks.bilevel_codes`.
Needs the package of EfficientNet-lite0's weights.

The same command goes on after any stop, to the same weights as if there had been none; with more --hours it goes on
further. Ctrl-C and SIGTERM end it after its step, with a checkpoint. Where the checkpoints are gone, --start FILE goes
on from weights that it wrote, with new victims; the hours of that file count.

OUT/log.jsonl gets a line every --log-every seconds, with means since the line before:

- victim_0, victim_1, victim_2: losses of the victims while they learn (ImageNet weights with a short and a long life,
  random weights); loss: that of the generator's steps, of given and swapped views
- followed: the share of pixels where victims go by the codes although they say nothing of the classes
- detectability, detect_loss: the share of codes named by a fresh readout of a frozen encoder, and the readouts' loss
- fill: the noise's mean absolute change, as a share of that of the codes
- visibility, visibility_of_average: of the noise, as a share of that of the codes: the network in training, and the
  averaged weights on photographs that are always the same

OUT/generator.safetensors gets the weights, averaged over steps, at every checkpoint. They are measured with

    unseg bench --noises clean,codes,codes-learned --learned runs/learned/generator.safetensors ...
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.bilevel_codes import (
    LAYOUT,
    Batch,
    Coding,
    Learning,
    Photographs,
    Readouts,
    Victim,
    cross_entropy,
    draw_batch,
    imagenet_encoder,
    read_photographs,
)
from segment_anything_training.coded import CodedGenerator
from unseg.commands.console import Terminal
from unseg.compute.device import denormals_flushed
from unseg.compute.progress import SILENT, Progress
from unseg.compute.stopping import StopRequest
from unseg.errors import UserError
from unseg.storage.checkpoint_files import taken_over
from unseg.storage.coded_weights import LoadedCoded, load_coded, save_coded
from unseg.storage.files import open_for_appending, write_bytes
from unseg.training.checkpoints import GENERATOR_FILE, REMEDY, RunFolder, read_state
from unseg.training.log import LOG_FILE
from unseg.training.steps import frozen

HOUR = 3600.0


@dataclass
class Trained:
    """A training between two steps. sums: what the log tells, name → sum and count since its last line."""

    config: Learning
    generator: CodedGenerator
    average: CodedGenerator
    optimizer: torch.optim.Optimizer
    victims: list[Victim]
    readouts: Readouts
    readout_optimizer: torch.optim.Optimizer
    step: int = 0
    births: int = 0
    readout_age: int = 0
    seconds: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: Learning, classes: int, start: LoadedCoded | None = None) -> Trained:
        """Returns a new training, or one that goes on from the weights and the hours of an earlier one."""
        torch.manual_seed(config.seed)
        generator, average = CodedGenerator(config.widths), CodedGenerator(config.widths)
        if start is not None:
            generator.load_state_dict(start.network.state_dict())
        average.load_state_dict(generator.state_dict())
        generator.to(memory_format=LAYOUT)
        average.to(memory_format=LAYOUT)
        average.eval().requires_grad_(False)
        optimizer = torch.optim.Adam(generator.parameters(), lr=config.learning_rate)
        encoder, channels = imagenet_encoder(config.readout_imagenet)
        readouts = Readouts(encoder, channels)
        kinds = enumerate(config.victims, start=1)
        return cls(
            config,
            generator,
            average,
            optimizer,
            victims=[Victim.born(kind, classes, config, birth) for birth, kind in kinds],
            readouts=readouts,
            readout_optimizer=torch.optim.Adam(readouts.parameters(), lr=config.readout_rate),
            births=len(config.victims),
            seconds=hours_of(start) * HOUR,
        )

    def count(self, **values: float) -> None:
        """Adds values to what the next line of the log is the mean of."""
        for name, value in values.items():
            if math.isfinite(value):
                total = self.sums.setdefault(name, [0.0, 0])
                total[0], total[1] = total[0] + value, total[1] + 1

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "victims": [victim.state() for victim in self.victims],
            "readouts": self.readouts.state_dict(),
            "readout_optimizer": self.readout_optimizer.state_dict(),
            **{name: getattr(self, name) for name in ("step", "births", "readout_age", "seconds", "sums")},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned; raises one of `MISFITS` where it is another training's."""
        for name in ("generator", "average", "optimizer", "readouts", "readout_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for victim, saved in zip(self.victims, state["victims"], strict=True):
            victim.load(saved)
        for name in ("step", "births", "readout_age", "seconds", "sums"):
            setattr(self, name, state[name])


# --- a step


def take_step(trained: Trained, photographs: Photographs) -> None:
    """Lets the victim whose turn it is learn, then the generator and the readouts."""
    config, step = trained.config, trained.step
    place = step % len(trained.victims)
    victim = trained.victims[place]
    if victim.age >= victim.kind.life:
        trained.births += 1
        victim = Victim.born(victim.kind, photographs.classes, config, trained.births)
        trained.victims[place] = victim
    torch.manual_seed(config.seed + 1 + step)  # of what networks draw themselves, such as dropout
    for turn in range(config.victim_steps):
        with torch.no_grad():
            batch = draw_batch(trained.generator, photographs, victim.coding, config, ("victim", step, turn))
        trained.count(**{f"victim_{place}": victim.learn(batch)})
    if victim.age > config.young:
        _improve(trained, victim, photographs)
    trained.step += 1


def _improve(trained: Trained, victim: Victim, photographs: Photographs) -> None:
    """Takes the generator's step against a victim that stays, and then the readouts' on the same views."""
    config = trained.config
    if trained.readout_age >= config.readout_life:
        _start_readouts_again(trained)
    purpose = ("generator", trained.step)
    batch = draw_batch(
        trained.generator,
        photographs,
        victim.coding,
        config,
        purpose,
        swapped=config.batch // 2,
        look=config.visibility > 0 or config.fill > 0,
    )
    with frozen(victim.network), frozen(trained.readouts):
        logits = victim.network(batch.standardised)
        loss = cross_entropy(logits, batch.answers)
        features = trained.readouts.features(batch.standardised[-(config.batch // 2) :])
        codes = batch.codes[-(config.batch // 2) :]
        found, right = trained.readouts.loss(features, codes)
        total = loss + config.detect_weight * found + _seen_cost(trained, batch)
        trained.optimizer.zero_grad(set_to_none=True)
        total.backward()
    if not all(p.grad is None or bool(p.grad.isfinite().all()) for p in trained.generator.parameters()):
        raise UserError(f"step {trained.step}: a gradient is not finite; start the same command again to see where")
    for group in trained.optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, (trained.step + 1) / config.warm_up)
    torch.nn.utils.clip_grad_norm_(trained.generator.parameters(), config.largest_gradient)
    trained.optimizer.step()
    with torch.no_grad():
        for averaged, own in zip(trained.average.parameters(), trained.generator.parameters(), strict=True):
            averaged.lerp_(own, 1 - config.average)
    trained.count(loss=float(loss.detach()), detect_loss=float(found.detach()), detectability=right)
    trained.count(followed=_followed(logits.detach(), batch, config.batch // 2))
    _teach_readouts(trained, [feature.detach() for feature in features], codes)


def _seen_cost(trained: Trained, batch: Batch) -> torch.Tensor:
    """Returns what it costs that the noise is more visible than it may be, or changes less than it is to."""
    config, cost = trained.config, torch.zeros(())
    if not batch.seen:
        return cost
    seen, filled = torch.stack(batch.seen).mean(), torch.stack(batch.filled).mean()
    trained.count(visibility=float(seen.detach()), fill=float(filled.detach()))
    if config.visibility > 0:
        cost = cost + config.visibility_weight * (seen - config.visibility).clamp(min=0)
    return cost + config.fill_weight * (config.fill - filled).clamp(min=0)


def _followed(logits: torch.Tensor, batch: Batch, swapped: int) -> float:
    """Returns the share of pixels of swapped views where the victim says what goes by codes alone."""
    answers = batch.answers[-swapped:]
    known = answers != 255
    return float((logits.argmax(1)[-swapped:] == answers)[known].float().mean()) if known.any() else math.nan


def _start_readouts_again(trained: Trained) -> None:
    for layer in trained.readouts.layers:
        layer.reset_parameters()  # type: ignore[operator]  # a convolution's
    rate = trained.config.readout_rate
    trained.readout_optimizer = torch.optim.Adam(trained.readouts.parameters(), lr=rate)
    trained.readout_age = 0


def _teach_readouts(trained: Trained, features: Sequence[torch.Tensor], codes: torch.Tensor) -> None:
    loss, _ = trained.readouts.loss(features, codes)
    trained.readout_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained.readout_optimizer.step()
    trained.readout_age += 1


# --- a run


@dataclass(frozen=True)
class Until:
    """When a run ends, and how often it tells and saves. hours: processor time of the whole training. steps: likewise;
    0: as many as there is time for. log_every, save_every: seconds of the clock."""

    hours: float = 12.0
    steps: int = 0
    log_every: float = 60.0
    save_every: float = 180.0

    def reached(self, trained: Trained) -> bool:
        """Returns whether nothing is left to do."""
        return trained.seconds >= self.hours * HOUR or 0 < self.steps <= trained.step


def hours_of(start: LoadedCoded | None) -> float:
    """Returns the processor time that the weights in a file took, in hours; UserError where the file does not tell."""
    if start is None:
        return 0.0
    try:
        return float(start.facts["hours"])
    except (KeyError, ValueError):
        raise UserError("--start: does not tell its hours; give a file that benchmarks.learn_codes wrote") from None


def learn(
    config: Learning,
    photographs: Photographs,
    out: Path,
    until: Until = Until(),
    progress: Progress = SILENT,
    start: LoadedCoded | None = None,
) -> Trained:
    """Trains, or goes on with the training in `out`, until the time is over or a signal comes.

    start: weights that a training without checkpoints in `out` begins with.
    """
    folder = RunFolder(out, keep=2)
    settings = {**json.loads(json.dumps(asdict(config))), "photographs": len(photographs.images)}
    settings["start"] = start.sha256 if start is not None else ""
    with folder, StopRequest() as stop:
        trained = Trained.begin(config, photographs.classes, start)
        newest = folder.newest(settings, progress)
        if newest is not None:
            with taken_over(newest, REMEDY):
                trained.load(read_state(newest))
            progress.say(f"{newest}: {trained.step} steps, {trained.seconds / HOUR:.2f} hours; goes on from there")
        _cut_log(out / LOG_FILE, trained.step)
        spent = time.process_time() - trained.seconds
        told = saved = time.monotonic()
        while not until.reached(trained) and stop.signal is None:
            take_step(trained, photographs)
            now, trained.seconds = time.monotonic(), time.process_time() - spent
            if now - told >= until.log_every:
                _log(trained, out / LOG_FILE, photographs, progress)
                told = now
            if now - saved >= until.save_every:
                _save(trained, folder, settings)
                saved = now
        _save(trained, folder, settings)
    return trained


def _save(trained: Trained, folder: RunFolder, settings: dict[str, Any]) -> None:
    if trained.step in folder.steps():
        return
    facts = {"step": str(trained.step), "hours": f"{trained.seconds / HOUR:.3f}", "config": json.dumps(settings)}
    save_coded(trained.average, folder.output / GENERATOR_FILE, facts)
    folder.save(trained.state(), trained.step, settings)


def _log(trained: Trained, path: Path, photographs: Photographs, progress: Progress) -> None:
    """Adds a line: means since the last one, and how visible the averaged weights' noise is on a few photographs."""
    means = {name: total / count for name, (total, count) in sorted(trained.sums.items())}
    trained.sums = {}
    look = replace(trained.config, batch=4, seed=0)
    coding = Coding({label: int(label > 0) for label in range(photographs.classes)}, bytes(32))
    with torch.no_grad():
        batch = draw_batch(trained.average, photographs, coding, look, ("look",), look=True)
    seen = float(torch.stack(batch.seen).mean()) if batch.seen else math.nan
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    line = {"step": trained.step, "time": at, "hours": trained.seconds / HOUR, **means, "visibility_of_average": seen}
    line = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in line.items()}
    with open_for_appending(path) as file:
        file.write(json.dumps(line).encode() + b"\n")
    progress.say(", ".join(f"{name} {value}" for name, value in line.items()))


def _cut_log(path: Path, step: int) -> None:
    """Removes lines of steps that will be run again."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # half a line, of a run that was killed
    write_bytes(path, "".join(kept).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds ccp")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, checkpoints and the log")
    parser.add_argument("--visibility", type=float, default=0.0, help="share of the codes' own; 0: no such term")
    parser.add_argument("--epsilon", type=float, default=8.0, help="grey levels (default: 8)")
    parser.add_argument("--fill", type=float, default=0.0, help="least mean absolute change, as a share of the codes'")
    parser.add_argument("--grey-share", type=float, default=0.1, help="share of views turned grey (default: 0.1)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="0: a control, the codes as they are")
    parser.add_argument("--hours", type=float, default=12.0, help="processor time of the whole training (default: 12)")
    parser.add_argument("--steps", type=int, default=0, help="of the whole training; 0: as many as there is time for")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: 1)")
    parser.add_argument("--log-every", type=float, default=60.0, help="seconds between lines of the log")
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights of an earlier training to go on from")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    terminal = Terminal()
    try:
        for option, share in (("--grey-share", given.grey_share), ("--fill", given.fill)):
            if not 0 <= share <= 1:
                raise UserError(f"{option} {share:g}: give a share, 0 to 1")
        start = None if given.start is None else load_coded(given.start)
        photographs = read_photographs(given.data_root, terminal)
        config = Learning(
            epsilon=given.epsilon,
            visibility=given.visibility,
            fill=given.fill,
            grey_share=given.grey_share,
            learning_rate=given.learning_rate,
            seed=given.seed,
        )
        until = Until(given.hours, given.steps, given.log_every, given.save_every)
        with denormals_flushed():
            learn(config, photographs, given.out, until, terminal, start)
    except UserError as error:
        print(f"learn_codes: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
