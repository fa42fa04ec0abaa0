"""Mask2Former (Cheng et al., CVPR 2022) from transformers, built from its configuration: nothing is ever downloaded.

Shapes: B images of a batch, Q queries, C classes, H×W the training size, h×w a quarter of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unseg.errors import UserError
from unseg.victims.pretrained import Backbone, build_transformers
from unseg.victims.targets import MAX_DETECTIONS, Targets

STAGES = [f"stage{number}" for number in range(1, 5)]
CLASS_HEAD = r"^class_predictor\.|^criterion\.empty_weight$"  # what depends on the number of classes
# Published files have the indices of Swin's windows, which are computed now, and no last norm of Swin, which is not
# used.
IDLE = r"relative_position_index$|swin\.layernorm\."
# A Swin that classifies has a last norm and a classifier, and no norms of its stages' outputs.
SWIN = Backbone(
    "swin",
    "model.pixel_level_module",
    "encoder",
    r"^classifier\.|^hidden_states_norms\.|(^|\.)layernorm\.(weight|bias)$",
)
# Of the published panoptic inference: a query's least score, and the share of its mask that it must win.
LEAST_SCORE, LEAST_WON = 0.8, 0.8

# name → backbone and decoder, as transformers' configurations name their fields. The Swin sizes are Liu et al.'s (ICCV
# 2021), the rest is Mask2FormerConfig's default, which is the paper's; `tiny` is cut so that two cores train it.
SIZES: dict[str, dict[str, Any]] = {
    "mask2former_swin_t": {"backbone": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}},
    "mask2former_swin_s": {"backbone": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}},
    "mask2former_swin_b": {
        "backbone": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12}
    },
    "mask2former_tiny": {
        "backbone": {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "drop_path_rate": 0.0},
        "feature_size": 64,
        "mask_feature_size": 64,
        "hidden_dim": 64,
        "encoder_feedforward_dim": 128,
        "dim_feedforward": 128,
        "num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 4,
        "num_queries": 30,
        "train_num_points": 1024,
    },
}


@dataclass(frozen=True)
class QueryAnswers:
    """What every query says.

    class_logits: B×Q×(C + 1) float32, the last for "no object". mask_logits: B×Q×h×w float32.
    """

    class_logits: torch.Tensor
    mask_logits: torch.Tensor


class Mask2Former(nn.Module):
    """Mask2Former with its own loss. notes: sentences on what weights of a file left random."""

    def __init__(self, name: str, class_count: int, weights: Path | None) -> None:
        super().__init__()
        network: Any  # transformers' modules have attributes that types do not tell
        network, self.notes = build_transformers(
            "Mask2Former",
            "ForUniversalSegmentation",
            class_count,
            weights,
            CLASS_HEAD,
            partial(_configuration, name, class_count),
            IDLE,
            SWIN,
        )
        # The last norm of the Swin classifier is no part of the answer, so that it would never have a gradient.
        network.model.pixel_level_module.encoder.swin.layernorm.requires_grad_(False)
        self.network = network

    @property
    def encoder(self) -> nn.Module:
        """Returns the Swin transformer that the decoders read."""
        return self.network.model.pixel_level_module.encoder

    def forward(
        self, images_B3HW: torch.Tensor, valid_BHW: torch.Tensor, targets: Sequence[Targets] | None = None
    ) -> torch.Tensor | QueryAnswers:
        """Returns the loss where there are targets, a scalar; else what every query says.

        valid: B×H×W bool, where images are not padding.
        """
        found = self.network(images_B3HW, pixel_mask=valid_BHW, output_auxiliary_logits=True)
        classes, masks = found.class_queries_logits.float(), found.masks_queries_logits.float()
        if targets is None:
            return QueryAnswers(classes, masks)
        # Points, matching and sums need the range of float32.
        with torch.autocast(images_B3HW.device.type, enabled=False):
            parts = self.network.get_loss_dict(
                masks,
                classes,
                [target.masks.to(masks) for target in targets],
                [target.labels for target in targets],
                [{name: logits.float() for name, logits in layer.items()} for layer in found.auxiliary_logits],
            )
            return self.network.get_loss(parts)


def _configuration(name: str, class_count: int, config_class: Any) -> Any:
    sizes = dict(SIZES[name])
    backbone = {"model_type": "swin", "drop_path_rate": 0.3, "out_features": STAGES, **sizes.pop("backbone")}
    return config_class(backbone_config=backbone, num_labels=class_count, **sizes)


class SemanticMask2Former(nn.Module):
    """Mask2Former as a semantic network, by the published semantic inference."""

    def __init__(self, name: str, class_count: int, weights: Path | None) -> None:
        super().__init__()
        self.queries = build_mask2former(name, class_count, weights)
        self.notes = self.queries.notes

    @property
    def encoder(self) -> nn.Module:
        """Returns the Swin transformer that the decoders read."""
        return self.queries.encoder

    def forward(self, images_B3HW: torch.Tensor, targets: Sequence[Targets] | None = None) -> torch.Tensor:
        """Returns the loss where there are targets, a scalar; else scores B×C×H×W."""
        valid = torch.ones(images_B3HW.shape[0], *images_B3HW.shape[-2:], dtype=torch.bool, device=images_B3HW.device)
        if targets is not None:
            return self.queries(images_B3HW, valid, targets)
        said = self.queries(images_B3HW, valid)
        with torch.autocast(images_B3HW.device.type, enabled=False):
            masks = F.interpolate(
                said.mask_logits, images_B3HW.shape[-2:], mode="bilinear", align_corners=False
            ).sigmoid()
            return torch.einsum("bqc,bqhw->bchw", said.class_logits.softmax(-1)[..., :-1], masks)


def build_mask2former(name: str, class_count: int, weights: Path | None) -> Mask2Former:
    """Returns the network `name` with `class_count` classes; raises UserError where there is none so named."""
    if name not in SIZES:
        raise UserError(f"--networks: unknown network '{name}'; available: {', '.join(SIZES)}")
    return Mask2Former(name, class_count, weights)


def instances(
    class_logits: torch.Tensor, mask_probabilities: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns scores, labels and masks (N×H×W bool) of one image, as the published inference ranks them.

    These are the best pairs of a query and a class, each scored by its class's probability times the mean probability
    inside its mask. class_logits: Q×(C + 1). mask_probabilities: Q×H×W. Empty masks are left out.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    scores, pairs = probabilities.flatten().topk(min(MAX_DETECTIONS, probabilities.numel()))
    queries, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    masks = mask_probabilities > 0.5
    areas = masks.flatten(1).sum(1)
    sureness = (mask_probabilities * masks).flatten(1).sum(1) / areas.clamp(min=1)
    kept = areas[queries] > 0
    return (scores * sureness[queries])[kept], labels[kept], masks[queries[kept]]


def panoptic(
    class_logits: torch.Tensor, mask_probabilities: torch.Tensor, things: Sequence[bool]
) -> tuple[torch.Tensor, list[int]]:
    """Returns the map of segments of one image (H×W int32, −1 where there is none) and every segment's label.

    Queries are merged as the published inference does it: each pixel goes to the query that is surest of it; a query
    that wins too little of its mask is dropped; stuff of one class is one segment. class_logits: Q×(C + 1).
    mask_probabilities: Q×H×W. things: for every class whether it is countable.
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels < len(things)) & (scores > LEAST_SCORE)
    segments = torch.full(mask_probabilities.shape[1:], -1, dtype=torch.int32, device=mask_probabilities.device)
    found: list[int] = []
    if not kept.any():
        return segments, found
    probabilities, kept_labels = mask_probabilities[kept], labels[kept].tolist()
    owner = (scores[kept][:, None, None] * probabilities).argmax(0)
    stuff: dict[int, int] = {}
    for query, label in enumerate(kept_labels):
        claimed = probabilities[query] >= 0.5
        won = (owner == query) & claimed
        if not won.any() or int((owner == query).sum()) < LEAST_WON * int(claimed.sum()):
            continue
        place = len(found) if things[label] else stuff.setdefault(label, len(found))
        if place == len(found):
            found.append(label)
        segments[won] = place
    return segments, found
