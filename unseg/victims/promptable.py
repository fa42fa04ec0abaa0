"""SAM and SAM-HQ from transformers as networks that are asked for objects by boxes and by points, and their weight
files.

Shapes: B images, S side of the square frame, K objects of an image, N points of an object, M side of the logits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segment_anything_training.build import SAM_CONFIGS
from segment_anything_training.key_remaps import State, shapes_of
from unseg.errors import UserError, naming_the_extra
from unseg.storage.state_files import Misfit, compare
from unseg.victims.pretrained import read_weights

FAMILIES = ("sam", "samhq")
FREQUENCY = 1.0  # standard deviation of the frequencies of positions, as in Meta's code
POSITION = "vision_encoder.pos_embed"
FREQUENCIES = "shared_image_embedding.positional_embedding"
PROMPT_FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"  # the same tensor, often saved once


@dataclass(frozen=True)
class SamSize:
    """The sizes of a network.

    width, depth, heads, global_blocks, window, patch: of the image encoder, window in patches. prompt_width: of prompt
    tokens and mask decoder. decoder_mlp: of the decoder's inner layers.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    patch: int = 16
    prompt_width: int = 256
    decoder_mlp: int = 2048


SIZES = {
    **{
        name: SamSize(sam.embed_dim, sam.depth, sam.num_heads, sam.global_blocks, sam.window)
        for name, sam in SAM_CONFIGS.items()
    },
    # What two cores train from scratch: finer patches on a smaller frame, an eightieth of ViT-B's weights.
    "tiny": SamSize(128, 4, 4, (1, 3), window=8, patch=8, prompt_width=64, decoder_mlp=256),
}
NETWORKS = tuple(f"{family}_{size}" for family in FAMILIES for size in SIZES)

# Parts that no answer here depends on, never trained: the predicted IoU (one mask is asked for), mask prompts, and
# SAM's own masks in SAM-HQ.
_UNUSED = {
    "sam": re.compile(r"mask_decoder\.iou_prediction_head\.|prompt_encoder\.mask_embed\."),
    "samhq": re.compile(
        r"mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps)\.|prompt_encoder\.mask_embed\."
    ),
}
# The random frequencies of positions: fixed in the published networks, too.
_FIXED = re.compile(r".*\.positional_embedding$")
# What SAM-HQ has beside SAM.
_HQ = re.compile(r"mask_decoder\.(hq_token|hq_mask_mlp|compress_vit_|encoder_|mask_(conv|norm))")

# Names in the files of Meta and of SAM-HQ → names in transformers, applied in this order.
_LAYERS = r"(\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hq_mask_mlp))\.layers\."
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^image_encoder\.", "vision_encoder."),
        (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
        (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
        (r"\.neck\.0\.", ".neck.conv1."),
        (r"\.neck\.1\.", ".neck.layer_norm1."),
        (r"\.neck\.2\.", ".neck.conv2."),
        (r"\.neck\.3\.", ".neck.layer_norm2."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", FREQUENCIES),
        (r"\.point_embeddings\.", ".point_embed."),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"\.hf_token\.", ".hq_token."),
        (r"\.hf_mlp\.", ".hq_mask_mlp."),
        *(
            (rf"\.{theirs}\.{place}\.", f".{ours}_{part}.")
            for theirs, ours in (
                ("compress_vit_feat", "compress_vit"),
                ("embedding_encoder", "encoder"),
                ("embedding_maskfeature", "mask"),
            )
            for place, part in ((0, "conv1"), (1, "norm"), (3, "conv2"))
        ),
        (_LAYERS + r"0\.", r"\1.proj_in."),
        (_LAYERS + r"1\.", r"\1.layers.0."),
        (_LAYERS + r"2\.", r"\1.proj_out."),
    )
)


def parse_network(name: str) -> tuple[str, SamSize]:
    """Returns family and size of a network's name; raises UserError, which lists the names."""
    if name not in NETWORKS:
        raise UserError(
            f"--networks: unknown network '{name}' for interactive segmentation; available: {', '.join(NETWORKS)}"
        )
    family, _, size = name.partition("_")
    return family, SIZES[size]


def frame_side(name: str, size: tuple[int, int]) -> int:
    """Returns the side of the square that an image of at most `size` (width, height) is laid into.

    Raises UserError unless whole patches fill it.
    """
    side, patch = max(size), parse_network(name)[1].patch
    if side % patch:
        raise UserError(f"--size {size[0]}x{size[1]}: the longer side must be a multiple of {patch} for {name}")
    return side


