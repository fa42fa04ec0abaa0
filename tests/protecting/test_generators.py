"""Generators of a user's own: what is asked of them, how they are named, and what a manifest says of them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from segment_anything_training.compact import CompactGenerator
from segment_anything_training.prompt_batch import Prompts
from tests.support.fake_generator import FakeGenerator, loaded
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.generators import load_generator
from unseg.protecting.manifest import read_manifest
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.run import protect
from unseg.protecting.settings import ProtectSettings
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png

IMAGE = np.random.default_rng(0).integers(30, 226, (40, 70, 3), np.uint8)
MASK = np.zeros((40, 70), bool)
MASK[5:20, 30:66] = True

TOY = '''
import torch


class Toy(torch.nn.Module):
    """Red up on the object, down off it."""

    image_size = 35

    def forward(self, images, prompts):
        assert images.shape[1:] == (3, 35, 35) and prompts.masks.shape[1:] == (1, 35, 35)
        noise = torch.zeros_like(images)
        noise[:, 0] = torch.where(prompts.masks[:, 0] > 0, 1.0, -1.0)
        return noise


def build():
    return Toy()


def needs(size):
    return Toy()


ready = Toy()
number = 3
wrong = lambda: 3
'''


def toy(images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """Green up by twice the budget, over a frame of another size than the network's."""
    return torch.tensor([0.0, 2.0, 0.0])[None, :, None, None].expand(len(images), 3, 7, 7)


toy.image_size = 32  # type: ignore[attr-defined]  # the interface of a function


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a module of a user's own."""
    (tmp_path / "own_toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("own_toy", None)


def test_a_function_is_a_generator_and_cannot_break_the_budget() -> None:
    change = NetworkProtector(toy, Budget(8, 2), device="cpu")(IMAGE, MASK).astype(int) - IMAGE
    assert not change[..., [0, 2]].any() and (change[..., 1] == np.where(MASK, 8, 2)).all()


def test_a_network_gets_what_its_author_left_out(folder: Path) -> None:
    from own_toy import Toy

    network = NetworkProtector(Toy()).network
    assert (network.image_size, network.mask_size, network.antialias) == (35, 35, True)
    change = NetworkProtector(Toy(), Budget(8, 2), device="cpu")(IMAGE, MASK).astype(int) - IMAGE
    inside, outside = change[8:17, 36:60, 0], change[24:, :, 0]
    assert (inside == 8).all() and (outside == -2).all() and not change[..., 1:].any()


def test_generators_of_the_project_stay_what_they_are() -> None:
    network = FakeGenerator()
    assert NetworkProtector(network).network is network
    given = loaded()
    assert load_generator(given) is given and NetworkProtector(given).network is given.network
    compact = load_generator("compact")
    assert (compact.name, compact.source) == ("compact", "compact.safetensors")
    assert isinstance(compact.network, CompactGenerator)


def test_the_constructor_reads_no_file() -> None:
    protector = NetworkProtector("no-such-file.safetensors", device="cpu")
    with pytest.raises(UserError, match="no-such-file.safetensors: no such file"):
        protector(IMAGE, MASK)


@pytest.mark.parametrize("name", ["build", "Toy", "ready"])
def test_a_generator_may_be_named(folder: Path, name: str) -> None:
    opened = load_generator(f"own_toy:{name}")
    expected = hashlib.sha256((folder / "own_toy.py").read_bytes()).hexdigest()
    assert (opened.name, opened.source, opened.sha256) == ("own", f"own_toy:{name}", expected)
    assert opened.network.image_size == 35 and not opened.network.training
    assert np.array_equal(
        NetworkProtector(f"own_toy:{name}", device="cpu")(IMAGE, MASK),
        NetworkProtector(opened, device="cpu")(IMAGE, MASK),
    )


def test_an_object_is_known_by_its_source_file(folder: Path) -> None:
    from own_toy import ready

    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    for generator in (toy, functools.partial(toy)):
        opened = load_generator(_with_side(generator))
        assert (opened.name, opened.sha256) == ("own", here)
    assert load_generator(toy).source == "test_generators:toy"
    assert load_generator(ready).sha256 == hashlib.sha256((folder / "own_toy.py").read_bytes()).hexdigest()
    names: dict = {}
    exec("def f(images, prompts): return images\nf.image_size = 8", names)
    with pytest.raises(UserError, match="f is from no file, whose sha256 the manifest needs; define it in a module"):
        load_generator(names["f"])
    assert (
        NetworkProtector(names["f"], device="cpu")(IMAGE, MASK).shape == IMAGE.shape
    )  # in memory there is no manifest


def _with_side(generator: object) -> object:
    if isinstance(generator, functools.partial):
        generator.image_size = 32  # type: ignore[attr-defined]  # the interface of a function
    return generator


class Sized:
    image_size = "large"

    def __call__(self, images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (lambda images, prompts: images, "<lambda> has no image_size; give it the attribute image_size"),
        (Sized(), "Sized has image_size 'large'; give it the attribute image_size, the side in pixels"),
        (Sized, r"Sized is a class; give an object of it, Sized\(\)"),
        (3.5, "a float is no generator; give a name, a file, or a callable"),
    ],
)
def test_what_is_no_generator_is_refused(generator: object, message: str) -> None:
    with pytest.raises(UserError, match=f"--generator: .*{message}"):
        NetworkProtector(generator, device="cpu")(IMAGE, MASK)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needs", "own_toy:needs: cannot be called without arguments .*name a function that needs none"),
        ("number", "own_toy:number: is no generator and cannot be called to make one"),
        ("wrong", "own_toy:wrong: returns a int, which is no generator; return a callable"),
        ("absent", "has no absent; check the name"),
    ],
)
def test_a_name_that_gives_no_generator_is_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_generator(f"own_toy:{name}")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda images: images[:, :1], r"returns \(1, 1, 32, 32\) for 1 images; return noise B×3×N×N"),
        (lambda images: images[:, :, 1:], r"returns \(1, 3, 31, 32\) for 1 images"),
        (lambda images: images[0], r"returns \(3, 32, 32\) for 1 images"),
        (lambda images: images.numpy(), "returns ndarray, not a tensor of floats"),
        (lambda images: images.byte(), "returns torch.uint8, not a tensor of floats"),
        (lambda images: images * float("nan"), "noise is not finite"),
    ],
)
def test_what_is_no_noise_is_refused(result: object, message: str) -> None:
    def generator(images: torch.Tensor, prompts: Prompts) -> object:
        return result(images)

    generator.image_size = 32  # type: ignore[attr-defined]  # the interface of a function
    with pytest.raises(UserError, match=message):
        NetworkProtector(generator, device="cpu")(IMAGE, MASK)


