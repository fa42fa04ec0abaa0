"""Both forms of attention against the full matrix, on a grid that is not square, and which of them is taken where."""

from __future__ import annotations

import pytest
import torch

from segment_anything_training import image_encoder
from segment_anything_training.image_encoder import attend, folded_attention, tiled_attention

HEIGHT, WIDTH, CHANNELS = 6, 5, 16
FORMS = {"tiled": tiled_attention, "folded": folded_attention}


def inputs(gradients: bool = False, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    sides = (CHANNELS, CHANNELS, CHANNELS, HEIGHT, WIDTH)
    return tuple(torch.randn(2, 3, HEIGHT * WIDTH, side, dtype=dtype, requires_grad=gradients) for side in sides)


def full_matrix(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """As segment_anything adds its terms: key number i·width + j lies in row i and column j."""
    logits = (q @ k.transpose(-1, -2)) / CHANNELS**0.5
    logits = logits.unflatten(-1, (HEIGHT, WIDTH)) + rel_h[..., :, None] + rel_w[..., None, :]
    return logits.flatten(-2).softmax(-1) @ v


@pytest.mark.parametrize("name", FORMS)
def test_a_form_equals_the_full_matrix(name: str) -> None:
    given = inputs()
    torch.testing.assert_close(FORMS[name](*given), full_matrix(*given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_gradients_equal_those_of_the_full_matrix(name: str) -> None:
    given = inputs(gradients=True)
    results = [torch.autograd.grad(form(*given).square().sum(), given) for form in (FORMS[name], full_matrix)]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item()))


def test_tiles_are_for_full_precision_on_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_encoder, "tiled_attention", lambda *given: "tiled")
    monkeypatch.setattr(image_encoder, "folded_attention", lambda *given: "folded")
    kinds = (torch.float32, torch.float64, torch.bfloat16)
    assert [attend(*inputs(dtype=kind)) for kind in kinds] == ["tiled", "tiled", "folded"]
    assert attend(*(tensor.to("meta") for tensor in inputs())) == "folded"  # as on a GPU
