"""unseg evaluate: how much a network still learns from protected images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from unseg.data.object_rule import parse_objects
from unseg.errors import UserError
from unseg.method.config import Budget

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    import numpy as np

    from unseg.data.annotations import ObjectRule
    from unseg.evaluation.pairs import Task
    from unseg.evaluation.results import Row, Spread
    from unseg.evaluation.study import Plan, RunName, Source, Study
    from unseg.evaluation.trainer import Evaluation

CAMVID_ROAD_AND_PAVEMENT = (3, 4)


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with images/SPLIT and labels/SPLIT (train, val or test), for the tasks binary and classes."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, checkpoints, curves and pictures. Required.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="With --clean: semantic, instance, panoptic, detection, interactive, medical or "
            "remote. With --data: binary (object classes against the rest) or classes (each "
            "apart)."
        ),
    ] = "binary",
    clean: Annotated[
        Path | None,
        typer.Option(
            help="Clean training images, any tree; or a folder that has them in images/ "
            "and their labels in labels/ or masks/."
        ),
    ] = None,
    protected: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]DIR: their protected versions, of the same relative names; again for each further folder."
        ),
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="True annotations of --clean: a file or folder.")] = None,
    test: Annotated[Path | None, typer.Option(help="Clean test images, like --clean.")] = None,
    test_annotations: Annotated[Path | None, typer.Option(help="Annotations of --test.")] = None,
    annotations_format: Annotated[str, typer.Option(help="Of both annotations; see docs/annotations.md.")] = "auto",
    objects: Annotated[
        str,
        typer.Option(
            help="What is the object, for random noise, the measured bound and tasks with one "
            "object: all, things, or class ids."
        ),
    ] = "all",
    ignore_label: Annotated[int, typer.Option(help="Class id that is never learnt; -1: none.")] = 255,
    background_label: Annotated[int, typer.Option(help="Class id that --objects all leaves out; -1: none.")] = 0,
    object_classes: Annotated[
        str | None,
        typer.Option(
            help="With --data, the classes that are the object. Default: 3,4 if binary (CamVid's road and pavement), else "
            "all."
        ),
    ] = None,
    by_class: Annotated[
        bool,
        typer.Option(
            "--by-class",
            help="With --data: tell the generator every pixel's class; the "
            "object's budget then holds on every labelled pixel.",
        ),
    ] = False,
    generator: Annotated[
        str | None,
        typer.Option(help="With --data, in place of --protected: compact or a weight file. Default: compact."),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            help="Which training images: clean, protected (or the NAMEs), random, pattern (one a class); protected@40 mixes 40 % of "
            "them with clean ones, clean@40 is the clean part alone; +jpeg75 behind one re-encodes them. Default: clean, all "
            "protected, "
            "random."
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(
            help="Sweep: percent of the training images that are protected, such as "
            "0,20,40,60,80,100, each beside its clean part alone."
        ),
    ] = None,
    networks: Annotated[
        str,
        typer.Option(
            help="Networks to train, such as unet_resnet18,unetplusplus_resnet34 "
            "(ARCHITECTURE_ENCODER); another task lists its own if you name one that it "
            "lacks."
        ),
    ] = "unet_resnet18",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="[NETWORK=]PATH: pretrained weights, a local file or folder, or "
            "ORGANISATION/NAME in the Hugging Face cache; nothing is "
            "downloaded. Default: from scratch."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: an option of a family of networks.")
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Budget on the object, grey levels of 255.")] = 8.0,
    background_epsilon: Annotated[float, typer.Option(help="Budget elsewhere, grey levels of 255.")] = 2.0,
    preset: Annotated[
        str | None,
        typer.Option(help="tiny (two processor cores) or paper: size and schedule; options here go before it."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Training size WIDTHxHEIGHT; images change at full size, then shrink. Default: 128x96."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps. Default: 3000.")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of --steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step. Default: 8.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Test every so many steps. Default: 250.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd. Default: adamw.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak. Default: 0.001.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.01.")] = None,
    decay: Annotated[str | None, typer.Option(help="Of the learning rate: cosine or poly. Default: cosine.")] = None,
    warm_up: Annotated[
        float | None, typer.Option(help="Share of the steps in which the rate climbs. Default: 0.1.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default: 0.9.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients. Default: none.")] = None,
    colour_jitter: Annotated[
        bool,
        typer.Option(
            "--colour-jitter/--no-colour-jitter",
            help="Views of the training images "
            "change in colour as well (not with --data, whose published figures are "
            "without).",
        ),
    ] = True,
    seeds: Annotated[
        str, typer.Option(help="One run each, such as 0,1,2: first weights, batch order, augmentations, random noise.")
    ] = "0",
    test_split: Annotated[
        str, typer.Option(help="With --data, the clean images to test on: test, or val for choices of design.")
    ] = "test",
    checkpoint_every: Annotated[
        float, typer.Option(help="Seconds between checkpoints; there is one at each test, too.")
    ] = 120.0,
    lpips_weights: Annotated[
        Path | None, typer.Option(help="torchvision's AlexNet of ImageNet, a local file: LPIPS is measured, too.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> None:
    """Train networks on clean, protected and random-noise images, test them on clean ones.

    The training images of a condition with +jpeg75 are re-encoded at full size as JPEG of that quality (1 to 100, 4:2:0).
    Finished runs in OUT/results.json are not repeated; after an interruption the same command goes on from the last checkpoint.
    Retained learning = (protected − trivial) / (clean − trivial). Several GPUs: torchrun --nproc-per-node 8 -m unseg.cli
    evaluate …
    """
    import torch

    from unseg.compute.distributed import EXIT_PEER_FAILED, PeerFailure, connect
    from unseg.evaluation.folders import Folders, Setup, study_of_folders
    from unseg.evaluation.presets import choose
    from unseg.evaluation.quality import load_perceptual
    from unseg.evaluation.study import Plan, Watcher, run_study, study_of
    from unseg.evaluation.trainer import Schedule

    if out is None:
        raise UserError("--out: name the folder for the results")
    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: give at least 1")
        torch.set_num_threads(threads)
    check_sources(
        task,
        data,
        clean,
        test,
        {"--object-classes": object_classes, "--by-class": by_class or None, "--generator": generator},
        {"--annotations": annotations, "--test-annotations": test_annotations},
    )
    choices = choose(
        preset,
        task,
        {
            "size": size,
            "steps": steps,
            "epochs": epochs,
            "batch": batch,
            "eval_every": eval_every,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "decay": decay,
            "warm_up": warm_up,
            "momentum": momentum,
            "clip": clip,
        },
    )
    dimensions, budget = parse_size(choices.size), Budget(epsilon, background_epsilon)
    names, chosen_seeds = split_list("--networks", networks), parse_seeds(seeds)
    perceptual = load_perceptual(lpips_weights) if lpips_weights is not None else None
    console = Console()
    try:
        with connect(device) as world, progress_bar(console, world.leads) as progress:
            watcher = ConsoleWatcher(progress) if world.leads else Watcher()
            if data is not None:
                if choices.epochs is not None:
                    raise UserError("--epochs: give --steps with --data")
                if weights or settings:
                    raise UserError("--weights and --set: these are for --clean")
                plan = Plan(
                    data,
                    out,
                    parse_task(task, object_classes, by_class),
                    names,
                    with_shares(split_list("--conditions", conditions or "clean,protected,random"), shares),
                    *dimensions,
                    Schedule(**choices.schedule),
                    budget,
                    chosen_seeds,
                    test_split,
                    device,
                    checkpoint_every,
                )
                study = study_of(plan, training_sources(plan, generator, one_folder(protected)), perceptual)
            else:
                folders = Folders(
                    clean,
                    named_folders(protected or []),
                    test,
                    annotations,
                    test_annotations,
                    annotations_format,
                    parse_rule(objects, ignore_label, background_label),
                )
                setup = Setup(
                    task,
                    out,
                    names,
                    choices,
                    dimensions,
                    budget,
                    split_list("--conditions", conditions) if conditions is not None else None,
                    parse_shares(shares),
                    chosen_seeds,
                    device,
                    colour_jitter,
                    named_weights(weights or []),
                    parse_settings(settings or []),
                    checkpoint_every,
                    perceptual,
                )
                study = study_of_folders(folders, setup, watcher)
            results = run_study(study, world, watcher)
    except PeerFailure:
        raise typer.Exit(EXIT_PEER_FAILED) from None
    if world.leads:
        show_results(console, results, study)


def show_results(console: Console, results: dict, study: Study) -> None:
    """A table for each network, and what the tables do not say."""
    from unseg.evaluation.results import rows

    table = [row for row in rows(results) if row.task == study.task]
    for network in dict.fromkeys(row.network for row in table):
        console.print(
            result_table(
                f"{study.task}, {network}",
                [row for row in table if row.network == network],
                results["tasks"][study.task]["metric"],
            )
        )
    for line in remarks(results, study):
        console.print(line, soft_wrap=True, highlight=False)


def check_sources(
    task: str,
    data: Path | None,
    clean: Path | None,
    test: Path | None,
    of_data: dict[str, object],
    of_clean: dict[str, object],
) -> None:
    """UserError unless the images are given in one of the two ways, with the options of that way."""
    from unseg.evaluation.tasks.registry import check_task

    if (data is None) == (clean is None):
        raise UserError(
            "give the images: --clean DIR with --test DIR, or --data ROOT with images/train and labels/train"
            + ("; not both" if data is not None else "")
        )
    if data is not None:
        if task not in ("binary", "classes"):
            raise UserError(
                f"--task {task}: give binary or classes with --data; other tasks take --clean DIR --test DIR"
            )
        wrong, way = [name for name, value in of_clean.items() if value is not None], "--clean"
    else:
        check_task(task)
        if test is None:
            raise UserError("--test: name the folder of clean test images")
        wrong, way = [name for name, value in of_data.items() if value is not None], "--data"
    if wrong:
        raise UserError(f"{wrong[0]}: this is an option of {way}")


def named_folders(given: list[str]) -> dict[str, Path]:
    """`[NAME=]DIR …` as name → folder. One folder without a name is "protected", of several each has its folder's name."""
    from unseg.evaluation.condition_names import BASE_NAME, RESERVED

    folders: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).is_dir():
            name, path = ("protected" if len(given) == 1 else Path(text).name), text
        if not re.fullmatch(BASE_NAME, name, re.ASCII) or name in RESERVED:
            raise UserError(
                f"--protected {text}: '{name}' cannot be its name; give NAME=DIR with a NAME of letters, digits, _, "
                f". and - that is none of {', '.join(RESERVED)}"
            )
        if name in folders:
            raise UserError(
                f"--protected {text}: there is another folder called {name}; give NAME=DIR with names that differ"
            )
        folders[name] = Path(path)
    return folders


