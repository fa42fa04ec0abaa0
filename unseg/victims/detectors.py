"""Detectors and instance networks: torchvision's R-CNN family, transformers' DETR family. Nothing is ever downloaded.

Shapes: B images of a batch, N objects, H×W the training size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from segment_anything_training.key_remaps import State
from unseg.errors import UserError
from unseg.victims.encoder_pyramid import EncoderPyramid, is_encoder
from unseg.victims.imagenet import load_imagenet
from unseg.victims.pretrained import build_transformers, load_strictly, read_weights
from unseg.victims.targets import MAX_DETECTIONS, FoundObjects, Targets

FAMILIES = {"maskrcnn": MaskRCNN, "fasterrcnn": FasterRCNN}
# Anchors of a pyramid over an encoder, a side a level: half of those for images of 800 pixels, since crops are smaller.
SIDES, RATIOS = (16, 32, 64, 128, 256), (0.5, 1.0, 2.0)
RCNN_HEADS = r"^roi_heads\.(box_predictor\.(cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits)\."
STRIDE = 32  # RT-DETR wants sides that can be halved five times
DETR_HEADS = r"class_embed|enc_score_head|class_labels_classifier"


# --- torchvision -----------------------------------------------------------------------------------------------------


class RCNN(nn.Module):
    """Faster R-CNN (Ren et al., NeurIPS 2015) or Mask R-CNN (He et al., ICCV 2017).

    pretrained: whether `load` follows: published weights were trained with fixed statistics of their batch norms.
    notes: sentences on what weights of a file left random.
    """

    def __init__(
        self,
        family: type[FasterRCNN],
        backbone: str,
        class_count: int,
        size: tuple[int, int],
        pretrained: bool,
        small: bool,
    ) -> None:
        super().__init__()
        # Published weights were trained with fixed statistics of their batch norms; from scratch those must be learnt.
        norm = nn.BatchNorm2d if not pretrained else FrozenBatchNorm2d
        stem: nn.Module
        options: dict[str, Any] = {}
        if is_encoder(backbone):
            stem = EncoderPyramid(backbone)
            options["rpn_anchor_generator"] = AnchorGenerator(tuple((side,) for side in SIDES), (RATIOS,) * len(SIDES))
        elif backbone.startswith("mobilenet"):
            stem = mobilenet_backbone(
                backbone_name=backbone,
                weights=None,
                fpn=True,
                norm_layer=norm,
                trainable_layers=6 if not pretrained else 3,
            )
            sides = (8, 16, 32, 64, 128) if small else (32, 64, 128, 256, 512)
            options["rpn_anchor_generator"] = AnchorGenerator((sides,) * 3, (RATIOS,) * 3)
        else:
            stem = resnet_fpn_backbone(
                backbone_name=backbone, weights=None, norm_layer=norm, trainable_layers=5 if not pretrained else 3
            )
        # Over an encoder, pyramid and heads start from random weights: they learn much sooner with norms.
        norms = nn.BatchNorm2d if is_encoder(backbone) else None
        options |= _small_heads(family, class_count + 1, norms) if small else {"num_classes": class_count + 1}
        # Images come normalised and of one size: the transform of its own must leave them as they are.
        self.network = family(
            stem,
            min_size=min(size),
            max_size=max(size),
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            box_detections_per_img=MAX_DETECTIONS,
            _skip_resize=True,
            **options,
        )
        self.backbone = backbone
        self.name = f"rcnn-{backbone}" if is_encoder(backbone) else backbone  # as segmentation_models_pytorch has names
        self.notes: list[str] = []

    @property
    def encoder(self) -> nn.Module:
        """Returns the backbone without its pyramid: what a classifier can start."""
        return self.network.get_submodule("backbone.body")

    def load(self, weights: Path) -> RCNN:
        """Loads a whole network's weights, or its backbone's alone, strictly; returns the network.

        Its heads start afresh where the file has them for other classes; `notes` says so.
        """
        state = read_weights(weights)
        if any(name.startswith("backbone.") for name in state):
            self.notes = load_strictly(self.network, uncounted(renamed_rcnn(state)), RCNN_HEADS, weights)
            return self
        if is_encoder(self.backbone):
            self.notes = [load_imagenet(self, weights)]
            return self
        load_strictly(self.network.backbone.body, uncounted(classifier_body(state, self.backbone)), r"^$", weights)
        self.notes = [f"--weights {weights.name}: of the backbone alone; all else starts from random weights"]
        return self

    def forward(
        self, images_B3HW: torch.Tensor, valid_BHW: torch.Tensor, targets: Sequence[Targets] | None = None
    ) -> torch.Tensor | list[FoundObjects]:
        """Returns the sum of its losses where there are targets, a scalar; else what it finds in each image."""
        images = list(images_B3HW)
        if targets is not None:
            wanted = [
                {"boxes": target.boxes, "labels": target.labels + 1, "masks": target.masks.to(torch.uint8)}
                for target in targets
            ]
            return sum(self.network(images, wanted).values())
        return [
            FoundObjects(
                answer["scores"].float(),
                answer["labels"] - 1,
                answer["boxes"].float(),
                answer["masks"][:, 0].float() if "masks" in answer else None,
            )
            for answer in self.network(images)
        ]


def _small_heads(family: type[FasterRCNN], outputs: int, norms: type[nn.Module] | None) -> dict[str, Any]:
    """Returns heads and numbers of proposals for images of some hundred pixels on two cores."""
    options: dict[str, Any] = {
        "box_head": TwoMLPHead(256 * 7 * 7, 256),
        "box_predictor": FastRCNNPredictor(256, outputs),
        "rpn_pre_nms_top_n_train": 400,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_train": 200,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 64,
    }
    if family is MaskRCNN:
        options |= {
            "mask_head": MaskRCNNHeads(256, (64, 64), 1, norms),
            "mask_predictor": MaskRCNNPredictor(64, 64, outputs),
        }
    return options


def renamed_rcnn(state: State) -> State:
    """Returns a state of torchvision's older releases in its present names, which tell a block's layers apart."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    if match := re.fullmatch(r"(rpn\.head\.conv\.)(\w+)", name):
        return f"{match[1]}0.0.{match[2]}"
    if match := re.fullmatch(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+\.)(\w+)", name):
        return f"{match[1]}0.{match[2]}"
    if match := re.fullmatch(r"(roi_heads\.mask_head\.)mask_fcn(\d+)\.(\w+)", name):
        return f"{match[1]}{int(match[2]) - 1}.0.{match[3]}"
    return name


