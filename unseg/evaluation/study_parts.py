"""What every study is put together from, whether of folders or of a set of the matrix: learners, and what they and the
defence `denoise` depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from unseg.evaluation.defences.denoise import Pairs
from unseg.evaluation.hashes import digest, weights_identity
from unseg.evaluation.learner import AnnotatedImages, Learner, LearnerOptions, MakeLearner
from unseg.evaluation.results import Json
from unseg.evaluation.study import Make, RunOptions
from unseg.evaluation.tasks.practice_semantic import make_practice_semantic
from unseg.evaluation.weight_choice import Start
from unseg.victims.semantic_networks import own_source


@dataclass(frozen=True)
class Denoising:
    """What the defence `denoise` learns from: see `Study.pairs`."""

    pairs: Callable[[], Pairs] | None = None
    identity: Json = field(default_factory=dict)


def asks_for(defence: str, conditions: Sequence[str]) -> bool:
    """Returns whether one of the conditions has the defence behind it."""
    return any(defence in name.split("+")[1:] for name in conditions)


def maker_of(makers: Mapping[str, MakeLearner], starts: Mapping[str, Start], options: LearnerOptions) -> Make:
    """Returns what makes the learner of a run: a task's own, or the one that trains as people do."""

    def make(network: str, train: AnnotatedImages, test: AnnotatedImages, run: RunOptions) -> Learner:
        start = starts[network]
        told = replace(options, progress=run.progress)
        if told.practice is None:
            return makers[network](network, train, test, replace(told, weights=start.file))
        practice = replace(told.practice, weights=start.weights, seed=run.seed)
        notes = () if start.note is None else (start.note,)
        return make_practice_semantic(
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
