"""Semantic segmentation by Mask2Former; labels, views and metrics are those of the other semantic networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from unseg.evaluation.augmentation import augment, draw_views
from unseg.evaluation.learner import AnnotatedImages, LearnerOptions
from unseg.evaluation.tasks.labelling import labelling_of
from unseg.evaluation.tasks.practice_semantic import PracticeSemanticLearner, learn_native, network_input
from unseg.evaluation.tasks.region_learner import check_name
from unseg.evaluation.tasks.semantic import SemanticLearner, learn_labels
from unseg.method import metrics
from unseg.victims.mask2former import SIZES, SemanticMask2Former
from unseg.victims.targets import Targets

SEMANTIC_NETWORKS = tuple(SIZES)


class Mask2FormerSemantic(SemanticLearner):
    """Semantic segmentation by Mask2Former with its own loss: each class that a view shows is one mask."""

    def build(self) -> nn.Module:
        """Returns the network with its own loss."""
        network = super().build()
        assert isinstance(network, SemanticMask2Former)
        self.notes = list(network.notes)
        return network

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
        images, labels = self._batch(indices[rank::size], device)
        views = draw_views(len(indices), draw, self.colour_jitter).part(rank, size)
        view, target = augment(images, labels, views)
        return model(view.contiguous(), [class_targets(one) for one in target])


class PracticeMask2Former(PracticeSemanticLearner):
    """The same, trained as people train: see `PracticeSemanticLearner`."""

    def _load_file(self, network: nn.Module) -> list[str]:
        assert isinstance(network, SemanticMask2Former)
        return list(network.notes)  # it has loaded its file itself

    def criterion(self, model: nn.Module, images_B3HW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
        """Returns the network's own loss of images in [0, 1]."""
        return model(network_input(images_B3HW).contiguous(), [class_targets(one) for one in targets_BHW])


def class_targets(labels_HW: torch.Tensor) -> Targets:
    """Returns the classes of a label map (255: none) as masks. Their boxes are not needed, and are zero."""
    present = labels_HW.unique()
    present = present[present != metrics.IGNORE_LABEL]
    return Targets(
        present, labels_HW[None] == present[:, None, None], torch.zeros(len(present), 4, device=labels_HW.device)
    )


def make_mask2former_semantic(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> SemanticLearner | PracticeMask2Former:
    """Makes the learner of Mask2Former on the classes of the training annotations, or on the object."""
    check_name(network, SEMANTIC_NETWORKS, "semantic")
    options.extras()
    labelling, practice = labelling_of(train, options), options.practice
    if practice is None:
        return learn_labels(
            network,
            train,
            test,
            options,
            labelling=labelling,
            kind=Mask2FormerSemantic,
            build=lambda classes: SemanticMask2Former(network, classes, options.weights),
        )
    return learn_native(
        network,
        train,
        test,
        options,
        labelling=labelling,
        kind=PracticeMask2Former,
        build=lambda classes: SemanticMask2Former(network, classes, practice.file),
    )
