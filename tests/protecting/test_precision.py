"""Half precision at generation: how far pixels move from float32's on real photographs, and that the bound holds all the same."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from segment_anything_training.compact import CompactGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sam import SamConfig
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting import protector
from unseg.protecting.manifest import read_manifest
from unseg.protecting.protector import Protector
from unseg.protecting.run import protect
from unseg.protecting.settings import ProtectSettings
from unseg.storage.image_decoding import read_image
from unseg.storage.image_encoding import write_png
from unseg.storage.weights import LoadedGenerator

TINY = SamConfig(128, embed_dim=96, depth=3, num_heads=3, global_blocks=(1,), window=4)


@pytest.fixture(scope="module")
def network() -> NoiseGenerator:
    torch.manual_seed(0)
    return NoiseGenerator(TINY).eval()


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [
        cv2.resize(getattr(skimage.data, name)(), (160, 120), interpolation=cv2.INTER_AREA)
        for name in ("astronaut", "coffee", "chelsea")
    ]


def test_bfloat16_moves_few_pixels_and_keeps_the_bound(network: NoiseGenerator, photographs: list[np.ndarray]) -> None:
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    exact = [Protector(network, Budget())(image, mask) for image in photographs]
    assert not network.bf16
    rough = [Protector(network, Budget(), precision="bfloat16")(image, mask) for image in photographs]
    assert network.bf16
    change = np.abs(np.stack(exact).astype(int) - np.stack(rough))
    assert 0 < (change > 0).mean() < 0.02  # it did compute in another precision, and little came of it
    assert change.max() <= 2
    for image, protected in zip(photographs, rough):
        moved = np.abs(protected.astype(int) - image).max(axis=2)
        assert (moved <= np.where(mask, 8, 2)).all() and moved.max() > 2
    again = [Protector(network, Budget())(image, mask) for image in photographs]
    assert all(np.array_equal(one, other) for one, other in zip(exact, again))


def test_the_compact_generator_stays_in_float32(photographs: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    compact = CompactGenerator()
    one, other = (
        Protector(compact, Budget(), precision=precision)(photographs[0]) for precision in ("float32", "bfloat16")
    )
    assert np.array_equal(one, other)


def test_precisions_are_not_mixed_in_one_folder(
    network: NoiseGenerator, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    write_png(tmp_path / "in" / "a.png", photographs[0])
    generator = LoadedGenerator(network, "custom", "tiny.safetensors", "0" * 64)
    settings = ProtectSettings(precision="bfloat16", device="cpu", workers=1)
    assert protect([tmp_path / "in"], tmp_path / "out", settings, generator=generator).exit_code == 0
    assert read_manifest(tmp_path / "out").header["settings"]["precision"] == "bfloat16"
    mask = np.ones((120, 160), bool)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the run had them: how bfloat16 sums are split decides their last bit
    try:
        expected = Protector(network, Budget(), precision="bfloat16")(photographs[0], mask)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").pixels, expected)
    with pytest.raises(UserError, match="precision: bfloat16, now float32"):
        protect([tmp_path / "in"], tmp_path / "out", ProtectSettings(device="cpu", workers=1), generator=generator)
    with pytest.raises(UserError, match="--precision half: choose from auto, float32, float16, bfloat16"):
        ProtectSettings(precision="half")


# float16: the blocks of the image encoder alone


def test_float16_keeps_the_goal(network: NoiseGenerator, photographs: list[np.ndarray]) -> None:
    """Of photographs that are wholly the object, 99.9 % of the values are float32's, and no other is a grey level away."""
    exact, rough = (
        [Protector(network, Budget(), precision=precision)(image) for image in photographs]
        for precision in ("float32", "float16")
    )
    change = np.abs(np.stack(exact).astype(int) - np.stack(rough))
    assert 0 < (change > 0).mean() <= 0.001 and change.max() == 1


def test_an_image_that_overflows_float16_is_made_in_float32(
    network: NoiseGenerator, photographs: list[np.ndarray]
) -> None:
    """And only that one: the others of the batch have what they have alone."""
    overflowing = copy.deepcopy(network)
    mask = np.ones((120, 160), bool)
    exact = Protector(copy.deepcopy(network), Budget())
    framed = [exact.frame(image, mask) for image in photographs]

    def spoil(module: torch.nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> torch.Tensor:
        # As a sum beyond 65,504 would be; it depends on the image and on the precision.
        result = result.clone()
        result[1] *= 1 if result.dtype == torch.float32 else float("inf")
        return result

    overflowing.image_encoder.blocks[0].mlp.lin2.register_forward_hook(spoil)
    rough, notes = Protector(overflowing, Budget(), precision="float16", batch_size=3), []
    made = rough.noise(framed, notes)
    assert notes == ["float16 overflowed in 1 of a batch, made in float32"]
    whole = Protector(copy.deepcopy(network), Budget(), batch_size=3)
    assert torch.equal(made[1], whole.noise(framed)[1])
    healthy = Protector(copy.deepcopy(network), Budget(), precision="float16", batch_size=3).noise(framed)
    assert torch.equal(made[[0, 2]], healthy[[0, 2]]) and not torch.equal(made[0], whole.noise(framed)[0])
    assert overflowing.image_encoder.half is torch.float16  # for the next batch


def test_auto_takes_float16_only_where_it_is_measured_to_hold(
    network: NoiseGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protector, "PROBES", 1)
    assert protector.measured_precision(network, torch.device("cpu"))[0] == "float16"
    monkeypatch.setattr(protector, "CHANGED_SHARE", 1e-7)
    chosen, sentence = protector.measured_precision(network, torch.device("cpu"))
    assert chosen == "float32" and sentence.startswith("precision: float32; in float16 99.9")


def test_what_overflowed_is_on_record(network: NoiseGenerator, photographs: list[np.ndarray], tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", photographs[0])
    broken = copy.deepcopy(network)
    broken.image_encoder.blocks[0].register_forward_hook(
        lambda module, given, result: result * float("inf") if torch.is_autocast_enabled("cpu") else result
    )
    settings = ProtectSettings(precision="float16", device="cpu", workers=1)
    summary = protect(
        [tmp_path / "in"], tmp_path / "out", settings, generator=LoadedGenerator(broken, "c", "t", "0" * 64)
    )
    assert summary.exit_code == 0 and summary.entries[0].note == "float16 overflowed in 1 of a batch, made in float32"
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").pixels, Protector(network, Budget())(photographs[0]))
