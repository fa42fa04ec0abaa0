"""A network that removes the noise, trained by someone who has the public code: it protects other photographs with
another key and learns the way back (Zhang et al., "Beyond a Gaussian denoiser", TIP 2017, for the network, which
predicts what to take away; Qin et al., "Learning the unlearnable", 2023, for the idea)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unseg.compute.progress import SILENT, Progress, track
from unseg.errors import UserError
from unseg.evaluation.defences.kinds import ImageChange, SetDefence, TrainingSet

# The clean and the protected version of each photograph, H×W×3 uint8 of one size.
Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
CHANNELS, LAYERS = 32, 6
STEPS, BATCH, CROP = 600, 8, 64
LEARNING_RATE = 2e-3
GREY_LEVELS = 255.0


class Denoiser(nn.Module):
    """3×3 convolutions with ReLU between; answers with the image less the noise that it sees. B×3×H×W in [0, 1] to
    the same."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[CHANNELS] * (LAYERS - 1), 3]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate"), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        last = layers[-2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)  # so that it starts by changing nothing
        nn.init.zeros_(last.bias)

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Returns the images without the noise."""
        return images_B3HW - self.layers(images_B3HW)


def denoise(pairs: Callable[[], Pairs], steps: int = STEPS, *, progress: Progress = SILENT) -> SetDefence:
    """Returns the defence that trains a denoiser on `pairs` for `steps` steps and applies it to every image.

    The training set itself is not looked at: its clean versions are unknown to whoever defends. So one denoiser a seed
    is trained, and the same defence uses it again on other sets.
    """

    @functools.cache
    def network_of(seed: int) -> Denoiser:
        return train_denoiser(pairs(), steps, seed, progress=progress)

    def fit(training: TrainingSet, seed: int) -> ImageChange:
        network = network_of(seed)
        return lambda name, pixels: denoised(network, pixels)

    return SetDefence("denoise", fit)


def train_denoiser(pairs: Pairs, steps: int, seed: int, *, progress: Progress = SILENT) -> Denoiser:
    """Returns a denoiser trained on random crops, with the mean absolute error. UserError where there is no pair to
    learn from."""
    usable = [pair for pair in pairs if min(pair[0].shape[:2]) >= CROP]
    if not usable:
        raise UserError(f"denoise: needs photographs of at least {CROP}×{CROP} pixels with their protected versions")
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Denoiser()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(progress, range(steps), steps, "denoise: training"):
        clean, protected = _batch(usable, draw)
        loss = F.l1_loss(network(protected), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def denoised(network: Denoiser, pixels_HW3: np.ndarray) -> np.ndarray:
    """Returns the image (uint8) as the denoiser leaves it."""
    image = torch.from_numpy(np.ascontiguousarray(pixels_HW3)).permute(2, 0, 1)[None].to(torch.float32) / GREY_LEVELS
    values = (network(image)[0] * GREY_LEVELS).clamp(0, 255).round().to(torch.uint8)
    return values.permute(1, 2, 0).contiguous().numpy()


def _batch(pairs: Pairs, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns BATCH crops of random pairs: clean and protected, B×3×CROP×CROP float32 in [0, 1]."""
    crops = []
    for which, y, x in torch.rand(BATCH, 3, generator=draw).tolist():
        clean, protected = pairs[int(which * len(pairs))]
        top, left = (int(share * (side - CROP + 1)) for share, side in zip((y, x), clean.shape[:2], strict=True))
        part = slice(top, top + CROP), slice(left, left + CROP)
        crops.append(np.stack([clean[part], protected[part]]))
    both = torch.from_numpy(np.stack(crops)).permute(1, 0, 4, 2, 3).to(torch.float32) / GREY_LEVELS
    return both[0], both[1]
