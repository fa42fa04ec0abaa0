"""Half precision at generation: how far pixels move from float32's on real photographs, and that the bound holds all
the same.
"""

from __future__ import annotations

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
from unseg.protecting.manifest import read_manifest
from unseg.protecting.network_protector import NetworkProtector
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
    exact = [NetworkProtector(network, Budget())(image, mask) for image in photographs]
    assert not network.bf16
    rough = [NetworkProtector(network, Budget(), precision="bfloat16")(image, mask) for image in photographs]
    assert network.bf16
    change = np.abs(np.stack(exact).astype(int) - np.stack(rough))
    assert 0 < (change > 0).mean() < 0.02  # it did compute in another precision, and little came of it
    assert change.max() <= 2
    for image, protected in zip(photographs, rough, strict=True):
        moved = np.abs(protected.astype(int) - image).max(axis=2)
        assert (moved <= np.where(mask, 8, 2)).all() and moved.max() > 2
    again = [NetworkProtector(network, Budget())(image, mask) for image in photographs]
    assert all(np.array_equal(one, other) for one, other in zip(exact, again, strict=True))


def test_protectors_that_share_a_network_keep_their_precisions(
    network: NoiseGenerator, photographs: list[np.ndarray]
) -> None:
    exact, rough = (NetworkProtector(network, precision=precision) for precision in ("float32", "bfloat16"))
    first = [made(photographs[0], whole_image=True) for made in (exact, rough)]
    assert not np.array_equal(*first)
    assert all(
        np.array_equal(made(photographs[0], whole_image=True), one)
        for made, one in zip((exact, rough), first, strict=True)
    )


def test_the_compact_generator_stays_in_float32(photographs: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    compact = CompactGenerator()
    one, other = (
        NetworkProtector(compact, Budget(), precision=precision)(photographs[0], whole_image=True)
        for precision in ("float32", "bfloat16")
    )
    assert np.array_equal(one, other)


def test_precisions_are_not_mixed_in_one_folder(
    network: NoiseGenerator, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    write_png(tmp_path / "in" / "a.png", photographs[0])
    generator = LoadedGenerator(network, "custom", "tiny.safetensors", "0" * 64)
    settings = ProtectSettings(precision="bfloat16", device="cpu", workers=1)
    made = protect([tmp_path / "in"], tmp_path / "out", settings, generator=generator, whole_image=True)
    assert not made.of("failed")
    assert read_manifest(tmp_path / "out").header["settings"]["precision"] == "bfloat16"
    mask = np.ones((120, 160), bool)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the run had them: how bfloat16 sums are split decides their last bit
    try:
        expected = NetworkProtector(network, Budget(), precision="bfloat16")(photographs[0], mask)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").pixels, expected)
    with pytest.raises(UserError, match="--precision: bfloat16, now float32"):
        protect(
            [tmp_path / "in"],
            tmp_path / "out",
            ProtectSettings(device="cpu", workers=1),
            generator=generator,
            whole_image=True,
        )
    with pytest.raises(UserError, match="--precision half: choose from float32, bfloat16"):
        ProtectSettings(precision="half")
