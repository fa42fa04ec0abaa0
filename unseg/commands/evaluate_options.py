"""The options of `unseg evaluate` in groups, and what they are parsed into."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unseg.errors import UserError
from unseg.method.config import Budget

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.data.annotations import ObjectRule
    from unseg.evaluation.folders import Folders, Setup
    from unseg.evaluation.on_the_way import OnTheWay

NONE = -1  # a label that stands for none


@dataclass(frozen=True)
class ImageOptions:
    """Which images are compared and tested on."""

    PANEL: ClassVar[str] = "Images"
    clean: Annotated[
        Path,
        typer.Option(
            help="Clean training images, any tree; or a folder that has them in images/ and their labels in labels/ or "
            "masks/."
        ),
    ]
    test: Annotated[Path, typer.Option(help="Clean test images, like --clean.")]
    annotations: Annotated[Path | None, typer.Option(help="True annotations of --clean: a file or folder.")] = None
    test_annotations: Annotated[Path | None, typer.Option(help="Annotations of --test.")] = None
    annotations_format: Annotated[str, typer.Option(help="Of both annotations, where it is not the detected one.")] = (
        "auto"
    )


@dataclass(frozen=True)
class ObjectOptions:
    """What is the object."""

    PANEL: ClassVar[str] = "Object"
    binary: Annotated[
        bool, typer.Option("--binary", help="With --task semantic: learn the object against the rest.")
    ] = False
    objects: Annotated[
        str,
        typer.Option(
            help="What is the object, for --binary, --generator, random noise, the measured bound and tasks with one "
            "object: all, things, class ids such as 3,4, or by-class (all, with --by-class)."
        ),
    ] = "all"
    ignore_label: Annotated[int, typer.Option(help="Class id that is never learnt; -1: none.")] = 255
    background_label: Annotated[int, typer.Option(help="Class id that --objects all leaves out; -1: none.")] = 0

    def rule(self) -> ObjectRule:
        """Returns the pixels that are the object."""
        from unseg.data.annotations import ObjectRule

        ignore, background = (None if label == NONE else label for label in (self.ignore_label, self.background_label))
        return ObjectRule.parse(self.objects, ignore, background)


@dataclass(frozen=True)
class ConditionOptions:
    """What is done to the training images."""

    PANEL: ClassVar[str] = "Conditions of the training images"
    protected: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]DIR: protected versions of --clean, by relative name; again for each further folder."
        ),
    ] = None
    generator: Annotated[
        str | None,
        typer.Option(
            help="Protect the training images on the way, as `unseg protect` does: compact, a weight file, or "
            "module:name of your own. The condition is called protected."
        ),
    ] = None
    by_class: Annotated[
        bool,
        typer.Option(
            "--by-class",
            help="Tell --generator every pixel's class; the object's budget then holds on the pixels of every class.",
        ),
    ] = False
    epsilon: Annotated[float, typer.Option(help="Budget on the object, grey levels of 255.")] = 8.0
    background_epsilon: Annotated[float, typer.Option(help="Budget elsewhere, grey levels of 255.")] = 2.0
    conditions: Annotated[
        str | None,
        typer.Option(
            help="Which training images: clean, protected (or the NAMEs), random, pattern (one a class); protected@40 "
            "mixes 40 % of them with clean ones, clean@40 is the clean part alone; +jpeg75 behind one re-encodes them. "
            "Default: clean, all protected, random."
        ),
    ] = None
    shares: Annotated[
        str | None,
        typer.Option(
            help="Sweep: percent of the training images that are protected, such as 0,20,40,60,80,100, each beside its "
            "clean part alone."
        ),
    ] = None

    def budget(self) -> Budget:
        """Returns the budget in grey levels."""
        return Budget(self.epsilon, self.background_epsilon)


@dataclass(frozen=True)
class NetworkOptions:
    """Which networks are trained."""

    PANEL: ClassVar[str] = "Networks"
    networks: Annotated[
        str | None,
        typer.Option(
            help="Networks to train, such as unet_resnet18,unetplusplus_resnet34 (ARCHITECTURE_ENCODER), or "
            "module:name of your own (a function from the number of classes to a torch module); a task lists its own "
            "if you name one that it lacks. Default: a small one of the task."
        ),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="[NETWORK=]PATH: pretrained weights, a local file or folder, or ORGANISATION/NAME in the Hugging Face "
            "cache; nothing is downloaded. Default: from scratch."
        ),
    ] = None
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: an option of a family of networks.")
    ] = None


@dataclass(frozen=True)
class ScheduleOptions:
    """How long and how the networks are trained."""

    PANEL: ClassVar[str] = "Schedule"
    preset: Annotated[
        str | None,
        typer.Option(help="tiny (two processor cores) or paper: size and schedule; options here go before it."),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(help="Training size WIDTHxHEIGHT; images change at full size, then shrink. Default: 128x96."),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Training steps. Default: 3000.")] = None
    epochs: Annotated[float | None, typer.Option(help="In place of --steps.")] = None
    batch: Annotated[int | None, typer.Option(help="Images a step. Default: 8.")] = None
    eval_every: Annotated[int | None, typer.Option(help="Test every so many steps. Default: 250.")] = None
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd. Default: adamw.")] = None
    learning_rate: Annotated[float | None, typer.Option(help="At its peak. Default: 0.001.")] = None
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.01.")] = None
    decay: Annotated[str | None, typer.Option(help="Of the learning rate: cosine or poly. Default: cosine.")] = None
    warm_up: Annotated[
        float | None, typer.Option(help="Share of the steps in which the rate climbs. Default: 0.1.")
    ] = None
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default: 0.9.")] = None
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients. Default: none.")] = None
    colour_jitter: Annotated[
        bool,
        typer.Option(
            "--colour-jitter/--no-colour-jitter", help="Views of the training images change in colour as well."
        ),
    ] = True
    seeds: Annotated[
        str, typer.Option(help="One run each, such as 0,1,2: first weights, batch order, augmentations, random noise.")
    ] = "0"

    def given(self) -> dict[str, Any]:
        """Returns what a preset can set, with None where the user did not give it."""
        return {name: value for name, value in asdict(self).items() if name not in ("preset", "colour_jitter", "seeds")}


@dataclass(frozen=True)
class MachineOptions:
    """Where it runs and what is measured besides."""

    PANEL: ClassVar[str] = "Machine and measures"
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto"
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None
    checkpoint_every: Annotated[
        float, typer.Option(help="Seconds between checkpoints; there is one at each test, too.")
    ] = 120.0
    lpips_weights: Annotated[
        Path | None, typer.Option(help="torchvision's AlexNet of ImageNet, a local file: LPIPS is measured, too.")
    ] = None


@dataclass(frozen=True)
class EvaluateOptions:
    """All options of `unseg evaluate`."""

    out: Path
    task: str
    images: ImageOptions
    objects: ObjectOptions
    conditions: ConditionOptions
    networks: NetworkOptions
    schedule: ScheduleOptions
    machine: MachineOptions

    def by_class(self) -> bool:
        """Returns whether the generator is told every pixel's class."""
        return self.conditions.by_class or self.objects.rule().by_class

    def folders(self, load: Callable[[str], OnTheWay]) -> Folders:
        """Returns what is compared. load: makes a generator's noise of its name or file."""
        from unseg.evaluation.folders import Folders

        images, generator = self.images, self.conditions.generator
        return Folders(
            clean=images.clean,
            protected=named_folders(self.conditions.protected or []),
            test=images.test,
            annotations=images.annotations,
            test_annotations=images.test_annotations,
            annotations_format=images.annotations_format,
            rule=self.objects.rule(),
            generator=None if generator is None else lambda: load(generator),
        )

    def setup(self) -> Setup:
        """Returns how it is compared. Raises UserError for the first option that is wrong."""
        from unseg.evaluation.folders import Setup
        from unseg.evaluation.presets import choose
        from unseg.evaluation.quality import load_perceptual
        from unseg.evaluation.tasks.registry import DEFAULT_NETWORKS, check_task

        check_task(self.task)
        schedule, networks, perceptual = self.schedule, self.networks, self.machine.lpips_weights
        choices = choose(schedule.preset, self.task, schedule.given())
        conditions = self.conditions.conditions
        return Setup(
            task=self.task,
            out=self.out,
            networks=split_list("--networks", networks.networks or DEFAULT_NETWORKS[self.task]),
            choices=choices,
            size=parse_size(choices.size),
            budget=self.conditions.budget(),
            binary=self.objects.binary,
            by_class=self.by_class(),
            conditions=None if conditions is None else split_list("--conditions", conditions),
            shares=parse_shares(self.conditions.shares),
            seeds=parse_seeds(schedule.seeds),
            device=self.machine.device,
            colour_jitter=schedule.colour_jitter,
            weights=named_weights(networks.weights or []),
            extra=parse_settings(networks.settings or []),
            checkpoint_every=self.machine.checkpoint_every,
            perceptual=None if perceptual is None else load_perceptual(perceptual),
        )


