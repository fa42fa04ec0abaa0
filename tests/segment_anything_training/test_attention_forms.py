"""Every form of attention against the full matrix, and the choice of the fastest among those that agree."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention as uncompiled_flex_attention

from segment_anything_training import attention_forms, build, image_encoder
from segment_anything_training.attention_forms import Choices, Measured, measure
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.image_encoder import forms_for
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import SamConfig

HEIGHT, WIDTH, CHANNELS = 6, 5, 16


def inputs(gradients: bool = False, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    sides = (CHANNELS, CHANNELS, CHANNELS, HEIGHT, WIDTH)
    return tuple(torch.randn(2, 3, HEIGHT * WIDTH, side, dtype=dtype, requires_grad=gradients) for side in sides)


def full_matrix(q, k, v, rel_h, rel_w):
    """As segment_anything adds its terms: key number i·width + j lies in row i and column j."""
    logits = (q @ k.transpose(-1, -2)) / CHANNELS**0.5
    logits = logits.unflatten(-1, (HEIGHT, WIDTH)) + rel_h[..., :, None] + rel_w[..., None, :]
    return logits.flatten(-2).softmax(-1) @ v


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as torch computes it uncompiled: the same terms, unfused."""
    monkeypatch.setattr(attention_forms, "compiled_flex_attention", lambda: uncompiled_flex_attention)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_form_equals_the_full_matrix(without_compiler: None) -> None:
    given = inputs()
    forms = {**forms_for(given[0], HEIGHT * WIDTH), "flex": attention_forms.flex_attention}
    assert list(forms) == ["tiled", "folded", "bias", "flex"]
    for name, form in forms.items():
        torch.testing.assert_close(form(*given), full_matrix(*given), rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["tiled", "folded", "bias"])  # flex has no backward on a CPU
def test_gradients_equal_those_of_the_full_matrix(name: str) -> None:
    given = inputs(gradients=True)
    results = [
        torch.autograd.grad(form(*given).square().sum(), given)
        for form in (forms_for(given[0], HEIGHT * WIDTH)[name], full_matrix)
    ]
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item()))


def test_forms_are_those_of_the_device() -> None:
    assert list(forms_for(torch.zeros(1), 4096)) == ["tiled", "folded"]
    assert list(forms_for(torch.zeros(1, dtype=torch.float16), 196)) == ["folded", "bias"]
    assert list(forms_for(torch.zeros(1, device="meta"), 196)) == ["folded", "flex", "bias"]  # as on a GPU


# The fastest


def slowly(form):
    def attend(*given):
        for _ in range(40):
            form(*given)
        return form(*given)

    return attend


def failing(*given):
    raise NotImplementedError("no kernel for this card\nand more")


def wrong(q, k, v, rel_h, rel_w):
    return full_matrix(q, k, v, rel_h * 1.05, rel_w)


def wrong_gradient(q, k, v, rel_h, rel_w):
    return full_matrix(q, k, v, rel_h.detach(), rel_w)


def test_the_fastest_that_agrees_is_kept_and_measured_once() -> None:
    choices, forms = Choices(), {"slow": slowly(full_matrix), "wrong": wrong, "none": failing, "fast": full_matrix}
    assert choices.fastest(forms, inputs()) == "fast"
    ((kind, found),) = choices.measured.items()
    assert kind == "cpu, float32, 2×3 heads of 30 tokens (6×5), 16 wide"
    assert [one.form for one in found] == list(forms) and found[0].seconds > found[3].seconds > 0
    assert found[1].seconds is None and found[1].dropped.startswith("differs from the reference by 0.")
    assert found[2] == Measured("none", None, "NotImplementedError: no kernel for this card")
    assert choices.fastest({"slow": failing}, inputs()) == "fast"  # not measured again
    assert choices.fastest(forms, inputs(gradients=True)) == "fast" and len(choices.measured) == 2


def test_gradients_count_where_they_are_wanted() -> None:
    forms = {"right": full_matrix, "half": wrong_gradient}
    assert measure(forms, inputs())[1].dropped is None
    with torch.no_grad():
        assert measure(forms, inputs(gradients=True))[1].dropped is None
    assert measure(forms, inputs(gradients=True))[1].dropped.startswith(
        "RuntimeError: One of the differentiated Tensors"
    )


def test_a_result_that_is_not_finite_is_dropped() -> None:
    assert measure({"a": full_matrix, "b": lambda *given: full_matrix(*given) * float("nan")}, inputs())[1].dropped


def test_an_encoder_takes_the_form_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NoiseGenerator(SamConfig(64, embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), window=3)).eval()
    torch.manual_seed(0)
    for block in network.image_encoder.blocks:
        torch.nn.init.normal_(block.attn.rel_pos_h)
        torch.nn.init.normal_(block.attn.rel_pos_w)
    given = torch.rand(1, 3, 64, 64), Prompts(masks=torch.zeros(1, 1, 16, 16))
    called: list[str] = []
    for name in ("tiled", "folded", "bias"):
        form = getattr(image_encoder, f"{name}_attention")
        monkeypatch.setattr(
            image_encoder,
            f"{name}_attention",
            lambda *tensors, name=name, form=form: called.append(name) or form(*tensors),
        )
    monkeypatch.setattr(image_encoder, "BIAS_TOKENS", 9)  # windows have 9 tokens, the grid 16
    noises = []
    for name in ("auto", "folded", "bias"):
        build.set_speed(network, bf16=False, compiled=False, attention=name)
        with torch.inference_mode():
            noises.append(network(*given))
    # Without gradients, auto on a processor has a way of its own through the blocks.
    assert called[-4:] == ["folded", "folded", "bias", "tiled"]
    torch.testing.assert_close(noises[1], noises[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(noises[2], noises[0], rtol=0, atol=1e-5)
    monkeypatch.setattr(image_encoder, "choices", Choices())
    monkeypatch.setattr(image_encoder, "bias_attention", failing)
    build.set_speed(network, bf16=False, compiled=False, attention="fastest")
    with torch.inference_mode():
        torch.testing.assert_close(network(*given), noises[0], rtol=0, atol=1e-5)
    assert all(block.attn.form in ("tiled", "folded") for block in network.image_encoder.blocks)
    assert len(image_encoder.choices.measured) == 2  # of a window and of the grid