def one_folder(given: list[str] | None) -> Path | None:
    """The protected folder of --data, which takes one."""
    if given and len(given) > 1:
        raise UserError("--protected: --data takes one folder; give several with --clean")
    return Path(given[0]) if given else None


def named_weights(given: list[str]) -> dict[str, Path]:
    """`[NETWORK=]PATH …` as network → path; "" stands for all networks."""
    pairs = (("", text) if Path(text).exists() or "=" not in text else tuple(text.split("=", 1)) for text in given)
    weights: dict[str, Path] = {}
    for name, path in pairs:
        if name in weights:
            raise UserError(f"--weights: given twice for {name or 'all networks'}; give NETWORK=PATH for each")
        weights[name] = Path(path)
    return weights


def parse_settings(given: list[str]) -> dict[str, object]:
    """`NAME=VALUE …`; values as JSON has them (true, 0.5, [1, 2]), else as text."""
    values: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text}: give NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def parse_shares(text: str | None) -> tuple[int, ...]:
    """`0,20,100` as whole percents, each once."""
    if text is None:
        return ()
    shares = split_list("--shares", text)
    if not all(re.fullmatch(r"\d{1,3}", share, re.ASCII) and int(share) <= 100 for share in shares):
        raise UserError(f"--shares {text}: give whole percents from 0 to 100, such as 0,20,40,60,80,100")
    return tuple(dict.fromkeys(map(int, shares)))


