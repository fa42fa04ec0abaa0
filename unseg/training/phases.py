"""The timetable of a run: whose turn a step is, at which rate, and after which steps it logs and saves."""

from __future__ import annotations

from dataclasses import dataclass

from unseg.data.views import steps_per_epoch
from unseg.method.config import TrainConfig


@dataclass(frozen=True)
class Phases:
    """Divides a run into phases. steps_per_epoch: in how many steps all images are seen once."""

    config: TrainConfig
    steps_per_epoch: int

    @classmethod
    def of(cls, config: TrainConfig, images: int, processes: int = 1) -> Phases:
        """Returns the phases of a training on `images` images by `processes` processes."""
        return cls(config, steps_per_epoch(images, config, processes))

    @property
    def total_steps(self) -> int:
        """The whole run has this many steps."""
        return self.config.total_phases * self._length

    @property
    def _length(self) -> int:
        return self.config.steps_per_phase or self.steps_per_epoch

    def phase_of(self, step: int) -> int:
        """Returns the phase that the step after `step` steps belongs to."""
        return step // self._length

    def logs_after(self, step: int) -> bool:
        """Returns whether the log gets a line after `step` steps.

        It does at the end of every epoch where phases are epochs, else every `log_every` steps, and at the end of the
        run.
        """
        every = self.config.log_every if self.config.steps_per_phase else self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def saves_after(self, step: int) -> bool:
        """Returns whether there is a checkpoint after `step` steps: every `checkpoint_every`, and at an epoch's end."""
        epoch_ends = not self.config.steps_per_phase and step % self.steps_per_epoch == 0
        return epoch_ends or step % self.config.checkpoint_every == 0 or step == self.total_steps


def player_of(config: TrainConfig, phase: int) -> str:
    """Returns the player that a phase trains."""
    return config.phases[phase % len(config.phases)]


def round_of(config: TrainConfig, phase: int) -> int:
    """Returns how many times all players had their turns before a phase; with several surrogates each round has one."""
    return phase // len(config.phases)


def learning_rates(config: TrainConfig, phase: int) -> dict[str, float]:
    """Returns each player's learning rate in a phase."""
    factor = config.final_learning_rate_factor if phase >= config.decay_phase else 1.0
    return {"surrogate": config.surrogate_learning_rate * factor, "generator": config.generator_learning_rate * factor}
