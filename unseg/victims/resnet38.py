"""DeepLabV1 on ResNet38: the network, and the weight files that it starts from.

ResNet38 is model A1 of Wu, Shen and van den Hengel, "Wider or Deeper" (arXiv 1611.10080): wide, pre-activation residual
units. State names, widths, strides and the head are those of the segmentation networks of PSA and MCTformer, whose
files load as they are. Shapes: B images, H×W pixels, C classes; the output's stride is 8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from segment_anything_training.key_remaps import Shapes, State, shapes_of
from unseg.errors import UserError
from unseg.storage.state_files import Misfit, compare, read_state
from unseg.victims.mxnet_params import ArrayEntry, read_array, read_directory

STRIDE = 8
LEAST_WIDTH = 4  # channels that the narrowest layer of a narrowed network keeps
IMAGENET_PARAMS = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
IMAGENET_MD5 = "ff21f45d6bf03284100dcbec571edfad"  # in the authors' list of checksums
HEAD = ("fc8_seg_conv1", "fc8_seg_conv2")
HEAD_WIDTH, HEAD_DILATION = 512, 12


class _Plain(NamedTuple):
    """A unit of two 3×3 convolutions of widths `mid` and `out`.

    The first has the stride and `first_dilation`, the second `dilation`.
    """

    mid: int
    out: int
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1


class _Bottleneck(NamedTuple):
    """A unit of 1×1 to a quarter of the width, 3×3 to a half, 1×1 to the width.

    `dropout` acts before each of the last two.
    """

    out: int
    dilation: int
    dropout: float


# Units in order, by the names that the published files give them. The strides of levels 5 and 6 are dilations here.
UNITS: dict[str, _Plain | _Bottleneck] = {
    "b2": _Plain(128, 128, stride=2),
    "b2_1": _Plain(128, 128),
    "b2_2": _Plain(128, 128),
    "b3": _Plain(256, 256, stride=2),
    "b3_1": _Plain(256, 256),
    "b3_2": _Plain(256, 256),
    "b4": _Plain(512, 512, stride=2),
    **{f"b4_{i}": _Plain(512, 512) for i in range(1, 6)},
    "b5": _Plain(512, 1024, first_dilation=1, dilation=2),
    **{f"b5_{i}": _Plain(512, 1024, first_dilation=2, dilation=2) for i in (1, 2)},
    "b6": _Bottleneck(2048, dilation=4, dropout=0.3),
    "b7": _Bottleneck(4096, dilation=4, dropout=0.5),
}
STEM_WIDTH = 64


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Returns a convolution that is padded so that stride 1 keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)


class Unit(nn.Module):
    """A pre-activation residual unit: normalise, rectify, convolve, two or three times.

    Where the shape changes, a 1×1 convolution of the first activation stands for the identity.
    """

    def __init__(self, inputs: int, layout: _Plain | _Bottleneck, scaled: Callable[[int], int]) -> None:
        super().__init__()
        stride, out = 1, scaled(layout.out)
        if isinstance(layout, _Plain):
            stride, mid = layout.stride, scaled(layout.mid)
            convolutions = {
                "2a": _convolution(inputs, mid, 3, layout.stride, layout.first_dilation),
                "2b1": _convolution(mid, out, 3, dilation=layout.dilation),
            }
            self.drop: nn.Module = nn.Identity()
        else:
            quarter, half = scaled(layout.out // 4), scaled(layout.out // 2)
            convolutions = {
                "2a": _convolution(inputs, quarter, 1),
                "2b1": _convolution(quarter, half, 3, dilation=layout.dilation),
                "2b2": _convolution(half, out, 1),
            }
            self.drop = nn.Dropout2d(layout.dropout)
        self.branches = tuple(convolutions)
        for branch, convolution in convolutions.items():
            self.add_module(f"bn_branch{branch}", nn.BatchNorm2d(convolution.in_channels))
            self.add_module(f"conv_branch{branch}", convolution)
        self.conv_branch1 = None if inputs == out and stride == 1 else _convolution(inputs, out, 1, stride)

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        identity = residual = features_BCHW
        for number, branch in enumerate(self.branches):
            residual = F.relu(getattr(self, f"bn_branch{branch}")(residual))
            if number == 0 and self.conv_branch1 is not None:
                identity = self.conv_branch1(residual)
            if number > 0:
                residual = self.drop(residual)
            residual = getattr(self, f"conv_branch{branch}")(residual)
        return identity + residual


class DeepLabV1(nn.Module):
    """ResNet38 and a head of two 3×3 convolutions of dilation 12.

    It takes images B×3×H×W, normalised by ImageNet's statistics, to logits B×C×⌈H/8⌉×⌈W/8⌉. width: a factor on every
    layer's channels, for small machines; 1 is the published network. frozen: the first convolution and every batch norm
    stay as they are, without gradient and in evaluation mode, as published for a start from ImageNet's weights. First
    weights are Kaiming normal, the head's Xavier uniform with biases of 0.
    """

    def __init__(self, classes: int, width: float = 1.0, frozen: bool = True) -> None:
        super().__init__()
        if not (0 < width <= 1):
            raise UserError(f"width {width}: give a factor above 0, at most 1 (the published network)")

        def scaled(channels: int) -> int:
            return max(LEAST_WIDTH, round(channels * width))

        channels = scaled(STEM_WIDTH)
        self.conv1a = _convolution(3, channels, 3)
        for name, layout in UNITS.items():
            self.add_module(name, Unit(channels, layout, scaled))
            channels = scaled(layout.out)
        self.bn7 = nn.BatchNorm2d(channels)
        self.fc8_seg_conv1 = _convolution(channels, scaled(HEAD_WIDTH), 3, dilation=HEAD_DILATION, bias=True)
        self.fc8_seg_conv2 = _convolution(scaled(HEAD_WIDTH), classes, 3, dilation=HEAD_DILATION, bias=True)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and name not in HEAD:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.frozen = frozen
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        normalisations = [module for module in self.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]
        return [self.conv1a, *normalisations] if self.frozen else []

    def train(self, mode: bool = True) -> DeepLabV1:
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        features = self.conv1a(images_B3HW)
        for name in UNITS:
            features = getattr(self, name)(features)
        features = F.relu(self.bn7(features))
        return self.fc8_seg_conv2(F.relu(self.fc8_seg_conv1(features)))


# --- weight files ----------------------------------------------------------------------------------------------------

_COUNTER = "num_batches_tracked"  # PyTorch's own; nothing here depends on it, and older files have none
_CLASSIFIER = ("arg:linear1000_weight", "arg:linear1000_bias")  # of ImageNet; segmentation has no place for it
_MXNET_NORM = {
    "weight": ("arg", "gamma"),
    "bias": ("arg", "beta"),
    "running_mean": ("aux", "moving_mean"),
    "running_var": ("aux", "moving_var"),
}


def mxnet_name(name: str) -> str:
    """Returns the entry of MXNet's file that holds the backbone's state entry `name`.

    For example, b2_1.conv_branch2a.weight is arg:res2b1_branch2a_weight (units are numbered 2a, 2b1, 2b2, …).
    """
    *unit, layer, kind = name.split(".")
    level, _, number = unit[0].removeprefix("b").partition("_") if unit else ("", "", "")
    place = f"{level}b{number}" if number else f"{level}a"
    if layer.startswith("bn"):
        prefix, suffix = _MXNET_NORM[kind]
        return f"{prefix}:{layer}_{suffix}" if not unit else f"{prefix}:bn{place}_{layer.removeprefix('bn_')}_{suffix}"
    return f"arg:{layer}_weight" if not unit else f"arg:res{place}_{layer.removeprefix('conv_')}_weight"


def backbone_shapes(width: float = 1.0) -> Shapes:
    """Returns the shapes of ResNet38's state entries, without head and counters."""
    with torch.device("meta"):
        state = DeepLabV1(2, width).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.startswith(HEAD) and not name.endswith(_COUNTER)
    }


