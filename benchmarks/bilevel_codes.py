"""One step of the bilevel training of a coded generator: networks that others train, learned against and started again.

A *victim* learns the classes of photographs that carry the generator's noise, by the codes of its own life: which class
has which code, and the key. The generator learns noise that lets victims of all ages find the codes before the objects:

- *given* views have the codes that the victim is trained with; its loss there is to be small, as in the paper;
- *swapped* views have codes that say nothing of the classes; the victim is to answer the class whose code it sees, and
  the absent class where it sees none. That it does is what protection is;
- *readouts*, single layers on the features of an ImageNet encoder that does not learn, are to name the codes of swapped
  views. They start again, too: noise is to be found early.

Everything random follows from the seed and the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.soft_views import Sight, eight_bit, grey, jpeg, through
from benchmarks.soft_visibility import seen_change
from segment_anything_training.coded import CodedGenerator
from unseg.compute.progress import Progress
from unseg.data.annotations import ClassMap
from unseg.data.measuring_sets import CCP, CCP_GROUPS, MeasuringPart, home_of_set, open_part
from unseg.evaluation.augmentation import standardised
from unseg.evaluation.measuring_images import MeasuringImages
from unseg.evaluation.practice_views import draw_practice_views
from unseg.method.coded_noise import code_signs
from unseg.method.codes import code_map
from unseg.method.metrics import IGNORE_LABEL
from unseg.method.patterns import ABSENCE, BOOK, NO_CODE, CodeBook, book_of
from unseg.method.prompts import seeded
from unseg.storage.key_file import KEY_BYTES
from unseg.victims.imagenet import encoder_of, load_imagenet
from unseg.victims.semantic_networks import build_network

IMAGENET_NETWORK = "deeplabv3plus_timm-tf_efficientnet_lite0"
STRIDES = (2, 4, 8, 16)  # of the features that are read out
LAYOUT = torch.channels_last  # of all networks: a step takes a tenth less processor time so
OWN_TO_FIT = 300  # of CCP's training images, the first by name
NAMED_STRIDE = 2  # the place of the stride whose readout the log names


@dataclass(frozen=True)
class VictimKind:
    """A network that others train. life: its steps until it starts again; of `network` from ImageNet weights or random
    ones."""

    network: str
    life: int
    imagenet: bool


@dataclass(frozen=True)
class Learning:
    """Everything that decides what a training computes.

    epsilon: the budget in grey levels. visibility: how visible the noise may be, as a share of that of the codes it
    starts from; 0: as visible as it likes, within the budget. fill: its least mean absolute change, as a share of that
    of the codes; 0: no such term. Codes use the whole budget, so whatever chance does to them makes them fainter; where
    the noise need not be fainter than they, this holds it. detect_weight, visibility_weight, fill_weight: of these
    terms beside the victims' loss. jpeg_share, grey_share: of the views that are JPEG of a quality of `qualities`, or
    turned grey. object_share: of the lives in which everything but the background has one code. background_share: of
    the other lives in which the background has no noise, in place of another class. warm_up: steps in which the
    generator's rate rises. young: victims of fewer steps say nothing yet. average: of the weights that are written,
    over steps.
    """

    epsilon: float = 8.0
    visibility: float = 0.0
    visibility_weight: float = 4.0
    fill: float = 0.0
    fill_weight: float = 4.0
    detect_weight: float = 0.5
    batch: int = 4
    crop: int = 128
    learning_rate: float = 3e-4
    warm_up: int = 200
    victims: tuple[VictimKind, ...] = (
        VictimKind(IMAGENET_NETWORK, 75, True),
        VictimKind(IMAGENET_NETWORK, 300, True),
        VictimKind("fpn_resnet18", 400, False),
    )
    victim_steps: int = 2
    victim_rate: float = 1e-3
    victim_decay: float = 1e-2
    young: int = 8
    readout_life: int = 150
    readout_rate: float = 1e-2
    readout_imagenet: bool = True
    jpeg_share: float = 0.5
    qualities: tuple[int, int] = (60, 95)
    grey_share: float = 0.1
    object_share: float = 0.5
    background_share: float = 0.7
    average: float = 0.995
    largest_gradient: float = 1.0
    widths: tuple[int, ...] = (48, 64, 96)
    seed: int = 0


@dataclass(frozen=True)
class Photographs:
    """Photographs, H×W×3 uint8 each, and the class of each pixel, H×W uint8 from 0 (the background), 255: none."""

    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    classes: int


def read_photographs(root: Path, progress: Progress, at_most: int = OWN_TO_FIT) -> Photographs:
    """Returns the images of CCP that noise may be fitted to; UserError where CCP is not there."""
    part = MeasuringPart(CCP.train.images, CCP.train.annotations, at_most=at_most)
    opened = MeasuringImages(CCP, open_part(CCP, home_of_set(root, CCP, "give another --data-root"), part))
    images, labels = [], []
    with progress.bar("reading CCP", len(opened)) as tick:
        for index in range(len(opened)):
            images.append(opened.pixels(index))
            annotated = opened.annotated(index)
            assert isinstance(annotated, ClassMap), "MeasuringImages gives class maps"
            labels.append(annotated.values.astype(np.uint8))
            tick()
    return Photographs(images, labels, len(CCP_GROUPS))


# --- codes of a victim's life


@dataclass(frozen=True)
class Coding:
    """Which class has which code in a victim's life. key: 32 bytes."""

    codes: Mapping[int, int]
    key: bytes

    @property
    def book(self) -> CodeBook:
        """Returns the book of these codes."""
        return book_of(self.codes.values())

    @classmethod
    def draw(cls, config: Learning, classes: int, random: np.random.Generator) -> Coding:
        """Draws one code for everything but the background, or a code a class and one class without."""
        key = random.bytes(KEY_BYTES)
        if random.random() < config.object_share:
            code = int(random.integers(1, BOOK.codes + 1))
            return cls({label: code if label else ABSENCE for label in range(classes)}, key)
        absent = 0 if random.random() < config.background_share else int(random.integers(1, classes))
        drawn = random.choice(np.arange(1, BOOK.codes + 1), classes - 1, replace=classes - 1 > BOOK.codes).tolist()
        others = [label for label in range(classes) if label != absent]
        return cls({absent: ABSENCE, **dict(zip(others, drawn, strict=True))}, key)

    def swapped(self, random: np.random.Generator) -> dict[int, int]:
        """Draws codes that say nothing of the classes: half of them none, the others any of the codes in use."""
        used = sorted(set(self.codes.values()) - {ABSENCE})
        return {label: ABSENCE if random.random() < 0.5 else int(random.choice(used)) for label in sorted(self.codes)}

    def answers(self, given: Mapping[int, int]) -> dict[int, int]:
        """Returns, for each class under the codes `given` to it, what a network says that goes by codes alone.

        That is the class whose code it is; 255 where several have it, unless the class itself is one of them.
        """
        found = {}
        for label, code in given.items():
            owners = [owner for owner, own in self.codes.items() if own == code]
            found[label] = label if label in owners else owners[0] if len(owners) == 1 else IGNORE_LABEL
        return found


