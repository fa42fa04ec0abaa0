"""SAM's mask decoder with the trainable parts that turn it into a noise decoder; all their names contain "noise".

Shapes: B batch, G side of the patch grid, D width of the image encoder, T sparse prompt tokens.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.mask_decoder import MLP
from torch import nn

from segment_anything_training.sam import (
    PROMPT_DIM,
    ChannelNorm,
    Convolution3,
    Doubling,
    EncodedPrompts,
    combine,
    run_tokens,
    token_transformer,
    use_fast_layers,
)

NOISE_CHANNELS = 3
FEATURES = PROMPT_DIM // 8

# Where the noise tokens' states are read. The tokens are [IoU 0, masks 1–4, noise 5–7, prompts 8 …], so 5 would be
# meant; the published code reads from 4 (last mask token, first two noise tokens) and its weights were trained so.
# Another value gives other noise from the published weights.
NOISE_STATES_START = 4


def upscale(dim: int, hidden: int) -> list[nn.Module]:
    """Returns layers that make four times the side: dim → hidden → 32 channels."""
    return [
        Doubling(dim, hidden),
        ChannelNorm(hidden),
        nn.GELU(),
        Doubling(hidden, FEATURES),
    ]


class NoiseDecoder(MaskDecoder):
    """Makes noise B×3×4G×4G in (−1, 1) of image embeddings, encoder features and prompts.

    SAM's mask and IoU outputs are not computed; their weights are kept, as the published state has them.
    """

    def __init__(self, encoder_dim: int) -> None:
        super().__init__(transformer_dim=PROMPT_DIM, transformer=token_transformer())
        use_fast_layers(self.output_upscaling)
        self.noise_token = nn.Embedding(NOISE_CHANNELS, PROMPT_DIM)
        self.noise_mlp = nn.ModuleList(MLP(PROMPT_DIM, PROMPT_DIM, FEATURES, 3) for _ in range(NOISE_CHANNELS))
        self.noise_compress_vit_feat = nn.Sequential(
            Convolution3(encoder_dim, encoder_dim),
            ChannelNorm(encoder_dim),
            nn.GELU(),
            *upscale(encoder_dim, PROMPT_DIM),
        )
        self.noise_embedding_encoder = nn.Sequential(
            Convolution3(PROMPT_DIM, PROMPT_DIM),
            ChannelNorm(PROMPT_DIM),
            nn.GELU(),
            *upscale(PROMPT_DIM, PROMPT_DIM // 4),
        )
        self.noise_embedding_maskfeature = nn.Sequential(
            Convolution3(FEATURES, 2 * FEATURES),
            ChannelNorm(2 * FEATURES),
            nn.GELU(),
            Convolution3(2 * FEATURES, FEATURES),
        )
        self._start_xavier()

    def _start_xavier(self) -> None:
        """Starts noise tokens and convolutions Xavier-uniform, as published; the MLPs keep PyTorch's start."""
        nn.init.xavier_uniform_(self.noise_token.weight)
        for part in (self.noise_compress_vit_feat, self.noise_embedding_encoder, self.noise_embedding_maskfeature):
            for layer in part:
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        embeddings_B256GG: torch.Tensor,
        first_global_BDGG: torch.Tensor,
        position_1256GG: torch.Tensor,
        prompts: EncodedPrompts,
    ) -> torch.Tensor:
        states, upscaled = run_tokens(self, self.output_tokens(), embeddings_B256GG, position_1256GG, prompts)
        return self.noise(states, upscaled, embeddings_B256GG, first_global_BDGG)

    def output_tokens(self) -> torch.Tensor:
        """Returns the tokens whose states make masks and noise, 8×256."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.noise_token.weight])

    def noise(
        self,
        states_BT256: torch.Tensor,
        upscaled_B32MM: torch.Tensor,
        embeddings_B256GG: torch.Tensor,
        first_global_BDGG: torch.Tensor,
    ) -> torch.Tensor:
        """Returns noise from the output tokens' states and the feature maps; M = 4G."""
        features = (
            self.noise_embedding_maskfeature(upscaled_B32MM)
            + self.noise_embedding_encoder(embeddings_B256GG)
            + self.noise_compress_vit_feat(first_global_BDGG)
        )
        weights = [mlp(states_BT256[:, NOISE_STATES_START + i]) for i, mlp in enumerate(self.noise_mlp)]
        return torch.tanh(combine(torch.stack(weights, dim=1), features))
