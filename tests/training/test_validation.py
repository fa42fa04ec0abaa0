"""Validation: values by hand with networks whose answers are known, shards that add up, labels that are empty."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segment_anything_training.build import build_generator, build_surrogate
from segment_anything_training.prompt_batch import Prompts
from tests.support.told_progress import Told
from unseg.compute.distributed import World
from unseg.data.training_data import TrainingImage
from unseg.method.config import Budget
from unseg.method.metrics import boundary_iou, mask_iou
from unseg.training import validation
from unseg.training.pictures import show
from unseg.training.recipes import recipe
from unseg.training.validation import MEASURES, SetScore, mean_over_images, score_shard, summarise, validate

CONFIG = dataclasses.replace(
    recipe("smoke"),
    surrogate_sizes=(32,),
    surrogate_prompts=("box",),
    antialias=False,
    generator_prompts=("box", "mask"),
    budget=Budget(200.0, 0.0),
)
CPU = torch.device("cpu")


class Darkening(nn.Module):
    """Noise −1 everywhere; remembers its prompts."""

    image_size = mask_size = 64

    def forward(self, images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        self.seen = images, prompts
        return torch.full((len(images), 3, 16, 16), -1.0)


class Brightness(nn.Module):
    """Answers that what is brighter than half is the object; remembers its prompts."""

    image_size, mask_size = 32, 8

    def forward(self, images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        self.seen = images, prompts
        return (images.mean(1, keepdim=True) - 0.5) * 10


def bright(name: str, mask: np.ndarray, label: np.ndarray | None = None) -> TrainingImage:
    """An image that is white (255) where `mask` is true and black elsewhere."""
    pixels = np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255
    return TrainingImage(name, pixels, ((mask if label is None else label).astype(np.int32) * 255,))


def rectangle(height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def random_sets() -> dict[str, list[TrainingImage]]:
    random = np.random.default_rng(3)
    made = []
    for index in range(19):  # three groups
        height, width = (int(side) for side in random.integers(40, 90, 2))
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = rectangle(height, width, (5, height // 2 + index), (8, width // 2))
        segments = random.integers(1, 6, (height, width)).astype(np.int32)
        made.append(
            TrainingImage(f"made{index}", pixels, (mask.astype(np.int32) * 255,) if index % 3 else (segments, segments))
        )
    return {"first": made[:6], "second": made[6:]}


def test_scores_by_hand():
    """The surrogate sees the object on clean images; noise of 200 grey levels makes it too dark to be seen."""
    mask = rectangle(32, 64, (8, 24), (16, 32))  # corners on whole pixels of the 32×32 frame
    off = rectangle(32, 64, (8, 24), (24, 40))  # the label of the second image: half of it is not bright
    sets = {"a": [bright("exact", mask), bright("shifted", mask, off)], "b": [bright("exact", mask)]}
    first, second = validate(Darkening(), Brightness(), sets, CONFIG)
    assert (first.name, first.images, first.empty, second.images) == ("a", 2, 0, 1)
    assert second.iou_clean == 1 and second.boundary_iou_clean == 1 and second.iou_noised == 0
    # the noise darkens the labelled half of the second image alone: what stays bright is not object
    assert first.iou_clean == pytest.approx((1 + 8 / 24) / 2) and first.iou_noised == 0
    assert first.boundary_iou_clean == pytest.approx((1 + boundary_iou(mask, off)) / 2)
    logits = (torch.from_numpy(mask[:, ::2]).float() - 0.5) * 10  # its frame is exactly every second column
    target = torch.from_numpy(mask[:, ::2]).float()
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    assert second.loss_clean == pytest.approx(float(F.binary_cross_entropy(p, target) + dice), rel=1e-5)
    assert second.loss_noised > second.loss_clean
    assert mean_over_images([first, second], "iou_clean") == pytest.approx((2 * first.iou_clean + 1) / 3)


def test_both_players_see_the_stretched_image_and_a_box():
    generator, surrogate = Darkening(), Brightness()
    validate(generator, surrogate, {"a": [bright("wide", rectangle(32, 128, (8, 16), (32, 64)))]}, CONFIG)
    images, prompts = generator.seen
    assert images.shape == (1, 3, 64, 64) and prompts.masks is None and prompts.points is None
    # 32×128 → 64×64: rows twice, columns half; enlarging leaves half a pixel of grey beyond, above 128/255 inside
    assert prompts.boxes.tolist() == [[16, 16, 31, 31]]
    images, prompts = surrogate.seen
    assert images.shape == (1, 3, 32, 32) and prompts.boxes.tolist() == [[8, 8, 15, 15]]


@pytest.mark.parametrize(
    "kinds, expected",
    [((), (None, None)), (("box",), ("box", None)), (("mask",), (None, "mask")), (("points", "box"), ("box", None))],
)
def test_a_player_gets_only_prompts_that_it_is_trained_with(kinds, expected):
    surrogate = Brightness()
    config = dataclasses.replace(CONFIG, surrogate_prompts=kinds)
    validate(Darkening(), surrogate, {"a": [bright("a", rectangle(32, 32, (4, 20), (4, 20)))]}, config)
    prompts = surrogate.seen[1]
    assert (prompts.boxes is not None, prompts.masks is not None) == tuple(kind is not None for kind in expected)
    assert prompts.points is None


def test_an_image_is_stretched_bilinearly_and_its_label_too():
    """4 columns become 2: each is the mean of two. Of the label, 128 is not object at the image's own size, 129 is."""
    colours = np.array([[0, 100, 200, 40], [50, 50, 10, 30]], np.uint8)
    label = np.array([[0, 255, 129, 128], [0, 0, 255, 255]], np.uint8)
    sample = TrainingImage("by hand", np.repeat(colours[..., None], 3, 2), (label,), grey=True)
    example = validation.read_example("a", 0, {"a": [sample]}, CONFIG, sides=(2, 4))
    np.testing.assert_allclose(example.image_V[1] * 255, [[50, 120], [50, 20]], atol=1e-3)
    np.testing.assert_allclose(example.label_V[0] * 255, [[127.5, 128.5], [0, 255]], atol=1e-3)
    # 2 rows become 4: the inner ones are 3 : 1 mixtures of the two
    np.testing.assert_allclose(example.image_S[0, :, 0] * 255, [0, 12.5, 37.5, 50], atol=1e-3)
    assert example.label.tolist() == [[False, True, True, False], [False, False, True, True]]


