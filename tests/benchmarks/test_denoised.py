"""How much of noise a network removes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.denoised import figures_of
from unseg.evaluation.defences.denoise import Denoiser


def taking(grey_levels: float) -> Denoiser:
    """A network that takes away as much from everything."""
    network = Denoiser()
    assert network.noise.bias is not None
    nn.init.constant_(network.noise.bias, grey_levels / 8)
    return network.requires_grad_(False)


def test_figures_by_hand() -> None:
    """Of 8 grey levels 6 are removed, of 2 three times as many; half the pixels have no noise but in the first kind."""
    clean = np.full((9, 14, 3), 100, np.uint8)
    part = clean.copy()
    part[:, :7] += 2
    found = figures_of(taking(6), [(clean, clean + 8), (clean, part), (clean, clean + 8)], ["codes", "tint", "codes"])
    assert found["codes"] == pytest.approx(
        {"energy_left": 4 / 64, "removed": 48 / 64, "changed_clean": 6, "noise": 8}, abs=6e-4
    )
    # The half with noise: -4 is left of 2; the other: -6 of 0. Taken away on the noise: 6 of 2.
    assert found["tint"] == pytest.approx({"energy_left": 52 / 4, "removed": 3, "changed_clean": 6, "noise": 1})


def test_network_that_changes_nothing_leaves_all() -> None:
    torch.manual_seed(0)
    clean = np.random.default_rng(0).integers(20, 200, (13, 10, 3), dtype=np.uint8)
    found = figures_of(Denoiser().requires_grad_(False), [(clean, clean + 5)], ["codes"])
    assert found == {"codes": {"energy_left": 1, "removed": 0, "changed_clean": 0, "noise": 5}}
