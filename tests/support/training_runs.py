"""Small training runs for the tests, and a program that runs one, alone or on two processes of `unseg.compute.launch`.

python tests/support/training_runs.py run OUTPUT [--kill STEP RANK]   the smoke recipe; that rank's process kills itself
python tests/support/training_runs.py gradients OUTPUT                one step of each player: gradients, states by rank
python tests/support/training_runs.py coded OUTPUT                    the same, the generator being given codes
"""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segment_anything_training import build
from segment_anything_training.sam import SamConfig
from unseg.compute.distributed import World, connect
from unseg.compute.progress import SILENT, Progress
from unseg.data.training_data import TrainingImage
from unseg.data.views import draw_views
from unseg.method.config import Budget, TrainConfig
from unseg.training import loop
from unseg.training.checkpoints import read_state
from unseg.training.loop import Outcome, RunOptions, train
from unseg.training.players import ALONE, Training
from unseg.training.recipes import recipe

SMOKE = dataclasses.replace(recipe("smoke"), total_phases=10, log_every=5)  # checkpoints after steps 4, 8, 10
SMALL_SAM = SamConfig(256, embed_dim=48, depth=2, num_heads=4, global_blocks=(1,), window=7)


def made_samples() -> list[TrainingImage]:
    """Eight of noise, each with a rectangle in another place as its object."""
    random = np.random.default_rng(0)
    made = []
    for index in range(8):
        mask = np.zeros((80, 96), np.uint8)
        mask[10:60, 5 + 5 * index : 50] = 255
        made.append(TrainingImage(f"made{index}", random.integers(0, 256, (80, 96, 3), dtype=np.uint8), (mask,)))
    return made


def run(
    output: Path, config: TrainConfig = SMOKE, world: World = ALONE, progress: Progress = SILENT, **options: object
) -> Outcome:
    options = {"tensorboard": False, "validation_images": 2, **options}
    return train(config, made_samples(), output, world, options=RunOptions(**options), progress=progress)


def final_state(output: Path) -> dict:
    """The newest checkpoint, without the times that no two runs share."""
    newest = max((output / "checkpoints").glob("step_*.pt"))
    return {key: value for key, value in read_state(newest).items() if key != "seconds"}


def same(left: object, right: object) -> bool:
    """Equal to the last bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def small_paper(batch_size: int, code_prompt: bool = False) -> TrainConfig:
    """The paper's recipe in small."""
    build.SAM_CONFIGS["vit_b"], build.SURROGATE_IMAGE_SIZE = SMALL_SAM, 128
    return dataclasses.replace(
        recipe("paper"),
        batch_size=batch_size,
        view_size=256,
        frame_size=256,
        surrogate_sizes=(128,),
        loss_points=256,
        generator_start="random",
        precision="float32",
        budget=Budget(32, 8),
        code_prompt=code_prompt,
    )


def one_step_each(config: TrainConfig, world: World) -> dict:
    """A step of each player from the same start: gradients as the optimizers get them, losses, states."""
    found: dict = {"states": []}
    for step, (name, opponent) in enumerate((("surrogate", "generator"), ("generator", "surrogate"))):
        training = Training.start(config, world)
        players = {"surrogate": training.surrogates[0], "generator": training.generator}
        before = copy.deepcopy(players[opponent].state())
        grads = found[f"{name} gradients"] = {}

        network = players[name].network

        def take_gradients(*_: object, network: nn.Module = network, grads: dict = grads) -> None:
            for key, parameter in network.named_parameters():
                grads[key] = None if parameter.grad is None else parameter.grad.clone()

        players[name].optimizer.register_step_pre_hook(take_gradients)
        views = draw_views(made_samples(), config, step, world.rank, world.size)
        found[f"{name} loss"] = loop.take_step(training, views, phase=step)[1]
        found[f"{opponent} kept"] = same(before, players[opponent].state())
        found["states"] += [copy.deepcopy(player.state()) for player in players.values()]
    return found


def main(mode: str, output: str, *more: str) -> None:
    torch.set_num_threads(1)
    with connect("cpu") as world:
        if mode in ("gradients", "coded"):
            config = small_paper(batch_size=2, code_prompt=mode == "coded")
            torch.save(one_step_each(config, world), Path(output) / f"rank_{world.rank}.pt")
            return
        kill_step, kill_rank = map(int, more[1:]) if more else (-1, 0)
        take_step = loop.take_step

        def step_or_die(training: Training, *arguments: object) -> tuple[str, float]:
            if training.step == kill_step and world.rank == kill_rank:
                os.kill(os.getpid(), signal.SIGKILL)
            return take_step(training, *arguments)

        loop.take_step = step_or_die
        run(Path(output), world=world)


if __name__ == "__main__":
    main(*sys.argv[1:])