def test_a_grey_mask_is_no_map_of_segments():
    """Its largest value is not 255; of a map of segments some would be left out."""
    label = np.array([[0, 90, 160, 250]] * 4, np.uint8)
    for number in range(5):
        sample = TrainingImage(f"soft {number}", np.zeros((4, 4, 3), np.uint8), (label,), grey=True)
        example = validation.read_example("a", 0, {"a": [sample]}, CONFIG, sides=(4, 4))
        assert example.label.tolist() == [[False, False, True, True]] * 4
        assert (example.label_S * 255)[0].tolist() == label.tolist()


def test_the_surrogate_is_validated_at_its_largest_size():
    config = dataclasses.replace(CONFIG, surrogate_sizes=(32, 96, 64))
    surrogate = Brightness()
    validate(Darkening(), surrogate, {"a": [bright("a", rectangle(40, 70, (4, 20), (30, 60)))]}, config)
    assert surrogate.seen[0].shape == (1, 3, 96, 96)


def test_empty_labels_are_counted_and_named_and_vanishing_objects_are_found():
    none = np.zeros((40, 40), bool)
    speck = rectangle(640, 640, (101, 102), (333, 334))  # between the pixels that stretching to 64 or 32 looks at
    good = rectangle(32, 64, (8, 24), (16, 32))
    sets = {
        "a": [bright("void", none, none), bright("good", good), bright("void too", none, none)],
        "b": [bright("nothing", none, none)],
        "c": [bright("speck", speck)],
    }
    generator = Darkening()
    first, second, third = validate(generator, Brightness(), sets, CONFIG)
    assert (first.images, first.empty, first.empty_names) == (1, 2, ("void", "void too")) and first.iou_clean == 1
    assert second == SetScore("b", 0, 1, ("nothing",))
    assert third.images == 1 and generator.seen[1].boxes.tolist()[-1] == [33, 10, 33, 10]
    assert mean_over_images([second], "iou_clean") is None


def test_limit_spreads_over_the_set():
    sets = {"a": list(range(10)), "b": [0, 1]}
    assert validation.chosen(sets, 3) == [("a", 1), ("a", 5), ("a", 8), ("b", 0), ("b", 1)]
    assert validation.chosen(sets) == [("a", place) for place in range(10)] + [("b", 0), ("b", 1)]


def compact(config):
    torch.manual_seed(0)
    generator, surrogate = build_generator("compact"), build_surrogate("compact")
    generator.image_size = generator.mask_size = 64  # as large as it need be here
    return generator, surrogate


