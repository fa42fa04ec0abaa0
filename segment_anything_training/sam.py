"""What generator and surrogate share of SAM: sizes, normalisation, prompt encoding, the token transformer.

Shapes: B batch, S side of the input, G = S/16 side of the patch grid, T tokens. SAM's own modules come from the
`segment-anything` package; only what this project computes in another way is written here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from torch import nn

from segment_anything_training.prompt_batch import BOX, MASK, POINTS, Prompts
from segment_anything_training.sizes import PATCH_SIZE as PATCH_SIZE
from segment_anything_training.sizes import SamConfig as SamConfig

PROMPT_DIM = 256
FOREGROUND_POINT, FIRST_CORNER = 1, 2  # of SAM's point embeddings
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Brings pixels in [0, 1] to ImageNet's zero mean and unit deviation. It holds no state entries.

    Padding is black before, so it is negative after, as in the published code.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        return (images_B3SS - self.mean) / self.std


class ChannelNorm(LayerNorm2d):
    """Computes SAM's LayerNorm2d, over the channels of each pixel, by PyTorch's fused kernel; B×C×H×W as there.

    Made for channels last in memory, where the channels of a pixel lie side by side; the result lies so, too.
    """

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        return F.layer_norm(x_BHWC, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Doubling(nn.ConvTranspose2d):
    """Doubles the side, every pixel becoming 2×2: B×C×H×W → B×D×2H×2W.

    On the CPU it is one matrix product, which is what this convolution amounts to; PyTorch's own backward takes three
    times as long there with channels last in memory.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=2, stride=2)

    def forward(self, x_BCHW: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if x_BCHW.device.type != "cpu" or output_size is not None:
            return super().forward(x_BCHW, output_size)
        assert self.bias is not None
        batch, inputs, height, width = x_BCHW.shape
        weight = self.weight.permute(0, 2, 3, 1).reshape(inputs, -1)  # inputs × (row, column, output)
        pixels = (x_BCHW.permute(0, 2, 3, 1).reshape(-1, inputs) @ weight).view(batch, height, width, 2, 2, -1)
        doubled = pixels.transpose(2, 3).reshape(batch, 2 * height, 2 * width, -1) + self.bias
        return doubled.permute(0, 3, 1, 2)


class Convolution3(nn.Conv2d):
    """Computes a 3×3 convolution that keeps the size.

    On the CPU it works on channels first in memory where gradients are wanted: that of the weights takes twice as long
    with channels last.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if x_BCHW.device.type == "cpu" and torch.is_grad_enabled() and self.weight.requires_grad:
            return self._conv_forward(x_BCHW.contiguous(), self.weight.contiguous(), self.bias)
        return super().forward(x_BCHW)


def use_fast_layers(layers: nn.Sequential) -> None:
    """Puts ChannelNorm and Doubling in their places in a sequence that SAM has made, with the same weights."""
    for index, layer in enumerate(layers):
        with torch.device("meta"):  # draws no random numbers: what is built after it stays what it was
            if type(layer) is LayerNorm2d:
                layers[index] = ChannelNorm(len(layer.get_parameter("weight")), layer.eps)
            elif type(layer) is nn.ConvTranspose2d:
                layers[index] = Doubling(layer.in_channels, layer.out_channels)
        layers[index].load_state_dict(layer.state_dict(), assign=True)


def check_images(images_B3SS: torch.Tensor, image_size: int) -> None:
    """Raises ValueError unless `images` is a batch of square colour images of the network's input size."""
    if images_B3SS.ndim != 4 or images_B3SS.shape[1:] != (3, image_size, image_size):
        raise ValueError(f"images: expected B×3×{image_size}×{image_size}, got {tuple(images_B3SS.shape)}")


def prompt_encoder(config: SamConfig) -> PromptEncoder:
    """Returns SAM's prompt encoder for this input size."""
    encoder = PromptEncoder(
        embed_dim=PROMPT_DIM,
        image_embedding_size=(config.grid, config.grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=16,
    )
    use_fast_layers(encoder.mask_downscaling)
    return encoder


def token_transformer() -> TwoWayTransformer:
    """Returns the transformer of SAM's mask decoder, equal in every size."""
    return TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8)


@dataclass(frozen=True)
class EncodedPrompts:
    """Holds a batch's prompts as SAM's decoders take them.

    sparse: B×T×256, a token for every point and box corner. dense: B×256×G×G, of the mask. kept: B×T bool, which tokens
    an image has; None: all of them.
    """

    sparse_BT256: torch.Tensor
    dense_B256GG: torch.Tensor
    kept_BT: torch.Tensor | None


def encode_prompts(encoder: PromptEncoder, prompts: Prompts, batch: int) -> EncodedPrompts:
    """Returns a batch's prompts encoded at once, whatever each image has; without points and boxes T is 0.

    SAM's own `forward` takes one combination of prompts for all that it is given; every token here has the value that
    it has there. As there, points come first, then a padding point if there is no box, then the box's corners.
    """
    prompts.check(batch)
    size, given = encoder.input_image_size, prompts.given
    tokens, kept = [encoder.no_mask_embed.weight.new_empty(batch, 0, encoder.embed_dim)], []

    def embed(coordinates_BN2: torch.Tensor, *kinds: nn.Embedding) -> None:
        centres = coordinates_BN2 + 0.5
        tokens.append(encoder.pe_layer.forward_with_coords(centres, size) + torch.cat([kind.weight for kind in kinds]))

    if prompts.points is not None:
        embed(prompts.points, encoder.point_embeddings[FOREGROUND_POINT])
        if prompts.boxes is None or given is not None:
            tokens.append(encoder.not_a_point_embed.weight.expand(batch, 1, -1))
    if prompts.boxes is not None:
        embed(prompts.boxes.reshape(batch, 2, 2), *encoder.point_embeddings[FIRST_CORNER:])
    if given is not None and prompts.points is not None:
        kept.append(given[:, POINTS, None].expand(batch, prompts.points.shape[1]))
        kept.append(given[:, POINTS, None] & ~given[:, BOX, None])
    if given is not None and prompts.boxes is not None:
        kept.append(given[:, BOX, None].expand(batch, 2))

    dense = encoder.no_mask_embed.weight[:, :, None, None].expand(batch, -1, *encoder.image_embedding_size)
    if prompts.masks is not None:
        with_mask = encoder.mask_downscaling(prompts.masks)
        dense = with_mask if given is None else torch.where(given[:, MASK, None, None, None], with_mask, dense)
    return EncodedPrompts(torch.cat(tokens, 1), dense, torch.cat(kept, 1) if kept else None)


def attend(
    attention: Attention,
    q_BQC: torch.Tensor,
    k_BKC: torch.Tensor,
    v_BKC: torch.Tensor,
    kept_BK: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns one attention layer of SAM's token transformer, B×Q×C, fused. kept: which keys exist; None: all."""
    q, k, v = (
        project(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project, x in ((attention.q_proj, q_BQC), (attention.k_proj, k_BKC), (attention.v_proj, v_BKC))
    )
    mask = None if kept_BK is None else kept_BK[:, None, None, :]
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


def two_way(
    transformer: TwoWayTransformer,
    image_BNC: torch.Tensor,
    position_1NC: torch.Tensor,
    tokens_BTC: torch.Tensor,
    kept_BT: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what SAM's token transformer makes: states B×T×C of the tokens and B×N×C of the image.

    The steps of `segment_anything`'s TwoWayTransformer, where tokens that an image does not have (not in `kept`) are no
    keys; their own states mean nothing.
    """
    states, image = tokens_BTC, image_BNC
    for block in transformer.layers:
        if block.skip_first_layer_pe:
            states = block.norm1(attend(block.self_attn, states, states, states, kept_BT))
        else:
            queries = states + tokens_BTC
            states = block.norm1(states + attend(block.self_attn, queries, queries, states, kept_BT))
        placed = image + position_1NC
        states = block.norm2(states + attend(block.cross_attn_token_to_image, states + tokens_BTC, placed, image))
        states = block.norm3(states + block.mlp(states))
        keys = states + tokens_BTC
        image = block.norm4(image + attend(block.cross_attn_image_to_token, placed, keys, states, kept_BT))
    last = transformer.final_attn_token_to_image
    states = transformer.norm_final_attn(states + attend(last, states + tokens_BTC, image + position_1NC, image))
    return states, image


def run_tokens(
    decoder: MaskDecoder,
    output_tokens_K256: torch.Tensor,
    embeddings_B256GG: torch.Tensor,
    position_1256GG: torch.Tensor,
    prompts: EncodedPrompts,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lets output tokens and prompts attend to the images, each of the batch to its own.

    SAM's `predict_masks` does this for many prompts of one image by repeating that image; here image and prompt number
    i belong together, so that a whole batch is decoded at once. Returns the output tokens' states B×K×256 and the
    up-scaled image embedding B×32×4G×4G.
    """
    batch, _, *grid = embeddings_B256GG.shape
    outputs = output_tokens_K256.expand(batch, -1, -1)
    kept = prompts.kept_BT
    if kept is not None:
        kept = torch.cat([kept.new_ones(outputs.shape[:2]), kept], dim=1)
    # Few tokens and their positions: half precision would save nothing and cost digits.
    with torch.autocast(embeddings_B256GG.device.type, enabled=False):
        states, image = two_way(
            decoder.transformer,
            (embeddings_B256GG.float() + prompts.dense_B256GG).flatten(2).transpose(1, 2),
            position_1256GG.flatten(2).transpose(1, 2),
            torch.cat([outputs, prompts.sparse_BT256], dim=1),
            kept,
        )
    image = image.transpose(1, 2).unflatten(-1, grid)
    return states[:, : outputs.shape[1]], decoder.output_upscaling(image)


def combine(weights_BKC: torch.Tensor, features_BCHW: torch.Tensor) -> torch.Tensor:
    """Returns K maps, each a weighted sum of C feature maps: B×K×H×W, float32 whatever the features' precision is."""
    batch, _, height, width = features_BCHW.shape
    with torch.autocast(features_BCHW.device.type, enabled=False):
        return (weights_BKC.float() @ features_BCHW.float().flatten(2)).view(batch, -1, height, width)


def mixed_precision(device: torch.device, bf16: bool) -> torch.autocast:
    """Returns a context in which matrix products and convolutions run in bfloat16 if `bf16` is set.

    Weights and their gradients stay float32.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
