"""Interactive segmentation: SAM and SAM-HQ are told by a box or by points which object of an image to segment.

In each training view some objects are asked for, each twice: by its box and by points on it. On clean test images every
object is asked for in both ways. Prompts of a test image are drawn from its name alone, so that all runs meet the same
ones. Shapes: B images, S side of the square frame (the image with its shape kept, what is left to the right and below
is empty), K objects of an image, N points of an object, M side of the logits, H×W an image's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unseg.compute.threads import worker_threads
from unseg.data.annotations.core import first_few
from unseg.data.views import MIN_OBJECT_PIXELS
from unseg.errors import UserError
from unseg.evaluation.augmentation import plain_values, standardised_planes
from unseg.evaluation.coco_metrics import RunLengths, decode
from unseg.evaluation.defences.early import NOTE
from unseg.evaluation.defences.kinds import Batch
from unseg.evaluation.defended_images import defend
from unseg.evaluation.learner import AnnotatedImages, Example, Learner, LearnerOptions, Metrics, PartedLearner
from unseg.evaluation.practice_start import start_network
from unseg.evaluation.region_views import View, ViewOf, drawn_views, restore, view_pixels, whole
from unseg.evaluation.tasks.scenes import Scene, Scenes, object_places
from unseg.method import losses
from unseg.method.metrics import boundary_iou, mask_iou
from unseg.method.prompts import OBJECT_THRESHOLD, POINTS, box_of, points_of, seeded
from unseg.victims.promptable import build_promptable, frame_side

PROMPTS = ("box", "points")
MEASURES = {"iou": mask_iou, "boundary_iou": boundary_iou}
TARGETS = ("segments", "merged")
TEST_SEED = 0  # of the test images' prompts, whatever a run's own seed is
NO_OBJECT = f"has an object of {MIN_OBJECT_PIXELS} pixels or more at this --size"
THREADS = 4  # that read images and make views
COLOURS = np.array(
    [
        (230, 60, 60),
        (60, 120, 230),
        (240, 200, 40),
        (60, 180, 90),
        (170, 80, 200),
        (240, 140, 40),
        (60, 200, 200),
        (240, 140, 190),
        (140, 90, 40),
        (170, 220, 60),
    ]
)


def make_interactive(network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions) -> Learner:
    """Makes the learner of SAM or SAM-HQ. Options of `extra`: see `Interactive`.

    UserError where the training or the test images have no object, before anything is trained.
    """
    learner = Interactive(network, train, test, options)
    learner.train.check_objects(f"--annotations: no training image {NO_OBJECT}")
    learner.test.check_objects(f"--test-annotations: no test image {NO_OBJECT}")
    return learner


class Asked(NamedTuple):
    """A view of an image and what is asked of it.

    image: 3×S×S normalised. labels: K×S×S in [0, 1]. boxes: K×4 (XYXY) and points: K×N×2 (x, y), in pixels of the
    frame.
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor
    points: Tensor


