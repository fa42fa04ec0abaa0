"""Configurations: frozen, complete, checked when made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from unseg.errors import UserError

STRENGTHS = {"subtle": 4.0, "standard": 8.0, "strong": 12.0}
"""What --strength means: the budget of the object in grey levels."""


@dataclass(frozen=True)
class Budget:
    """Bounds how much a value of an image may change, in grey levels of 255.

    object: bound on the pixels of the object; background: bound on all others. The paper generates with 8 and 2 and
    trains with 1 and 0.25 ("epsilon generalisation").
    """

    object: float = 8.0
    background: float = 2.0

    def __post_init__(self) -> None:
        for option, value in (("--epsilon", self.object), ("--background-epsilon", self.background)):
            if not (math.isfinite(value) and 0 <= value <= 255):
                raise UserError(
                    f"{option} {value}: give a number of grey levels from 0 to 255 (the paper uses 8 and 2)"
                )


def strength(word: str, option: str = "--strength") -> float:
    """Returns the object's budget that a word of `STRENGTHS` stands for; UserError, which names `option`, else."""
    if word not in STRENGTHS:
        raise UserError(f"{option} {word}: choose from {', '.join(STRENGTHS)}")
    return STRENGTHS[word]


BOOKKEEPING = ("log_every", "checkpoint_every")
"""Fields of TrainConfig that do not change what is computed, so that a run may go on with others."""
RETIRED = {"compile": False}
"""Fields that TrainConfig had before version 0.2 → the only value that is left; runs made with that value go on."""
ADDED = {"code_prompt": False}
"""Fields that TrainConfig has since version 0.2 → what earlier runs did."""

MOST = 2**31 - 1  # of what is counted
MOST_SEED = 2**62  # random generators take 64 bits, of which a process adds its rank
MOST_SIDE = 2**14  # of a view, in pixels: beyond it are typing errors that would ask for terabytes
MOST_ENLARGED = 2**15  # pixels of the long side of an image that is enlarged to cut a view from it
PLAYERS = ("surrogate", "generator")
TARGETS = ("ones", "mask")
GENERATOR_STARTS = ("sam", "random")
SURROGATE_STARTS = ("scratch", "mae")
PRECISIONS = ("auto", "float32", "bf16")
PROMPT_KINDS = ("box", "points", "noisy_mask", "mask")


@dataclass(frozen=True)
class TrainConfig:
    """Holds everything that decides what a training run computes; `unseg.training.recipes` has complete ones.

    A run is a row of phases. A phase trains one player, its opponent frozen; `phases` names the players in turn and is
    repeated until `total_phases` have been run. A phase lasts `steps_per_phase` steps, or one epoch if that is 0.
    """

    generator: str = "vit_b"
    """Name of the generator network."""
    surrogates: tuple[str, ...] = ("vit_b",)
    """Names of the surrogate networks; with several, every round of `phases` takes the next one."""
    generator_start: str = "sam"
    """What the generator starts from: sam (its frozen parts are SAM's, the noise parts random) or random."""
    surrogate_start: str = "scratch"
    """What surrogates start from: scratch (random weights, as in the paper) or mae (MAE's encoder, as published)."""
    phases: tuple[str, ...] = ("surrogate", "generator", "generator", "generator")
    steps_per_phase: int = 0
    total_phases: int = 27
    batch_size: int = 4
    """How many images each process takes a step."""

    generator_learning_rate: float = 1e-4
    surrogate_learning_rate: float = 1e-4
    final_learning_rate_factor: float = 0.1
    """Learning rates are multiplied by this from phase `decay_phase` on."""
    decay_phase: int = 20
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    surrogate_lifetime: int = 0
    """A surrogate starts afresh after this many of its own steps (0: never), the several ones at staggered times."""

    budget: Budget = Budget(1.0, 0.25)
    target: str = "ones"
    """What the generator's step wants the surrogate to answer: ones (label modification) or the true mask."""
    loss_points: int = 112 * 112
    """Points that the losses compare; 0 compares every pixel."""
    loss_oversample: int = 3
    """Candidates for each of these points, of which the least certain are taken."""
    loss_uncertain_share: float = 0.75
    """Share of the points that are taken so; the others are uniform."""
    loss_weights: tuple[float, float] = (1.0, 1.0)
    """Weights of binary cross entropy and of dice."""
    dice_smoothing: float = 1.0
    generator_prompts: tuple[str, ...] = ("box", "points", "noisy_mask")
    """A random non-empty subset of these goes to the generator; what is named twice is drawn more often."""
    surrogate_prompts: tuple[str, ...] = ("box", "points", "noisy_mask")
    """Exactly one of these goes to the surrogate; none if empty."""

    code_prompt: bool = False
    """Whether the generator is also given the codes of pixels: on the object the pattern of a random code and key."""

    prompt_points: int = 10
    """Points of the object in a prompt of points."""
    noisy_mask_coarsening: int = 8
    """How many times a mask is reduced and restored to find the outline that a noisy mask disturbs."""
    noisy_mask_unsure: float = 0.01
    """The outline is where the restored mask differs by so much or more."""
    noisy_mask_deviation: float = 1.0
    """Standard deviation of the noise on it."""

    view_size: int = 1024
    """Side of the square view that the generator sees."""
    frame_size: int = 1024
    """Side of the frame that generation uses: an image whose long side has this length is at scale 1."""
    jitter: tuple[float, float] = (0.1, 2.0)
    """Range of the scale, uniform."""
    surrogate_sizes: tuple[int, ...] = (512,)
    """Sides of the surrogate's view; with several, each step draws one."""
    antialias: bool = False
    """Whether views are resized with antialiasing."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    precision: str = "auto"
    """Number format of large products in networks derived from SAM: float32, bf16, or auto.

    auto takes bf16 on GPUs that compute in it, and float32 elsewhere."""

    seed: int = 42
    log_every: int = 50
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints; where phases are epochs there is one at the end of each, too."""

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_views(self)


