"""Protecting images plainly, as the published generation works: what the benchmark compares `unseg protect` with.

One image after another in one process, float32: decode with OpenCV, pad to a square, resize, the generator with
segment_anything's own encoder and the full matrix of attention, noise resized to the whole square, sum in floats, JPEG
by OpenCV, whose bytes break the bound. The same noise from the same weights; nothing of this is used to protect.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.plain_step import PlainGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.prompt_batch import Prompts
from unseg.method.config import Budget


@dataclass(frozen=True)
class PlainRun:
    """Holds what a run took. seconds: of every image, decoded to written. encoder_seconds: of the image encoder, every
    image; none without one. noise: the first image's, 3×N×N.
    """

    seconds: list[float]
    encoder_seconds: list[float]
    noise: torch.Tensor


def plain_network(network: nn.Module) -> nn.Module:
    """Returns the network that computes plainly; the compact generator has no other way, and stays."""
    return PlainGenerator(network) if isinstance(network, NoiseGenerator) else network


def protect_plainly(
    paths: Sequence[Path], out: Path, network: nn.Module, budget: Budget, device: torch.device
) -> PlainRun:
    """Protects the whole of every image, one by one. network: a generator of this project, before `plain_network`."""
    size, mask_size, antialias = network.image_size, network.mask_size, network.antialias
    plain = plain_network(network).to(device).eval()
    encoder_seconds = clock_encoder(network, device)
    out.mkdir(parents=True, exist_ok=True)
    seconds, noises = [], []
    for path in paths:
        started = time.perf_counter()
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = np.ones(image.shape[:2], np.float32)
        with torch.no_grad():
            noise = plain(*_inputs(image, mask, size, mask_size, antialias, device))[0]
            noised = _noised(image, mask, noise, mask_size, budget)
        cv2.imwrite(str(out / f"{path.stem}.jpg"), cv2.cvtColor(noised, cv2.COLOR_RGB2BGR))
        seconds.append(time.perf_counter() - started)
        noises = noises or [noise.cpu()]
    return PlainRun(seconds, encoder_seconds, noises[0])


def clock_encoder(network: nn.Module, device: torch.device) -> list[float]:
    """Returns a list that every call of the network's image encoder appends its seconds to.

    It stays empty where the network has no image encoder.
    """
    seconds: list[float] = []
    started = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    encoder = getattr(network, "image_encoder", None)
    if encoder is not None:
        encoder.register_forward_pre_hook(lambda module, given: started.append(now()))
        encoder.register_forward_hook(lambda module, given, result: seconds.append(now() - started.pop()))
    return seconds


def _padded(image_1CHW: torch.Tensor) -> torch.Tensor:
    """Returns images with zeros right and below, up to a square."""
    height, width = image_1CHW.shape[2:]
    side = max(height, width)
    return F.pad(image_1CHW, (0, side - width, 0, side - height))


def _inputs(
    image_HW3: np.ndarray, mask_HW: np.ndarray, size: int, mask_size: int, antialias: bool, device: torch.device
) -> tuple[torch.Tensor, Prompts]:
    image = _padded(torch.from_numpy(image_HW3).permute(2, 0, 1)[None].to(device).float() / 255)
    image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
    return image, Prompts(masks=_mask_prompt(mask_HW, size, mask_size, device) * 255)


def _mask_prompt(mask_HW: np.ndarray, size: int, mask_size: int, device: torch.device) -> torch.Tensor:
    label = F.interpolate(_padded(torch.from_numpy(mask_HW)[None, None].to(device)), (size, size), mode="nearest")
    return F.interpolate(label, (mask_size, mask_size), mode="bilinear", align_corners=False).round()


def _noised(
    image_HW3: np.ndarray, mask_HW: np.ndarray, noise_3NN: torch.Tensor, mask_size: int, budget: Budget
) -> np.ndarray:
    """Returns the unlearnable image, H×W×3 uint8."""
    height, width = mask_HW.shape
    side = max(height, width)
    noise = F.interpolate(noise_3NN[None], (side, side), mode="bilinear", align_corners=False)[0]
    region = F.interpolate(
        _mask_prompt(mask_HW, side, mask_size, noise.device), (side, side), mode="bilinear", align_corners=False
    ).round()[0]
    noise = noise * (region * budget.object + (1 - region) * budget.background) / 255
    image = torch.from_numpy(image_HW3).permute(2, 0, 1).to(noise.device).float() / 255
    noised = (image + noise[:, :height, :width]).clamp(0, 1) * 255
    return noised.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
