"""What networks of regions share: instance and panoptic segmentation, detection.

Training sees random views (flip, zoom, shift, colours); tests see the whole image, scaled to fit into the training
size, and answers are measured at the image's own size.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from unseg.compute.threads import cores, worker_threads
from unseg.data.annotations import ClassMap
from unseg.errors import UserError
from unseg.evaluation.augmentation import draw_colours
from unseg.evaluation.coco_metrics import TrueRegion, decode
from unseg.evaluation.learner import AnnotatedImages, Example, LearnerOptions, PartedLearner
from unseg.evaluation.region_pictures import drawn_regions
from unseg.evaluation.regions import (
    GEOMETRY_DRAWS,
    ClassList,
    View,
    What,
    all_regions,
    class_list,
    draw_view,
    read_regions,
    reduced,
    size_of,
    view_pixels,
    view_targets,
    whole,
)
from unseg.victims.detectors import RCNN, Detr, build_detector
from unseg.victims.mask2former import SIZES, Mask2Former, QueryAnswers, build_mask2former
from unseg.victims.targets import FoundObjects

EVAL_BATCH = 4
KEPT_BYTES = 2**30  # of training pixels in memory; what is beyond is read anew
BACKBONE = re.compile(r"pixel_level_module\.encoder\.|(^|\.)backbone\.")
COMPONENTS_NOTE = "The annotations are masks without instances: every connected component of a class counts as one."


class RegionLearner(PartedLearner):
    """A network that finds regions: its classes, its views, and the walk over the test images."""

    what: What = "instances"

    def __init__(self, network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions) -> None:
        options.extras()  # these networks have none
        self.network_name, self.train, self.test, self.options = network, train, test, options
        self.classes: ClassList = class_list(train, test, self.what, options.rule)
        self.truths = all_regions(test, self.classes, self.what, options.progress)
        if all(region.crowd for regions in self.truths for region in regions):
            raise UserError(
                "--test-annotations: no test image has an object of the classes; there is nothing to measure"
            )
        if not any(_shows_object(train, place, self.classes, self.what) for place in range(len(train.names))):
            raise UserError("--annotations: no training image has an object of the classes; there is nothing to learn")
        self.train_count = len(train.names)
        self._from_maps = self.what == "instances" and isinstance(train.annotated(0), ClassMap)
        self._kept: dict[int, tuple[np.ndarray, list[TrueRegion], tuple[int, int]]] = {}
        self._kept_bytes = 0
        self._pool = worker_threads(min(8, cores())) if cores() > 1 else None

    def build(self) -> nn.Module:
        """Returns the network with its own loss."""
        name, classes, weights = self.network_name, len(self.classes.ids), self.options.weights
        model: Mask2Former | RCNN | Detr
        if name in SIZES:
            model = build_mask2former(name, classes, weights)
        else:
            model = build_detector(name, classes, size=self.options.size, weights=weights)
        self.notes = [COMPONENTS_NOTE, *model.notes] if self._from_maps else list(model.notes)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns groups in which a pretrained backbone learns at a tenth of the rate.

        This is as published for Mask2Former and for the DETR family.
        """
        if self.options.weights is None:
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
        draws = torch.rand(len(indices), GEOMETRY_DRAWS, generator=draw).tolist()
        colours = draw_colours(len(indices), draw).tolist() if self.options.colour_jitter else [None] * len(draws)
        mine = list(zip(indices, draws, colours, strict=True))[rank::size]
        views = list(self._pool.map(self._training_view, mine) if self._pool else map(self._training_view, mine))
        images, valid = (torch.stack([view[part] for view in views]).to(device) for part in (0, 1))
        return model(images, valid, [view[2].to(device) for view in views])

    def _training_view(self, drawn: tuple[int, Sequence[float], tuple[float, float, float, float] | None]) -> tuple:
        """Returns an image 3×H×W, where it is filled H×W, and its regions."""
        index, draws, colour = drawn
        pixels, regions, image_size = self._training_image(index)
        view = draw_view(draws, image_size, self.options.size, colour)
        return view_pixels(pixels, view), filled(view), view_targets(regions, view)

    def _training_image(self, index: int) -> tuple[np.ndarray, list[TrueRegion], tuple[int, int]]:
        """Returns pixels and regions, no larger than views need them, and the image's own width and height."""
        if index in self._kept:
            return self._kept[index]
        pixels = self.train.pixels(index)
        regions = read_regions(self.train, index, self.classes, self.what)
        height, width = pixels.shape[:2]
        image = (*reduced(pixels, regions, self.options.size), (width, height))
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
        for first in range(0, len(places), EVAL_BATCH):
            batch = places[first : first + EVAL_BATCH]
            pixels = [self.test.pixels(place) for place in batch]
            # Yielded outside of `_answers_of`, since what is entered there would hold for the receiver, too.
            yield from zip(batch, pixels, self._answers_of(model, device, pixels), strict=True)

    def _answers_of(self, model: nn.Module, device: torch.device, pixels: Sequence[np.ndarray]) -> list[Any]:
        views = [View(self.options.size, whole(self.options.size, size_of(image))) for image in pixels]
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


def check_name(network: str, available: Sequence[str], task: str) -> None:
    """Raises UserError where the task has no such network."""
    if network not in available:
        raise UserError(f"--networks: unknown network '{network}' for --task {task}; available: {', '.join(available)}")
