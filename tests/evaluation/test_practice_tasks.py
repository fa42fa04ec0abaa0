"""All tasks as people train: views, tests at native size, weights, frozen encoders and defences."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.support import annotation_sets
from tests.support.evaluate_runs import evaluate
from tests.support.scenes import split_options, tiny
from unseg.data.annotations import ClassMap, ClassTable, ObjectRule
from unseg.data.annotations.core import Indexed, Segment
from unseg.data.annotations.detect import open_annotations
from unseg.errors import UserError
from unseg.evaluation.augmentation import normalise
from unseg.evaluation.coco_metrics import TrueRegion, decode, encode
from unseg.evaluation.defences.defence_names import NO_PHOTOGRAPHS, parse_defence
from unseg.evaluation.defences.early import NOTE
from unseg.evaluation.defended_images import at_size, defend
from unseg.evaluation.learner import Learner, LearnerOptions
from unseg.evaluation.practice import IMAGENET, Practice
from unseg.evaluation.practice_views import Distortion, take_view
from unseg.evaluation.practice_views import View as PracticeView
from unseg.evaluation.region_views import practice_view, view_pixels, view_targets
from unseg.evaluation.region_views import test_view as native_view
from unseg.evaluation.regions import class_places
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import CleanImages, Images
from unseg.evaluation.tasks.instance import make_detection, make_instance
from unseg.evaluation.tasks.interactive import make_interactive
from unseg.evaluation.tasks.mask2former_semantic import make_mask2former_semantic
from unseg.evaluation.tasks.medical import make_medical
from unseg.evaluation.tasks.panoptic import make_panoptic
from unseg.evaluation.tasks.region_learner import RegionLearner
from unseg.evaluation.trainer import train
from unseg.evaluation.weight_choice import choose_starts
from unseg.victims.imagenet import encoder_of, packaged_weights, paired
from unseg.victims.mask2former import QueryAnswers
from unseg.victims.pretrained import read_weights
from unseg.victims.semantic_networks import NETWORKS
from unseg.victims.targets import FoundObjects

LITE = "timm-tf_efficientnet_lite0"
CROP = 64
CPU = torch.device("cpu")
TASKS = [
    (make_instance, f"maskrcnn_{LITE}", "coco compressed"),
    (make_instance, "mask2former_tiny", "coco compressed"),
    (make_detection, "rt_detr_tiny", "coco compressed"),
    (make_panoptic, "mask2former_tiny", "coco-panoptic"),
    (make_interactive, "sam_tiny", "coco compressed"),
    (make_medical, "tiny_one", "index"),
    (make_mask2former_semantic, "mask2former_tiny", "index"),
]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)


def opened(name: str, root: Path) -> Images:
    built = annotation_sets.build(name, root)
    return CleanImages.find(built.images, open_annotations(built.path, built.images), "--clean")


def options(*defences: str, **changes: object) -> LearnerOptions:
    """As the command gives them, from random weights unless `changes` say otherwise."""
    practice = Practice(**{"crop": CROP, "weights": None, **changes})
    chain = tuple(parse_defence(name, NO_PHOTOGRAPHS) for name in defences)
    return LearnerOptions((CROP, CROP), rule=ObjectRule(), practice=practice, defences=chain)


def trained(learner: Learner, steps: int = 2) -> torch.nn.Module:
    """The network after some steps of two views, which it is tested after."""
    result = train(learner, Schedule(steps=steps, batch=2, eval_every=1), seed=0)
    assert np.isfinite(result.train_loss) and 0 <= result.final <= 1
    return result.network


# --- views -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.floats(0.5, 2),
    st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    st.booleans(),
    st.sampled_from([Distortion(), Distortion(9, 0.7, 1.3, -11, contrast_first=False)]),
)
def test_views_of_regions_are_those_of_label_maps(
    height: int, width: int, scale: float, place: tuple[float, float], flip: bool, distortion: Distortion
) -> None:
    """The semantic task's views, which other code makes, are the judge."""
    draw = np.random.default_rng(height)
    pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = (np.indices((height, width))[1] * 3 // width).astype(np.uint8)
    view = PracticeView(scale, *place, flip, distortion)
    image, shown = take_view(pixels, labels, view, 48)
    own = practice_view(view, 48, (width, height))
    inside = torch.from_numpy(shown != 255)
    expected = normalise(torch.from_numpy(image)[None])[0]
    assert torch.equal(view_pixels(pixels, own)[:, inside], expected[:, inside])
    assert (view_pixels(pixels, own)[:, ~inside] == 0).all()
    targets = view_targets([TrueRegion(label, False, encode(labels == label)) for label in range(3)], own)
    found = np.full(shown.shape, 255, np.uint8)
    for label, mask in zip(targets.labels.tolist(), targets.masks.numpy(), strict=True):
        found[mask] = label
    assert np.array_equal(found, shown)


def test_tests_are_at_native_size() -> None:
    view = native_view((70, 33), options())
    assert (view.size, view.content, view.flip, view.distortion) == ((96, 64), (70, 33), False, None)


class Knowing(torch.nn.Module):
    """Answers with the true regions of each test image in turn, as they lie at its own size."""

    def __init__(self, learner: RegionLearner, queries: bool) -> None:
        super().__init__()
        self.learner, self.queries, self.place = learner, queries, 0

    def forward(self, images: torch.Tensor, valid: torch.Tensor) -> object:
        pixels = self.learner.test.pixels(self.place)
        assert valid.sum() == pixels.shape[0] * pixels.shape[1] and len(images) == 1
        one = view_targets(
            self.learner.truths[self.place], native_view((pixels.shape[1], pixels.shape[0]), self.learner.options)
        )
        self.place += 1
        if not self.queries:
            return [FoundObjects(torch.ones(len(one.labels)), one.labels, one.boxes, one.masks.float())]
        logits = torch.full((1, 30, len(self.learner.classes.ids) + 1), -20.0)
        masks = torch.full((1, 30, *images.shape[-2:]), -20.0)
        logits[0, range(len(one.labels)), one.labels] = 20
        logits[0, len(one.labels) :, -1] = 20
        masks[0, : len(one.labels)][one.masks] = 20
        return QueryAnswers(logits, masks)


@pytest.mark.parametrize("defences", [(), ("resize64", "whiten")], ids=["as they are", "resized"])
@pytest.mark.parametrize(
    ("make", "network", "layout", "queries"),
    [
        (make_instance, f"maskrcnn_{LITE}", "coco compressed", False),
        (make_instance, "mask2former_tiny", "coco compressed", True),
        (make_panoptic, "mask2former_tiny", "coco-panoptic", True),
    ],
)
def test_what_is_right_at_native_size_is_right(
    make, network: str, layout: str, queries: bool, defences: tuple[str, ...], tmp_path: Path
) -> None:
    images = opened(layout, tmp_path)
    learner = make(network, images, images, options(*defences))
    assert learner.evaluate(Knowing(learner, queries), CPU)[learner.metric] == pytest.approx(1)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "network", "layout"), TASKS)