class Interactive(PartedLearner):
    """A promptable network on a set of images with object masks.

    metric: the mean over `PROMPTS` of the IoU, which is a mean over all objects of all test images, each at its image's
    own size. Options of `extra`: target, "segments" (each by itself) or "merged" (their union, as in sets of one mask
    an image); per_view, how many objects of a training view are asked for (some of them again where there are fewer; 1
    if merged); max_objects, the most objects of a test image that are asked for (a random choice by its name). Objects
    of fewer than MIN_OBJECT_PIXELS pixels of the frame are left out, in training and in testing (there they are
    counted). A training image without an object is replaced by the next one that has some, and the notes say so.
    """

    metric = "iou"

    def __init__(self, network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions) -> None:
        self.network, self.options, self.side = network, options, frame_side(network, options.size)
        extra = options.extras(target=TARGETS[0], per_view=4, max_objects=10)
        if extra["target"] not in TARGETS:
            raise UserError(f"--set target={extra['target']}: give {' or '.join(TARGETS)}")
        for name in ("per_view", "max_objects"):
            if extra[name] < 1:
                raise UserError(f"--set {name}={extra[name]}: give at least 1")
        merged = extra["target"] == "merged"
        self.max_objects, self.per_view = extra["max_objects"], 1 if merged else extra["per_view"]
        train, test, self.chain = defend(
            train,
            test,
            options.defences,
            partial(object_places, train, rule=options.rule),
            class_count=2,
            seed=0 if options.practice is None else options.practice.seed,
            progress=options.progress,
        )
        self.train = Scenes(train, self.side, options.rule, merged)
        self.test = Scenes(test, self.side, options.rule, merged)
        self.train_count = len(self.train)
        self._pool, self._told = worker_threads(THREADS), list(options.notes)

    def build(self) -> nn.Module:
        """Returns the network; a note tells which of its parts are trained."""
        practice = self.options.practice
        network = build_promptable(self.network, self.side, self.options.weights if practice is None else practice.file)
        started, said = start_network(network, practice)
        early = [NOTE] if self.chain.score_defence is not None else []
        told = [*self.options.notes, *([network.note] if network.note else []), *said, *early]
        self._told = list(dict.fromkeys(told))
        return started

    @property
    def notes(self) -> list[str]:  # type: ignore[override]  # it grows while the network is trained
        """Returns what is trained, and how many training images another one stood in for so far."""
        missed = sorted(self.train.images.names[index] for index in self.train.without)
        if not missed:
            return self._told
        return [
            *self._told,
            f"training images without an object of {MIN_OBJECT_PIXELS} pixels or more at this --size, others were "
            f"taken in their place: {len(missed)} ({first_few(missed)})",
        ]

    def counted(self, scores: Sequence[float]) -> float:
        """Returns the score that counts; see `FittedChain.score`."""
        return self.chain.score(scores)

    # --- training

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> Tensor:
        """Returns cross entropy + dice of both answers to every `size`-th image from `rank` on.

        It is over all pixels or, of large masks, at sampled points, as HQ-SAM is trained. The views are those of the
        whole batch.
        """
        drawn = drawn_views(len(indices), draw, self.options, (self.side, self.side))
        seeds = torch.randint(2**31, (len(indices), 2), generator=draw).tolist()
        own = list(zip(indices, drawn, seeds, strict=True))[rank::size]
        views = list(self._pool.map(self._training_view, own))
        images, labels, boxes, points = (torch.stack(field).to(device) for field in zip(*views, strict=True))
        own_seeds = [seed for _, _, (_, seed) in own]

        def loss(images_B3SS: Tensor) -> Tensor:
            return self._mask_loss(model(images_B3SS, boxes, points), labels, own_seeds)

        if not self.chain.batch_defences:
            return loss(images)
        # What lies beyond an image is grey as ImageNet's mean, before a defence changes a batch and after it.
        batch = Batch(plain_values(images), torch.empty(0), lambda plain, _: loss(standardised_planes(plain)))
        changed = self.chain.change_batch(batch, torch.Generator().manual_seed(sum(own_seeds)))
        return changed.loss(changed.images, changed.targets)

    def _mask_loss(self, logits_BK2MM: Tensor, labels_BKSS: Tensor, seeds: Sequence[int]) -> Tensor:
        sampled = logits_BK2MM[0, 0, 0].numel() > losses.POINTS
        places = self.per_view * len(PROMPTS)
        random = [torch.Generator().manual_seed(seed + place) for seed in seeds for place in range(places)]
        return losses.mask_loss(
            logits_BK2MM.flatten(0, 2)[:, None],
            labels_BKSS.flatten(0, 1)[:, None].repeat_interleave(len(PROMPTS), 0),
            losses.LossRule(losses.POINTS if sampled else 0),
            random if sampled else None,
        )

    def _training_view(self, drawn: tuple[int, ViewOf, Sequence[int]]) -> Asked:
        """Returns a random view. drawn: an image's index, what draws its view, the seed of its objects and points.

        Objects that the view hardly shows are not asked for; where it shows none, the whole image is the view.
        """
        index, view_of, (seed, _) = drawn
        scene, random = self.train.with_object(index), np.random.default_rng(seed)
        masks = [scene.masks[place] for place in random.permutation(len(scene.masks))]
        view = view_of(scene.size)
        labels = self._shown(masks, view)
        if not labels:
            view = self._whole(scene)
            labels = self._shown(masks, view) or [_label(decode(masks[0]), view)]
        return _asked(
            view_pixels(scene.pixels, view), [labels[place % len(labels)] for place in range(self.per_view)], random
        )

    def _shown(self, masks: Sequence[RunLengths], view: View) -> list[np.ndarray]:
        """Returns the labels of the first `per_view` masks of which the view shows enough."""
        labels: list[np.ndarray] = []
        for mask in masks:
            label = _label(decode(mask), view)
            if np.count_nonzero(label > OBJECT_THRESHOLD) >= MIN_OBJECT_PIXELS // 2:
                labels.append(label)
            if len(labels) == self.per_view:
                break
        return labels

    def _whole(self, scene: Scene) -> View:
        return View((self.side, self.side), whole((self.side, self.side), scene.size))

    # --- testing

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns MEASURES, as means of both PROMPTS and of each, over all objects, and counts of what was left out."""
        model.eval()
        return self._scored(lambda *asked: self._answers(model, device, *asked))

    @cached_property
    def trivial(self) -> Metrics:  # type: ignore[override]  # measured when asked for; a cached property may be set, too
        """Returns the metrics of what the prompts say by themselves.

        The filled box is the object; where there are only points, the whole image is.
        """
        return self._scored(lambda index, scene, objects: [[_filled_box(mask), np.ones_like(mask)] for mask in objects])

    def _scored(self, answers: Callable[[int, Scene, list[np.ndarray]], list[list[np.ndarray]]]) -> Metrics:
        """Returns the metrics of answers.

        answers: from an image's index, scene and objects to the answers to each object's box and points.
        """
        scores: list[dict[str, float]] = []
        too_small = without = 0
        for index, scene, objects in self._asked():
            too_small, without = too_small + scene.too_small, without + (not scene.masks)
            if objects:
                scores += map(_scores, objects, answers(index, scene, objects))
        means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
        both = {measure: sum(means[f"{measure}_{kind}"] for kind in PROMPTS) / len(PROMPTS) for measure in MEASURES}
        return {
            **both,
            **means,
            "counts": {"objects": len(scores), "too_small": too_small, "images_without_object": without},
        }

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` test images with their objects in colours; the network's are its answers to
        boxes.
        """
        model.eval()
        shown = []
        for index, scene, objects in self._asked(count):
            with torch.inference_mode():
                answers = self._answers(model, device, index, scene, objects) if objects else []
            by_box = overlay(scene.pixels, [answer for answer, _ in answers])
            shown.append(Example(self.test.images.names[index], scene.pixels, overlay(scene.pixels, objects), by_box))
        return shown

    def _asked(self, count: int | None = None) -> Iterator[tuple[int, Scene, list[np.ndarray]]]:
        """Yields (index, scene, the objects that are asked for, each H×W bool) of the first `count` test images, or of
        all.
        """
        for index in range(len(self.test))[:count]:
            scene = self.test[index]
            masks: Sequence[RunLengths] = scene.masks
            if len(masks) > self.max_objects:
                random = seeded(TEST_SEED, "objects", self.test.images.names[index])
                masks = [masks[place] for place in sorted(random.choice(len(masks), self.max_objects, replace=False))]
            yield index, scene, [decode(mask) for mask in masks]

    def _answers(
        self, model: nn.Module, device: torch.device, index: int, scene: Scene, objects: Sequence[np.ndarray]
    ) -> list[list[np.ndarray]]:
        """Returns for every object the masks that the network answers to its box and to its points, H×W bool."""
        view = self._whole(scene)
        random = seeded(TEST_SEED, "prompts", self.test.images.names[index])
        asked = _asked(view_pixels(scene.pixels, view), [_label(mask, view) for mask in objects], random)
        logits_K2MM = model(*(field[None].to(device) for field in (asked.image, asked.boxes, asked.points)))[0].float()
        return [list((restore(logits_2MM, view, scene.size) > 0).cpu().numpy()) for logits_2MM in logits_K2MM]


