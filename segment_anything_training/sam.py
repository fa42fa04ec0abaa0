"""What generator and surrogate share of SAM: sizes, normalisation, prompt encoding, the token transformer.

Shapes: B batch, S side of the input, G = S/16 side of the patch grid, T tokens. SAM's own modules come from the
`segment-anything` package; only what this project computes in another way is written here.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from segment_anything_training.prompts import Prompts

PATCH_SIZE = 16
PROMPT_DIM = 256
FOREGROUND_POINT = 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SamConfig:
    """The sizes in which SAM's networks differ; everything else is the same in all of them.

    image_size: side of the square input, a multiple of 16. window: side of the attention windows, in patches.
    global_blocks: the blocks that attend over the whole grid; the first one's output feeds the noise decoder.
    """

    image_size: int
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window: int = 14

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % PATCH_SIZE:
            raise ValueError(f"image_size {self.image_size}: expected a positive multiple of {PATCH_SIZE}")
        if self.num_heads <= 0 or self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads")
        if not self.global_blocks or not all(0 <= index < self.depth for index in self.global_blocks):
            raise ValueError(f"global_blocks {self.global_blocks}: expected one or more below depth {self.depth}")

    @property
    def grid(self) -> int:
        """Side of the patch grid."""
        return self.image_size // PATCH_SIZE

    @property
    def mask_size(self) -> int:
        """Side of mask prompts, and of the noise or logits that come out."""
        return 4 * self.grid


class Normalise(nn.Module):
    """Pixels in [0, 1] → ImageNet's zero mean and unit deviation. Holds no state entries."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        return (images_B3SS - self.mean) / self.std


def check_images(images_B3SS: torch.Tensor, image_size: int) -> None:
    """Raise ValueError unless `images` is a batch of square colour images of the network's input size."""
    if images_B3SS.ndim != 4 or images_B3SS.shape[1:] != (3, image_size, image_size):
        raise ValueError(f"images: expected B×3×{image_size}×{image_size}, got {tuple(images_B3SS.shape)}")


def prompt_encoder(config: SamConfig) -> PromptEncoder:
    """SAM's prompt encoder for this input size."""
    return PromptEncoder(
        embed_dim=PROMPT_DIM,
        image_embedding_size=(config.grid, config.grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=16,
    )


def token_transformer() -> TwoWayTransformer:
    """The transformer of SAM's mask decoder, equal in every size."""
    return TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8)


def encode_prompts(encoder: PromptEncoder, prompts: Prompts, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse embeddings B×T×256 (points, then box corners) and dense ones B×256×G×G of a batch's prompts.

    SAM adds a padding point to points that come without a box; without any prompt T is 0.
    """
    for name, field in (("masks", prompts.masks), ("boxes", prompts.boxes), ("points", prompts.points)):
        if field is not None and field.shape[0] != batch:
            raise ValueError(f"prompts.{name}: {field.shape[0]} entries for {batch} images")
    points = None
    if prompts.points is not None:
        labels = torch.full(prompts.points.shape[:2], FOREGROUND_POINT, device=prompts.points.device)
        points = (prompts.points, labels)
    sparse, dense = encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    return sparse.expand(batch, -1, -1), dense.expand(batch, -1, -1, -1)


def run_tokens(
    decoder: MaskDecoder,
    output_tokens_K256: torch.Tensor,
    embeddings_B256GG: torch.Tensor,
    position_1256GG: torch.Tensor,
    sparse_BT256: torch.Tensor,
    dense_B256GG: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let output tokens and prompts attend to the images, each of the batch to its own.

    SAM's `predict_masks` does this for many prompts of one image by repeating that image; here image and prompt number
    i belong together, so that a whole batch is decoded at once. Returns the tokens' states B×(K+T)×256 and the
    up-scaled image embedding B×32×4G×4G.
    """
    batch, channels, height, width = embeddings_B256GG.shape
    tokens = torch.cat([output_tokens_K256.expand(batch, -1, -1), sparse_BT256], dim=1)
    position = position_1256GG.expand(batch, -1, -1, -1)
    states, image = decoder.transformer(embeddings_B256GG + dense_B256GG, position, tokens)
    image = image.transpose(1, 2).reshape(batch, channels, height, width)
    return states, decoder.output_upscaling(image)


def combine(weights_BKC: torch.Tensor, features_BCHW: torch.Tensor) -> torch.Tensor:
    """K maps, each a weighted sum of C feature maps: B×K×H×W."""
    batch, _, height, width = features_BCHW.shape
    return (weights_BKC @ features_BCHW.flatten(2)).view(batch, -1, height, width)