def test_codes_of_a_users_own_tell_classes_apart() -> None:
    def generator(images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        return images

    generator.image_size, generator.codes = 32, 2  # type: ignore[attr-defined]  # the interface of a function
    generator.code_noise = lambda: torch.tensor([[1.0, 0, 0], [0, -1, 0]])  # type: ignore[attr-defined]  # as above
    change = NetworkProtector(generator, device="cpu").by_class(IMAGE, MASK.astype(np.uint8)).astype(int) - IMAGE
    assert (change[MASK] == [0, -8, 0]).all() and (change[~MASK] == [8, 0, 0]).all()


def test_a_folder_by_a_users_own_generator(folder: Path) -> None:
    write_png(folder / "in" / "a.png", IMAGE)
    settings = ProtectSettings(generator="own_toy:build", device="cpu", workers=1)
    assert protect("in", "out", settings, whole_image=True).exit_code == 0
    header = read_manifest(folder / "out").header
    sha256 = hashlib.sha256((folder / "own_toy.py").read_bytes()).hexdigest()
    assert header["generator"] == {"name": "own", "source": "own_toy:build", "sha256": sha256}
    assert (read_image(folder / "out" / "a.png").pixels.astype(int) - IMAGE)[:38, :, 0].min() == 8
    (folder / "own_toy.py").write_text(TOY + "# changed\n")
    with pytest.raises(UserError, match="other settings .*generator"):
        protect("in", "out", settings, whole_image=True)


@pytest.mark.slow
def test_the_command_takes_it_in_several_processes(folder: Path) -> None:
    for name in "abc":
        write_png(folder / "in" / f"{name}.png", IMAGE)
    program = "import sys; from unseg.cli import main; sys.exit(main())"
    options = [
        "protect",
        "--whole-image",
        "in",
        "--out",
        "out",
        "--generator",
        "own_toy:build",
        "--processes",
        "2",
        "--json",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", program, *options], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["protected"] == 3