def test_every_task_learns_as_people_train(make, network: str, layout: str, tmp_path: Path) -> None:
    images = opened(layout, tmp_path)
    learner = make(network, images, images, options("whiten", "resize64", "at4", "early"))
    trained(learner)
    assert NOTE in learner.notes and learner.counted([0.1, 0.7, 0.3]) == 0.7
    assert make(network, images, images, options()).counted([0.1, 0.7, 0.3]) == 0.3


@pytest.mark.parametrize(("make", "network", "layout"), [row for row in TASKS if row[1] != "tiny_one"])
def test_an_encoder_can_be_frozen(make, network: str, layout: str, tmp_path: Path) -> None:
    images = opened(layout, tmp_path)
    learner = make(network, images, images, options(frozen_encoder=True))
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in encoder_of(learner.build()).state_dict().items()}
    network_after = trained(learner, steps=1)
    after = encoder_of(network_after).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(parameter.requires_grad for parameter in network_after.parameters())


def test_a_detector_starts_from_imagenet(tmp_path: Path) -> None:
    images, file = opened("coco compressed", tmp_path), packaged_weights(LITE)
    assert file is not None
    for network, make in ((f"maskrcnn_{LITE}", make_instance), (f"fasterrcnn_{LITE}", make_detection)):
        for weights in (IMAGENET, file):
            learner = make(network, images, images, options(weights=weights))
            encoder = encoder_of(learner.build())
            expected = paired(read_weights(file), encoder.state_dict(), file)
            assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
            assert any("the encoder's, from ImageNet" in note for note in learner.notes)
        assert choose_starts([network], {}, practice=True)[network].imagenet
        assert choose_starts([network], {"": Path(IMAGENET)}, practice=True)[network].file == file
    for network in ("mask2former_tiny", "sam_tiny", "rt_detr_tiny"):
        assert choose_starts([network], {}, practice=True)[network].weights is None
        with pytest.raises(UserError, match=f"imagenet: .* which {network} does not have"):
            choose_starts([network], {"": Path(IMAGENET)}, practice=True)


def test_unknown_encoders_are_named(tmp_path: Path) -> None:
    images = opened("coco compressed", tmp_path)
    for make, family in ((make_instance, "maskrcnn"), (make_detection, "fasterrcnn")):
        with pytest.raises(UserError, match=f"unknown network '{family}_resnet5' .*{family}_ENCODER"):
            make(f"{family}_resnet5", images, images, options())


