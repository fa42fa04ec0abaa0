"""What every study is put together from, whether of folders or of a set of the matrix: learners, and what they and the
defence `denoise` depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from unseg.compute.progress import Progress, track
from unseg.data.annotations import ObjectRule
from unseg.evaluation.coded_images import CODED, Labels, allocate, coded, key_of
from unseg.evaluation.defences.denoise import VERSION, Pairs
from unseg.evaluation.hashes import digest, weights_identity
from unseg.evaluation.learner import AnnotatedImages, Learner, LearnerOptions, MakeLearner
from unseg.evaluation.on_the_way import OnTheWay, source_on_the_way
from unseg.evaluation.results import Json
from unseg.evaluation.sets import Images, truth_by
from unseg.evaluation.sources import TINT
from unseg.evaluation.study import Make, RunOptions
from unseg.evaluation.weight_choice import Start
from unseg.method.config import Budget
from unseg.method.patterns import BOOKS
from unseg.victims.semantic_networks import own_source


@dataclass(frozen=True)
class Denoising:
    """What the defence `denoise` learns from: see `Study.pairs`."""

    pairs: Callable[[], Pairs] | None = None
    identity: Json = field(default_factory=dict)


# What the photographs get in turn: most of them one code, which is what people are likely to meet.
DENOISED = ("codes-one", TINT, "codes-one", "codes-by-class")


def noise_of_pair(index: int) -> str:
    """Returns the noise of the photograph of that place."""
    return DENOISED[index % len(DENOISED)]


def denoising_of(
    photographs: Images, digest: str, noise: OnTheWay, budget: Budget, *, by_class: bool, progress: Progress
) -> Denoising:
    """Returns what someone learns from who protects other photographs with this project's public code, of this version
    and of the one before.

    photographs: their object is everything that has a class. digest: of their files. noise: the compact generator's.
    by_class: whether it is told every pixel's class, where it can be.
    """
    identity = {**noise.identity, "photographs": digest, **({"by_class": True} if by_class else {})}
    return Denoising(
        lambda: _pairs_of(photographs, noise, budget, by_class=by_class, progress=progress),
        {**identity, "noises": list(DENOISED), "codes": ", ".join(BOOKS), "network": VERSION},
    )


def _pairs_of(photographs: Images, noise: OnTheWay, budget: Budget, *, by_class: bool, progress: Progress) -> Pairs:
    """Returns the clean and the protected version of each photograph, each coded with a key of its own."""
    truth, labels, count, pairs = truth_by(ObjectRule()), Labels(None, binary=False), len(photographs), []
    told = by_class and noise.codes > 0
    tint = source_on_the_way(noise, photographs, truth, binary=False, by_class=told, budget={}).change_of(0, progress)
    allocations = {
        name: allocate(photographs, truth, labels, CODED[name].told_apart, progress)
        for name in DENOISED
        if name != TINT
    }
    for index in track(progress, range(count), count, "denoise: protecting photographs"):
        pixels, kind, stem = photographs.pixels(index), noise_of_pair(index), photographs.stem(index)
        mask, classes = truth(photographs.annotated(index))
        change = tint
        if kind != TINT:
            change = coded(allocations[kind], labels, budget, CODED[kind], key_of("denoise", stem))
        pairs.append((pixels, change(stem, pixels, mask, classes)))
    return pairs


def asks_for(defence: str, conditions: Sequence[str]) -> bool:
    """Returns whether one of the conditions has the defence behind it."""
    return any(defence in name.split("+")[1:] for name in conditions)


def maker_of(makers: Mapping[str, MakeLearner], starts: Mapping[str, Start], options: LearnerOptions) -> Make:
    """Returns what makes the learner of a run. makers: network → what `find_maker` finds for its kind of views."""

    def make(network: str, train: AnnotatedImages, test: AnnotatedImages, run: RunOptions) -> Learner:
        start = starts[network]
        told = replace(options, progress=run.progress)
        if told.practice is None:
            return makers[network](network, train, test, replace(told, weights=start.file))
        practice = replace(told.practice, weights=start.weights, seed=run.seed)
        notes = () if start.note is None else (start.note,)
        return makers[network](
            network, train, test, replace(told, practice=practice, defences=run.defences, notes=notes)
        )

    return make


def weights_of(starts: Mapping[str, Start]) -> Json:
    """Returns for each network that starts from a file what identifies it."""
    return {name: weights_identity(start.file) for name, start in starts.items() if start.file is not None}


def code_of(networks: Sequence[str]) -> Json:
    """Returns for each network of the user's own the hash of the module that builds it."""
    own = {network: own_source(network) for network in networks}
    return {network: digest(path) for network, path in own.items() if path is not None}
