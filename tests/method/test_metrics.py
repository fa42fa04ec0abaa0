"""Measures against values computed by hand and an independent numpy implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from unseg.method import metrics
from unseg.method.metrics import mean_change


def numpy_iou(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> list[float | None]:
    """IoU straight from its definition, with sets of pixel positions."""
    result = []
    for value in range(num_classes):
        truth = set(np.flatnonzero(labels == value))
        answer = set(np.flatnonzero((predictions == value) & (labels != 255)))
        result.append(len(truth & answer) / len(truth | answer) if truth else None)
    return result


def test_confusion_and_iou_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 2, 255]], dtype=torch.uint8)
    predictions = torch.tensor([[0, 1, 1], [1, 0, 2]])
    confusion = metrics.confusion_matrix(labels, predictions, 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    # class 0: 1 right of 3 labelled or predicted; class 1: 2 of 3; class 2: 0 of 1 (the ignored pixel does not count)
    assert metrics.class_iou(confusion) == pytest.approx([1 / 3, 2 / 3, 0])
    assert metrics.mean_iou(metrics.class_iou(confusion)) == pytest.approx(1 / 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_iou_equals_an_independent_implementation(num_classes: int, pixels: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, num_classes + 1, pixels).astype(np.uint8)
    labels[labels == num_classes] = 255
    predictions = draw.integers(0, num_classes, pixels)
    confusion = metrics.confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), num_classes)
    assert metrics.class_iou(confusion) == pytest.approx(numpy_iou(labels, predictions, num_classes))


def test_confusion_adds_over_batches() -> None:
    draw = torch.Generator().manual_seed(0)
    labels, predictions = (torch.randint(0, 4, (6, 5, 7), generator=draw) for _ in range(2))
    parts = sum(metrics.confusion_matrix(label, answer, 4) for label, answer in zip(labels, predictions, strict=True))
    assert torch.equal(parts, metrics.confusion_matrix(labels, predictions, 4))


def test_classes_without_a_test_pixel_are_left_out_of_the_mean() -> None:
    # class 1 is predicted once but never labelled: it costs class 0 a pixel, and has no IoU of its own
    confusion = metrics.confusion_matrix(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), 2)
    assert metrics.class_iou(confusion) == [0.75, None]
    assert metrics.mean_iou([0.75, None]) == 0.75
    with pytest.raises(ValueError, match="no class"):
        metrics.mean_iou([None, None])


def test_trivial_answer_is_the_training_majority() -> None:
    train = np.array([[1, 1, 1, 0, 255, 255, 255, 255]], np.uint8)
    test = np.array([[0, 0, 0, 1, 255]], np.uint8)
    assert metrics.majority_class(train, 2) == 1  # 255 is no class, however frequent
    # 1 everywhere: class 0 gets nothing, class 1 one pixel of four; by the test labels' majority it would be 3/4 and 0
    answers = torch.full((1, 5), metrics.majority_class(train, 2))
    assert metrics.class_iou(metrics.confusion_matrix(torch.from_numpy(test), answers, 2)) == [0.0, 0.25]


def scipy_boundary_iou(label: np.ndarray, answer: np.ndarray, share: float) -> float:
    """Boundary IoU by one erosion with a whole square, through another library."""
    reach = max(1, int(round(share * (label.shape[0] ** 2 + label.shape[1] ** 2) ** 0.5)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    bands = [mask & ~ndimage.binary_erosion(mask, square, border_value=0) for mask in (label, answer)]
    union = (bands[0] | bands[1]).sum()
    return (bands[0] & bands[1]).sum() / union if union else 1.0


def test_mask_iou_by_hand() -> None:
    label, answer = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    assert metrics.mask_iou(label, answer) == 1  # both say that nothing is there
    label[:2], answer[1:3] = True, True  # 12 pixels each, 6 of them shared
    assert metrics.mask_iou(label, answer) == 6 / 18
    assert metrics.mask_iou(label, np.zeros_like(label)) == 0


def test_boundary_iou_by_hand() -> None:
    """100×100: the band is 2 % of 141.4 pixels, 3 wide."""
    label, answer = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    label[20:60, 20:60] = True
    assert metrics.boundary(label).sum() == 40 * 40 - 34 * 34
    answer[23:57, 23:57] = True  # its band lies wholly inside, where the label's is not
    assert metrics.boundary_iou(label, answer) == 0 and metrics.mask_iou(label, answer) == 34**2 / 40**2
    answer[:] = label
    answer[30:50, 30:50] = False  # a hole 10 from the outline has an outline of its own, a band of 3 around it
    assert metrics.boundary_iou(label, answer) == pytest.approx(444 / (444 + 26**2 - 20**2))
    everything = np.ones((100, 100), bool)  # the image's edge is an outline
    assert metrics.boundary(everything).sum() == 100 * 100 - 94 * 94
    assert metrics.boundary_iou(np.zeros((5, 5), bool), np.zeros((5, 5), bool)) == 1


@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.data())
def test_boundary_iou_equals_scipys_erosion(height: int, width: int, share: float, data: st.DataObject) -> None:
    # large blocks, so that masks have an inside: single random pixels are all boundary
    blocks = arrays(bool, (-(-height // 6), -(-width // 6)))
    label, answer = (np.kron(data.draw(blocks), np.ones((6, 6), bool))[:height, :width] for _ in range(2))
    got = metrics.boundary_iou(label, answer, share)
    assert got == pytest.approx(scipy_boundary_iou(label, answer, share))
    assert got == metrics.boundary_iou(answer, label, share) and 0 <= got <= 1
    assert metrics.boundary_iou(label, label, share) == 1


def test_retained_learning_by_hand() -> None:
    assert metrics.retained_learning(protected=0.42, clean=0.80, trivial=0.38) == pytest.approx(0.04 / 0.42)
    assert metrics.retained_learning(0.8, 0.8, 0.3) == 1
    assert metrics.retained_learning(0.3, 0.8, 0.3) == 0
    assert metrics.retained_learning(0.2, 0.8, 0.3) == pytest.approx(-0.2)
    assert metrics.retained_learning(0.3, 0.3, 0.3) is None


def test_psnr_by_hand() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert metrics.psnr(black, np.full_like(black, 255)) == 0
    assert metrics.psnr(np.full_like(black, 8), black) == pytest.approx(10 * math.log10(255**2 / 64))
    one = black.copy()
    one[0, 0, 0] = 12  # mean square error 144 / 48 = 3
    assert metrics.psnr(black, one) == pytest.approx(10 * math.log10(255**2 / 3))
    assert metrics.psnr(black, black) == math.inf


@pytest.mark.parametrize(("kind", "values"), [(np.uint8, 1), (np.uint16, 257)])
def test_the_mean_change_is_that_of_a_regions_values(kind: type, values: int) -> None:
    draw = np.random.default_rng(5)
    original = draw.integers(0, 200, (7, 11, 3)).astype(kind)
    changed = (original + draw.integers(0, 40, (7, 11, 3))).astype(kind)
    region = draw.random((7, 11)) < 0.3
    expected = np.abs(changed.astype(int) - original)[region].mean() / values
    assert mean_change(original, changed, region) == pytest.approx(expected)
    assert mean_change(original[..., :1], changed[..., :1], region) == pytest.approx(
        np.abs(changed.astype(int) - original)[region][:, 0].mean() / values
    )
    assert mean_change(original, changed, np.zeros((7, 11), bool)) is None
