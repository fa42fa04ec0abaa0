"""From photographs to a trained generator, to unlearnable copies, to the proof of their bound, as a user types it."""

import json
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from unseg.cli import main
from unseg.quickstart import PHOTOGRAPHS, copy_photographs

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Real photographs and their masks, in the layout that training reads."""
    root = tmp_path_factory.mktemp("photographs")
    copy_photographs(root)
    (root / "photographs").rename(root / "images")
    return root


def train_a_few_steps(photographs, run):
    """Trains on the photographs and their masks as they are; returns the weights."""
    assert (
        main(
            [
                "train",
                "--recipe",
                "smoke",
                "--data-root",
                str(photographs),
                "--output",
                str(run),
                "--device",
                "cpu",
                "--quiet",
            ]
        )
        == 0
    )
    return run / "generator.safetensors"


@pytest.fixture(scope="module")
def weights(photographs, tmp_path_factory):
    return train_a_few_steps(photographs, tmp_path_factory.mktemp("run"))


def test_train_protect_verify(photographs, weights, tmp_path, capsys):
    lines = [json.loads(line) for line in (weights.parent / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 12 and all(np.isfinite(line["surrogate_noised"]) for line in lines)

    out = tmp_path / "protected"
    arguments = [
        "protect",
        str(photographs / "images"),
        "--masks",
        str(photographs / "masks"),
        "--out",
        str(out),
        "--generator",
        str(weights),
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    for name in PHOTOGRAPHS:
        original = np.asarray(Image.open(photographs / "images" / name).convert("RGB")).astype(int)
        protected = np.asarray(Image.open((out / name).with_suffix(".png")).convert("RGB")).astype(int)
        mask = np.asarray(Image.open((photographs / "masks" / name).with_suffix(".png")).convert("L")) > 0
        change = np.abs(protected - original).max(-1)
        assert 0 < change[mask].max() <= 8 and change[~mask].max() <= 2
        assert change[mask].mean() > 2 * change[~mask].mean()

    assert main(["verify", str(out)]) == 0
    spoiled = (out / PHOTOGRAPHS[0]).with_suffix(".png")
    pixels = np.asarray(Image.open(spoiled)).copy()
    pixels[5, 5, 0] ^= 128
    Image.fromarray(pixels).save(spoiled)
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    assert spoiled.name in "".join(capsys.readouterr())


def test_training_twice_gives_the_same_weights(photographs, weights, tmp_path):
    first, second = load_file(weights), load_file(train_a_few_steps(photographs, tmp_path / "run"))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_shipped_generator_marks_objects_in_photographs_it_never_saw(photographs, tmp_path):
    assert (resources.files("unseg") / "weights" / "compact.safetensors").is_file()
    out = tmp_path / "protected"
    assert (
        main(
            [
                "protect",
                str(photographs / "images"),
                "--masks",
                str(photographs / "masks"),
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    for name in PHOTOGRAPHS:
        original = np.asarray(Image.open(photographs / "images" / name).convert("RGB")).astype(int)
        protected = np.asarray(Image.open((out / name).with_suffix(".png")).convert("RGB")).astype(int)
        mask = np.asarray(Image.open((photographs / "masks" / name).with_suffix(".png")).convert("L")) > 0
        change = np.abs(protected - original).mean(-1)
        assert change[mask].mean() > 3 > 2 >= change[~mask].max()  # a strong mark, not a faint one


def test_training_leaves_the_processors_arithmetic_as_it_was(weights):
    assert np.float32(1e-40) * np.float32(1) != 0  # numbers this small are flushed to zero while training runs