def facts_of(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration's fields by name; those of `ADDED` only where they differ from what was before them."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in ADDED or value != ADDED[name]}


_CHOICES = {
    "target": TARGETS,
    "generator_start": GENERATOR_STARTS,
    "surrogate_start": SURROGATE_STARTS,
    "precision": PRECISIONS,
}
_WHOLE_NUMBERS = {  # field → the least and the most that it may be
    "total_phases": (1, MOST),
    "batch_size": (1, MOST_SIDE),
    "log_every": (1, MOST),
    "checkpoint_every": (1, MOST),
    "steps_per_phase": (0, MOST),
    "decay_phase": (0, MOST),
    "surrogate_lifetime": (0, MOST),
    "seed": (0, MOST_SEED),
    "loss_points": (0, MOST),
    "loss_oversample": (1, MOST_SIDE),
    "prompt_points": (1, MOST_SIDE),
    "noisy_mask_coarsening": (1, MOST_SIDE),
    "view_size": (1, MOST_SIDE),
    "frame_size": (1, MOST_SIDE),
}
_ABOVE_ZERO = ("generator_learning_rate", "surrogate_learning_rate", "final_learning_rate_factor")
_FROM_ZERO = ("weight_decay", "dice_smoothing", "noisy_mask_unsure", "noisy_mask_deviation")
_SHARES = ("flip", "loss_uncertain_share")


def _require(config: TrainConfig, good: bool, field: str, remedy: str) -> None:
    if not good:
        raise UserError(f"{field}={getattr(config, field)!r}: {remedy}")


def _check_names(config: TrainConfig) -> None:
    """Raises UserError where a name of a player, a prompt or a choice is not known."""
    players_known = bool(config.phases) and set(config.phases) <= set(PLAYERS)
    _require(config, players_known, field="phases", remedy=f"name players among {', '.join(PLAYERS)}")
    _require(config, bool(config.surrogates), field="surrogates", remedy="name at least one surrogate network")
    for field, choices in _CHOICES.items():
        _require(config, getattr(config, field) in choices, field, remedy=f"choose one of {', '.join(choices)}")
    kinds = f"choose among {', '.join(PROMPT_KINDS)}"
    for field in ("generator_prompts", "surrogate_prompts"):
        _require(config, set(getattr(config, field)) <= set(PROMPT_KINDS), field, remedy=kinds)
    _require(config, bool(config.generator_prompts), field="generator_prompts", remedy=kinds)


def _check_numbers(config: TrainConfig) -> None:
    """Raises UserError where a number lies outside its range."""
    for field, (least, most) in _WHOLE_NUMBERS.items():
        whole = f"give a whole number from {least} to {most:,}"
        _require(config, least <= getattr(config, field) <= most, field, remedy=whole)
    for field in _ABOVE_ZERO:
        _require(config, 0 < getattr(config, field) < math.inf, field, remedy="give a number above 0")
    for field in _FROM_ZERO:
        _require(config, 0 <= getattr(config, field) < math.inf, field, remedy="give a number from 0")
    for field in _SHARES:
        _require(config, 0 <= getattr(config, field) <= 1, field, remedy="give a number from 0 to 1")
    betas = all(0 <= beta < 1 for beta in config.adam_betas)
    _require(config, betas, field="adam_betas", remedy="give two numbers from 0 to below 1")
    weights = all(0 <= weight < math.inf for weight in config.loss_weights) and any(config.loss_weights)
    _require(config, weights, field="loss_weights", remedy="give two numbers from 0, not both 0")


def _check_views(config: TrainConfig) -> None:
    """Raises UserError where views cannot be cut as the configuration says."""
    sides = bool(config.surrogate_sizes) and all(16 <= side <= MOST_SIDE for side in config.surrogate_sizes)
    _require(config, sides, field="surrogate_sizes", remedy=f"give sides from 16 to {MOST_SIDE:,}")
    rising = 0 < config.jitter[0] <= config.jitter[1] < math.inf
    _require(config, rising, field="jitter", remedy="give two rising positive scales")
    largest = MOST_ENLARGED / config.frame_size
    remedy = f"give scales up to {largest:g}, which make an image {MOST_ENLARGED:,} pixels long"
    _require(config, config.jitter[1] <= largest, field="jitter", remedy=remedy)