def test_the_command_trains_instances_as_people_train(tmp_path: Path) -> None:
    built = annotation_sets.build("coco compressed", tmp_path)
    own = {"clean": built.images, "annotations": built.path, "test": built.images, "test_annotations": built.path}
    run = {"views": "practice", "crop": CROP, "steps": 1, "batch": 2, "device": "cpu"}
    (tmp_path / "copy").mkdir()
    for path in sorted(built.images.iterdir()):
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes() + b" ")  # tests are apart from training images
    own["test"] = tmp_path / "copy"
    result = evaluate(tmp_path / "out", task="instance", conditions="clean,clean+grey", **own, **run)["runs"][0]
    assert result["settings"]["network"] == f"maskrcnn_{LITE}" and result["settings"]["views"] == "practice"
    assert result["settings"]["weights"]["name"].endswith(".pth")


def test_medical_images_are_trained_as_people_train_where_asked_for(data: Path, tmp_path: Path) -> None:
    run = {"networks": "tiny_one", "crop": 48, "steps": 2, "batch": 2, "device": "cpu", "views": "practice"}
    runs = evaluate(
        tmp_path / "out",
        task="medical",
        objects="1",
        conditions="clean,clean+grey+cutmix",
        **split_options(data),
        **run,
    )["runs"]
    assert [one["result"]["metric"] for one in runs] == ["dice", "dice"]
    assert runs[0]["result"]["train_loss"] != runs[1]["result"]["train_loss"]


# --- defences --------------------------------------------------------------------------------------------------------


def test_defended_images_have_annotations_of_their_size(tmp_path: Path) -> None:
    images = opened("coco compressed", tmp_path)
    chain = options("resize64", "notch").defences
    asked: list[int] = []

    def labels(place: int) -> np.ndarray:
        asked.append(place)
        return np.zeros(images.pixels(place).shape[:2], np.uint8)

    train_set, test_set, _ = defend(images, images, chain, labels, class_count=2, seed=0)
    assert asked == list(range(len(images.names)))
    for shown in (train_set, test_set):
        for place in range(len(images.names)):
            annotated, pixels = shown.annotated(place), shown.pixels(place)
            assert (annotated.height, annotated.width) == pixels.shape[:2] and max(pixels.shape) <= 64
            assert all(segment.mask.shape == pixels.shape[:2] for segment in annotated.segments)
            assert annotated.object_mask(ObjectRule()).shape == pixels.shape[:2]
    kept = defend(images, images, options("at4", "early").defences, labels, class_count=2, seed=0)
    assert kept[0] is images and kept[1] is images and len(asked) == len(images.names)
    jpeg = defend(images, images, options("jpeg50").defences, labels, class_count=2, seed=0)
    assert jpeg[1] is images and not np.array_equal(jpeg[0].pixels(0), images.pixels(0))


def test_annotations_at_another_size_by_hand() -> None:
    index = np.array([[0, 1, 2, 2]])
    own = [Segment(value, None, None, False, True, False, lambda value=value: index == value) for value in (0, 1)]
    smaller = at_size(Indexed(index, own), 2, 2)  # of columns centred at 1 and 3: those of pixels 1 and 3
    assert [segment.mask.tolist() for segment in smaller.segments] == [[[False] * 2] * 2, [[True, False]] * 2]
    assert smaller.class_codes(ObjectRule()).tolist() == [[1, -1]] * 2
    classes = at_size(ClassMap(np.array([[7, 300, 9]], np.int32), "index", ClassTable()), 1, 6)
    assert isinstance(classes, ClassMap) and classes.values.tolist() == [[7, 7, 300, 300, 9, 9]]
    assert at_size(classes, 1, 6) is classes


def test_projection_reads_the_classes_of_regions(tmp_path: Path) -> None:
    """It changes training images alone; the places of classes that it is given are those of the true regions."""
    images = opened("coco compressed", tmp_path)
    learner = make_instance("mask2former_tiny", images, images, options("project"))
    count = len(images.names)
    assert any(not np.array_equal(learner.train.pixels(place), images.pixels(place)) for place in range(count))
    assert learner.test is images and any(learner.truths)
    for place, regions in enumerate(learner.truths):
        expected = np.zeros(images.pixels(place).shape[:2], np.uint8)
        for region in sorted(regions, key=lambda one: -decode(one.mask).sum()):  # the smaller one on top
            expected[decode(region.mask)] = region.label + 1
        assert np.array_equal(class_places(images, place, learner.classes, "instances"), expected)