def with_shares(conditions: tuple[str, ...], shares: str | None) -> tuple[str, ...]:
    """The conditions and those of a share sweep of the protected images."""
    from unseg.evaluation.condition_names import sweep

    return tuple(
        dict.fromkeys([*conditions, *(sweep(["protected"], parse_shares(shares)) if shares is not None else ())])
    )


def parse_rule(objects: str, ignore_label: int, background_label: int) -> ObjectRule:
    """Which pixels are the object; -1 stands for no such label."""
    from unseg.data.annotations import ObjectRule

    ignore, background = (None if label < 0 else label for label in (ignore_label, background_label))
    return ObjectRule.parse(objects, ignore, background)


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


def parse_task(name: str, object_classes: str | None, by_class: bool = False) -> Task:
    """The task `name`. object_classes: such as `3,4`, or all."""
    from unseg.evaluation.pairs import Task

    if name not in ("binary", "classes"):
        raise UserError(f"--task {name}: give binary or classes")
    binary = name == "binary"
    if object_classes is None:
        return Task(name, binary, CAMVID_ROAD_AND_PAVEMENT if binary else None, by_class)
    return Task(name, binary, parse_objects(object_classes, "--object-classes"), by_class)


def training_sources(plan: Plan, generator: str | None, protected: Path | None) -> dict[str, Source]:
    """What makes the training images of each base of the plan's conditions but clean. Without either, the compact generator."""
    from unseg.evaluation.condition_names import parse_condition
    from unseg.evaluation.conditions import class_pattern, random_noise
    from unseg.evaluation.study import Source

    sources, bases = {}, {parse_condition(name).base for name in plan.conditions}
    where = budget_identity(plan)
    if "random" in bases:
        sources["random"] = Source(lambda seed: random_noise(plan.budget, seed), where)
    if "pattern" in bases:
        sources["pattern"] = Source(lambda seed: class_pattern(plan.budget, seed), where)
    if "protected" in bases:
        if generator is not None and protected is not None:
            raise UserError("--generator and --protected: give one of the two")
        sources["protected"] = (
            protected_folder(plan, protected) if protected else loaded_generator(plan, generator or "compact")
        )
    return sources


