"""JPEG compression of the training images (Dziugaite et al., "A study of the effect of JPG compression on adversarial
images", 2016; against unlearnable images: Liu et al., "Image shortcut squeezing", ICML 2023)."""

from __future__ import annotations

from unseg.evaluation.conditions import reencoded
from unseg.evaluation.defences.kinds import ImageDefence


def jpeg(quality: int) -> ImageDefence:
    """Returns the defence that re-encodes at `quality`, 1 to 100, with 4:2:0 chroma subsampling."""
    return ImageDefence(f"jpeg{quality}", lambda name, pixels: reencoded(pixels, quality))