@pytest.mark.parametrize("processes", [2, 3])
def test_shards_are_disjoint_complete_and_add_up_to_the_bit(processes):
    """With surrogates that take statistics of their batch, and maps of segments among the labels."""
    networks, sets, told = compact(CONFIG), random_sets(), Told()
    whole = score_shard(*networks, sets, CONFIG, progress=told)
    parts = [score_shard(*networks, sets, CONFIG, world=World(rank, processes)) for rank in range(processes)]
    assert told.bars == [("validation", 19, 19)] and all((part[:, validation.SCORED] > 0).any() for part in parts)
    assert torch.stack([part[:, validation.SCORED] for part in parts]).sum(0).eq(1).all()
    assert torch.equal(sum(parts), whole)
    scores = summarise(sum(parts), sets)
    assert scores == validate(*networks, sets, CONFIG) and [score.images for score in scores] == [6, 13]
    assert scores[0].loss_clean != scores[0].loss_noised


def test_validation_leaves_networks_and_random_numbers_alone():
    generator, surrogate = compact(CONFIG)
    generator.train(), surrogate.eval()
    before = torch.get_rng_state()
    sets = random_sets()
    first, second = (validate(generator, surrogate, sets, CONFIG, limit=1) for _ in range(2))
    assert first == second and [score.images for score in first] == [1, 1]
    assert torch.equal(torch.get_rng_state(), before) and generator.training and not surrogate.training
    assert all(parameter.grad is None for network in (generator, surrogate) for parameter in network.parameters())


@pytest.mark.slow
def test_two_processes_get_the_scores_of_one(tmp_path: Path):
    """Each in a process of its own, with gloo adding the parts up."""
    script = (
        "import dataclasses, json, sys, torch\n"
        "from tests.training.test_validation import CONFIG, compact, random_sets\n"
        "from unseg.compute.distributed import World\n"
        "from unseg.training.validation import validate\n"
        "rank = int(sys.argv[1])\n"
        "torch.distributed.init_process_group('gloo', init_method=sys.argv[2], rank=rank, world_size=2)\n"
        "torch.set_num_threads(1)\n"
        "scores = validate(*compact(CONFIG), random_sets(), CONFIG, world=World(rank, 2))\n"
        "print(json.dumps([dataclasses.asdict(score) for score in scores]), flush=True)\n"
        "torch.distributed.destroy_process_group()\n"  # its threads, left to the interpreter's end, may abort it
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    root = Path(__file__).resolve().parents[2]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), address],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])},
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0] and outputs[0] == outputs[1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = validate(*compact(CONFIG), random_sets(), CONFIG)
    finally:
        torch.set_num_threads(threads)
    assert json.loads(outputs[0]) == json.loads(json.dumps([dataclasses.asdict(score) for score in alone]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_scores_on_a_gpu_are_those_of_the_cpu():
    networks, sets = compact(CONFIG), random_sets()
    on_cpu = validate(*networks, sets, CONFIG)
    on_gpu = validate(*(network.cuda() for network in networks), sets, CONFIG, world=World(device=torch.device("cuda")))
    for left, right in zip(on_cpu, on_gpu, strict=True):
        assert [getattr(right, name) for name in MEASURES] == pytest.approx(
            [getattr(left, name) for name in MEASURES], abs=0.01
        )


def test_what_is_shown_is_what_was_measured():
    mask = rectangle(60, 120, (15, 45), (30, 60))
    sets = {"a": [bright("a0", mask), bright("a1", mask), bright("a2", mask)], "b": [bright("b0", mask)]}
    config = dataclasses.replace(CONFIG, budget=Budget(1.0, 0.25))
    shown = show(Darkening(), Brightness(), sets, config, CPU, count=3)
    assert [item.name for item in shown] == ["a0", "b0", "a2"]
    one = shown[0]
    assert one.pixels.shape == (128, 256, 3) and one.label.shape == one.mask_clean.shape == (128, 256)
    # 1 grey level less on the object, nothing below black elsewhere
    np.testing.assert_allclose(one.noise[one.label & (one.pixels[..., 0] == 255)], -1, atol=1e-3)
    assert np.abs(one.noise[one.pixels[..., 0] == 0]).max() == 0
    assert one.iou_clean == pytest.approx(validate(Darkening(), Brightness(), {"b": sets["b"]}, config)[0].iou_clean)
    assert mask_iou(one.label, one.mask_clean) == pytest.approx(one.iou_clean, abs=0.05)
    assert np.array_equal(one.noised, np.round(one.pixels + one.noise).astype(np.uint8))


def test_measures_are_the_fields_of_a_score():
    assert set(MEASURES) < {field.name for field in dataclasses.fields(SetScore)}
