"""The command: options, tables, generators on the way, the script that measures an effect."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.main import get_command

from segment_anything_training.build import build_generator
from tests.support.evaluate_runs import evaluate
from tests.support.fake_generator import loaded
from tests.support.scenes import HEIGHT, WIDTH, opened, split_options, tiny
from tests.support.told_progress import Told
from tests.support.whole_app import app
from unseg.cli import main
from unseg.commands import evaluate as command
from unseg.commands import evaluate_parsing as parsing
from unseg.compute.progress import SILENT
from unseg.data.annotations import ObjectRule
from unseg.errors import UserError
from unseg.evaluation.on_the_way import OnTheWay, codes_by_area, object_rule, source_on_the_way
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import truth_by
from unseg.evaluation.tasks.instance import DETECTION_NETWORKS, INSTANCE_NETWORKS
from unseg.evaluation.tasks.panoptic import PANOPTIC_NETWORKS
from unseg.evaluation.tasks.registry import DEFAULT_NETWORKS, TASKS, WHOLE_DEFAULTS, find_maker, takes_practice
from unseg.method.codes import code_map
from unseg.method.config import Budget
from unseg.protecting.network_protector import NetworkProtector
from unseg.storage import weights
from unseg.storage.files import sha256_of
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.storage.weights import load_generator, save_generator
from unseg.victims import promptable
from unseg.victims.detectors import has_encoder
from unseg.victims.semantic_networks import NETWORKS

EVERY_CLASS = truth_by(ObjectRule("all", background_label=None))
SMALL = {"preset": "small-scratch", "size": f"{WIDTH}x{HEIGHT}"}
OPTIONS = {"networks": "tiny_one", **SMALL, "steps": 1, "batch": 2, "device": "cpu"}
BINARY = {"binary": True, "objects": "1"}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)


def refused(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def protected_by_one(data: Path, folder: Path) -> Path:
    """A folder of the training images, each value changed by one grey level."""
    for path in (data / "images" / "train").iterdir():
        write_png(folder / path.name, read_image(path).pixels ^ 1)
    return folder


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_are_checked() -> None:
    assert parsing.parse_size("240x180") == (240, 180)
    assert "--size 240" in refused(parsing.parse_size, "240")
    assert "--steps 0" in refused(lambda: Schedule(steps=0))
    assert "--batch 1: give at least 2" in refused(lambda: Schedule(batch=1))
    assert parsing.split_list("--networks", "a, b,a") == ("a", "b")
    assert parsing.parse_seeds("0, 2,00") == (0, 2)
    for seeds in ("-1", "1.5", "x", "", "9" * 19):
        assert "--seeds" in refused(parsing.parse_seeds, seeds)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": "unet_resnet999"}, "resnet999"),
        ({"size": "8x48"}, "--size 8x48"),
        ({"conditions": "dirty"}, "dirty"),
        ({"task": "sematnic"}, "no such task"),
        ({"task": "binary"}, "--task binary: was removed in 0.2: give --task semantic --binary"),
        ({"task": "classes"}, "--task classes: was removed in 0.2: give --task semantic with"),
        ({"task": "medical", "binary": True}, "--binary: is for --task semantic, not for medical"),
        ({"generator": "compact", "protected": ["nothing"]}, "--generator and --protected: give one of the two"),
        ({"shares": "0,50"}, "--shares: there is no --protected folder and no --generator"),
        ({"threads": 0}, "--threads 0: give a whole number from 1 to 1,024"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    nothing = dict.fromkeys(("clean", "test"), tmp_path / "nothing")
    assert words in refused(evaluate, tmp_path / "out", **{**nothing, **OPTIONS, **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "successor"),
    [
        (["--data", "x"], "--data was removed in 0.2: give --clean ROOT/images/train --annotations ROOT/labels/train"),
        (["--object-classes", "3,4"], "--object-classes was removed in 0.2: give --objects"),
        (["--test-split", "val"], "--test-split was removed in 0.2: give the split's folder: --test ROOT/images/val"),
    ],
)
def test_options_of_before_name_their_successor(
    given: list[str], successor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *given]) == 2
    told = capsys.readouterr().err
    assert successor in told and told.count("\n") == 1


def test_options_stand_in_groups() -> None:
    options = get_command(app).commands["evaluate"].params
    assert sum(getattr(option, "rich_help_panel", None) is None for option in options) <= 12
    assert len({getattr(option, "rich_help_panel", None) for option in options}) >= 6


def test_options_may_come_from_a_file(data: Path, tmp_path: Path) -> None:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**split_options(data), **OPTIONS}.items()]
    (tmp_path / "run.yaml").write_text("\n".join([*lines, "objects: [1, 2]", "binary: true", "conditions: clean"]))
    results = evaluate(tmp_path / "out", config=tmp_path / "run.yaml", seeds=3)
    settings = results["runs"][0]["settings"]
    assert (settings["objects"], settings["seed"], settings["steps"]) == ([1, 2], 3, 1)


def test_every_task_has_a_default_network() -> None:
    assert DEFAULT_NETWORKS.keys() == WHOLE_DEFAULTS.keys() == TASKS.keys()
    for networks, practice in ((DEFAULT_NETWORKS, True), (WHOLE_DEFAULTS, False)):
        for task, network in networks.items():
            assert callable(find_maker(task, network, practice=practice))
            assert takes_practice(task, network)
    assert {WHOLE_DEFAULTS["instance"], WHOLE_DEFAULTS["remote"]} <= set(INSTANCE_NETWORKS)
    assert has_encoder(DEFAULT_NETWORKS["instance"], "maskrcnn") and has_encoder(DEFAULT_NETWORKS["remote"], "maskrcnn")
    assert has_encoder(DEFAULT_NETWORKS["detection"], "fasterrcnn")
    assert WHOLE_DEFAULTS["detection"] in DETECTION_NETWORKS and DEFAULT_NETWORKS["panoptic"] in PANOPTIC_NETWORKS
    assert DEFAULT_NETWORKS["interactive"] in promptable.NETWORKS


def test_a_task_starts_without_naming_a_network(data: Path, tmp_path: Path) -> None:
    """An instance network on the connected components of class maps, in one step."""
    options = {name: value for name, value in OPTIONS.items() if name != "networks"}
    results = evaluate(tmp_path / "out", task="instance", conditions="clean", **split_options(data), **options)
    assert [run["settings"]["network"] for run in results["runs"]] == [WHOLE_DEFAULTS["instance"]]


# --- networks of one's own -------------------------------------------------------------------------------------------

OWN = """
import torch

