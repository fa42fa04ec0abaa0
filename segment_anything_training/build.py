"""A name → a network with random weights. Opens no file; `unseg.storage.weights` fills networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from segment_anything_training.compact import CompactGenerator, CompactSurrogate
from segment_anything_training.sizes import SamConfig

COMPACT = "compact"
COMPACT_FINE = "compact_fine"  # the compact surrogate that starts with 3×3 pixels at full resolution
SURROGATE_IMAGE_SIZE = 512

# The sizes of SAM's three released models, as the generator uses them.
SAM_CONFIGS = {
    "vit_b": SamConfig(1024, embed_dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SamConfig(1024, embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamConfig(1024, embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
}
NAMES = (*SAM_CONFIGS, COMPACT)
SURROGATE_NAMES = (*NAMES, COMPACT_FINE)


def build_generator(name: str, code_prompt: bool = False) -> nn.Module:
    """Returns the generator `name` (one of NAMES) with random weights; raises ValueError, which lists the names.

    code_prompt: whether it takes the codes of pixels as a prompt, which only SAM's can.
    """
    if name == COMPACT:
        if code_prompt:
            raise ValueError(f"takes no codes as a prompt; choose from {', '.join(SAM_CONFIGS)}")
        return CompactGenerator()
    return build_noise_generator(replace(_config(name), code_prompt=code_prompt))


def build_noise_generator(config: SamConfig) -> nn.Module:
    """Returns SAM's generator of any sizes, with random weights."""
    from segment_anything_training.generator import (
        NoiseGenerator,  # takes two seconds that the compact one does not need
    )

    return NoiseGenerator(config)


def build_surrogate(name: str) -> nn.Module:
    """Returns the surrogate `name` (one of SURROGATE_NAMES) with random weights; SAM's take 512 pixels.

    Raises ValueError, which lists the names, for another.
    """
    if name in (COMPACT, COMPACT_FINE):
        return CompactSurrogate(wide_stem=name == COMPACT)
    from segment_anything_training.surrogate import Surrogate

    return Surrogate(replace(_config(name, SURROGATE_NAMES), image_size=SURROGATE_IMAGE_SIZE))


def set_speed(network: nn.Module, bf16: bool) -> None:
    """Sets how a network computes; its state names stay.

    bf16: whether large products run in bfloat16, in networks derived from SAM; the compact ones stay in float32.
    """
    if hasattr(network, "bf16"):
        cast(Any, network).bf16 = bf16


def is_sam_derived(network: nn.Module) -> bool:
    """Returns whether a network has SAM's image encoder; the compact networks have none."""
    return hasattr(network, "image_encoder")


def _config(name: str, names: tuple[str, ...] = NAMES) -> SamConfig:
    if name not in SAM_CONFIGS:
        raise ValueError(f"unknown network {name!r}; available: {', '.join(names)}")
    return SAM_CONFIGS[name]
