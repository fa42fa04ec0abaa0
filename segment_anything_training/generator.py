"""The noise generator of the paper: a frozen SAM with a noise decoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.noise_decoder import NoiseDecoder
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import (
    PROMPT_DIM,
    ChannelNorm,
    EncodedPrompts,
    Normalise,
    SamConfig,
    check_images,
    encode_prompts,
    mixed_precision,
    prompt_encoder,
)
from segment_anything_training.sizes import is_noise_part as is_noise_part

CODE_CHANNELS = 3
CODE_WIDTHS = (16, 64)


def code_embedding() -> nn.Sequential:
    """Returns layers that turn codes, B×3×4G×4G, into a part of the dense prompt, B×256×G×G, as SAM does with masks.

    The last one starts at zero, so that a new generator makes the noise that it makes without codes.
    """
    small, large = CODE_WIDTHS
    last = nn.Conv2d(large, PROMPT_DIM, 1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(CODE_CHANNELS, small, 2, stride=2),
        ChannelNorm(small),
        nn.GELU(),
        nn.Conv2d(small, large, 2, stride=2),
        ChannelNorm(large),
        nn.GELU(),
        last,
    )


class NoiseGenerator(nn.Module):
    """Makes noise B×3×S/4×S/4 in [−1, 1] of images B×3×S×S in [0, 1], zeros where padded, and prompts.

    image_size: S. mask_size: side of mask prompts, S/4. antialias: how images are brought to S (False, as published).
    takes_codes: whether prompts must hold codes, which are added to the dense prompt that a mask makes. Only the parts
    that `is_noise_part` names require gradients. bf16: whether large products run in bfloat16.
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
        self.takes_codes = config.code_prompt
        if self.takes_codes:  # last, so that everything before draws the random weights that it draws without
            self.noise_code_embedding = code_embedding()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_noise_part(name))

    def forward(self, images_B3SS: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        check_images(images_B3SS, self.image_size)
        encoded = self._with_codes(encode_prompts(self.prompt_encoder, prompts, len(images_B3SS)), prompts)
        position = self.prompt_encoder.get_dense_pe()
        with mixed_precision(images_B3SS.device, self.bf16):
            with torch.no_grad():  # frozen for good, so nothing of it is kept for the way back
                embeddings, first_global = self.image_encoder(self.normalise(images_B3SS))
            return self.mask_decoder(embeddings, first_global, position, encoded)

    def _with_codes(self, encoded: EncodedPrompts, prompts: Prompts) -> EncodedPrompts:
        if self.takes_codes != (prompts.codes is not None):
            raise ValueError(f"prompts.codes: this generator takes {'them' if self.takes_codes else 'none'}")
        if prompts.codes is None:
            return encoded
        side = self.mask_size
        if prompts.codes.shape[1:] != (CODE_CHANNELS, side, side):
            raise ValueError(f"prompts.codes: expected B×3×{side}×{side}, got {tuple(prompts.codes.shape)}")
        return replace(encoded, dense_B256GG=encoded.dense_B256GG + self.noise_code_embedding(prompts.codes))
