"""A name → a network with random weights. Opens no file; `unseg.storage.weights` fills networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
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


def build_generator(name: str) -> nn.Module:
    """The generator `name` (one of NAMES), with random weights; ValueError lists the names."""
    if name == COMPACT:
        return CompactGenerator()
    return build_noise_generator(_config(name))


def build_noise_generator(config: SamConfig) -> nn.Module:
    """SAM's generator of any sizes, with random weights."""
    from segment_anything_training.generator import (
        NoiseGenerator,  # takes two seconds that the compact one does not need
    )

    return NoiseGenerator(config)


def build_surrogate(name: str) -> nn.Module:
    """The surrogate `name` (one of SURROGATE_NAMES), with random weights; SAM's at 512 pixels.

    ValueError lists the names.
    """
    if name in (COMPACT, COMPACT_FINE):
        return CompactSurrogate(wide_stem=name == COMPACT)
    from segment_anything_training.surrogate import Surrogate

    return Surrogate(replace(_config(name, SURROGATE_NAMES), image_size=SURROGATE_IMAGE_SIZE))


def set_speed(
    network: nn.Module, bf16: bool, compiled: bool, *, half_blocks: torch.dtype | None = None, attention: str = "auto"
) -> None:
    """How a network computes, not what: it keeps its state names.

    bf16: large products in bfloat16, in networks derived from SAM; the compact ones stay as they are. compiled: their
    image encoder, or the whole of a compact network, through torch.compile, which does its work at the first call.
    half_blocks: the products of the image encoder's blocks in this type, all else in float32. attention: in the image
    encoder, one of `sizes.ATTENTION`.
    """
    if hasattr(network, "bf16"):
        network.bf16 = bf16
    if is_sam_derived(network):
        network.image_encoder.half = half_blocks
    set_attention(network, attention)
    set_compiled(network, compiled)


def set_attention(network: nn.Module, attention: str) -> None:
    """The form of attention, one of `sizes.ATTENTION`, in networks derived from SAM; the compact ones have none."""
    if is_sam_derived(network):
        for block in network.image_encoder.blocks:
            block.attn.form = attention


def set_compiled(network: nn.Module, compiled: bool) -> None:
    """Whether a network's image encoder, or the whole of a compact one, goes through torch.compile, for shapes that stay."""
    part = _compiled_part(network)
    part._compiled_call_impl = None  # what Module.compile sets; torch has no public way back
    if compiled:
        part.compile(dynamic=False)


@contextmanager
def eager_float32(network: nn.Module) -> Iterator[None]:
    """Inside, the network computes in float32 and uncompiled, whatever it was set to."""
    part, of_sam = _compiled_part(network), is_sam_derived(network)
    compiled, part._compiled_call_impl = part._compiled_call_impl, None
    if of_sam:
        before = network.bf16, network.image_encoder.half
        network.bf16, network.image_encoder.half = False, None
    try:
        yield
    finally:
        part._compiled_call_impl = compiled
        if of_sam:
            network.bf16, network.image_encoder.half = before


def is_sam_derived(network: nn.Module) -> bool:
    """Whether it has SAM's image encoder; the compact networks have none."""
    return hasattr(network, "image_encoder")


def _compiled_part(network: nn.Module) -> nn.Module:
    return getattr(network, "image_encoder", network)


def _config(name: str, names: tuple[str, ...] = NAMES) -> SamConfig:
    if name not in SAM_CONFIGS:
        raise ValueError(f"unknown network {name!r}; available: {', '.join(names)}")
    return SAM_CONFIGS[name]