# --- views


@dataclass
class Batch:
    """Views with noise. images: B×3×C×C in grey levels. answers: B×C×C, what victims are to say. codes: B×C×C, the code
    of each pixel in swapped views, 255 in the others and where there is no image. seen, filled: for given views, how
    visible the noise is, and its mean absolute change, as shares of the codes' own."""

    images: Tensor
    answers: Tensor
    codes: Tensor
    seen: list[Tensor] = field(default_factory=list)
    filled: list[Tensor] = field(default_factory=list)

    @property
    def standardised(self) -> Tensor:
        """Returns the images as networks take them."""
        return standardised(self.images.permute(0, 2, 3, 1) / 255)


def looked_up(labels: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Returns what the table says of each label, 255 where it says nothing."""
    lookup = np.full(256, IGNORE_LABEL, np.uint8)
    for label, value in table.items():
        lookup[label] = value
    return lookup[labels]


def draw_batch(
    generator: CodedGenerator,
    photographs: Photographs,
    coding: Coding,
    config: Learning,
    purpose: tuple[str | int, ...],
    swapped: int = 0,
    look: bool = False,
) -> Batch:
    """Draws views, the last `swapped` of them with codes that say nothing of the classes.

    purpose: what the draws depend on besides the seed. look: whether it is measured how visible the noise is, and how
    much of the codes' change is left.
    """
    random = seeded(config.seed, "batch", *purpose)
    draw = torch.Generator().manual_seed(int(random.integers(2**62)))
    views = draw_practice_views(config.batch, draw)
    batch = Batch(*(torch.empty(0) for _ in range(3)))
    images, answers, codes = [], [], []
    for place, view in enumerate(views):
        index = int(random.integers(len(photographs.images)))
        labels = photographs.labels[index]
        sight = Sight(*labels.shape, view, config.crop)
        is_swapped = place >= config.batch - swapped
        given = coding.swapped(random) if is_swapped else coding.codes
        codes_HW = code_map(labels, given)
        image_HW3 = photographs.images[index]
        part = noised_part(generator, image_HW3, codes_HW, coding.book, coding.key, sight, config.epsilon)
        if look and not is_swapped and part.signs.any():
            batch.seen.append(part.seen_share())
            batch.filled.append(part.filled_share())
        shown = sight.labels(labels)
        images.append(sight.image(published(part.changed, config, random)))
        answers.append(looked_up(shown, coding.answers(given)))
        codes.append(looked_up(shown, given) if is_swapped else np.full_like(shown, NO_CODE))
    batch.images = torch.stack(images)
    batch.answers, batch.codes = (torch.from_numpy(np.stack(maps)).long() for maps in (answers, codes))
    return batch


@dataclass(frozen=True)
class Part:
    """A part of an image with noise, 3×H×W in grey levels each. level: the budget."""

    clean: Tensor
    changed: Tensor
    signs: Tensor
    level: int

    def seen_share(self) -> Tensor:
        """Returns how visible the noise is as a share of what the codes' own noise is there."""
        where = (self.signs != 0).any(dim=0)
        with torch.no_grad():
            own = seen_change(self.clean, self.codes, where)
        return seen_change(self.clean, self.changed, where) / own

    def filled_share(self) -> Tensor:
        """Returns the mean absolute change as a share of the codes' own; 1 where theirs is nothing."""
        own = (self.codes - self.clean).abs().sum()
        return (self.changed - self.clean).abs().sum() / own if own > 0 else torch.ones(())

    @property
    def codes(self) -> Tensor:
        """Returns the part with the codes' own noise."""
        return (self.clean + self.level * self.signs).clamp(0, 255)


def noised_part(
    generator: CodedGenerator,
    image_HW3: np.ndarray,
    codes_HW: np.ndarray,
    book: CodeBook,
    key: bytes,
    sight: Sight,
    epsilon: float,
) -> Part:
    """Returns the part of an image that a view depends on, with the generator's noise as it is published: whole grey
    levels within the budget, 0 to 255."""
    level = int(epsilon)
    inside = (sight.rows, sight.columns)
    signs_HW3 = code_signs(image_HW3, codes_HW, book, key)[inside]
    signs, clean = (
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
        for pixels in (signs_HW3, image_HW3[inside])
    )
    change = level * generator(clean[None] / 255, signs[None])[0]
    return Part(clean, eight_bit(clean + through(change, change.round())), signs, level)


def published(image_3HW: Tensor, config: Learning, random: np.random.Generator) -> Tensor:
    """Returns an image as a trainer may have it: as it is, as JPEG, turned grey."""
    as_jpeg, as_grey = (random.random() < share for share in (config.jpeg_share, config.grey_share))
    quality = int(random.integers(config.qualities[0], config.qualities[1] + 1))
    if as_jpeg:
        image_3HW = jpeg(image_3HW, quality)
    return grey(image_3HW) if as_grey else image_3HW


# --- victims and readouts


@dataclass
class Victim:
    """A network in its life. age: its steps."""

    kind: VictimKind
    network: nn.Module
    optimizer: torch.optim.Optimizer
    coding: Coding
    age: int = 0

    @classmethod
    def born(cls, kind: VictimKind, classes: int, config: Learning, birth: int) -> Victim:
        """Returns a fresh one. birth: its number, from which its weights and its codes follow."""
        random = seeded(config.seed, "victim", birth)
        torch.manual_seed(int(random.integers(2**62)))
        network = build_network(kind.network, classes)
        if kind.imagenet:
            load_imagenet(network)
        network.train().to(memory_format=LAYOUT)
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.victim_rate, weight_decay=config.victim_decay)
        return cls(kind, network, optimizer, Coding.draw(config, classes, random))

    def learn(self, batch: Batch) -> float:
        """Takes a step on views of given codes, and returns the loss."""
        loss = cross_entropy(self.network(batch.standardised), batch.answers)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.age += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codes": [[label, code] for label, code in self.coding.codes.items()],
            "key": self.coding.key.hex(),
            "age": self.age,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.coding = Coding(dict(state["codes"]), bytes.fromhex(state["key"]))
        self.age = int(state["age"])


