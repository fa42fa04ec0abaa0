"""What networks of regions share: instance and panoptic segmentation, detection.

Training sees random views; tests see the whole image, and answers are measured at the image's own size. Views are those
of people who train (`unseg.evaluation.practice_views`), tests then at the image's own size, too; or they are of whole
images, scaled to fit into the training size.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unseg.compute.threads import cores, worker_threads
from unseg.data.annotations import ClassMap
from unseg.errors import UserError
from unseg.evaluation.augmentation import plain_values, standardised_planes
from unseg.evaluation.coco_metrics import TrueRegion, decode
from unseg.evaluation.defences.early import NOTE
from unseg.evaluation.defences.kinds import Batch
from unseg.evaluation.defended_images import defend
from unseg.evaluation.learner import AnnotatedImages, Example, LearnerOptions, PartedLearner
from unseg.evaluation.practice_start import start_network
from unseg.evaluation.region_pictures import drawn_regions
from unseg.evaluation.region_views import (
    View,
    ViewOf,
    drawn_views,
    reduced,
    size_of,
    test_view,
    view_pixels,
    view_targets,
)
from unseg.evaluation.regions import LAST_PLACE, ClassList, What, all_regions, class_list, class_places, read_regions
from unseg.victims.detectors import RCNN, Detr, build_detector
from unseg.victims.mask2former import SIZES, Mask2Former, QueryAnswers, build_mask2former
from unseg.victims.targets import FoundObjects, Targets

EVAL_BATCH = 4
KEPT_BYTES = 2**30  # of training pixels in memory; what is beyond is read anew
BACKBONE = re.compile(r"pixel_level_module\.encoder\.|(^|\.)backbone\.")
COMPONENTS_NOTE = "The annotations are masks without instances: every connected component of a class counts as one."


class RegionLearner(PartedLearner):
    """A network that finds regions: its classes, its views, and the walk over the test images."""

    what: What = "instances"

    def __init__(self, network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions) -> None:
        options.extras()  # these networks have none
        self.network_name, self.options = network, options
        classes = self.classes = class_list(train, test, self.what, options.rule)
        self._from_maps = self.what == "instances" and isinstance(train.annotated(0), ClassMap)
        train, test, self.chain = defend(
            train,
            test,
            options.defences,
            partial(class_places, train, classes=classes, what=self.what),
            class_count=min(len(classes.ids), LAST_PLACE) + 1,
            seed=0 if options.practice is None else options.practice.seed,
            progress=options.progress,
        )
        self.train, self.test = train, test
        self.truths = all_regions(test, self.classes, self.what, options.progress)
        if all(region.crowd for regions in self.truths for region in regions):
            raise UserError(
                "--test-annotations: no test image has an object of the classes; there is nothing to measure"
            )
        if not any(_shows_object(train, place, self.classes, self.what) for place in range(len(train.names))):
            raise UserError("--annotations: no training image has an object of the classes; there is nothing to learn")
        self.train_count = len(train.names)
        self._kept: dict[int, tuple[np.ndarray, list[TrueRegion], tuple[int, int]]] = {}
        self._kept_bytes = 0
        self._pool = worker_threads(min(8, cores())) if cores() > 1 else None

    def build(self) -> nn.Module:
        """Returns the network with its own loss, with the weights that the options name."""
        name, classes, weights = self.network_name, len(self.classes.ids), self._own_weights()
        model: Mask2Former | RCNN | Detr
        if name in SIZES:
            model = build_mask2former(name, classes, weights)
        else:
            model = build_detector(name, classes, size=self.options.size, weights=weights)
        started, said = start_network(model, self.options.practice)
        early = [NOTE] if self.chain.score_defence is not None else []
        own = [COMPONENTS_NOTE] if self._from_maps else []
        self.notes = [*own, *self.options.notes, *model.notes, *said, *early]
        return started

    def _own_weights(self) -> Path | None:
        """Returns the file that the network itself loads."""
        return self.options.weights if self.options.practice is None else self.options.practice.file

    def counted(self, scores: Sequence[float]) -> float:
        """Returns the score that counts; see `FittedChain.score`."""
        return self.chain.score(scores)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns groups in which a pretrained backbone learns at a tenth of the rate.

        This is as published for Mask2Former and for the DETR family.
        """
        if self._own_weights() is None:
            return super().parameter_groups(model)
        slow: list[nn.Parameter] = []
        fast: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (slow if BACKBONE.search(name) else fast).append(parameter)
        return [{"params": parameters, "rate": rate} for parameters, rate in ((slow, 0.1), (fast, 1.0)) if parameters]

    # --- training

    def part_loss(
        self,
        model: nn.Module,
        indices: Sequence[int],
        draw: torch.Generator,
        device: torch.device,
        rank: int,
        size: int,
    ) -> torch.Tensor:
        """Returns the loss of every `size`-th image from `rank` on; the views are those of the whole batch."""
        mine = list(zip(indices, drawn_views(len(indices), draw, self.options, self.options.size), strict=True))
        seed = int(torch.randint(2**62, (1,), generator=draw)) + rank if self.chain.batch_defences else 0
        mine = mine[rank::size]
        views = list(self._pool.map(self._training_view, mine) if self._pool else map(self._training_view, mine))
        images = torch.stack([image for image, _, _ in views]).to(device)
        valid = torch.stack([shown for _, shown, _ in views]).to(device)
        targets = [target.to(device) for _, _, target in views]
        if not self.chain.batch_defences:
            return model(images, valid, targets)
        changed = Batch(
            plain_values(images),
            torch.empty(0),
            lambda plain, _: model(standardised_planes(plain) * valid[:, None], valid, targets),
        )
        changed = self.chain.change_batch(changed, torch.Generator().manual_seed(seed))
        return changed.loss(changed.images, changed.targets)

    def _training_view(self, drawn: tuple[int, ViewOf]) -> tuple[torch.Tensor, torch.Tensor, Targets]:
        """Returns an image 3×H×W, where it is filled H×W, and its regions."""
        index, view_of = drawn
        pixels, regions, image_size = self._training_image(index)
        view = view_of(image_size)
        return view_pixels(pixels, view), filled(view), view_targets(regions, view)

    def _training_image(self, index: int) -> tuple[np.ndarray, list[TrueRegion], tuple[int, int]]:
        """Returns pixels and regions, no larger than views need them, and the image's own width and height."""
        if index in self._kept:
            return self._kept[index]
        pixels = self.train.pixels(index)
        regions = read_regions(self.train, index, self.classes, self.what)
        height, width = pixels.shape[:2]
        if self.options.practice is None:
            pixels, regions = reduced(pixels, regions, self.options.size)
        image = (pixels, regions, (width, height))
        # Two threads may read the same image; it is counted twice then.
        if self._kept_bytes + image[0].nbytes <= KEPT_BYTES:
            self._kept[index], self._kept_bytes = image, self._kept_bytes + image[0].nbytes
        return image

    # --- testing

    def answers(
        self, model: nn.Module, device: torch.device, count: int | None = None
    ) -> Iterator[tuple[int, np.ndarray, Any]]:
        """Yields place, pixels and answer (see `_answer`) of each of the first `count` test images, in order."""
        model.eval()
        places = range(len(self.test.names) if count is None else min(count, len(self.test.names)))
        step = EVAL_BATCH if self.options.practice is None else 1  # images of their own sizes go one at a time
        for first in range(0, len(places), step):
            batch = places[first : first + step]
            pixels = [self.test.pixels(place) for place in batch]
            # Yielded outside of `_answers_of`, since what is entered there would hold for the receiver, too.
            yield from zip(batch, pixels, self._answers_of(model, device, pixels), strict=True)

    def _answers_of(self, model: nn.Module, device: torch.device, pixels: Sequence[np.ndarray]) -> list[Any]:
        views = [test_view(size_of(image), self.options) for image in pixels]
        images = torch.stack([view_pixels(image, view) for image, view in zip(pixels, views, strict=True)])
        valid = torch.stack([filled(view) for view in views])
        with torch.inference_mode():
            said = separate(model(images.to(device), valid.to(device)))
            with torch.autocast(device.type, enabled=False):  # thresholds want all digits
                return [
                    self._answer(one, view, size_of(image))
                    for image, view, one in zip(pixels, views, said, strict=True)
                ]

    @abstractmethod
    def _answer(self, said: Any, view: View, image_size: tuple[int, int]) -> Any:
        """Returns what the network says of one test image, at the image's own size (width, height)."""

    def examples(self, model: nn.Module, device: torch.device, count: int) -> list[Example]:
        """Returns the first `count` test images with their true regions and the network's."""
        return [
            Example(
                self.test.names[place], image, self._drawn_truth(image, self.truths[place]), self._drawn(image, answer)
            )
            for place, image, answer in self.answers(model, device, count)
        ]

    @abstractmethod
    def _drawn(self, image: np.ndarray, answer: Any) -> np.ndarray:
        """Returns the picture of an answer, H×W×3 uint8."""

    def _drawn_truth(self, image: np.ndarray, regions: Sequence[TrueRegion]) -> np.ndarray:
        return drawn_regions(image, [(region.label, decode(region.mask)) for region in regions])


def _shows_object(images: AnnotatedImages, place: int, classes: ClassList, what: What) -> bool:
    return any(not region.crowd for region in read_regions(images, place, classes, what))


def filled(view: View) -> torch.Tensor:
    """Returns where a view shows its image, H×W bool."""
    columns, rows = view.filled
    shown = torch.zeros(view.size[1], view.size[0], dtype=torch.bool)
    shown[:rows, :columns] = True
    return shown


def separate(said: QueryAnswers | list[FoundObjects]) -> list[Any]:
    """Returns what a network says of a batch as a list, one an image."""
    if isinstance(said, QueryAnswers):
        return [
            QueryAnswers(classes[None], masks[None])
            for classes, masks in zip(said.class_logits, said.mask_logits, strict=True)
        ]
    return said


def check_name(network: str, available: Sequence[str], task: str, *more: str) -> None:
    """Raises UserError where the task has no such network. more: what other names look like."""
    if network not in available:
        known = ", ".join([*available, *more])
        raise UserError(f"--networks: unknown network '{network}' for --task {task}; available: {known}")
