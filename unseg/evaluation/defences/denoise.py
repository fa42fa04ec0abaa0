"""A network that removes the noise, trained by someone who has the public code: it protects other photographs with
another key and learns the way back (Qin et al., "Learning the unlearnable", 2023, for the idea).

The network is a U-Net (Ronneberger et al., MICCAI 2015) that predicts what to take away (Zhang et al., "Beyond a
Gaussian denoiser", TIP 2017) from an image whose 2×2 blocks became channels (Zhang et al., "FFDNet", TIP 2018). It sees
about 90 pixels at a time: several waves of the default noise. It learns by the squared error. By the absolute one it
would stay silent as long as it does not know the sign of the noise.
"""

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
# What results call the network and its training: figures of another one are measured anew.
VERSION = "u-net-1"
CHANNELS = 24
BLOCK = 2  # pixels on a side that become channels
HALVINGS = 4 * BLOCK  # what each side of an image is padded to a multiple of
STEPS, BATCH, CROP = 1000, 8, 128
LEARNING_RATE, WARM_UP = 2e-3, 0.1
GREY_LEVELS = 255.0
UNIT = 8 / GREY_LEVELS  # of what the network predicts: about the budget on objects


def _convolutions(before: int, after: int) -> nn.Sequential:
    def one(channels: int) -> nn.Conv2d:
        return nn.Conv2d(channels, after, 3, padding=1, padding_mode="replicate")

    return nn.Sequential(one(before), nn.ReLU(), one(after), nn.ReLU())


class Denoiser(nn.Module):
    """A U-Net of three levels; answers with the image less the noise that it sees. B×3×H×W in [0, 1] to the same."""

    def __init__(self) -> None:
        super().__init__()
        blocks = 3 * BLOCK**2
        self.fine = _convolutions(blocks, CHANNELS)
        self.middle = _convolutions(CHANNELS, 2 * CHANNELS)
        self.coarse = _convolutions(2 * CHANNELS, 4 * CHANNELS)
        self.back_to_middle = _convolutions(6 * CHANNELS, 2 * CHANNELS)
        self.back_to_fine = _convolutions(3 * CHANNELS, CHANNELS)
        self.noise = nn.Conv2d(CHANNELS, blocks, 1)
        nn.init.zeros_(self.noise.weight)  # so that it starts by changing nothing
        assert self.noise.bias is not None
        nn.init.zeros_(self.noise.bias)

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Returns the images without the noise."""
        height, width = images_B3HW.shape[2:]
        padded = F.pad(images_B3HW, (0, -width % HALVINGS, 0, -height % HALVINGS), mode="replicate")
        fine = self.fine(F.pixel_unshuffle(padded - 0.5, BLOCK))
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.back_to_middle(_beside(coarse, middle))
        noise = F.pixel_shuffle(self.noise(self.back_to_fine(_beside(middle, fine))), BLOCK)
        return images_B3HW - UNIT * noise[..., :height, :width]


def _beside(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Returns the channels of both, the coarse ones enlarged to twice their size."""
    return torch.cat([F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine], 1)


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
    """Returns a denoiser trained on random crops, with the mean squared error. UserError where there is no pair to
    learn from."""
    usable = [pair for pair in pairs if min(pair[0].shape[:2]) >= CROP]
    if not usable:
        raise UserError(f"denoise: needs photographs of at least {CROP}×{CROP} pixels with their protected versions")
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Denoiser()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=WARM_UP)
    for _ in track(progress, range(steps), steps, "denoise: training"):
        clean, protected = _batch(usable, draw)
        loss = F.mse_loss(network(protected), clean) / UNIT**2
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
