"""Attention with relative terms in forms that only GPUs need, and the fastest of several forms by measurement.

Shapes: B batch (of images, or of windows), n heads of width c, N = h·w tokens; q, k, v: B×n×N×c, rel_h: B×n×N×h,
rel_w: B×n×N×w (see `image_encoder.relative_terms`). All forms compute softmax(q·kᵀ/√c + rel_h[row] + rel_w[column])·v.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

Form = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

WARM_UPS, REPEATS = 2, 5
# How far a form may be from the reference, as a share of the reference's largest value: roundings of inputs and results,
# in float32 also those of TF32, in which fused kernels may multiply.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def bias_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """The fused kernel, with the terms as a B×n×N×N bias: for windows, whose N×N is small."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


def flex_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """FlexAttention: the kernel looks the terms up for every query and key, and nothing of size N×N is ever written.

    Compiled at the first call for each shape. For GPUs; see `image_encoder.forms_for`.
    """
    width = rel_w.shape[-1]

    def add_terms(logit, batch, head, query, key):
        return logit + rel_h[batch, head, query, key // width] + rel_w[batch, head, query, key % width]

    return compiled_flex_attention()(q, k, v, score_mod=add_terms)


@cache
def compiled_flex_attention() -> Callable[..., torch.Tensor]:
    """torch's kernel, compiled. Not at import: that takes a second or more, which nobody else should wait for."""
    from torch.nn.attention.flex_attention import flex_attention as uncompiled

    return torch.compile(uncompiled, dynamic=False)


@dataclass(frozen=True)
class Measured:
    """A form on inputs of one kind. seconds: the median call; None where it was dropped, for the reason `dropped`."""

    form: str
    seconds: float | None
    dropped: str | None = None


class Choices:
    """The fastest form for each kind of inputs (device, dtype, shape, with or without the way back), measured once.

    measured: everything that was, by a sentence that says for which inputs.
    """

    def __init__(self) -> None:
        self.measured: dict[str, list[Measured]] = {}

    def fastest(self, forms: Mapping[str, Form], inputs: tuple[torch.Tensor, ...]) -> str:
        """The name of the fastest of `forms` on such inputs; the first is the reference, which the others must match."""
        kind = describe(inputs)
        if kind not in self.measured:
            self.measured[kind] = measure(forms, inputs)
        return min(
            (found for found in self.measured[kind] if found.seconds is not None), key=lambda found: found.seconds
        ).form


def describe(inputs: tuple[torch.Tensor, ...]) -> str:
    """On what attention is measured: device, precision, shape, and whether the way back is."""
    q, rel_h, rel_w = inputs[0], inputs[3], inputs[4]
    batch, heads, tokens, channels = q.shape
    back = " and back" if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs) else ""
    return (
        f"{q.device}, {str(q.dtype).removeprefix('torch.')}, {batch}×{heads} heads of {tokens} tokens "
        f"({rel_h.shape[-1]}×{rel_w.shape[-1]}), {channels} wide{back}"
    )


def measure(forms: Mapping[str, Form], inputs: tuple[torch.Tensor, ...]) -> list[Measured]:
    """Every form on these inputs, with its way back where an input requires a gradient.

    The first is the reference: an error in it is the caller's. Another one is dropped where it does not compile or run, or
    where a value or gradient is too far from the reference's.
    """
    (first, reference), *others = forms.items()
    expected = _run(reference, inputs)
    found = [Measured(first, _seconds(reference, inputs))]
    for name, form in others:
        try:
            far = _mismatch(_run(form, inputs), expected)
            found.append(Measured(name, None if far else _seconds(form, inputs), far))
        except (RuntimeError, ValueError, ImportError) as error:  # of compilers, kernels and memory
            found.append(
                Measured(name, None, f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
            )
    return found


def _run(form: Form, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The result and, where an input requires a gradient, the gradients of its sum of squares."""
    result = form(*inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad] if torch.is_grad_enabled() else []
    return [result.detach(), *(torch.autograd.grad(result.square().sum(), wanted) if wanted else ())]


def _mismatch(found: list[torch.Tensor], expected: list[torch.Tensor]) -> str | None:
    """By how much two results of `_run` differ; None where it is within the tolerance."""
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp(min=torch.finfo(other.dtype).tiny)
        far = float((one.double() - other).abs().max() / scale)
        if not far <= TOLERANCES[other.dtype]:
            return f"differs from the reference by {far:.2g} of its largest value"
    return None


def _seconds(form: Form, inputs: tuple[torch.Tensor, ...]) -> float:
    """The median of some calls after others that are not counted."""
    on_gpu, times = inputs[0].is_cuda, []
    for index in range(WARM_UPS + REPEATS):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            _run(form, inputs)
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            started = time.perf_counter()
            _run(form, inputs)
            seconds = time.perf_counter() - started
        if index >= WARM_UPS:
            times.append(seconds)
    return sorted(times)[REPEATS // 2]
