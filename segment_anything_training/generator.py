"""The noise generator of the paper: a frozen SAM with a noise decoder."""

from __future__ import annotations

import torch
from torch import nn

from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.noise_decoder import NoiseDecoder
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import (
    Normalise,
    SamConfig,
    check_images,
    encode_prompts,
    mixed_precision,
    prompt_encoder,
)
from segment_anything_training.sizes import is_noise_part as is_noise_part


class NoiseGenerator(nn.Module):
    """Makes noise B×3×S/4×S/4 in [−1, 1] of images B×3×S×S in [0, 1], zeros where padded, and prompts.

    image_size: S. mask_size: side of mask prompts, S/4. antialias: how images are brought to S (False, as published).
    Only the parts that `is_noise_part` names require gradients. bf16: whether large products run in bfloat16.
    """

    antialias = False
    bf16 = False

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.mask_size = config.mask_size
        self.normalise = Normalise()
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = prompt_encoder(config)
        self.mask_decoder = NoiseDecoder(config.embed_dim)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_noise_part(name))

    def forward(self, images_B3SS: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        check_images(images_B3SS, self.image_size)
        encoded = encode_prompts(self.prompt_encoder, prompts, len(images_B3SS))
        position = self.prompt_encoder.get_dense_pe()
        with mixed_precision(images_B3SS.device, self.bf16):
            with torch.no_grad():  # frozen for good, so nothing of it is kept for the way back
                embeddings, first_global = self.image_encoder(self.normalise(images_B3SS))
            return self.mask_decoder(embeddings, first_global, position, encoded)