def _label(mask_HW: np.ndarray, view: View) -> np.ndarray:
    """Returns the object in a view, S×S float32 in [0, 1], by pixel area where the view shrinks the image."""
    shown = view.shown(mask_HW.astype(np.uint8) * np.uint8(255))
    label = np.zeros(view.size[::-1], np.float32)
    label[: shown.shape[0], : shown.shape[1]] = shown
    return label / 255


def _asked(image: Tensor, labels: Sequence[np.ndarray], random: np.random.Generator) -> Asked:
    """Returns what is asked: the box of every label and POINTS random points on it."""
    stacked = torch.from_numpy(np.stack(labels))
    return Asked(
        image,
        stacked,
        torch.stack([box_of(label) for label in stacked]),
        torch.stack([points_of(label, random, POINTS) for label in stacked]),
    )


def _scores(truth_HW: np.ndarray, answers: Sequence[np.ndarray]) -> dict[str, float]:
    """Returns each measure of each answer. answers: to the box and to the points."""
    return {
        f"{name}_{kind}": measure(truth_HW, answer)
        for name, measure in MEASURES.items()
        for kind, answer in zip(PROMPTS, answers, strict=True)
    }


def _filled_box(mask_HW: np.ndarray) -> np.ndarray:
    """Returns all pixels of the smallest box around a mask, H×W bool."""
    rows, columns = np.asarray(mask_HW.any(1)), np.asarray(mask_HW.any(0))
    return rows[:, None] & columns[None]


def overlay(pixels_HW3: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the image in pale grey with masks (H×W bool) in colours over it, the smallest on top: H×W×3 uint8."""
    grey = pixels_HW3.mean(2, keepdims=True) * 0.5 + 110
    shown = np.repeat(grey, 3, 2)
    order = sorted(range(len(masks)), key=lambda place: -np.count_nonzero(masks[place]))
    for place in order:
        shown[masks[place]] = 0.35 * grey[masks[place]] + 0.65 * COLOURS[place % len(COLOURS)]
    return shown.clip(0, 255).astype(np.uint8)
