"""The options of `unseg evaluate` in groups, and what they are parsed into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unseg.commands.evaluate_parsing import (
    named_folders,
    named_weights,
    parse_seeds,
    parse_settings,
    parse_shares,
    parse_size,
    split_list,
)
from unseg.errors import UserError
from unseg.method.config import Budget

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.data.annotations import ObjectRule
    from unseg.evaluation.folders import Folders, Setup
    from unseg.evaluation.on_the_way import OnTheWay
    from unseg.evaluation.practice import Practice

NONE = -1  # a label that stands for none
SHIPPED = "compact"  # the generator that this project ships


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
            help="Which training images: clean, protected (or the NAMEs), codes (this project's noise, made on the "
            "way), random, pattern (one a class), or published noises: tint, lsp, ar, em, tap; protected@40 mixes 40 % "
            "of them with clean ones, clean@40 is the clean part alone. Defences stand behind a +, also several: "
            "protected+jpeg75+grey. Default: clean, all protected, random."
        ),
    ] = None
    denoise_photographs: Annotated[
        Path | None,
        typer.Option(
            help="For the defence denoise: a folder of other photographs in images/ with their masks in masks/."
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
            "if you name one that it lacks. Default: a small one of the task; for semantic views as in practice "
            "deeplabv3plus_timm-tf_efficientnet_lite0."
        ),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="[NETWORK=]PATH: pretrained weights, a local file or folder, or ORGANISATION/NAME in the Hugging Face "
            "cache; nothing is downloaded. With views as in practice also imagenet (an encoder's, found on this "
            "machine) or none. Default: imagenet there for encoders whose package is installed, else random weights."
        ),
    ] = None
    freeze: Annotated[str | None, typer.Option(help="encoder: it keeps its weights (with views as in practice).")] = (
        None
    )
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: an option of a family of networks.")
    ] = None


@dataclass(frozen=True)
class ScheduleOptions:
    """How long and how the networks are trained."""

    PANEL: ClassVar[str] = "Schedule"
    preset: Annotated[
        str | None,
        typer.Option(
            help="tiny (two processor cores), small-scratch (small whole images, from random weights, as version 0.1 "
            "measured) or paper: size and schedule; options here go before it."
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Training steps. Default: 1500 with views as in practice, else 3000.")
    ] = None
    epochs: Annotated[float | None, typer.Option(help="In place of --steps.")] = None
    batch: Annotated[int | None, typer.Option(help="Images a step. Default: 8.")] = None
    eval_every: Annotated[int | None, typer.Option(help="Test every so many steps. Default: 250.")] = None
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd. Default: adamw.")] = None
    learning_rate: Annotated[float | None, typer.Option(help="At its peak. Default: 0.001.")] = None
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.01.")] = None
    decay: Annotated[
        str | None,
        typer.Option(
            help="Of the learning rate: cosine, poly, onecycle or constant. Default: onecycle with views as in "
            "practice, else cosine."
        ),
    ] = None
    warm_up: Annotated[
        float | None, typer.Option(help="Share of the steps in which the rate climbs. Default: 0.1.")
    ] = None
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default: 0.9.")] = None
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients. Default: none.")] = None
    seeds: Annotated[
        str, typer.Option(help="One run each, such as 0,1,2: first weights, batch order, augmentations, random noise.")
    ] = "0"

    def given(self) -> dict[str, Any]:
        """Returns what a preset can set, with None where the user did not give it."""
        return {name: value for name, value in asdict(self).items() if name not in ("preset", "seeds")}


@dataclass(frozen=True)
class ViewOptions:
    """How training images are seen."""

    PANEL: ClassVar[str] = "Views"
    views: Annotated[
        str | None,
        typer.Option(
            help="practice: random scales and crops of images at their own size, tests at that size; whole: whole "
            "images, resized. Default: practice for semantic networks where no preset is named, else whole."
        ),
    ] = None
    crop: Annotated[int | None, typer.Option(help="Side of a view in pixels (practice). Default: 512.")] = None
    distort: Annotated[
        bool | None,
        typer.Option("--distort/--no-distort", help="Photometric distortion of views (practice). Default: yes."),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT (whole): images change at full size, then shrink. Default: 128x96."),
    ] = None
    colour_jitter: Annotated[
        bool | None,
        typer.Option("--colour-jitter/--no-colour-jitter", help="Views change in colour (whole). Default: yes."),
    ] = None

    def check(self, practice: bool) -> None:
        """Raises UserError for the first option that the other kind of views has."""
        remedy = "is for --views practice; these views have --size"
        others: dict[str, object] = {"crop": self.crop, "distort": self.distort}
        if practice:
            remedy = "is for whole images; give --views whole or a --preset as well, or --crop in its place"
            others = {"size": self.size, "colour-jitter": self.colour_jitter}
        for name, value in others.items():
            if value is not None:
                raise UserError(f"--{name}: {remedy}")


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
    views: ViewOptions
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
            shipped=lambda: load(SHIPPED),
            denoise_photographs=self.conditions.denoise_photographs,
        )

    def setup(self) -> Setup:
        """Returns how it is compared. Raises UserError for the first option that is wrong."""
        from unseg.evaluation.folders import Setup
        from unseg.evaluation.presets import choose
        from unseg.evaluation.quality import load_perceptual
        from unseg.evaluation.tasks.registry import check_task

        check_task(self.task)
        schedule, networks, perceptual = self.schedule, self.networks, self.machine.lpips_weights
        named, practice = self._networks_and_practice()
        given = {**schedule.given(), "size": self.views.size}
        choices = choose(schedule.preset, self.task, given, practice=practice is not None)
        conditions = self.conditions.conditions
        return Setup(
            task=self.task,
            out=self.out,
            networks=named,
            choices=choices,
            size=(practice.crop, practice.crop) if practice is not None else parse_size(choices.size or ""),
            budget=self.conditions.budget(),
            binary=self.objects.binary,
            by_class=self.by_class(),
            conditions=None if conditions is None else split_list("--conditions", conditions),
            shares=parse_shares(self.conditions.shares),
            seeds=parse_seeds(schedule.seeds),
            device=self.machine.device,
            colour_jitter=self.views.colour_jitter is not False,
            practice=practice,
            weights=named_weights(networks.weights or []),
            extra=parse_settings(networks.settings or []),
            checkpoint_every=self.machine.checkpoint_every,
            perceptual=None if perceptual is None else load_perceptual(perceptual),
        )

    def _networks_and_practice(self) -> tuple[tuple[str, ...], Practice | None]:
        """Returns the networks, and how they are trained where views are as in practice (else None)."""
        from unseg.evaluation.practice import Practice
        from unseg.evaluation.tasks.registry import DEFAULT_NETWORKS, WHOLE_DEFAULTS, as_in_practice

        views, freeze, given = self.views, self.networks.freeze, self.networks.networks
        named = split_list("--networks", given or DEFAULT_NETWORKS[self.task])
        practice = as_in_practice(views.views, self.schedule.preset, self.task, named)
        views.check(practice)
        if freeze is not None and (freeze != "encoder" or not practice):
            raise UserError(f"--freeze {freeze}: give encoder, with --views practice")
        if not practice:
            return split_list("--networks", given or WHOLE_DEFAULTS[self.task]), None
        chosen = Practice(distort=views.distort is not False, frozen_encoder=freeze is not None)
        return named, chosen if views.crop is None else replace(chosen, crop=views.crop)