def build(classes):
    return torch.nn.Conv2d(3, classes, 1)

def wrong(classes):
    return "network"
"""


def test_a_network_of_ones_own_is_trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named as module:name; what the module says is part of the run's settings."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    options = {**split_options(data), **OPTIONS, "conditions": "clean"}
    for task in ("semantic", "medical"):
        results = evaluate(tmp_path / task, **{**options, "task": task, "networks": "own_networks:build"})
        settings = results["runs"][0]["settings"]
        assert settings["network"] == "own_networks:build"
        assert settings["code"] == sha256_of(tmp_path / "own_networks.py")

    def call(**changes: object) -> str:
        return refused(evaluate, tmp_path / "out", **{**options, **changes})

    assert "returns a str, not a torch.nn.Module" in call(networks="own_networks:wrong")
    assert "has no nothing" in call(networks="own_networks:nothing")
    assert "there is no module absent" in call(networks="absent:build")
    assert "networks of your own are for the tasks semantic and medical" in call(
        task="panoptic", networks="own_networks:build"
    )


# --- runs ------------------------------------------------------------------------------------------------------------


def test_the_command_trains_prints_and_draws(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "out", protected_by_one(data, tmp_path / "protected")
    names = ["clean", "protected", "protected+jpeg50", "random", "pattern+jpeg50"]
    options = {**OPTIONS, "steps": 2, "eval_every": 1, "conditions": ",".join(names), "protected": [folder]}
    results = evaluate(out, **BINARY, **split_options(data), **options)
    assert [run["settings"]["condition"] for run in results["runs"]] == names
    assert {run["settings"]["task"] for run in results["runs"]} == {"binary"}
    protected, coded = (results["runs"][i]["result"] for i in (1, 2))
    assert protected["stored"] is None and coded["quality"] == protected["quality"]
    assert coded["quality"]["psnr"] > coded["stored"]["psnr"]
    assert coded["train_loss"] != protected["train_loss"]
    assert protected["quality"]["psnr"] == pytest.approx(20 * math.log10(255))
    assert protected["quality"]["max_change_object"] == 1
    curve = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert [(line["condition"], line["step"]) for line in curve] == [(name, step) for name in names for step in (1, 2)]
    printed = capsys.readouterr().out
    for words in (
        "tiny_one on clean, seed 0, step 2: mIoU ",
        "protected",
        "random noise",
        "class pattern, JPEG 50",
        "protected, JPEG 50",
        "PSNR is that of the change, before defences",
        "(trivial)",
        "48.1",
        "6 training and 3 test images, 64x48",
    ):
        assert words in printed
    assert f"unseg report {out}" in printed.replace("\n", "")


def test_shares_are_swept(data: Path, tmp_path: Path) -> None:
    options = {**split_options(data), **OPTIONS, "protected": [protected_by_one(data, tmp_path / "protected")]}
    results = evaluate(tmp_path / "out", **BINARY, **options, conditions="clean", shares="0,50,100")
    assert [(run["settings"]["condition"], run["result"]["train_images"]) for run in results["runs"]] == [
        ("clean", 6),
        ("protected@50", 6),
        ("protected", 6),
        ("clean@50", 3),
    ]


# --- generators on the way -------------------------------------------------------------------------------------------


def test_a_generator_protects_on_the_way_as_protect_does(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_generator(build_generator("compact"), "compact", tmp_path / "generator.safetensors", {})
    noise = command.load_noise(str(tmp_path / "generator.safetensors"), Budget(6, 1), "cpu")
    images, truth = opened(data), truth_by(ObjectRule((1,)))
    source = source_on_the_way(noise, images, truth, binary=True, by_class=False, budget={"budget": "6, 1"})
    pixels, (mask, classes) = images.pixels(0), truth(images.annotated(0))
    protected = source.change_of(0, SILENT)("train0", pixels, mask, classes)
    network = load_generator(tmp_path / "generator.safetensors").network
    assert np.array_equal(protected, NetworkProtector(network, Budget(6, 1))(pixels, mask))
    difference = np.abs(protected.astype(int) - pixels)
    assert difference.any() and difference[mask].max() <= 6 and difference[~mask].max() <= 1
    assert source.identity == {"generator": sha256_of(tmp_path / "generator.safetensors"), "budget": "6, 1"}


def test_a_generator_that_no_condition_asks_for_is_refused(data: Path, tmp_path: Path) -> None:
    options = {**split_options(data), **OPTIONS, "generator": str(tmp_path / "nothing.safetensors")}
    told = refused(evaluate, tmp_path / "out", conditions="clean,random", **options)
    assert "--generator: makes the condition protected, which is not among --conditions; add it or leave" in told
    assert "nothing.safetensors" in refused(evaluate, tmp_path / "other", conditions="clean,protected", **options)


OWN_GENERATOR = """
import torch

