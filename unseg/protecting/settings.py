"""What a run of `unseg protect` may vary, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from unseg.data.masks import MASK_KINDS, MaskKind
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.mask_placing import MaskFrame
from unseg.protecting.outputs import SUFFIXES
from unseg.protecting.protector import Precision, Region
from unseg.storage import image_limits

PRECISIONS = get_args(Precision)
REMOVED_PRECISIONS = ("auto", "float16")
Unmasked = Literal["skip", "copy", "fail", "whole"]


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value}: choose from {', '.join(choices)}")


@dataclass(frozen=True)
class ProtectSettings:
    """Everything that a run of `protect` may vary. None for batch_size or workers: chosen from the device.

    rule: which part of masks or annotations is the object; by class the background is a class like any other, and no
    class but the ignored one is left out. mask_type: what the values of masks mean; "auto" finds out. mask_frame,
    fit_masks: how masks lie, see `unseg.protecting.mask_placing.Placing`. unmasked: what becomes of images that nothing
    shows an object in: they are left out ("skip"), copied with all their metadata ("copy"), or protected as a whole
    ("whole"); "fail" ends a run before it writes where it can be known then. keep_frame: pixels stay as they are
    stored, with EXIF's orientation beside them; else they are turned upright. names: whether a file of another format
    gets that format's suffix ("suffix"), or every output exactly its input's name ("keep"): a.jpg then holds a PNG,
    which readers that go by content read. precision: of networks derived from SAM, see
    `unseg.protecting.protector.Protector`. max_megapixels: larger images are refused.
    """

    budget: Budget = field(default_factory=Budget)
    generator: str | Path = "compact"
    region: Region = "mask"
    rule: ObjectRule = ObjectRule()
    mask_type: MaskKind | Literal["auto"] = "auto"
    mask_frame: MaskFrame = "auto"
    fit_masks: bool = False
    unmasked: Unmasked = "skip"
    keep_frame: bool = False
    format: Literal["png", "tiff", "webp", "jpeg"] = "png"
    names: Literal["suffix", "keep"] = "suffix"
    png_level: int = 1
    metadata: Literal["keep", "icc", "none"] = "icc"
    keep_times: bool = False
    device: str = "auto"
    precision: Precision = "float32"
    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6

    @property
    def max_pixels(self) -> int:
        """Returns the most pixels that an image may have."""
        return int(self.max_megapixels * 1e6)

    def __post_init__(self) -> None:
        if self.rule.by_class:
            object.__setattr__(self, "rule", replace(self.rule, background_label=None))
        _check_choice("--region", self.region, ("mask", "published"))
        self._check_by_class()
        _check_choice("--mask-type", self.mask_type, ("auto", *MASK_KINDS))
        _check_choice("--mask-frame", self.mask_frame, get_args(MaskFrame))
        _check_choice("--unmasked", self.unmasked, get_args(Unmasked))
        _check_choice("--format", self.format, tuple(SUFFIXES))
        _check_choice("--names", self.names, ("suffix", "keep"))
        if self.precision in REMOVED_PRECISIONS:
            raise UserError(f"--precision {self.precision}: was removed in 0.2: choose from {', '.join(PRECISIONS)}")
        _check_choice("--precision", self.precision, PRECISIONS)
        _check_choice("--metadata", self.metadata, ("keep", "icc", "none"))
        self._check_numbers()

    def _check_by_class(self) -> None:
        if self.rule.by_class and self.region != "mask":
            raise UserError(f"--objects by-class: has no prompt, so no --region {self.region}; leave it out")
        if self.rule.by_class and self.mask_type not in ("auto", "index"):
            raise UserError(f"--objects by-class: needs masks of class ids, so no --mask-type {self.mask_type}")
        if self.rule.by_class and self.unmasked == "whole":
            raise UserError("--unmasked whole: what has no mask has no class for --objects by-class; leave it out")

    def _check_numbers(self) -> None:
        if not 0 <= self.png_level <= 9:
            raise UserError(f"--png-level {self.png_level}: give 0 (stored) to 9 (smallest)")
        for option, value in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value}: give 1 or more")
        if not 0 < self.max_megapixels < math.inf:
            raise UserError(f"--max-megapixels {self.max_megapixels}: give a number over 0")


DEFAULTS = ProtectSettings()
