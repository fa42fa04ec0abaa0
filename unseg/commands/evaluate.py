"""unseg evaluate: how much a network still learns from protected images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unseg.commands.config_file import ConfigFile
from unseg.commands.console import Terminal, to_go_on_later
from unseg.commands.evaluate_options import (
    ConditionOptions,
    EvaluateOptions,
    ImageOptions,
    MachineOptions,
    NetworkOptions,
    ObjectOptions,
    ScheduleOptions,
    ViewOptions,
)
from unseg.commands.evaluate_tables import show_results
from unseg.commands.option_groups import grouped
from unseg.compute.progress import SILENT
from unseg.compute.threads import check_threads

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.evaluation.on_the_way import OnTheWay
    from unseg.method.config import Budget


@grouped
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for results.json, checkpoints, curves and pictures.")],
    images: ImageOptions,
    objects: ObjectOptions,
    conditions: ConditionOptions,
    networks: NetworkOptions,
    views: ViewOptions,
    schedule: ScheduleOptions,
    machine: MachineOptions,
    task: Annotated[
        str, typer.Option(help="semantic, instance, panoptic, detection, interactive, medical or remote.")
    ] = "semantic",
    config: ConfigFile = None,
) -> None:
    """Train networks on clean, protected and random-noise images, test them on clean ones.

    Semantic networks are trained as people train: random crops of images at their own size, from ImageNet weights where
    they are installed. What stands behind a + in a condition, such as +jpeg75 or +grey, is done to all its images.
    Finished runs in OUT/results.json are not repeated; after an interruption the same command goes on from the last
    checkpoint. Retained learning = (protected − trivial) / (clean − trivial), clean images with the same defences.
    Several GPUs: torchrun --nproc-per-node 8 -m unseg.cli evaluate …
    """
    compare(EvaluateOptions(out, task, images, objects, conditions, networks, views, schedule, machine))


def compare(options: EvaluateOptions) -> None:
    """Runs the comparison and prints its tables."""
    import torch

    from unseg.compute.distributed import EXIT_PEER_FAILED, PeerFailure, connect
    from unseg.evaluation.folders import study_of_folders
    from unseg.evaluation.study_runs import run_study

    threads, device, budget = options.machine.threads, options.machine.device, options.conditions.budget()
    if threads is not None:
        check_threads(threads, least=1)
        torch.set_num_threads(threads)
    setup, folders = options.setup(), options.folders(lambda name: load_noise(name, budget, device))
    terminal = Terminal()
    try:
        with to_go_on_later(), connect(device) as world:
            progress = terminal if world.leads else SILENT
            study = study_of_folders(folders, setup, progress)
            results = run_study(study, world, progress)
    except PeerFailure:
        raise typer.Exit(EXIT_PEER_FAILED) from None
    if world.leads:
        show_results(terminal.console, results, study)


def load_noise(name: str, budget: Budget, device: str) -> OnTheWay:
    """Returns what a generator does to an image within the budget, exactly as `unseg protect` does it."""
    from unseg.compute.device import choose_device
    from unseg.evaluation.on_the_way import OnTheWay
    from unseg.protecting.generators import load_generator
    from unseg.protecting.network_protector import NetworkProtector, takes_codes

    chosen = choose_device(device)
    loaded = load_generator(name, chosen)
    protector = NetworkProtector(loaded.network, budget, device=str(chosen))
    codes = getattr(loaded.network, "codes", 0)
    with_codes = protector.with_codes if takes_codes(loaded.network) else None
    return OnTheWay(name, protector, protector.by_class, codes, {"generator": loaded.sha256}, with_codes)