def build():
    def noise(images, prompts):
        return torch.ones_like(images)

    noise.image_size = 32
    return noise
"""


def test_a_generator_of_ones_own_protects_on_the_way(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of 1 everywhere is the whole budget: 8 on the object, 2 elsewhere."""
    (tmp_path / "own_generators.py").write_text(OWN_GENERATOR)
    monkeypatch.syspath_prepend(tmp_path)
    options = {**split_options(data), **OPTIONS, "generator": "own_generators:build", "conditions": "protected"}
    run = evaluate(tmp_path / "out", **BINARY, **options)["runs"][0]
    quality = run["result"]["quality"]
    assert (quality["max_change_object"], quality["max_change_background"]) == (8, 2)
    assert run["settings"]["images"]["generator"] == sha256_of(tmp_path / "own_generators.py")


@pytest.fixture()
def coded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A generator of three codes takes the compact one's place; what it is given is kept."""
    seen: list[np.ndarray] = []
    generator = loaded()
    generator.network.codes = 3

    def by_class(protector: NetworkProtector, pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        seen.append(codes)
        return pixels ^ 1

    monkeypatch.setattr(weights, "load_generator", lambda which, device: generator)
    monkeypatch.setattr(NetworkProtector, "by_class", by_class)
    return seen


def test_by_class_the_generator_is_told_codes_by_area(data: Path, coded: list[np.ndarray]) -> None:
    """The training scenes show most of class 0; turned into 9, it still has the first code: codes follow area, not
    number.
    """
    for path in (data / "labels" / "train").iterdir():
        classes = opened(data).annotated(int(path.stem[-1])).values
        write_png(path, np.where(classes == 0, 9, classes).astype(np.uint8))
    images, told = opened(data), Told()
    maps = [images.annotated(index).values for index in range(6)]
    areas = [sum((classes == label).sum() for classes in maps) for label in (9, 1, 2)]
    assert areas[0] > max(areas[1:]) and areas[1] != areas[2]
    noise = command.load_noise("compact", Budget(), "cpu")
    source = source_on_the_way(noise, images, EVERY_CLASS, binary=False, by_class=True, budget={})
    pixels, classes = images.pixels(0), maps[0]
    for seed in (0, 1):  # the areas are counted once
        protected = source.change_of(seed, told)("x", pixels, *EVERY_CLASS(images.annotated(0)))
        assert np.array_equal(protected, pixels ^ 1)
    assert told.bars == [("counting the classes' pixels", 6, 6)]
    one, two = (1, 2) if areas[1] > areas[2] else (2, 1)
    expected = np.select([classes == 9, classes == 1, classes == 2], [0, one, two], 255)
    assert np.array_equal(coded[0], expected)
    assert source.identity["by_class"] is True


def test_by_class_the_binary_task_has_codes_0_and_1(data: Path, tmp_path: Path, coded: list[np.ndarray]) -> None:
    options = {**split_options(data), **OPTIONS, "conditions": "protected,random", "generator": "compact"}
    results = evaluate(tmp_path / "out", **BINARY, **options, by_class=True)
    images = opened(data)
    for index, codes in enumerate(coded[:6]):
        classes = images.annotated(index).values
        assert np.array_equal(codes, np.select([classes == 255, classes == 1], [255, 1], 0))
    protected, random = results["runs"]
    assert random["result"]["quality"]["max_change_object"] == 8  # on every labelled pixel, so on class 0 too
    assert random["result"]["quality"]["max_change_background"] == 2
    assert protected["settings"]["images"]["object_budget_on"] == random["settings"]["images"]["object_budget_on"]
    assert protected["settings"]["by_class"] is True
    assert results["tasks"]["binary"]["remarks"][0].startswith("By class: the generator is told every pixel's class")


def test_objects_by_class_are_all_objects_told_apart(data: Path, tmp_path: Path, coded: list[np.ndarray]) -> None:
    """As `unseg protect --objects by-class` has it: background, which it leaves out, has no code."""
    options = {**split_options(data), **OPTIONS, "conditions": "protected", "generator": "compact"}
    results = evaluate(tmp_path / "out", objects="by-class", **options)
    assert results["runs"][0]["settings"]["by_class"] is True
    classes = opened(data).annotated(0).values
    assert set(coded[0][(classes == 0) | (classes == 255)]) == {255} and set(coded[0][classes == 1]) <= {0, 1}


def test_object_rules_by_class() -> None:
    rule = ObjectRule((3, 4), ignore_label=7)
    assert object_rule(rule, binary=True, by_class=False) == rule
    assert object_rule(rule, binary=True, by_class=True) == ObjectRule("all", True, 7, None)
    assert object_rule(rule, binary=False, by_class=True) == ObjectRule("all", True, 7, 0)


def test_a_generator_that_tells_no_classes_apart_is_refused(data: Path) -> None:
    images = opened(data)
    noise = OnTheWay("own.safetensors", lambda pixels, mask: pixels, lambda pixels, codes: pixels, 0, {})
    message = refused(source_on_the_way, noise, images, EVERY_CLASS, binary=False, by_class=True, budget={})
    assert "generator own.safetensors does not tell classes apart" in message
    assert sorted(codes_by_area(images, EVERY_CLASS, 3, SILENT).values()) == [0, 1, 2]
    assert sorted(codes_by_area(images, EVERY_CLASS, 2, SILENT).values()) == [0, 0, 1]


def test_by_class_the_shipped_generator_protects_as_protect_does(data: Path) -> None:
    images, noise = opened(data), command.load_noise("compact", Budget(), "cpu")
    source = source_on_the_way(noise, images, EVERY_CLASS, binary=False, by_class=True, budget={})
    pixels, (mask, classes) = images.pixels(0), EVERY_CLASS(images.annotated(0))
    protected = source.change_of(0, SILENT)("x", pixels, mask, classes)
    codes = code_map(classes, codes_by_area(images, EVERY_CLASS, 3, SILENT))
    assert np.array_equal(protected, NetworkProtector(load_generator("compact").network).by_class(pixels, codes))
    change = np.abs(protected.astype(int) - pixels)
    assert 0 < change[classes != 255].max() <= 8 and change[classes == 255].max(initial=0) <= 2


# --- scripts/measure_effect.sh ---------------------------------------------------------------------------------------


def recorded_calls(tmp_path: Path, **settings: str) -> dict[str, list[str]]:
    """Task → arguments with which scripts/measure_effect.sh calls unseg, in a tree where a shell script takes its
    place.
    """
    tree, root = tmp_path / "tree", Path(__file__).parents[2]
    for folder in ("scripts", ".venv/bin", "data"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "scripts" / "measure_effect.sh", tree / "scripts")
    (tree / "install.sh").write_text("true\n")
    (tree / ".venv" / "bin" / "unseg").write_text(
        '#!/bin/sh\nfor word; do echo "$word"; done >>"$CALLS"; echo >>"$CALLS"\n'
    )
    (tree / ".venv" / "bin" / "unseg").chmod(0o755)
    calls = tree / "calls"
    calls.unlink(missing_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "CALLS": str(calls),
        "DATA_ROOT": str(tree / "data"),
        "OUT": str(tree / "out"),
        **settings,
    }
    subprocess.run(
        ["bash", tree / "scripts" / "measure_effect.sh", "--eval-every", "9"],
        env=environment,
        check=True,
        capture_output=True,
    )
    blocks = (block.split("\n") for block in calls.read_text().strip().split("\n\n"))
    return {Path(words[words.index("--out") + 1]).name: words for words in blocks}


def test_the_script_names_a_generator_where_its_images_are_asked_for(tmp_path: Path) -> None:
    for conditions, is_named in (("clean,random", False), ("clean,protected", True), ("clean,protected+grey", True)):
        calls = recorded_calls(tmp_path, TASKS="binary", CONDITIONS=conditions)
        assert ("--generator" in calls["binary"]) == is_named


def test_a_task_that_there_is_not_is_told_before_the_first_one_runs(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        recorded_calls(tmp_path, TASKS="binary foo")
    assert failed.value.returncode == 2 and not (tmp_path / "tree" / "calls").exists()
    assert failed.value.stderr.decode().splitlines() == ["measure_effect.sh: TASKS=foo: give binary or classes"]


def value(words: list[str], option: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - words[::-1].index(option)]


def test_the_script_asks_for_what_the_command_knows(tmp_path: Path) -> None:
    calls = recorded_calls(tmp_path)
    assert list(calls) == ["binary", "classes"]
    for task, words in calls.items():
        assert words[0] == "evaluate" and value(words, "--eval-every") == "9" and value(words, "--task") == "semantic"
        assert parsing.parse_seeds(value(words, "--seeds")) == (0, 1, 2)
        assert len(parsing.split_list("", value(words, "--networks"))) == 4
        assert len(parsing.split_list("", value(words, "--conditions"))) == 5
        assert [word.rpartition("/data/")[2] for word in (value(words, f"--{name}") for name in ("clean", "test"))] == [
            "images/train",
            "images/test",
        ]
        assert value(words, "--annotations").endswith("labels/train") and "--no-colour-jitter" in words
        assert ("--by-class" in words) == (task == "classes") and ("--binary" in words) == (task == "binary")
        assert value(words, "--objects") == {"binary": "3,4", "classes": "all"}[task]
        known = {option for parameter in get_command(app).commands["evaluate"].params for option in parameter.opts}
        known |= {"--no-colour-jitter"}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_scripts_settings_reach_the_command(tmp_path: Path) -> None:
    calls = recorded_calls(
        tmp_path, TASKS="classes", BY_CLASS="0", SEEDS="4", CONDITIONS="clean", TEST_SPLIT="val", PARALLEL="1"
    )
    assert list(calls) == ["classes"] and "--by-class" not in calls["classes"]
    words = calls["classes"]
    assert [value(words, option) for option in ("--seeds", "--conditions")] == ["4", "clean"]
    assert value(words, "--test").endswith("images/val") and value(words, "--test-annotations").endswith("labels/val")
