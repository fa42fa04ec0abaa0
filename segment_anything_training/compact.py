"""The compact generator that ships with the project, and the small surrogates that it is trained against.

Both are plain convolutional networks behind the same interface as the networks derived from SAM, a thousandth of their
cost. Being convolutional they take any square whose side is a multiple of `STRIDE`; `image_size` is what generation
uses. Shapes: B batch, S side of the square frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segment_anything_training.prompt_batch import Prompts

STRIDE = 16
POINT_RADIUS = 1 / 64  # of the frame's side: wide enough to survive the first down-sampling
PROMPT_PLANES = 3
BLOCK = 4
FIRST_TINT = 1.5  # before the tanh
# The tints that classes are told apart by, as shares of the budget. Grey counts as no tint, so what is left of the cube
# of changes is a hexagon of colours: its corners come first, the middles of its edges after them. The second place is
# that of an untouched image: a clean image then looks like the class that stands there, for a network that goes by
# tints.
NO_TINT_PLACE = 1
CODE_TINTS = (
    (-0.8, 0.8, -0.8),
    (0.0, 0.0, 0.0),
    (0.8, -0.8, 0.8),
    (0.8, 0.8, -0.8),
    (-0.8, -0.8, 0.8),
    (0.0, -0.8, 0.8),
    (-0.8, 0.8, 0.8),
    (0.0, 0.8, -0.8),
    (0.8, -0.8, -0.8),
    (0.8, 0.0, -0.8),
    (-0.8, 0.0, 0.8),
    (-0.8, 0.8, 0.0),
)


def prompt_planes(prompts: Prompts, batch: int, side: int) -> Tensor:
    """Returns prompts drawn as planes, B×3×S×S: mask, box, points.

    A plane is +1 on the object and −1 off it, or 0 everywhere if its prompt is not given.
    """
    device = next((field.device for field in (prompts.masks, prompts.boxes, prompts.points) if field is not None), None)
    planes = torch.zeros(batch, PROMPT_PLANES, side, side, device=device)
    if prompts.masks is not None:
        masks = prompts.masks.to(torch.float32) / 255.0
        if masks.shape[-1] != side:
            masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        planes[:, 0] = masks[:, 0] * 2 - 1
    pixels = torch.arange(side, device=device, dtype=torch.float32)
    if prompts.boxes is not None:
        left, top, right, bottom = (edge[:, None] for edge in prompts.boxes.unbind(-1))
        columns = (pixels >= left - 0.5) & (pixels <= right + 0.5)
        rows = (pixels >= top - 0.5) & (pixels <= bottom + 0.5)
        planes[:, 1] = (rows[:, :, None] & columns[:, None, :]).float() * 2 - 1
    if prompts.points is not None:
        x, y = prompts.points[..., 0, None], prompts.points[..., 1, None]
        near_column = (pixels - x).abs() <= POINT_RADIUS * side
        near_row = (pixels - y).abs() <= POINT_RADIUS * side
        planes[:, 2] = (near_row[..., :, None] & near_column[..., None, :]).any(1).float() * 2 - 1
    # The planes come in the order of `given`'s columns.
    return planes if prompts.given is None else planes * prompts.given[:, :, None, None]


def _check_frame(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[-1] != images.shape[-2] or images.shape[-1] % STRIDE:
        raise ValueError(f"images: expected B×3×S×S with S a multiple of {STRIDE}, got {tuple(images.shape)}")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class CompactUNet(nn.Module):
    """A U-Net that works at a quarter of its input's resolution and below: B×C×H×W → B×D×H×W.

    Blocks of `BLOCK`×`BLOCK` pixels are unfolded into channels: wide layers at low resolution use a processor best.
    H and W are multiples of `STRIDE`.
    """

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...] = (48, 64, 96)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs * BLOCK**2, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_Residual(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.decoders = nn.ModuleList(_Residual(width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], outputs * BLOCK**2, 3, padding=1)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def unet(self, planes_BCHW: Tensor) -> Tensor:
        """Returns what the layers make of the input's planes."""
        x = self.stem(F.pixel_unshuffle(planes_BCHW, BLOCK))
        skips = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x)
            if level < len(self.downs):
                skips.append(x)
                x = self.downs[level](x)
        for level in reversed(range(len(self.downs))):
            # The 1×1 convolution goes first: a quarter of the pixels, the same sum as after nearest up-sampling.
            x = skips[level] + F.interpolate(self.ups[level](x), scale_factor=2, mode="nearest")
            x = self.decoders[level](x)
        return F.pixel_shuffle(self.head(x), BLOCK)