class Promptable(nn.Module):
    """SAM or SAM-HQ: one mask for every box, one for every set of points. See `build_promptable`."""

    def __init__(self, network: Any, trained: re.Pattern[str] | None, note: str) -> None:
        """trained: the parameters that training changes; None: all that answers depend on. note: the same in a
        sentence.
        """
        super().__init__()
        self.network: Any = network  # transformers' modules have attributes that types do not tell
        self.hq, self.note = hasattr(network.mask_decoder, "hq_token"), note
        unused = _UNUSED["samhq" if self.hq else "sam"]
        for name, parameter in network.named_parameters():
            wanted = trained is None or trained.match(name) is not None
            parameter.requires_grad_(wanted and not (unused.match(name) or _FIXED.match(name)))

    @property
    def encoder(self) -> nn.Module:
        """Returns the image encoder."""
        return self.network.vision_encoder

    def forward(self, images_B3SS: Tensor, boxes_BK4: Tensor, points_BKN2: Tensor) -> Tensor:
        """Returns logits B×K×2×M×M float32, those for the box first, then those for the points.

        M is a quarter of S for patches of 16. images: normalised by ImageNet's statistics. Coordinates are pixels (x,
        y) of the frame, boxes XYXY with corners inclusive; all points lie on the object. SAM-HQ answers with its own
        mask alone, the one that its authors train.
        """
        encoder = self.network.vision_encoder
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(trained):
            seen = encoder(images_B3SS)
        embeddings = seen.last_hidden_state.float()
        prompts = ({"input_boxes": boxes_BK4}, {"input_points": points_BKN2})
        # Half precision would save little on a few tokens, and positions need more digits than it has.
        with torch.autocast(images_B3SS.device.type, enabled=False):
            if self.hq:
                fused = hq_features(self.network.mask_decoder, embeddings, seen.intermediate_embeddings[0].float())
                logits = [hq_logits(self.network, embeddings, fused, **given) for given in prompts]
            else:
                logits = [
                    self.network(image_embeddings=embeddings, multimask_output=False, **given).pred_masks
                    for given in prompts
                ]
        return torch.cat(logits, 2)


def hq_features(decoder: Any, embeddings_BCGG: Tensor, early_BGGD: Tensor) -> Tensor:
    """Returns what SAM-HQ adds to SAM's features, B×C/8×4G×4G.

    It is made of the image embedding and of the encoder's first global block.
    """
    own = decoder.encoder_conv2(decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(embeddings_BCGG))))
    early = decoder.compress_vit_conv1(early_BGGD.permute(0, 3, 1, 2))
    return own + decoder.compress_vit_conv2(decoder.activation(decoder.compress_vit_norm(early)))


def hq_logits(
    network: Any,
    embeddings_BCGG: Tensor,
    fused_BFHW: Tensor,
    input_boxes: Tensor | None = None,
    input_points: Tensor | None = None,
) -> Tensor:
    """Returns SAM-HQ's own mask for every prompt, B×K×1×H×W with H = W = 4G.

    The network's own `forward` is not used: up to transformers 5.23 it goes on, after the token transformer, with the
    image embedding from before it, rows and columns exchanged, which is not what SAM-HQ's published code computes.
    """
    decoder = network.mask_decoder
    labels = None if input_points is None else torch.ones_like(input_points[..., 0], dtype=torch.int)
    sparse_BKTC, dense_BCGG = network.prompt_encoder(
        input_points=input_points, input_labels=labels, input_boxes=input_boxes, input_masks=None
    )
    batch, objects = sparse_BKTC.shape[:2]
    own_TC = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight])
    tokens_BKTC, image = decoder.transformer(
        point_embeddings=torch.cat([own_TC.expand(batch, objects, -1, -1), sparse_BKTC], 2),
        image_embeddings=(embeddings_BCGG + dense_BCGG).repeat_interleave(objects, 0),
        image_positional_embeddings=network.get_image_wide_positional_embeddings().expand(batch * objects, -1, -1, -1),
        attention_similarity=None,
    )
    image = image.transpose(2, 3).reshape(batch * objects, -1, *embeddings_BCGG.shape[-2:])
    scaled = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
    scaled = decoder.activation(decoder.upscale_conv2(scaled))
    scaled = decoder.mask_conv2(decoder.activation(decoder.mask_norm(decoder.mask_conv1(scaled))))
    features = (scaled + fused_BFHW.repeat_interleave(objects, 0)).unflatten(0, (batch, objects))
    weights_BKF = decoder.hq_mask_mlp(tokens_BKTC[:, :, len(own_TC) - 1])
    return torch.einsum("bkf,bkfhw->bkhw", weights_BKF, features)[:, :, None]


