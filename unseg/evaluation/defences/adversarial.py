"""Adversarial training, the strongest known defence against unlearnable images (Huang et al., "Unlearnable examples",
ICLR 2021, section 5; Tao et al., NeurIPS 2021), in the fast form of Wong et al. ("Fast is better than free", ICLR
2020): one signed gradient step of 1.25 ε from a random start, which doubles the cost of a training step."""

from __future__ import annotations

import torch

from unseg.evaluation.defences.kinds import Batch, BatchDefence

STEP = 1.25  # of ε: the paper's choice
GREY_LEVELS = 255.0


def adversarial_training(levels: int) -> BatchDefence:
    """Returns the defence that trains on views changed against the network by at most `levels` grey levels a value."""
    bound = levels / GREY_LEVELS

    def change(batch: Batch, draw: torch.Generator) -> Batch:
        seed = int(torch.randint(2**62, (1,), generator=draw))
        own_draw = torch.Generator().manual_seed(seed)
        start = (torch.rand(batch.images.shape, generator=own_draw) * 2 - 1) * bound
        change_B3HW = start.to(batch.images.device).requires_grad_()
        loss = batch.loss(batch.images + change_B3HW, batch.targets)
        (gradient,) = torch.autograd.grad(loss, change_B3HW)
        moved = (change_B3HW.detach() + STEP * bound * gradient.sign()).clamp(-bound, bound)
        return Batch((batch.images + moved).clamp(0, 1), batch.targets, batch.loss)

    return BatchDefence(f"at{levels}", change)
