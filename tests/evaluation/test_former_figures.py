"""Figures that version 0.1 gave for ROOT/images/SPLIT and ROOT/labels/SPLIT are those of folders, in today's spelling.

tests/support/figures_of_splits.json was written by version 0.1 with `--data ROOT --task binary|classes`, from the
pictures below. What is computed of images alone is equal to a millionth. Trainings agree as far as processors and
numbers of threads do: three steps of a network on another number of threads moved its mIoU by 0.006.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.evaluate_runs import evaluate
from tests.support.scenes import tiny, write_splits
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.victims.semantic_networks import NETWORKS

AS_PROCESSORS_AGREE = 0.03  # of scores and losses
AS_WINDOWS_DIFFER = 0.05  # of SSIM: version 0.1 took windows at the border, too, a third of all in images of 48×32
FIGURES = json.loads((Path(__file__).parents[1] / "support" / "figures_of_splits.json").read_text())
BINARY = {"binary": True, "objects": "1"}
EVERY_CLASS = {"objects": "all", "background_label": -1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ with train and test each, and protected versions of the training images."""
    root = write_splits(tmp_path_factory.mktemp("data"))
    for path in (root / "images" / "train").iterdir():
        write_png(root / "protected" / path.name, read_image(path).pixels ^ 3)
    return root


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "binary",
            {
                **BINARY,
                "protected": ["protected"],
                "conditions": "clean,protected,random,pattern,protected+jpeg50",
                "seeds": "0,1",
            },
        ),
        ("classes", {**EVERY_CLASS, "protected": ["protected"], "conditions": "clean,random,pattern"}),
        ("generator", {**BINARY, "generator": "compact", "conditions": "protected"}),
        (
            "generator_by_class",
            {**EVERY_CLASS, "generator": "compact", "by_class": True, "conditions": "protected,random"},
        ),
        (
            "generator_binary_by_class",
            {**BINARY, "generator": "compact", "by_class": True, "conditions": "protected,pattern"},
        ),
    ],
)
def test_figures_are_those_of_version_0_1(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)
    monkeypatch.chdir(root)  # the protected folder is named relative to it
    results = evaluate(
        tmp_path / "out",
        task="semantic",
        clean=root / "images" / "train",
        annotations=root / "labels" / "train",
        test=root / "images" / "test",
        test_annotations=root / "labels" / "test",
        annotations_format="index",
        networks="tiny_one",
        preset="small-scratch",
        size="48x32",
        steps=3,
        batch=2,
        eval_every=2,
        device="cpu",
        no_colour_jitter=True,
        **options,
    )
    assert len(results["runs"]) == len(FIGURES[name])
    for run, figures in zip(results["runs"], FIGURES[name], strict=True):
        result = run["result"]
        assert [run["settings"][key] for key in ("condition", "seed")] == [figures["condition"], figures["seed"]]
        for point, former in zip(result["curve"], figures["curve"], strict=True):
            found = [point["step"], point["score"], point["train_loss"]]
            assert found == pytest.approx(former, abs=AS_PROCESSORS_AGREE)
        assert result["trivial"]["miou"] == pytest.approx(figures["trivial"], abs=1e-6)
        assert list(result["metrics"]["class_iou"].values()) == pytest.approx(
            figures["class_iou"], abs=AS_PROCESSORS_AGREE
        )
        assert result["metrics"]["pixel_accuracy"] == pytest.approx(figures["pixel_accuracy"], abs=AS_PROCESSORS_AGREE)
        for kind in ("quality", "stored"):
            assert (result[kind] is None) == (figures[kind] is None)
            if figures[kind] is not None:
                former = {key: result[kind][key] for key in figures[kind]}  # colour differences came later
                before = dict(figures[kind])
                assert former.pop("ssim") == pytest.approx(before.pop("ssim"), abs=AS_WINDOWS_DIFFER)
                assert former == pytest.approx(before, abs=1e-6)


def hash_of(*folders: Path) -> str:
    """The hash of names and contents that results.json holds of images and their annotations."""
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def test_a_run_of_version_0_1_is_kept(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings are as version 0.1 wrote them for `--clean`."""
    options = {
        "clean": root / "images" / "train",
        "annotations": root / "labels" / "train",
        "test": root / "images" / "test",
        "test_annotations": root / "labels" / "test",
        "networks": "segformer_b0",
        "preset": "small-scratch",
        "size": "64x48",
        "steps": 1,
        "batch": 2,
        "device": "cpu",
    }
    settings = {
        "task": "semantic",
        "steps": 1,
        "batch": 2,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "eval_every": 250,
        "optimizer": "adamw",
        "momentum": 0.9,
        "decay": "cosine",
        "warm_up": 0.1,
        "clip": None,
        "size": [64, 48],
        "colour_jitter": True,
        "options": {},
        "objects": "all",
        "ignore_label": 255,
        "background_label": 0,
        "train": hash_of(root / "images" / "train", root / "labels" / "train"),
        "test": hash_of(root / "images" / "test", root / "labels" / "test"),
        "network": "segformer_b0",
        "condition": "random",
        "seed": 0,
        "images": {"budget": {"object": 8.0, "background": 2.0}},
    }
    result = {"metric": "miou", "final": 0.25, "best": 0.25, "train_loss": 1.0, "trivial": {"miou": 0.2}, "metrics": {}}
    facts = {"task": "semantic", "metric": "miou", "trivial": {"miou": 0.2}, "train_images": 6, "test_images": 3}
    before = {"tasks": {"semantic": facts}, "runs": [{"settings": settings, "result": result}]}
    (tmp_path / "results.json").write_text(json.dumps(before))
    evaluate(tmp_path, conditions="random", **options)
    assert "segformer_b0 on random, seed 0: done before, kept" in capsys.readouterr().out
