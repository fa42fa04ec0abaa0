"""A comparison of folders: clean images with annotations, any number of protected folders beside them, clean test images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unseg.data.annotations import ObjectRule
from unseg.data.annotations.core import first_few
from unseg.errors import UserError
from unseg.evaluation.condition_names import parse_condition, sweep
from unseg.evaluation.conditions import class_pattern, random_noise
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.pairs import fingerprint
from unseg.evaluation.presets import Choices
from unseg.evaluation.quality import Similarity
from unseg.evaluation.sets import CleanImages, annotation_files, check_apart, open_clean, protected_files, truth_by
from unseg.evaluation.study import Make, Source, Study, Watcher, check_size, weights_identity
from unseg.evaluation.tasks.registry import find_maker
from unseg.evaluation.trainer import Schedule
from unseg.method.config import Budget

MASK_FORMATS = ("voc", "index", "binary")
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".params")


@dataclass(frozen=True)
class Folders:
    """What is compared.

    clean, test: DIR of images (with their annotations beside them, if those are not named). protected: name → DIR. objects,
    ignore_label, background_label: which pixels are the object that random noise and the measured bound go by; see `ObjectRule`.
    """

    clean: Path
    protected: Mapping[str, Path]
    test: Path
    annotations: Path | None = None
    test_annotations: Path | None = None
    annotations_format: str = "auto"
    rule: ObjectRule = ObjectRule()


@dataclass(frozen=True)
class Setup:
    """How it is compared. conditions: None: clean, every protected folder, random. shares: percent, for a sweep, or none.
    weights: network → file or folder; "" stands for all networks."""

    task: str
    out: Path
    networks: tuple[str, ...]
    choices: Choices
    size: tuple[int, int]
    budget: Budget
    conditions: tuple[str, ...] | None = None
    shares: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    colour_jitter: bool = True
    weights: Mapping[str, Path] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every: float = 120.0
    perceptual: Similarity | None = None


def study_of_folders(folders: Folders, setup: Setup, watcher: Watcher = Watcher()) -> Study:
    """Opens and checks everything. UserError for the first thing that is wrong."""
    check_size(*setup.size)
    makers = {network: find_maker(setup.task, network) for network in setup.networks}
    for network in setup.weights:
        if network and network not in setup.networks:
            raise UserError(f"--weights {network}=…: {network} is not among --networks {','.join(setup.networks)}")
    weights = {
        network: path
        for network in setup.networks
        if (path := setup.weights.get(network, setup.weights.get(""))) is not None
    }
    weights = {network: local_weights(path) for network, path in weights.items()}
    conditions = _conditions(setup, list(folders.protected))
    watcher.begin("opening annotations", 0)
    train, annotations = open_clean(folders.clean, folders.annotations, folders.annotations_format, "--clean")
    # Few masks do not show what they are: test masks that are black all over would be taken for binary ones.
    form = folders.annotations_format
    if form == "auto" and train.annotations.format in MASK_FORMATS:
        form = train.annotations.format
    test, test_annotations = open_clean(folders.test, folders.test_annotations, form, "--test")
    for opened in (train, test):
        opened.annotations.check_rule(folders.rule)
    stems = [train.stem(index) for index in range(len(train))]
    protected = {name: protected_files(folder, stems) for name, folder in folders.protected.items()}
    parts = [
        *protected.values(),
        [*train.files, *annotation_files(annotations)],
        [*test.files, *annotation_files(test_annotations)],
    ]
    watcher.begin("reading files for their hashes", sum(map(len, parts)))
    *identities, train_hash, test_hash = [fingerprint(_told(files, watcher.tick)) for files in parts]
    check_apart([*train.files, *(path for files in protected.values() for path in files)], test.files)
    where = {"budget": {"object": setup.budget.object, "background": setup.budget.background}}
    sources = {
        name: Source(files=tuple(files), identity={"files": identity})
        for (name, files), identity in zip(protected.items(), identities, strict=True)
    }
    sources["random"] = Source(lambda seed: random_noise(setup.budget, seed), where)
    sources["pattern"] = Source(lambda seed: class_pattern(setup.budget, seed), where)
    rule = folders.rule
    common = {
        "size": list(setup.size),
        "colour_jitter": setup.colour_jitter,
        "options": dict(setup.extra),
        "objects": rule.which if isinstance(rule.which, str) else list(rule.which),
        "ignore_label": rule.ignore_label,
        "background_label": rule.background_label,
        "train": train_hash,
        "test": test_hash,
    }
    return Study(
        setup.task,
        setup.out,
        train,
        test,
        _maker(makers, setup, weights, rule),
        truth_by(rule),
        setup.networks,
        conditions,
        Schedule(**setup.choices.steps_for(len(train))),
        sources,
        setup.seeds,
        setup.device,
        common,
        {"remarks": _remarks(train, "training") + _remarks(test, "test")},
        {network: weights_identity(path) for network, path in weights.items()},
        setup.checkpoint_every,
        setup.perceptual,
    )


def local_weights(path: Path) -> Path:
    """The path itself, or for ORGANISATION/NAME the folder that the Hugging Face cache of this machine has of it. UserError
    where there is neither."""
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path.as_posix(), re.ASCII) and path.suffix.lower() not in WEIGHT_SUFFIXES:
        try:
            import huggingface_hub  # comes with transformers
            from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
        except ImportError:
            raise UserError(
                f"--weights {path}: no such file or folder, and transformers, whose cache could hold it, is not "
                "installed; run: pip install 'unseg[evaluate]'"
            ) from None
        try:
            return Path(huggingface_hub.snapshot_download(path.as_posix(), local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            raise UserError(
                f"--weights {path}: no such folder, and the Hugging Face cache of this machine does not hold it; "
                "nothing is downloaded, so get it first"
            ) from None
    raise UserError(
        f"--weights {path}: no such file or folder; nothing is downloaded, so get it first and give its path"
    )


def _told(paths: Iterable[Path], tick: Callable[[], None]) -> Iterator[Path]:
    for path in paths:
        yield path
        tick()


def _conditions(setup: Setup, protected: Sequence[str]) -> tuple[str, ...]:
    chosen = list(setup.conditions or ("clean", *protected, "random"))
    for name in chosen:
        parse_condition(name, ["clean", *protected, "random", "pattern"])
    if setup.shares and not protected:
        raise UserError("--shares: there is no --protected folder to mix with the clean images")
    return tuple(dict.fromkeys([*chosen, *(sweep(protected, setup.shares) if setup.shares else ())]))


def _maker(makers: Mapping[str, Make], setup: Setup, weights: Mapping[str, Path], rule: ObjectRule) -> Make:
    return lambda network, train, test: makers[network](
        network,
        train,
        test,
        LearnerOptions(setup.size, weights.get(network), dict(setup.extra), setup.colour_jitter, rule),
    )


def _remarks(images: CleanImages, kind: str) -> list[str]:
    """What was left out, in words."""
    remarks = []
    if images.unannotated:
        remarks.append(
            f"{len(images.unannotated)} {kind} images have no annotations and are left out "
            f"({first_few(images.unannotated)})."
        )
    if images.annotations.missing:
        remarks.append(
            f"{len(images.annotations.missing)} annotated {kind} images are not there and are left out "
            f"({first_few(problem.name for problem in images.annotations.missing)})."
        )
    return remarks