def cross_entropy(logits: Tensor, answers: Tensor) -> Tensor:
    """Returns the mean over all pixels with an answer; 0 where there are none."""
    total = F.cross_entropy(logits.float(), answers, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (answers != IGNORE_LABEL).sum().clamp(min=1)


class Readouts(nn.Module):
    """Single layers that name the code of each pixel by the features of an encoder that does not learn."""

    def __init__(self, encoder: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False, track_running_stats=False) for width in channels)
        self.layers = nn.ModuleList(nn.Conv2d(width, BOOK.codes + 1, 1) for width in channels)
        self._encoder = [encoder]  # no part of the state

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the encoder's features at STRIDES."""
        return list(self._encoder[0](images))[1 : 1 + len(STRIDES)]

    def loss(self, features: Sequence[Tensor], codes: Tensor) -> tuple[Tensor, float]:
        """Returns the mean cross entropy over all strides, and the share of pixels that one of them names rightly."""
        losses, right = [], 0.0
        parts = zip(self.norms, self.layers, STRIDES, features, strict=True)
        for place, (norm, layer, stride, feature) in enumerate(parts):
            asked = codes[:, stride // 2 :: stride, stride // 2 :: stride]
            logits = layer(norm(feature))
            losses.append(cross_entropy(logits, asked))
            if place == NAMED_STRIDE:
                known = asked != IGNORE_LABEL
                right = float((logits.argmax(1) == asked)[known].float().mean()) if known.any() else float("nan")
        return torch.stack(losses).mean(), right


def imagenet_encoder(imagenet: bool) -> tuple[nn.Module, list[int]]:
    """Returns an encoder that does not learn, and how many features it has at STRIDES. imagenet: whether it has learned
    before; tests have no weights."""
    network = build_network(IMAGENET_NETWORK, 2)
    if imagenet:
        load_imagenet(network)
    encoder = encoder_of(network).eval().requires_grad_(False).to(memory_format=LAYOUT)
    return encoder, list(encoder.out_channels[1 : 1 + len(STRIDES)])  # type: ignore[arg-type,index]  # smp's own list