def classifier_body(state: State, backbone: str) -> State:
    """Returns torchvision's image classifier without its last layers, in the names of a detector's backbone."""
    if backbone.startswith("mobilenet"):
        return {
            name.removeprefix("features."): tensor
            for name, tensor in state.items()
            if not name.startswith("classifier.")
        }
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def uncounted(state: State) -> State:
    """Returns the state without the numbers of batches that batch norms have seen, which fixed ones do not keep."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


# --- transformers ----------------------------------------------------------------------------------------------------


class Detr(nn.Module):
    """A member of the DETR family: Deformable DETR (Zhu et al., ICLR 2021), RT-DETR (Zhao et al., CVPR 2024).

    It computes in float32 on every device: its boxes are small differences. least: side that smaller images are padded
    to, pixels. notes: sentences on what weights of a file left random.
    """

    def __init__(self, family: str, class_count: int, weights: Path | None, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.notes = build_transformers(
            family,
            "ForObjectDetection",
            class_count,
            weights,
            DETR_HEADS,
            lambda config_class: config_class(num_labels=class_count, **sizes),
        )
        if weights is None:
            thaw(self.network)
        settings: Any = self.network.config  # transformers' own, of which types do not tell
        self.least = _least_side(settings.num_queries) if family == "RTDetr" else STRIDE

    @property
    def encoder(self) -> nn.Module:
        """Returns the convolutional network that the transformer reads."""
        return self.network.get_submodule("model.backbone")

    def forward(
        self, images_B3HW: torch.Tensor, valid_BHW: torch.Tensor, targets: Sequence[Targets] | None = None
    ) -> torch.Tensor | list[FoundObjects]:
        """Returns its loss where there are targets, a scalar; else what it finds in each image."""
        right, below = (max(side + -side % STRIDE, self.least) - side for side in images_B3HW.shape[:1:-1])
        images_B3HW, valid_BHW = F.pad(images_B3HW, (0, right, 0, below)), F.pad(valid_BHW, (0, right, 0, below))
        height, width = images_B3HW.shape[-2:]
        scale = images_B3HW.new_tensor([width, height, width, height])
        with torch.autocast(images_B3HW.device.type, enabled=False):
            if targets is None:
                answer = self.network(images_B3HW, pixel_mask=valid_BHW.long())
                return [
                    self._ranked(logits, boxes, scale)
                    for logits, boxes in zip(answer.logits, answer.pred_boxes, strict=True)
                ]
            wanted = [{"class_labels": target.labels, "boxes": centred(target.boxes / scale)} for target in targets]
            try:
                return self.network(images_B3HW, pixel_mask=valid_BHW.long(), labels=wanted).loss
            except ValueError as error:
                if all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
                    raise
                raise UserError(
                    "training diverged: the detector's weights are no longer finite numbers; try another seed"
                    " (--seeds) or a larger --batch"
                ) from error

    @staticmethod
    def _ranked(logits_QC: torch.Tensor, boxes_Q4: torch.Tensor, scale: torch.Tensor) -> FoundObjects:
        """Returns the best pairs of a query and a class, as these detectors' published inference ranks them."""
        scores, pairs = logits_QC.sigmoid().flatten().topk(min(MAX_DETECTIONS, logits_QC.numel()))
        centre, side = boxes_Q4[pairs // logits_QC.shape[1]].split(2, -1)
        return FoundObjects(
            scores, pairs % logits_QC.shape[1], torch.cat([centre - side / 2, centre + side / 2], -1) * scale, None
        )


def _least_side(queries: int) -> int:
    """Returns the least side of images, a multiple of STRIDE, in which RT-DETR can choose its queries: it takes them
    from the positions at 1/8, 1/16 and 1/32 of the image's size."""
    sides = range(STRIDE, STRIDE * (queries + 1), STRIDE)
    return next(side for side in sides if sum((side // stride) ** 2 for stride in (8, 16, 32)) >= queries)


def centred(boxes_N4: torch.Tensor) -> torch.Tensor:
    """Returns XYXY boxes as centre and size."""
    corner, other = boxes_N4.split(2, -1)
    return torch.cat([(corner + other) / 2, other - corner], -1)


def thaw(network: nn.Module) -> None:
    """Replaces batch norms with fixed statistics, which without pretrained weights normalise nothing, by ones that
    learn.
    """
    for name, child in network.named_children():
        if type(child).__name__.endswith("FrozenBatchNorm2d"):
            weight = child.get_buffer("weight")
            setattr(network, name, nn.BatchNorm2d(weight.numel()))
        else:
            thaw(child)


# --- by name ---------------------------------------------------------------------------------------------------------

_NO_KERNELS = {"disable_custom_kernels": True}  # which transformers would get from elsewhere
_RESNET50 = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}
_SMALL_RESNET = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "embedding_size": 32, "layer_type": "basic"}
_SMALL_TRANSFORMER = {
    "d_model": 64,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 30,
    "dropout": 0.0,
}

Build = Callable[[int, tuple[int, int], Path | None], RCNN | Detr]


def _rcnn(family: type[FasterRCNN], backbone: str, small: bool = False) -> Build:
    def build(class_count: int, size: tuple[int, int], weights: Path | None) -> RCNN:
        network = RCNN(family, backbone, class_count, size, pretrained=weights is not None, small=small)
        return network if weights is None else network.load(weights)

    return build


def _detr(family: str, **sizes: Any) -> Build:
    return lambda count, size, weights: Detr(family, count, weights, sizes)


INSTANCE: dict[str, Build] = {
    "maskrcnn_resnet50_fpn": _rcnn(MaskRCNN, "resnet50"),
    "maskrcnn_mobilenet": _rcnn(MaskRCNN, "mobilenet_v3_large", small=True),
}
DETECTION: dict[str, Build] = {
    "fasterrcnn_resnet50_fpn": _rcnn(FasterRCNN, "resnet50"),
    "fasterrcnn_mobilenet_v3_large_fpn": _rcnn(FasterRCNN, "mobilenet_v3_large"),
    "fasterrcnn_mobilenet": _rcnn(FasterRCNN, "mobilenet_v3_large", small=True),
    "deformable_detr_resnet50": _detr("DeformableDetr", backbone_config=_RESNET50, auxiliary_loss=True, **_NO_KERNELS),
    "deformable_detr_tiny": _detr(
        "DeformableDetr",
        auxiliary_loss=True,
        **_NO_KERNELS,
        encoder_layers=2,
        decoder_layers=2,
        backbone_config={**_RESNET50, **_SMALL_RESNET},
        **_SMALL_TRANSFORMER,
    ),
    "rt_detr_resnet50": _detr("RTDetr", freeze_backbone_batch_norms=False),
    "rt_detr_tiny": _detr(
        "RTDetr",
        backbone_config={"model_type": "rt_detr_resnet", "out_indices": [2, 3, 4], **_SMALL_RESNET},
        encoder_in_channels=[64, 96, 128],
        encoder_hidden_dim=64,
        decoder_in_channels=[64, 64, 64],
        decoder_layers=2,
        num_denoising=20,
        hidden_expansion=0.5,
        freeze_backbone_batch_norms=False,
        **_SMALL_TRANSFORMER,
    ),
}


def build_detector(name: str, class_count: int, *, size: tuple[int, int], weights: Path | None) -> RCNN | Detr:
    """Returns an instance network or detector by name, for images of `size` (width, height).

    Raises UserError where there is none so named.
    """
    builders = {**INSTANCE, **DETECTION}
    family, _, encoder = name.partition("_")
    if name not in builders and family in FAMILIES and is_encoder(encoder):
        return _rcnn(FAMILIES[family], encoder, small=True)(class_count, size, weights)
    if name not in builders:
        raise UserError(f"--networks: unknown network '{name}'; available: {', '.join(builders)}")
    return builders[name](class_count, size, weights)


def has_encoder(name: str, family: str) -> bool:
    """Returns whether a name is FAMILY_ENCODER with an encoder of segmentation_models_pytorch."""
    return name.startswith(f"{family}_") and is_encoder(name.partition("_")[2])