def read_mxnet(path: str | Path, expected: Shapes | None = None) -> State:
    """Returns ResNet38's state, float32 in our names, from MXNet's ImageNet file, whose classifier is left out.

    expected: our entries; None: those of the published width. Only what fits is ever read into memory. Raises UserError
    where an entry is missing, unknown or of another shape, or where numbers are not finite.
    """
    path, expected = Path(path), backbone_shapes() if expected is None else expected
    directory = {name: entry for name, entry in read_directory(path).items() if name not in _CLASSIFIER}
    theirs = {name: mxnet_name(name) for name in expected}
    misfit = compare(
        {name: entry.shape for name, entry in directory.items()},
        {theirs[name]: shape for name, shape in expected.items()},
    )
    if misfit:
        raise UserError(
            f"{path}: is not ResNet38's ImageNet file: {misfit}; give {IMAGENET_PARAMS} (md5 {IMAGENET_MD5})"
        )
    return {name: _tensor(path, theirs[name], directory[theirs[name]]) for name in expected}


def _tensor(path: Path, name: str, entry: ArrayEntry) -> torch.Tensor:
    tensor = torch.from_numpy(read_array(path, entry)).to(torch.float32)
    if not torch.isfinite(tensor).all() or (name.endswith("moving_var") and (tensor < 0).any()):
        raise UserError(
            f"{path}: {name} holds numbers that are no weights (not finite, or a negative variance); get it again"
        )
    return tensor


def load_weights(network: DeepLabV1, path: str | Path) -> bool:
    """Fills the network from a file and returns whether the head was in it; if not, the head stays as it was.

    The file is the published `.params`, or a .pth or safetensors of the backbone (as `utils/convert_resnet38.py` writes
    it) or of the whole network. PyTorch's counters of batches may be missing. Raises UserError, which names missing,
    unexpected and mis-shaped entries.
    """
    path, expected = Path(path), shapes_of(network.state_dict())
    whole = {name: shape for name, shape in expected.items() if not name.endswith(_COUNTER)}
    backbone = {name: shape for name, shape in whole.items() if not name.startswith(HEAD)}
    if path.suffix.lower() == ".params":
        state = read_mxnet(path, backbone)
    else:
        state = {name: tensor for name, tensor in read_state(path).items() if not name.endswith(_COUNTER)}
    has_head = any(name.startswith(HEAD) for name in state)
    misfit = compare(shapes_of(state), whole if has_head else backbone)
    if misfit:
        raise UserError(
            f"{path}: does not fit DeepLabV1-ResNet38{_hint(network, misfit)}: {misfit}; give {IMAGENET_PARAMS}, or "
            "what utils/convert_resnet38.py makes of it"
        )
    left = network.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith(_COUNTER) or (not has_head and name.startswith(HEAD)) for name in left), left
    return has_head


def _hint(network: DeepLabV1, misfit: Misfit) -> str:
    """Returns what else the user asked for that weights may not fit."""
    wrong = [*misfit.missing, *misfit.unexpected, *misfit.misshaped]
    if all(name.startswith(HEAD[1]) for name in wrong):
        return f" of {network.fc8_seg_conv2.out_channels} classes"
    stem = network.conv1a.out_channels
    return "" if stem == STEM_WIDTH else f" of {stem / STEM_WIDTH:g} times its width (published weights need width 1)"