def budget_identity(plan: Plan) -> dict:
    """What random noise and patterns depend on: the budget, and where the object's holds if that is not on the object."""
    everywhere = plan.task.by_class and plan.task.objects is not None
    return {
        "budget": {"object": plan.budget.object, "background": plan.budget.background},
        **({"object_budget_on": "every labelled pixel"} if everywhere else {}),
    }


def protected_folder(plan: Plan, folder: Path) -> Source:
    """Images protected before, read from `folder`."""
    from unseg.evaluation.pairs import list_pairs
    from unseg.evaluation.sets import protected_files
    from unseg.evaluation.study import Source, file_identity

    files = protected_files(folder, [pair.name for pair in list_pairs(plan.data, "train")])
    return Source(files=tuple(files), identity=file_identity(files))


def loaded_generator(plan: Plan, which: str) -> Source:
    """Images protected on the way by a generator, exactly as `unseg protect` does it. UserError where it knows no codes."""
    from unseg.compute.device import choose_device
    from unseg.evaluation.study import Source
    from unseg.method.codes import code_map
    from unseg.protecting.protector import Protector
    from unseg.storage.weights import load_generator

    device = choose_device(plan.device)
    loaded = load_generator(which, device)
    protector = Protector(loaded.network, plan.budget, device=device)
    codes = training_codes(plan, getattr(loaded.network, "codes", 0), which) if plan.task.by_class else None

    def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return protector(pixels, mask) if codes is None else protector.by_class(pixels, code_map(classes, codes))

    return Source(
        lambda seed: change,
        {"generator": loaded.sha256, **budget_identity(plan), **({"by_class": True} if plan.task.by_class else {})},
    )