class CompactGenerator(CompactUNet):
    """Makes noise of an image and drawn prompts: a U-Net with two learned tints.

    One tint is for the object, one for the background; at every pixel the U-Net mixes them, where the prompts leave
    doubt, and adds to them. They start as green and magenta, the direction in which photographs vary least, so that
    little noise says much. (Training that started from stripes or from random waves instead left them for these tints
    within 500 steps, and segmentation networks relied on tints far sooner than on textures.)

    forward: images B×3×S×S float32 in [0, 1], padded with zeros right and below; prompts in pixels of the frame, masks
    of any square size. Returns noise B×3×S×S in [−1, 1].

    code_tints: one more tint for each of `codes` codes, K×3 in [−1, 1]. Where every pixel has a class, a class is told
    by its code's tint; see `code_noise`.
    """

    antialias = True
    size_step = STRIDE
    code_tints: Tensor

    def __init__(self, widths: tuple[int, ...] = (48, 64, 96)) -> None:
        super().__init__(3 + PROMPT_PLANES, 3 + 1, widths)
        self.image_size = self.mask_size = 256
        magenta = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
        self.tints = nn.Parameter(torch.stack([-FIRST_TINT * magenta, FIRST_TINT * magenta]))
        # How far each prompt, as drawn, is believed before anything is learned: logits of "this pixel is the object".
        self.prompt_belief = nn.Parameter(torch.tensor([4.0, 2.0, 0.0]))
        # A buffer: chosen by measurement, not by descent.
        self.register_buffer("code_tints", torch.tensor(CODE_TINTS))
        self.head.weight.data.mul_(0.1)  # the start is the tints alone, nearly

    @property
    def codes(self) -> int:
        """Returns how many codes there are, K."""
        return len(self.code_tints)

    def code_noise(self) -> Tensor:
        """Returns the noise of each code, the same at all of its pixels: K×3 in [−1, 1]."""
        return self.code_tints

    def forward(self, images: Tensor, prompts: Prompts) -> Tensor:
        _check_frame(images)
        side = images.shape[-1]
        planes = prompt_planes(prompts, images.shape[0], side).to(images)
        own, belief = self.unet(torch.cat([images * 2 - 1, planes], 1)).split((3, 1), 1)
        on_object = torch.sigmoid(belief + (planes * self.prompt_belief[:, None, None]).sum(1, keepdim=True))
        return torch.tanh(own + self.tints[1] + on_object * (self.tints[0] - self.tints[1]))


class _Unit(nn.Sequential):
    """Computes a convolution, batch statistics and ReLU.

    Nothing is tracked between batches, so a frozen surrogate keeps every bit.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, track_running_stats=False),
            nn.ReLU(inplace=True),
        )


class CompactSurrogate(nn.Module):
    """Predicts mask logits from (noised) images and prompts: a small U-Net that learns as segmentation networks do.

    Two first layers stand for the two families of victims: `wide_stem` sees 7×7 pixels at stride 2 as ResNets do and
    works at a half of the resolution and below; otherwise 3×3 pixels at full resolution as U-Nets do.

    forward: images B×3×S×S float32 in [0, 1]; prompts in pixels of the frame. Returns logits B×1×S×S, or half that size
    with `wide_stem`.
    """

    size_step = STRIDE

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), wide_stem: bool = True) -> None:
        super().__init__()
        self.image_size = self.mask_size = 128
        if not wide_stem:
            widths = (widths[0] // 2, *widths)
        self.stem = _Unit(3 + PROMPT_PLANES, widths[0], 7 if wide_stem else 3, 2 if wide_stem else 1)
        self.downs = nn.ModuleList(
            nn.Sequential(_Unit(a, b, 3, 2), _Unit(b, b)) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.fuse = nn.ModuleList(_Unit(a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, images: Tensor, prompts: Prompts) -> Tensor:
        _check_frame(images)
        planes = prompt_planes(prompts, images.shape[0], images.shape[-1]).to(images)
        x = self.stem(torch.cat([images * 4 - 2, planes], 1))
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up, fuse, skip in reversed(list(zip(self.ups, self.fuse, skips, strict=True))):
            x = fuse(skip + F.interpolate(up(x), scale_factor=2, mode="nearest"))
        return self.head(x)
