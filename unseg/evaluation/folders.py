"""A comparison of folders: clean images with annotations, protected ones beside them or made on the way, clean test
images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from unseg import __version__
from unseg.compute.progress import SILENT, Progress, Tick
from unseg.counts import count_of
from unseg.data.annotations import ObjectRule
from unseg.data.annotations.core import first_few
from unseg.data.annotations.label_files import LabelFiles
from unseg.errors import UserError
from unseg.evaluation.baselines.baseline_names import BASELINES
from unseg.evaluation.coded_images import CODED
from unseg.evaluation.condition_names import parse_condition, sweep
from unseg.evaluation.condition_sets import left_to_learners
from unseg.evaluation.hashes import digest, fingerprint
from unseg.evaluation.image_sizes import check_sizes
from unseg.evaluation.kept_images import kept
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.on_the_way import OnTheWay, object_rule
from unseg.evaluation.practice import Practice
from unseg.evaluation.presets import Choices
from unseg.evaluation.quality import Similarity
from unseg.evaluation.results import PRACTICE, Json
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import (
    CleanImages,
    Truth,
    annotation_files,
    check_apart,
    choose_share,
    open_alike,
    open_clean,
    protected_files,
    truth_by,
)
from unseg.evaluation.sources import MADE, Sources, file_sources, known_bases
from unseg.evaluation.study import ConditionSource, Study
from unseg.evaluation.study_parts import Denoising, asks_for, code_of, denoising_of, maker_of, weights_of
from unseg.evaluation.tasks.labelling import labelling_of
from unseg.evaluation.tasks.registry import find_maker
from unseg.evaluation.weight_choice import choose_starts
from unseg.method.config import Budget
from unseg.storage.places import lies_in

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
CUTMIX, PIXEL_TASKS = "cutmix", ("semantic", "medical")  # it pastes the classes of pixels
BY_CLASS = "By class: the generator is told every pixel's class; the object's budget holds on every labelled pixel."


@dataclass(frozen=True)
class Folders:
    """What is compared.

    clean, test: DIR of images (with their annotations beside them, if those are not named). protected: name → DIR.
    generator: loads the generator that makes the condition "protected" on the way; it is called if that condition is
    asked for. shipped: loads this project's compact generator, likewise. denoise_photographs: DIR of other photographs
    with masks beside them. rule: which pixels are the object that noise and the measured bound go by, and in the binary
    task the object that is learnt.
    """

    clean: Path
    protected: Mapping[str, Path]
    test: Path
    annotations: Path | None = None
    test_annotations: Path | None = None
    annotations_format: str = "auto"
    rule: ObjectRule = ObjectRule()
    generator: Callable[[], OnTheWay] | None = None
    shipped: Callable[[], OnTheWay] | None = None
    denoise_photographs: Path | None = None

    @property
    def made_or_found(self) -> list[str]:
        """Returns the names of the protected conditions."""
        return [*self.protected, *([MADE] if self.generator is not None else [])]

    def read(self) -> Iterator[tuple[str, Path]]:
        """Yields everything that is read, with its option."""
        yield from (("--clean", self.clean), ("--test", self.test))
        yield from (("--protected", folder) for folder in self.protected.values())
        for option, place in (
            ("--annotations", self.annotations),
            ("--test-annotations", self.test_annotations),
            ("--denoise-photographs", self.denoise_photographs),
        ):
            if place is not None:
                yield option, place


@dataclass(frozen=True)
class Setup:
    """How it is compared.

    binary: learn the object against the rest (the semantic task). by_class: tell the generator every pixel's class, so
    that the object's budget holds on all of them. conditions: None: clean, everything protected, random. shares:
    percent, for a sweep, or none. practice: how networks are trained with views as in practice, besides their
    weights; None: views of whole images, resized to `size`. weights: network → file, folder, `imagenet` or `none`; ""
    stands for all networks.
    """

    task: str
    out: Path
    networks: tuple[str, ...]
    choices: Choices
    size: tuple[int, int]
    budget: Budget
    binary: bool = False
    by_class: bool = False
    conditions: tuple[str, ...] | None = None
    shares: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    colour_jitter: bool = True
    practice: Practice | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every: float = 120.0
    perceptual: Similarity | None = None


def study_of_folders(folders: Folders, setup: Setup, progress: Progress = SILENT) -> Study:
    """Returns the study with everything opened and checked; raises UserError for the first thing that is wrong."""
    _check_setup(folders, setup)
    makers = {
        network: find_maker(setup.task, network, practice=setup.practice is not None) for network in setup.networks
    }
    starts = choose_starts(setup.networks, setup.weights, practice=setup.practice is not None)
    conditions = _conditions(folders, setup)
    opened = _open(folders, progress)
    for name in conditions:
        share = parse_condition(name, known_bases(folders.made_or_found)).share
        if share is not None:
            choose_share(opened.train.names, share, setup.seeds[0])  # one that is no image is told before any training
    denoising = _pairs(folders, setup, conditions, progress)
    options = LearnerOptions(
        setup.size,
        extra=dict(setup.extra),
        colour_jitter=setup.colour_jitter,
        rule=folders.rule,
        binary=setup.binary,
        practice=setup.practice,
    )
    truth = _truth(folders.rule, setup, opened.train, options)
    return Study(
        task="binary" if setup.binary else setup.task,
        out=setup.out,
        train=opened.train,
        test=opened.test,
        make=maker_of(makers, starts, options),
        truth=truth,
        networks=setup.networks,
        conditions=conditions,
        schedule=Schedule(**setup.choices.steps_for(len(opened.train))),
        sources=_sources(folders, setup, opened, truth, conditions),
        seeds=setup.seeds,
        device=setup.device,
        common=_common(folders, setup, opened),
        facts={"remarks": _remarks(setup, opened)},
        weights=weights_of(starts),
        code=code_of(setup.networks),
        checkpoint_every=setup.checkpoint_every,
        perceptual=setup.perceptual,
        pairs=denoising.pairs,
        pairs_identity=denoising.identity,
    )


def _check_setup(folders: Folders, setup: Setup) -> None:
    width, height = setup.size
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(f"--size {width}x{height}: give at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")
    if max(width, height) > LARGEST_SIDE:
        raise UserError(f"--size {width}x{height}: give at most {LARGEST_SIDE}x{LARGEST_SIDE}")
    if setup.binary and setup.task != "semantic":
        raise UserError(f"--binary: is for --task semantic, not for {setup.task}")
    if folders.generator is not None and MADE in folders.protected:
        raise UserError(
            "--generator and --protected: give one of the two, or give the folder a name of its own with NAME=DIR"
        )
    for option, folder in folders.read():
        if folder.is_dir() and lies_in(setup.out, folder):
            raise UserError(f"--out {setup.out}: lies in {option} {folder}, which is read; give a folder beside it")


# --- what is opened --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """What has been opened.

    protected: name → files, one for each training image. identities: name → hash of them. copies: name → those of them
    that are the clean image.
    """

    train: CleanImages
    test: CleanImages
    protected: dict[str, list[Path]]
    identities: dict[str, str]
    train_hash: str
    test_hash: str
    copies: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _open(folders: Folders, progress: Progress) -> _Opened:
    (train, annotations), (test, test_annotations) = open_alike(
        ("--clean", folders.clean, folders.annotations),
        ("--test", folders.test, folders.test_annotations),
        folders.annotations_format,
        progress,
    )
    for option, opened in (("--clean", train), ("--test", test)):
        progress.say(f"{option}: {opened.annotations.statement}")
        opened.annotations.check_rule(folders.rule)
    stems = [train.stem(index) for index in range(len(train))]
    protected = {name: protected_files(folder, stems) for name, folder in folders.protected.items()}
    for files in protected.values():
        check_sizes(files, train.files)
    train_files, test_files = _files_of(train, annotations), _files_of(test, test_annotations)
    count = sum(map(len, (train_files, test_files, *protected.values())))
    with progress.bar("reading files for their hashes", count) as tick:
        identities = {name: _hash_of(files, tick) for name, files in protected.items()}
        train_hash, test_hash = _hash_of(train_files, tick), _hash_of(test_files, tick)
    check_apart([*train.files, *(path for files in protected.values() for path in files)], test.files)
    return _Opened(train, test, protected, identities, train_hash, test_hash, _copies_among(protected, train.files))


def _files_of(images: CleanImages, annotations: Path) -> list[Path]:
    """Returns the images with the files that say what they show; of a folder of masks those of the images alone."""
    told = annotation_files(annotations)
    if isinstance(images.annotations, LabelFiles):
        stems = {PurePosixPath(name).stem for name in images.names}
        told = [path for path in told if path.stem in stems]
    return [*images.files, *told]


def _hash_of(files: Sequence[Path], tick: Tick) -> str:
    for path in files:
        digest(path)  # kept, so that the fingerprint does not read it again
        tick()
    return fingerprint(files)


# --- what is compared ------------------------------------------------------------------------------------------------


def _truth(rule: ObjectRule, setup: Setup, train: CleanImages, options: LearnerOptions) -> Truth:
    truth = truth_by(object_rule(rule, binary=setup.binary, by_class=setup.by_class))
    if not setup.binary:
        return truth
    labelling = labelling_of(train, options)
    return lambda annotated: (truth(annotated)[0], labelling.class_map(annotated))


def _sources(
    folders: Folders, setup: Setup, opened: _Opened, truth: Truth, conditions: Sequence[str]
) -> dict[str, ConditionSource]:
    """Returns how the images of each base are made. A generator is loaded only where a condition asks for it."""
    makes = Sources(opened.train, truth, folders.rule, setup.budget, binary=setup.binary, by_class=setup.by_class)
    sources = {**file_sources(opened.protected, opened.identities), **makes.controls()}
    bases = {parse_condition(name, known_bases(folders.made_or_found)).base for name in conditions}
    if folders.generator is not None and MADE in bases:
        sources[MADE] = makes.generated(folders.generator())
    sources.update((name, makes.coded(name)) for name in CODED if name in bases)
    for name in BASELINES:
        if name in bases and name not in sources:
            made = makes.baseline(name, folders.shipped)  # some train networks: their images are made once
            sources[name] = kept(made, setup.out / "images", name, _labels_of(folders, setup, opened))
    return sources


def _labels_of(folders: Folders, setup: Setup, opened: _Opened) -> Json:
    """Returns what noise that is fitted to labels depends on besides its own settings."""
    return {
        "train": opened.train_hash,
        "version": __version__,
        "format": folders.annotations_format,
        "rule": asdict(folders.rule),
        "binary": setup.binary,
        "by_class": setup.by_class,
    }


def _common(folders: Folders, setup: Setup, opened: _Opened) -> Json:
    """Returns the settings that all runs share. Those that earlier versions did not have are there only where they are
    set.
    """
    rule, named = folders.rule, folders.annotations_format
    return {
        **_views(setup),
        "options": dict(setup.extra),
        "objects": rule.which if isinstance(rule.which, str) else list(rule.which),
        "ignore_label": rule.ignore_label,
        "background_label": rule.background_label,
        "train": opened.train_hash,
        "test": opened.test_hash,
        **({"by_class": True} if setup.by_class else {}),
        **({} if named == "auto" else {"annotations_format": named}),
    }


def _views(setup: Setup) -> Json:
    practice = setup.practice
    if practice is None:
        return {"size": list(setup.size), "colour_jitter": setup.colour_jitter}
    frozen = {"frozen": "encoder"} if practice.frozen_encoder else {}
    return {"views": PRACTICE, "crop": practice.crop, "distort": practice.distort, **frozen}


def _conditions(folders: Folders, setup: Setup) -> tuple[str, ...]:
    protected = folders.made_or_found
    chosen = list(setup.conditions or ("clean", *protected, "random"))
    for name in chosen:
        condition = parse_condition(name, known_bases(protected))
        left = left_to_learners(name)
        if left and setup.practice is None:
            raise UserError(f"--conditions {name}: {left[0]} needs --views practice")
        if CUTMIX in condition.defences and setup.task not in PIXEL_TASKS:
            raise UserError(f"--conditions {name}: {CUTMIX} is for --task {' and '.join(PIXEL_TASKS)}")
        if "denoise" in condition.defences and folders.denoise_photographs is None:
            raise UserError(
                f"--conditions {name}: denoise learns from other photographs with masks; name their folder with "
                "--denoise-photographs"
            )
    if setup.shares and not protected:
        raise UserError("--shares: there is no --protected folder and no --generator to mix with the clean images")
    asked = tuple(dict.fromkeys([*chosen, *(sweep(protected, setup.shares) if setup.shares else ())]))
    bases = {parse_condition(name, known_bases(protected)).base for name in asked}
    for option, given, wanted in (
        (f"--generator: makes the condition {MADE}", folders.generator, MADE in bases),
        ("--denoise-photographs: is for the defence denoise", folders.denoise_photographs, asks_for("denoise", asked)),
    ):
        if given is not None and not wanted:
            raise UserError(f"{option}, which is not among --conditions; add it or leave this out")
    return asked


def _pairs(folders: Folders, setup: Setup, conditions: Sequence[str], progress: Progress) -> Denoising:
    """Returns what the defence `denoise` learns from. Nothing is opened where no condition asks for it."""
    folder = folders.denoise_photographs
    if folder is None or folders.shipped is None or not asks_for("denoise", conditions):
        return Denoising()
    photographs, annotations = open_clean(folder, None, "auto", "--denoise-photographs", progress)
    of_files = fingerprint(_files_of(photographs, annotations))
    return denoising_of(
        photographs, of_files, folders.shipped(), setup.budget, by_class=setup.by_class, progress=progress
    )


def _remarks(setup: Setup, opened: _Opened) -> list[str]:
    """Returns sentences on what was left out and how the budget holds."""
    remarks = [BY_CLASS] if setup.by_class else []
    for images, kind in ((opened.train, "training"), (opened.test, "test")):
        if images.unannotated:
            remarks.append(
                f"Left out, without annotations: {count_of(len(images.unannotated), f'{kind} image')} "
                f"({first_few(images.unannotated)})."
            )
        absent = images.annotations.missing
        if absent:
            remarks.append(
                f"Left out, since they are not there: {count_of(len(absent), f'annotated {kind} image')} "
                f"({first_few(problem.name for problem in absent)})."
            )
    for name, copies in opened.copies.items():
        remarks.append(
            f"{len(copies)} of {len(opened.train)} images of {name} are the clean images, byte for byte, and not "
            f"protected ({first_few(copies)})."
        )
    return remarks


def _copies_among(protected: Mapping[str, Sequence[Path]], clean: Sequence[Path]) -> dict[str, list[str]]:
    """Returns name → the files of a protected folder that are the clean images, where it has any."""
    pairs = {name: zip(files, clean, strict=True) for name, files in protected.items()}
    copies = {name: [path.name for path, own in both if digest(path) == digest(own)] for name, both in pairs.items()}
    return {name: files for name, files in copies.items() if files}
