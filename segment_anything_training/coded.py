"""A compact generator that starts from codes: it adds to the patterns by formula what an image asks for.

Shapes: B batch, H×W an image, or a part of it, at the size at which people train.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segment_anything_training.compact import STRIDE, CompactUNet

COLOURS = 3
REACH = 2.0  # from one end of the budget to the other: the most that the network can add to a sign


class _Bounded(torch.autograd.Function):
    """Limits values to [−1, 1]. Beyond that, a gradient passes where a step against it leads back inside."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(-1, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors  # type: ignore[attr-defined]  # of the function's own context
        (gradient,) = gradients
        leads_out = ((values > 1) & (gradient < 0)) | ((values < -1) & (gradient > 0))
        return gradient.masked_fill(leads_out, 0)


def bounded(values: Tensor) -> Tensor:
    """Returns the values limited to [−1, 1], in such a way that descent can bring back those that lie beyond."""
    limited: Tensor = _Bounded.apply(values)
    return limited


class CodedGenerator(CompactUNet):
    """Makes noise of an image and of the signs of its codes' patterns, B×3×H×W in [−1, 1].

    forward: images B×3×H×W float32 in [0, 1]; signs B×3×H×W of −1, 0, 1 (0 where a pixel has no noise; elsewhere, of at
    least one colour, ±1); any H and W. The noise is the signs times a factor of each pixel, plus a residual of each
    colour, limited to [−1, 1]; it is 0 where all signs are. A new generator's noise is the signs.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 64, 96)) -> None:
        super().__init__(2 * COLOURS + 1, COLOURS + 1, widths)
        nn.init.zeros_(self.head.weight)

    def changes(self, images_B3HW: Tensor, signs_B3HW: Tensor) -> Tensor:
        """Returns a residual for each colour and what is added to the signs' factor of 1, B×4×H×W in [−2, 2]."""
        height, width = images_B3HW.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        coded = _coded(signs_B3HW).to(images_B3HW)
        planes = torch.cat([images_B3HW * 2 - 1, signs_B3HW, coded], 1)
        changes = REACH * torch.tanh(self.unet(F.pad(planes, padding, mode="replicate")))
        return changes[..., :height, :width]

    def forward(self, images_B3HW: Tensor, signs_B3HW: Tensor) -> Tensor:
        """Returns the noise."""
        return joined(signs_B3HW, self.changes(images_B3HW, signs_B3HW))


def joined(signs_B3HW: Tensor, changes_B4HW: Tensor) -> Tensor:
    """Returns the noise of signs and what a network changes about them: in [−1, 1], 0 where there is no code."""
    own, factor = changes_B4HW.split((COLOURS, 1), 1)
    return bounded(signs_B3HW * (1 + factor) + own) * _coded(signs_B3HW)


def _coded(signs_B3HW: Tensor) -> Tensor:
    return (signs_B3HW != 0).any(dim=1, keepdim=True)
