"""The sizes and names of SAM's networks, apart from the networks: importing those takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

PATCH_SIZE = 16
# Bounds far above any released network (ViT-H: 1024, 1280, 32): sizes come from files that strangers may have written.
MOST_PIXELS, MOST_WIDTH, MOST_BLOCKS = 4096, 8192, 128


@dataclass(frozen=True)
class SamConfig:
    """Holds the sizes in which SAM's networks differ; everything else is the same in all of them.

    image_size: side of the square input, a multiple of 16. window: side of the attention windows, in patches.
    global_blocks: the blocks that attend over the whole grid; the first one's output feeds the noise decoder.
    code_prompt: whether a generator takes the codes of pixels as a prompt, too. A ValueError says which of them no
    network can have.
    """

    image_size: int
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    code_prompt: bool = False

    def __post_init__(self) -> None:
        for name, most in (
            ("image_size", MOST_PIXELS),
            ("embed_dim", MOST_WIDTH),
            ("depth", MOST_BLOCKS),
            ("num_heads", MOST_WIDTH),
            ("window", MOST_PIXELS // PATCH_SIZE),
        ):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} {value!r}: expected a whole number from 1 to {most}")
        if type(self.code_prompt) is not bool:
            raise ValueError(f"code_prompt {self.code_prompt!r}: expected true or false")
        if self.image_size % PATCH_SIZE:
            raise ValueError(f"image_size {self.image_size}: expected a positive multiple of {PATCH_SIZE}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads")
        if not self.global_blocks or not all(
            type(index) is int and 0 <= index < self.depth for index in self.global_blocks
        ):
            raise ValueError(f"global_blocks {self.global_blocks}: expected one or more below depth {self.depth}")

    @property
    def grid(self) -> int:
        """Returns the side of the patch grid."""
        return self.image_size // PATCH_SIZE

    @property
    def mask_size(self) -> int:
        """Returns the side of mask prompts, and of the noise or logits that come out."""
        return 4 * self.grid


def is_noise_part(name: str) -> bool:
    """Returns whether a parameter or state entry is of the parts added to SAM, the only ones that are trained."""
    return "noise" in name
