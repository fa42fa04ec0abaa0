"""The surrogate of the paper: a SAM of its own, trained on noised images to predict one mask."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from torch import nn

from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import (
    PROMPT_DIM,
    EncodedPrompts,
    Normalise,
    SamConfig,
    check_images,
    combine,
    encode_prompts,
    mixed_precision,
    prompt_encoder,
    run_tokens,
    token_transformer,
    use_fast_layers,
)


class SurrogateDecoder(MaskDecoder):
    """Decodes as SAM's mask decoder with three mask tokens, no IoU token and no IoU head; mask 0 is the answer."""

    def __init__(self) -> None:
        super().__init__(transformer_dim=PROMPT_DIM, transformer=token_transformer(), num_multimask_outputs=2)
        use_fast_layers(self.output_upscaling)
        del self.iou_token, self.iou_prediction_head

    def forward(
        self,
        embeddings_B256GG: torch.Tensor,
        position_1256GG: torch.Tensor,
        prompts: EncodedPrompts,
    ) -> torch.Tensor:
        """Returns logits B×1×4G×4G."""
        states, upscaled = run_tokens(self, self.mask_tokens.weight, embeddings_B256GG, position_1256GG, prompts)
        return self.logits(states, upscaled)

    def logits(self, states_BT256: torch.Tensor, upscaled_B32MM: torch.Tensor) -> torch.Tensor:
        """Returns mask 0 from the output tokens' states and the up-scaled embedding; M = 4G."""
        return combine(self.output_hypernetworks_mlps[0](states_BT256[:, 0])[:, None], upscaled_B32MM)


class Surrogate(nn.Module):
    """Predicts mask logits B×1×S/4×S/4 (object where above 0) from noised images B×3×S×S in [0, 1] and prompts.

    image_size: S. mask_size: side of mask prompts, S/4. bf16: whether large products run in bfloat16.
    """

    bf16 = False

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.mask_size = config.mask_size
        self.normalise = Normalise()
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = prompt_encoder(config)
        self.mask_decoder = SurrogateDecoder()

    def forward(self, images_B3SS: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        check_images(images_B3SS, self.image_size)
        encoded = encode_prompts(self.prompt_encoder, prompts, len(images_B3SS))
        position = self.prompt_encoder.get_dense_pe()
        with mixed_precision(images_B3SS.device, self.bf16):
            embeddings, _ = self.image_encoder(self.normalise(images_B3SS))
            return self.mask_decoder(embeddings, position, encoded)
