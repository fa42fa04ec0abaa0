"""unseg evaluate: how much a network still learns from protected images."""
from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from unseg.config import Budget
from unseg.data.masks import parse_objects
from unseg.errors import UserError

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    import numpy as np

    from unseg.evaluation.compare import Plan, RunName, Source
    from unseg.evaluation.data import Task
    from unseg.evaluation.results import Row, Spread
    from unseg.evaluation.trainer import Evaluation

CAMVID_ROAD_AND_PAVEMENT = (3, 4)


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder with images/SPLIT and labels/SPLIT: train, val or test.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, curves.jsonl and pictures.")],
    task: Annotated[str, typer.Option(help="binary (object classes against the rest) or classes (each apart).")] = "binary",
    object_classes: Annotated[Optional[str], typer.Option(
        help="The classes that are the object. Default: 3,4 if binary (CamVid's road and pavement), else all.")] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Tell the generator every pixel's class; the object's budget then "
                                                              "holds on every labelled pixel.")] = False,
    generator: Annotated[Optional[str], typer.Option(help="Noise generator: compact or a weight file. Default: compact.")] = None,
    protected: Annotated[Optional[Path], typer.Option(help="Protected training images, in place of --generator.")] = None,
    conditions: Annotated[str, typer.Option(help="Which training images: clean, protected, random, pattern (one a class); "
                                                 "+jpeg75 behind one re-encodes them.")] = "clean,protected,random",
    networks: Annotated[str, typer.Option(help="Networks to train: unet_resnet18, fpn_resnet34, fpn_mobilenet_v2, "
                                             "deeplabv3plus_mobilenet_v2, segformer_b0.")] = "unet_resnet18",
    epsilon: Annotated[float, typer.Option(help="Budget on the object, grey levels of 255.")] = 8.0,
    background_epsilon: Annotated[float, typer.Option(help="Budget elsewhere, grey levels of 255.")] = 2.0,
    size: Annotated[str, typer.Option(help="Training size WIDTHxHEIGHT; images change at full size, then shrink.")] = "128x96",
    steps: Annotated[int, typer.Option(help="Training steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 8,
    eval_every: Annotated[int, typer.Option(help="Test every so many steps.")] = 250,
    seeds: Annotated[str, typer.Option(help="One run each, such as 0,1,2: first weights, batch order, augmentations, "
                                            "random noise.")] = "0",
    test_split: Annotated[str, typer.Option(help="The clean images to test on: test, or val for choices of design.")] = "test",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[Optional[int], typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> None:
    """Train networks from scratch on clean, protected and random-noise images, test them on clean ones.

    The training images of a condition with +jpeg75 are re-encoded at full size as JPEG of that quality (1 to 100, 4:2:0).
    Finished runs in OUT/results.json are not repeated. Retained learning = (protected − trivial) / (clean − trivial).
    """
    import torch

    from unseg import report
    from unseg.evaluation.compare import Plan, compare
    from unseg.evaluation.results import rows
    from unseg.evaluation.trainer import Schedule
    from unseg.images import write_png

    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: give at least 1")
        torch.set_num_threads(threads)
    width, height = parse_size(size)
    plan = Plan(data, out, parse_task(task, object_classes, by_class), split_list("--networks", networks),
                split_list("--conditions", conditions), width, height,
                Schedule(steps=steps, batch=batch, eval_every=eval_every),
                Budget(epsilon, background_epsilon), parse_seeds(seeds), test_split, device)
    console = Console()
    with progress_bar(console) as progress:
        results = compare(plan, training_sources(plan, generator, protected), ConsoleWatcher(progress))
    write_png(out / "curves.png", report.learning_curves(results))
    write_png(out / "final.png", report.final_bars(results))
    table = [row for row in rows(results) if row.task == task]
    for network in dict.fromkeys(row.network for row in table):
        console.print(result_table(f"{task}, {network}", [row for row in table if row.network == network]))
    for line in remarks(results, plan):
        console.print(line, soft_wrap=True, highlight=False)


def parse_size(text: str) -> tuple[int, int]:
    """`128x96` as (width, height)."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if match is None:
        raise UserError(f"--size {text}: give WIDTHxHEIGHT, such as 240x180")
    return int(match[1]), int(match[2])


def split_list(option: str, text: str) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{option}: give at least one name")
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` as (0, 1, 2)."""
    seeds = split_list("--seeds", text)
    if not all(re.fullmatch(r"\d{1,18}", seed, re.ASCII) for seed in seeds):
        raise UserError(f"--seeds {text}: give whole numbers from 0, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, seeds)))


def parse_task(name: str, object_classes: str | None, by_class: bool = False) -> "Task":
    """The task `name`. object_classes: such as `3,4`, or all."""
    from unseg.evaluation.data import Task

    if name not in ("binary", "classes"):
        raise UserError(f"--task {name}: give binary or classes")
    binary = name == "binary"
    if object_classes is None:
        return Task(name, binary, CAMVID_ROAD_AND_PAVEMENT if binary else None, by_class)
    return Task(name, binary, parse_objects(object_classes, "--object-classes"), by_class)


def training_sources(plan: "Plan", generator: str | None, protected: Path | None) -> dict[str, "Source"]:
    """What makes the training images of each base of the plan's conditions but clean. Without either, the compact generator."""
    from unseg.evaluation.compare import Source
    from unseg.evaluation.conditions import class_pattern, random_noise
    from unseg.evaluation.names import parse_condition

    sources, bases = {}, {parse_condition(name).base for name in plan.conditions}
    where = budget_identity(plan)
    if "random" in bases:
        sources["random"] = Source(lambda seed: random_noise(plan.budget, seed), where)
    if "pattern" in bases:
        sources["pattern"] = Source(lambda seed: class_pattern(plan.budget, seed), where)
    if "protected" in bases:
        if generator is not None and protected is not None:
            raise UserError("--generator and --protected: give one of the two")
        sources["protected"] = protected_folder(plan, protected) if protected else loaded_generator(plan, generator or "compact")
    return sources


def budget_identity(plan: "Plan") -> dict:
    """What random noise and patterns depend on: the budget, and where the object's holds if that is not on the object."""
    everywhere = plan.task.by_class and plan.task.objects is not None
    return {"budget": {"object": plan.budget.object, "background": plan.budget.background},
            **({"object_budget_on": "every labelled pixel"} if everywhere else {})}


def protected_folder(plan: "Plan", folder: Path) -> "Source":
    """Images protected before, read from `folder`."""
    from unseg.evaluation.compare import Source
    from unseg.evaluation.conditions import protected_file, protected_files
    from unseg.evaluation.data import fingerprint, list_pairs

    if not folder.is_dir():
        raise UserError(f"--protected {folder}: no such folder")
    names = [pair.name for pair in list_pairs(plan.data, "train")]
    change = protected_files(folder)
    return Source(lambda seed: change, {"files": fingerprint(protected_file(folder, name) for name in names)})


def loaded_generator(plan: "Plan", which: str) -> "Source":
    """Images protected on the way by a generator, exactly as `unseg protect` does it. UserError where it knows no codes."""
    from unseg.checkpoint import load_generator
    from unseg.data.codes import code_map
    from unseg.device import choose_device
    from unseg.evaluation.compare import Source
    from unseg.protector import Protector

    device = choose_device(plan.device)
    loaded = load_generator(which, device=str(device))
    protector = Protector(loaded.network, plan.budget, device=device)
    codes = training_codes(plan, getattr(loaded.network, "codes", 0), which) if plan.task.by_class else None

    def change(name: str, pixels: "np.ndarray", mask: "np.ndarray", classes: "np.ndarray") -> "np.ndarray":
        return protector(pixels, mask) if codes is None else protector.by_class(pixels, code_map(classes, codes))

    return Source(lambda seed: change,
                  {"generator": loaded.sha256, **budget_identity(plan), **({"by_class": True} if plan.task.by_class else {})})


def training_codes(plan: "Plan", available: int, which: str) -> dict[int, int]:
    """The code of every label of the task: 0 and 1 if binary, else by the classes' areas over the training labels.

    available: how many codes the generator `which` has; UserError where they are none.
    """
    from unseg.data.codes import class_areas, class_codes
    from unseg.evaluation.data import list_pairs

    if available == 0:
        raise UserError(f"--by-class: generator {which} does not tell classes apart; name one that was trained with codes, "
                        "or leave out --by-class")
    if plan.task.binary:
        return {0: 0, 1: 1}
    return class_codes(class_areas(pair.classes() for pair in list_pairs(plan.data, "train")), available)


class ConsoleWatcher:
    """Progress bars with the time left, and a line for each evaluation."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.bar = progress, TaskID(-1)

    def begin(self, what: str, total: int) -> None:
        if self.bar != TaskID(-1):
            self.progress.remove_task(self.bar)
        self.bar = self.progress.add_task(what, total=total)

    def tick(self) -> None:
        self.progress.advance(self.bar)

    def evaluated(self, run: "RunName", evaluation: "Evaluation") -> None:
        self.progress.console.print(f"{run}, step {evaluation.step}: mIoU {evaluation.miou:.4f}, "
                                    f"training loss {evaluation.train_loss:.4f}", highlight=False, soft_wrap=True)

    def reused(self, run: "RunName") -> None:
        self.progress.console.print(f"{run}: done before, kept", highlight=False, soft_wrap=True)


def progress_bar(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=console, transient=True)


def result_table(title: str, rows: "list[Row]") -> Table:
    """The closing table of a task and network: mean ± sample sd over `n` seeds. It fits in 80 columns."""
    from unseg.evaluation.names import TRIVIAL, shown_name

    table = Table(title=f"{title}: mIoU on clean test images", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
                  show_edge=False)
    table.add_column("trained on", no_wrap=True)
    for column in ("final", "best", "PSNR", "train\nloss", "retained\nlearning", "n"):
        table.add_column(column, justify="right", no_wrap=not column.startswith("retained"))
    for row in rows:
        table.add_row("(trivial)" if row.condition == TRIVIAL else shown_name(row.condition), _number(row.final_miou, 3),
                      _number(row.best_miou, 3), _mean(row.psnr, 1), _mean(row.train_loss, 3), _retained(row),
                      str(len(row.seeds) or ""))
    return table


def remarks(results: dict, plan: "Plan") -> list[str]:
    """What the table does not say: sizes, the majority class, classes left out of the mean."""
    facts = results["tasks"][plan.task.name]
    lines = [f"{facts['train_images']} training and {facts['test_images']} {plan.test_split} images, "
             f"{plan.width}x{plan.height}, "
             f"{plan.schedule.steps} steps of {plan.schedule.batch}; n seeds, each against the clean run of the same seed: "
             f"mean ± sample standard deviation; trivial = class {facts['majority_class']} everywhere."]
    if facts["absent_classes"]:
        absent = ", ".join(map(str, facts["absent_classes"]))
        lines.append(f"Left out of the mean, since no test image shows them: classes {absent}.")
    if plan.task.by_class:
        lines.append("By class: the generator is told every pixel's class; the object's budget holds on every labelled pixel.")
    if any("+jpeg" in name for name in plan.conditions):
        lines.append("PSNR is that of the change, before images are re-encoded; results.json has both (stored: after it).")
    lines.append(f"Written: {plan.out}/results.json, curves.png, final.png")
    return lines


def _number(value: "Spread | None", digits: int) -> str:
    """Mean ± standard deviation; the mean alone where there is one seed; nothing where there is none."""
    return _mean(value, digits) if value is None or value.sd is None else f"{value.mean:.{digits}f}±{value.sd:.{digits}f}"


def _mean(value: "Spread | None", digits: int) -> str:
    return "" if value is None else f"{value.mean:.{digits}f}"


def _retained(row: "Row") -> str:
    """Retained learning, and over how many seeds where some of the row's have no clean run."""
    shown = _number(row.retained, 2)
    return shown if row.retained is None or row.retained.count == len(row.seeds) else f"{shown} (n {row.retained.count})"