# --- parsing ---------------------------------------------------------------------------------------------------------


def named_folders(given: Sequence[str]) -> dict[str, Path]:
    """Returns `[NAME=]DIR …` as name → folder.

    One folder without a name is "protected", of several each has its folder's name. Raises UserError for a name that is
    taken or cannot be one.
    """
    from unseg.evaluation.condition_names import BASE_NAME, RESERVED

    folders: dict[str, Path] = {}
    for text in given:
        name, path = _named_folder(text, alone=len(given) == 1)
        if not re.fullmatch(BASE_NAME, name, re.ASCII) or name in RESERVED:
            raise UserError(
                f"--protected {text}: '{name}' cannot be its name; give NAME=DIR with a NAME of letters, digits, _, "
                f". and - that is none of {', '.join(RESERVED)}"
            )
        if name in folders:
            raise UserError(
                f"--protected {text}: there is another folder called {name}; give NAME=DIR with names that differ"
            )
        folders[name] = path
    return folders


def _named_folder(text: str, alone: bool) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if equals and not Path(text).is_dir():
        return name, Path(path)
    return "protected" if alone else Path(text).name, Path(text)


def named_weights(given: Sequence[str]) -> dict[str, Path]:
    """Returns `[NETWORK=]PATH …` as network → path; "" stands for all networks."""
    weights: dict[str, Path] = {}
    for text in given:
        name, path = ("", text) if Path(text).exists() or "=" not in text else text.split("=", 1)
        if name in weights:
            raise UserError(f"--weights: given twice for {name or 'all networks'}; give NETWORK=PATH for each")
        weights[name] = Path(path)
    return weights