def build_promptable(name: str, side: int, weights: Path | None = None) -> Promptable:
    """Returns the network `name` (one of NETWORKS) for frames of `side`.

    Without weights they are drawn from torch's global generator and all are trained. weights: a folder that
    transformers saved, or the official file of SAM or SAM-HQ. Then the image encoder stays as it is; of SAM the mask
    decoder is trained, and of SAM-HQ what it has beside SAM, as its authors do. SAM's own weights start a SAM-HQ, whose
    other parts begin at random. Raises UserError where the package or the file is missing, or an entry does not fit.
    """
    family, size = parse_network(name)
    network = _build(family, size, side)
    if weights is None:
        return Promptable(
            network, None, "no --weights, so the image encoder and the decoder are trained from random weights"
        )
    state = read_sam_weights(weights)
    given, expected = shapes_of(state), shapes_of(network.state_dict())
    started = family == "sam" or any(map(_HQ.match, state))
    if not started:
        expected = {key: shape for key, shape in expected.items() if not _HQ.match(key)}
    if misfit := compare(given, expected):
        raise UserError(
            f"--weights {weights}: does not fit {name}: {_explained(misfit, given.get(POSITION), side, size.patch)}"
        )
    network.load_state_dict(state, strict=started)
    if family == "sam":
        note = f"image and prompt encoder stay as in {weights.name}, the mask decoder is trained"
        return Promptable(network, re.compile(r"mask_decoder\."), note)
    note = f"SAM's parts stay as in {weights.name}, SAM-HQ's own are trained{'' if started else ' from random weights'}"
    return Promptable(network, _HQ, note)


def _build(family: str, size: SamSize, side: int) -> Any:
    with naming_the_extra(f"--networks {family}"):
        import transformers  # takes seconds, and only measuring needs it
    prefix = {"sam": "Sam", "samhq": "SamHQ"}[family]
    hq = {"vit_dim": size.width} if family == "samhq" else {}
    vision = {
        "hidden_size": size.width,
        "output_channels": size.prompt_width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "image_size": side,
        "patch_size": size.patch,
        "window_size": size.window,
        "global_attn_indexes": list(size.global_blocks),
        "num_pos_feats": size.prompt_width // 2,
        "mlp_dim": 4 * size.width,
        "initializer_range": 0.02,
    }
    prompts = {"hidden_size": size.prompt_width, "image_size": side, "patch_size": size.patch}
    decoder = {
        "hidden_size": size.prompt_width,
        "mlp_dim": size.decoder_mlp,
        "iou_head_hidden_dim": size.prompt_width,
        **hq,
    }
    config = getattr(transformers, f"{prefix}Config")(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    # Random weights are those of Meta's code, which are PyTorch's own. With those of transformers nothing is learnt in
    # hundreds of steps: narrow layers start almost silent, and the frequencies of positions are so high that neighbours
    # have nothing in common.
    config.vision_config.scale = FREQUENCY
    network = getattr(transformers, f"{prefix}Model")(config)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


# --- weight files ----------------------------------------------------------------------------------------------------


def read_sam_weights(path: Path) -> State:
    """Returns the state that a folder of transformers or an official file holds, in the names of transformers."""
    state = read_weights(path)
    if any(name.startswith("image_encoder.") for name in state):
        state = from_official(state)
    if (FREQUENCIES in state) != (PROMPT_FREQUENCIES in state):
        frequencies = state[FREQUENCIES] if FREQUENCIES in state else state[PROMPT_FREQUENCIES]
        state[FREQUENCIES] = state[PROMPT_FREQUENCIES] = frequencies
    return state


def from_official(state: State) -> State:
    """Returns the entries of Meta's SAM file, or of SAM-HQ's, under the names that transformers gives them."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed


def _explained(misfit: Misfit, position: Sequence[int] | None, side: int, patch: int) -> str:
    """Returns what does not fit, and what to do where it is the size of the frame alone."""
    if position is not None and len(position) == 4 and position[1] != side // patch:
        own = position[1] * patch
        return f"it is made for frames of {own}×{own} pixels; give --size {own}x{own}"
    return f"{misfit}; give weights of this network"