def training_codes(plan: Plan, available: int, which: str) -> dict[int, int]:
    """The code of every label of the task: 0 and 1 if binary, else by the classes' areas over the training labels.

    available: how many codes the generator `which` has; UserError where they are none.
    """
    from unseg.evaluation.pairs import list_pairs
    from unseg.method.codes import class_areas, class_codes

    if available == 0:
        raise UserError(
            f"--by-class: generator {which} does not tell classes apart; name one that was trained with codes, "
            "or leave out --by-class"
        )
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

    def evaluated(self, run: RunName, evaluation: Evaluation, metric: str) -> None:
        self.progress.console.print(
            f"{run}, step {evaluation.step}: {shown_metric(metric)} {evaluation.score:.4f}, "
            f"training loss {evaluation.train_loss:.4f}",
            highlight=False,
            soft_wrap=True,
        )

    def reused(self, run: RunName) -> None:
        self.progress.console.print(f"{run}: done before, kept", highlight=False, soft_wrap=True)

    def resumed(self, run: RunName, step: int) -> None:
        self.progress.console.print(f"{run}: goes on from step {step}", highlight=False, soft_wrap=True)


def progress_bar(console: Console, shown: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown,
    )


def shown_metric(name: str) -> str:
    """What a table calls a metric."""
    return {"miou": "mIoU"}.get(name, name)


def result_table(title: str, rows: list[Row], metric: str = "miou") -> Table:
    """The closing table of a task and network: mean ± sample sd over `n` seeds. It fits in 80 columns."""
    from unseg.evaluation.condition_names import TRIVIAL, shown_name

    table = Table(
        title=f"{title}: {shown_metric(metric)} on clean test images",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("trained on", no_wrap=True)
    for column in ("final", "best", "PSNR", "train\nloss", "retained\nlearning", "n"):
        table.add_column(column, justify="right", no_wrap=not column.startswith("retained"))
    for row in rows:
        table.add_row(
            "(trivial)" if row.condition == TRIVIAL else shown_name(row.condition),
            _number(row.final, 3),
            _number(row.best, 3),
            _mean(row.psnr, 1),
            _mean(row.train_loss, 3),
            _retained(row),
            str(len(row.seeds) or ""),
        )
    return table


def remarks(results: dict, study: Study) -> list[str]:
    """What the table does not say: sizes, the majority class, classes left out of the mean."""
    facts, schedule = results["tasks"][study.task], study.schedule
    majority = f"; trivial = class {facts['majority_class']} everywhere" if "majority_class" in facts else ""
    width, height = study.common["size"]
    lines = [
        f"{facts['train_images']} training and {facts['test_images']} {facts.get('test_split', 'test')} images, "
        f"{width}x{height}, {schedule.steps} steps of {schedule.batch}; n seeds, each against the clean run of the same "
        f"seed: mean ± sample standard deviation{majority}."
    ]
    if facts.get("absent_classes"):
        lines.append(
            "Left out of the mean, since no test image shows them: classes "
            f"{', '.join(map(str, facts['absent_classes']))}."
        )
    notes = [
        f"{run['settings']['network']}: {note}"
        for run in results["runs"]
        if run["settings"]["task"] == study.task
        for note in run["result"].get("notes", ())
    ]
    lines += [*facts.get("remarks", []), *dict.fromkeys(notes)]
    if any("+jpeg" in name for name in study.conditions):
        lines.append(
            "PSNR is that of the change, before images are re-encoded; results.json has both (stored: after it)."
        )
    if study.perceptual is None and len(study.conditions) > 1:
        lines.append("LPIPS was not measured: it needs a weight file (--lpips-weights).")
    lines.append(f"Written: {study.out}/results.json. Page with charts and tables: unseg report {study.out}")
    return lines


def _number(value: Spread | None, digits: int) -> str:
    """Mean ± standard deviation; the mean alone where there is one seed; nothing where there is none."""
    return (
        _mean(value, digits) if value is None or value.sd is None else f"{value.mean:.{digits}f}±{value.sd:.{digits}f}"
    )


def _mean(value: Spread | None, digits: int) -> str:
    return "" if value is None else f"{value.mean:.{digits}f}"


def _retained(row: Row) -> str:
    """Retained learning, and over how many seeds where some of the row's have no clean run."""
    shown = _number(row.retained, 2)
    return (
        shown if row.retained is None or row.retained.count == len(row.seeds) else f"{shown} (n {row.retained.count})"
    )