def parse_settings(given: Sequence[str]) -> dict[str, object]:
    """Returns `NAME=VALUE …` as a dictionary; values as JSON has them (true, 0.5, [1, 2]), else as text."""
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
    """Returns `0,20,100` as whole percents, each once."""
    if text is None:
        return ()
    shares = split_list("--shares", text)
    if not all(re.fullmatch(r"\d{1,3}", share, re.ASCII) and int(share) <= 100 for share in shares):
        raise UserError(f"--shares {text}: give whole percents from 0 to 100, such as 0,20,40,60,80,100")
    return tuple(dict.fromkeys(map(int, shares)))


def parse_size(text: str) -> tuple[int, int]:
    """Returns `128x96` as (width, height)."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if match is None:
        raise UserError(f"--size {text}: give WIDTHxHEIGHT, such as 240x180")
    return int(match[1]), int(match[2])


def split_list(option: str, text: str) -> tuple[str, ...]:
    """Returns names separated by commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{option}: give at least one name")
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Returns `0,1,2` as (0, 1, 2)."""
    seeds = split_list("--seeds", text)
    if not all(re.fullmatch(r"\d{1,18}", seed, re.ASCII) for seed in seeds):
        raise UserError(f"--seeds {text}: give whole numbers from 0, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, seeds)))
