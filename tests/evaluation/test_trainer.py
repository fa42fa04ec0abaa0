"""One trainer: equal views for clean and changed images, the same numbers for one seed, networks that take a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.scenes import tiny
from tests.support.told_progress import Told
from unseg.evaluation import augmentation
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.tasks import semantic
from unseg.evaluation.tasks.label_arrays import Arrays
from unseg.evaluation.trainer import BatchOrder, Evaluation, Trained, train
from unseg.victims.semantic_networks import NETWORKS, build_network

Set = tuple[np.ndarray, np.ndarray]


def arrays(count: int, seed: int, size: int = 32) -> Set:
    """Images whose class is their brightness."""
    draw = np.random.default_rng(seed)
    labels = np.kron(draw.integers(0, 2, (count, 4, 4)), np.ones((size // 4, size // 4), int)).astype(np.uint8)
    return (labels[..., None] * 150 + draw.integers(0, 60, (*labels.shape, 3))).astype(np.uint8), labels


def trained(
    training: Set,
    test: Set,
    steps: int,
    seed: int = 0,
    batch: int = 2,
    network: str | None = None,
    eval_every: int = 250,
    **more: Any,
) -> Trained:
    """A network that was trained on the first set and tested on the second; `tiny` unless another one is named."""
    learner = semantic.SemanticLearner(
        tiny if network is None else lambda classes: build_network(network, classes),
        Arrays(*training),
        Arrays(*test),
        ["dark", "bright"],
    )
    return train(learner, Schedule(steps=steps, batch=batch, eval_every=eval_every), seed, **more)


def test_two_runs_of_one_seed_give_the_same_weights_and_another_seed_others() -> None:
    first, second, third = (trained(arrays(6, 0), arrays(2, 1), 3, seed) for seed in (0, 0, 1))
    pairs = list(zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True))
    assert pairs and all(torch.equal(one, two) for one, two in pairs)
    assert first.curve == second.curve
    assert first.train_loss != third.train_loss


def test_a_callers_random_numbers_do_not_move() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained(arrays(2, 0), arrays(2, 1), 1)
    assert torch.equal(torch.rand(3), expected)


def test_views_and_batches_do_not_depend_on_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clean and protected runs see differs in the pixels alone: labels after augmentation are equal, step by
    step.
    """
    (images, labels), seen = arrays(5, 0), []

    def recording(
        view: torch.Tensor, target: torch.Tensor, views: augmentation.Views
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = original(view, target, views)
        seen.append(result[1])
        return result

    original = semantic.augment
    monkeypatch.setattr(semantic, "augment", recording)
    for pixels in (images, 255 - images):
        trained((pixels, labels), arrays(2, 1), 4)
    assert len(seen) == 8
    assert all(torch.equal(clean, other) for clean, other in zip(seen[:4], seen[4:], strict=True))
    assert not all(torch.equal(seen[0], later) for later in seen[1:4])


def test_final_miou_is_that_of_the_returned_network() -> None:
    test_images, test_labels = arrays(5, 1)
    result = trained(arrays(6, 0), (test_images, test_labels), 3)
    pixels = (
        torch.from_numpy(test_images).permute(0, 3, 1, 2) / 255 - torch.tensor(augmentation.MEAN)[:, None, None]
    ) / torch.tensor(augmentation.STD)[:, None, None]
    with torch.no_grad():
        answer = result.network(pixels).argmax(1).numpy()
    iou = [np.sum((answer == c) & (test_labels == c)) / np.sum((answer == c) | (test_labels == c)) for c in (0, 1)]
    assert list(result.metrics["class_iou"].values()) == pytest.approx(iou)
    assert result.final == pytest.approx(sum(iou) / 2)


def test_evaluations_come_at_the_asked_steps_and_at_the_end() -> None:
    told, recorded = Told(), list[Evaluation]()
    result = trained(
        arrays(2, 0), arrays(1, 1), 5, eval_every=2, record=recorded.append, progress=told, what="tiny, seed 0"
    )
    assert told.bars == [("tiny, seed 0", 5, 5)] and told.sentences == []
    assert [point.step for point in result.curve] == [2, 4, 5]
    assert recorded == result.curve
    assert result.best == max(point.score for point in result.curve)


def test_a_network_learns_what_brightness_shows() -> None:
    result = trained(arrays(12, 0, 64), arrays(6, 1, 64), 60, batch=4)
    assert result.final > 0.8
    assert result.train_loss < 0.55  # ln 2 = 0.69 where nothing is learnt


def test_learning_rate_climbs_then_falls_to_zero() -> None:
    rates = [Schedule(steps=100).rate_factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == 1
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)


def test_batches_show_every_image_once_an_epoch() -> None:
    batches = BatchOrder(5, 2, torch.Generator().manual_seed(0))
    indices = torch.cat([batches.next() for _ in range(10)]).tolist()
    assert all(sorted(indices[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 20, 5))
    assert len({tuple(indices[i : i + 5]) for i in range(0, 20, 5)}) > 1
    assert len(BatchOrder(1, 4, torch.Generator()).next()) == 4


def test_views_move_labels_with_pixels_and_ignore_what_lies_outside() -> None:
    labels = torch.zeros(40, 32, 48, dtype=torch.uint8)
    labels[:, 8:20, 10:30] = 1
    images = labels[..., None].repeat(1, 1, 1, 3) * 255
    view, target = augmentation.augment(
        images, labels, augmentation.draw_views(len(images), torch.Generator().manual_seed(0))
    )
    brightness = view[:, 0] * augmentation.STD[0] + augmentation.MEAN[0]
    inside = (target != 255) & ((brightness < 0.02) | (brightness > 0.98))  # away from interpolated edges
    assert torch.equal((brightness > 0.5)[inside], (target == 1)[inside])
    assert inside.float().mean() > 0.7
    outside = target == 255
    assert 0 < outside.float().mean() < 0.3 and not outside.flatten(1).any(1).all()
    assert set(target.unique().tolist()) == {0, 1, 255}
    areas = (target == 1).flatten(1).sum(1) / 240
    assert augmentation.ZOOM[0] ** 2 - 0.1 < areas.min() < 0.9 and areas.max() > 1.1
    assert torch.equal(view.isfinite().all(), torch.tensor(True))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_answer_at_the_size_of_their_input(name: str) -> None:
    network = build_network(name, 5).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 45, 60)).shape == (1, 5, 45, 60)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_take_a_step_at_the_smallest_batch_and_size(name: str) -> None:
    result = trained(arrays(2, 0), arrays(1, 1), 1, network=name)
    assert math.isfinite(result.train_loss) and 0 <= result.final <= 1


def test_padding_leaves_images_of_a_fitting_size_as_they_are() -> None:
    network = build_network("fpn_mobilenet_v2", 2).eval()
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(network(images), network.network(images))
