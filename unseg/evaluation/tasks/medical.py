"""Medical segmentation: one object against the rest (a polyp, the lungs), cross-entropy + dice, Dice and IoU.

The networks are those of semantic segmentation, so are images, views and labels. Medical sets are
scored image by image: `dice`, the mean over the test images of 2 · TP / (2 · TP + FP + FN), is the number that curves
and tables are about, and `iou` is the same mean of TP / (TP + FP + FN). `dice_set` and `iou_set` count the pixels of
all images together, so that large objects weigh more. An image without object counts 1 where none is found and 0
otherwise. Shapes: N images, B batch, H×W the training size or an image's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.data.annotations import Annotated, ObjectRule
from unseg.errors import UserError
from unseg.evaluation.learner import AnnotatedImages, LearnerOptions, Metrics
from unseg.evaluation.tasks.labelling import BACKGROUND, OBJECT
from unseg.evaluation.tasks.practice_semantic import (
    PracticeSemanticLearner,
    answer_of,
    learn_native,
    network_input,
)
from unseg.evaluation.tasks.semantic import (
    EVAL_BATCH,
    SemanticLearner,
    labelled_cross_entropy,
    learn_labels,
    predict,
)
from unseg.method import metrics
from unseg.method.losses import dice_loss

CLASSES = (BACKGROUND, OBJECT)
CERTAIN = 1e4  # a logit beyond which the sigmoid is 0 or 1


class ObjectLabelling:
    """Binary labels: 1 on the union of what the rule takes, 0 elsewhere."""

    def __init__(self, rule: ObjectRule) -> None:
        self.rule = rule

    def class_map(self, annotated: Annotated) -> np.ndarray:
        """Returns the labels of one image, H×W uint8."""
        return annotated.object_mask(self.rule).astype(np.uint8)

    def names(self, train_maps: np.ndarray) -> list[str]:
        """Returns CLASSES; raises UserError where no training image shows an object."""
        if not train_maps.any():
            raise UserError("--annotations: no training image shows an object; --objects says which classes are")
        return list(CLASSES)


class MedicalLearner(SemanticLearner):
    """A network that tells one object from the rest.

    majority, trivial: "object" everywhere or nowhere, whichever has the better Dice on the training images.
    """

    metric = "dice"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.majority, self.trivial = constant_answer(list(self._train.maps), list(self._test.maps))

    def criterion(self, logits_BCHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
        """Returns cross entropy + dice of the object; 255, which lies outside a view's image, is not counted."""
        return labelled_cross_entropy(logits_BCHW, target_BHW) + object_dice(logits_BCHW, target_BHW)

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns the `summary` over all test images."""
        counts = []
        for start in range(0, len(self._test.images), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            answers = predict(model, torch.from_numpy(self._test.images[part]).to(device))
            counts.append(pixel_counts(self._test.maps[part], answers.to(torch.uint8).cpu().numpy()))
        return summary(np.concatenate(counts))


class PracticeMedicalLearner(PracticeSemanticLearner):
    """The same, trained as people train: see `PracticeSemanticLearner`."""

    metric = "dice"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.majority, self.trivial = constant_answer(self._labels, self._test.labels)

    def criterion(self, model: nn.Module, images_B3HW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
        """Returns cross-entropy + dice of the object; 255, which lies outside a view's image, is not counted."""
        logits = model(network_input(images_B3HW)).float()
        total = F.cross_entropy(logits, targets_BHW, ignore_index=metrics.IGNORE_LABEL, reduction="sum")
        counted = (targets_BHW != metrics.IGNORE_LABEL).sum().clamp(min=1)
        return total / counted + object_dice(logits, targets_BHW)

    def evaluate(self, model: nn.Module, device: torch.device) -> Metrics:
        """Returns the `summary` over all test images, each at its own size."""
        shown = zip(self._test.images, self._test.labels, strict=True)
        counts = [pixel_counts(label[None], answer_of(model, pixels, device)[None]) for pixels, label in shown]
        return summary(np.concatenate(counts))


def object_dice(logits_BCHW: torch.Tensor, targets_BHW: torch.Tensor) -> torch.Tensor:
    """Returns the dice loss of class 1 against class 0, the mean over the views; 255 counts as sure background."""
    margin = logits_BCHW[:, 1] - logits_BCHW[:, 0]
    margin = torch.where(targets_BHW != metrics.IGNORE_LABEL, margin, -CERTAIN)
    return dice_loss(margin.flatten(1), (targets_BHW == 1).flatten(1).float())


def constant_answer(train_maps: Sequence[np.ndarray], test_maps: Sequence[np.ndarray]) -> tuple[str, Metrics]:
    """Returns "object" everywhere or nowhere, whichever has the better Dice on the training maps, and its metrics on
    the test maps. Maps are H×W uint8, perhaps of several sizes. UserError where no test map shows an object."""
    if not any((label == 1).any() for label in test_maps):
        raise UserError("--test-annotations: no test image shows an object; --objects says which classes are")
    answer = int(np.argmax([_always(train_maps, guess)["dice"] for guess in (0, 1)]))
    return CLASSES[answer], _always(test_maps, answer)


def _always(maps: Sequence[np.ndarray], answer: int) -> Metrics:
    guesses = (np.broadcast_to(np.uint8(answer), label.shape) for label in maps)
    return summary(
        np.concatenate([pixel_counts(label[None], guess[None]) for label, guess in zip(maps, guesses, strict=True)])
    )


def pixel_counts(labels_NHW: np.ndarray, answers_NHW: np.ndarray) -> np.ndarray:
    """Returns the true positive, false positive and false negative pixels of every image, N×3 int64.

    Objects are 1 in labels and answers.
    """
    truth, found = labels_NHW == 1, answers_NHW == 1
    return np.stack(
        [np.count_nonzero(both, axis=(1, 2)) for both in (truth & found, ~truth & found, truth & ~found)], 1
    )


def summary(counts_N3: np.ndarray) -> Metrics:
    """Returns dice and iou, means over images, and dice_set and iou_set, of all pixels together.

    counts: as `pixel_counts` has them.
    """
    dice, iou = _dice(counts_N3), _iou(counts_N3)
    together = counts_N3.sum(0, keepdims=True)
    return {
        "dice": float(dice.mean()),
        "iou": float(iou.mean()),
        "dice_set": float(_dice(together)[0]),
        "iou_set": float(_iou(together)[0]),
    }


def _dice(counts_N3: np.ndarray) -> np.ndarray:
    right, false, missed = counts_N3.T
    return _ratio(2 * right, 2 * right + false + missed)


def _iou(counts_N3: np.ndarray) -> np.ndarray:
    return _ratio(counts_N3[:, 0], counts_N3.sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns part / whole; 1 where there is neither object nor answer."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def make_medical(
    network: str, train: AnnotatedImages, test: AnnotatedImages, options: LearnerOptions
) -> MedicalLearner | PracticeMedicalLearner:
    """Makes the learner of a network that tells what `options.rule` takes from the rest."""
    labelling = ObjectLabelling(options.rule)
    if options.practice is not None:
        return learn_native(network, train, test, options, labelling=labelling, kind=PracticeMedicalLearner)
    return learn_labels(network, train, test, options, labelling=labelling, kind=MedicalLearner)
