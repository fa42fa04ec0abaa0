"""The networks computed plainly, as the published training does: what the benchmark compares this project's step with.

The same weights under the same names, but attention with the full N×N logits and bias, norms of pixels made of single
operations, PyTorch's own convolutions, and images that are encoded together but go one at a time through
segment_anything's own prompt encoder and token transformer and through the decoder. Nothing of this is used to train or
to protect.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention as SamAttention
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.image_encoder import Attention
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import FOREGROUND_POINT, ChannelNorm, Convolution3, Doubling
from segment_anything_training.surrogate import Surrogate


class WindowedAttention(SamAttention):
    """Computes SAM's attention, with what SAM's blocks do around it: larger grids than its tables are cut up."""

    def forward(self, x_BHWD: Tensor) -> Tensor:
        size = (len(self.rel_pos_h) + 1) // 2
        windows, filled_up = window_partition(x_BHWD, size)
        return window_unpartition(super().forward(windows), size, filled_up, x_BHWD.shape[1:3])


def with_plain_parts(network: NoiseGenerator | Surrogate) -> None:
    """Puts segment_anything's and PyTorch's own layers in the places of this project's, with the same weights."""
    for module in list(network.modules()):
        for name, ours in list(module.named_children()):
            plain = _plain_layer(ours)
            if plain is None:
                continue
            plain.load_state_dict(ours.state_dict())
            for parameter, of_ours in zip(plain.parameters(), ours.parameters(), strict=True):
                parameter.requires_grad_(of_ours.requires_grad)
            setattr(module, name, plain)


def _plain_layer(ours: nn.Module) -> nn.Module | None:
    """Returns the layer that computes the same plainly, or None for a layer that is not of this project."""
    if isinstance(ours, Attention):
        return WindowedAttention(
            ours.qkv.in_features, ours.num_heads, use_rel_pos=True, input_size=(ours.size, ours.size)
        )
    if isinstance(ours, ChannelNorm):
        return LayerNorm2d(len(ours.weight), ours.eps)
    if isinstance(ours, Doubling):
        return nn.ConvTranspose2d(ours.in_channels, ours.out_channels, kernel_size=2, stride=2)
    if isinstance(ours, Convolution3):
        return nn.Conv2d(ours.in_channels, ours.out_channels, kernel_size=3, padding=1)
    return None


class PlainGenerator(nn.Module):
    """Computes a noise generator plainly. forward: as NoiseGenerator's."""

    def __init__(self, network: NoiseGenerator) -> None:
        super().__init__()
        with_plain_parts(network)
        self.network = network

    def forward(self, images_B3SS: Tensor, prompts: Prompts) -> Tensor:
        network, decoder = self.network, self.network.mask_decoder
        embeddings, first_global = network.image_encoder(network.normalise(images_B3SS))
        noise = []
        for index in range(len(images_B3SS)):
            image, features = embeddings[index : index + 1], first_global[index : index + 1]
            states, upscaled = decode_one(
                decoder, network.prompt_encoder, decoder.output_tokens(), image, prompts.of_image(index)
            )
            noise.append(decoder.noise(states, upscaled, image, features))
        return torch.cat(noise)


class PlainSurrogate(nn.Module):
    """Computes a surrogate plainly. forward: as Surrogate's."""

    def __init__(self, network: Surrogate) -> None:
        super().__init__()
        with_plain_parts(network)
        self.network = network

    def forward(self, images_B3SS: Tensor, prompts: Prompts) -> Tensor:
        network, decoder = self.network, self.network.mask_decoder
        embeddings, _ = network.image_encoder(network.normalise(images_B3SS))
        return torch.cat(
            [
                decoder.logits(
                    *decode_one(
                        decoder,
                        network.prompt_encoder,
                        decoder.mask_tokens.weight,
                        embeddings[index : index + 1],
                        prompts.of_image(index),
                    )
                )
                for index in range(len(images_B3SS))
            ]
        )


def decode_one(
    decoder: MaskDecoder, encoder: PromptEncoder, output_tokens_K256: Tensor, embedding_1256GG: Tensor, prompts: Prompts
) -> tuple[Tensor, Tensor]:
    """Returns tokens' states and up-scaled embedding of one image, by segment_anything's own modules alone."""
    points = None
    if prompts.points is not None:
        labels = torch.full(prompts.points.shape[:2], FOREGROUND_POINT, device=prompts.points.device)
        points = (prompts.points, labels)
    sparse, dense = encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    tokens = torch.cat([output_tokens_K256[None], sparse], dim=1)
    states, image = decoder.transformer(embedding_1256GG + dense, encoder.get_dense_pe(), tokens)
    return states, decoder.output_upscaling(image.transpose(1, 2).reshape(embedding_1256GG.shape))
