"""What a run of `unseg protect` may vary, checked when it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from unseg.data.masks import MASK_KINDS, MaskKind
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.foreground_models import check_model
from unseg.protecting.mask_placing import MaskFrame
from unseg.protecting.outputs import SUFFIXES
from unseg.storage import image_limits

Region = Literal["mask", "published"]
Precision = Literal["float32", "bfloat16"]
Noise = Literal["codes", "sam", "compact", "tint"]
Kind = Literal["codes", "sam", "compact", "tint", "own"]
COMPACT = "compact"  # the generator that ships
PRECISIONS = get_args(Precision)
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
REMOVED_PRECISIONS = ("auto", "float16")
Unmasked = Literal["skip", "copy", "fail", "whole"]


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value}: choose from {', '.join(choices)}")


@dataclass(frozen=True)
class ProtectSettings:
    """Everything that a run of `protect` may vary. None for batch_size or workers: chosen from the device.

    noise: codes (patterns by formula, without a network), sam (a generator derived from SAM, whose weights `generator`
    names), compact (the one that ships) or tint (its flat colours, one a class); None is codes, or the network that
    `generator` names. auto_objects: whether a run with codes decides by its masks between one code for the object and
    codes of classes; only where `rule` takes all objects together. rule: which part of masks or annotations is the
    object; by class no class but the ignored one is left out, and the background has no noise with codes, its own with
    tints. mask_by_contrast, survive_grey: of codes, see `unseg.method.coded_noise`. mask_type: what the values of masks
    mean; "auto" finds out. mask_frame, fit_masks: how masks lie, see `unseg.protecting.mask_placing.Placing`.
    auto_model: the network that finds masks, one of `unseg.protecting.foreground_models.MODELS`; None: the one that
    found those there are. unmasked: what becomes of images that nothing shows an object in: they are left out ("skip"),
    copied with all their metadata ("copy"), or protected as a whole ("whole"); "fail" ends a run before it writes where
    it can be known then. keep_frame: pixels stay as they are stored, with EXIF's orientation beside them; else they are
    turned upright. names: whether a file of another format gets that format's suffix ("suffix"), or every output
    exactly its input's name ("keep"): a.jpg then holds a PNG, which readers that go by content read. quality: measure
    colour differences and SSIM, see `unseg.method.visibility`. precision: of networks derived from SAM, see
    `unseg.protecting.network_protector`. max_megapixels: larger images are refused. bands: of GeoTIFF, those that get
    noise, from 1; None: all but transparency.
    """

    budget: Budget = field(default_factory=Budget)
    noise: Noise | None = None
    generator: str | Path | None = None
    region: Region = "mask"
    rule: ObjectRule = ObjectRule()
    auto_objects: bool = True
    mask_by_contrast: bool = False
    survive_grey: bool = False
    mask_type: MaskKind | Literal["auto"] = "auto"
    mask_frame: MaskFrame = "auto"
    fit_masks: bool = False
    auto_model: str | None = None
    unmasked: Unmasked = "skip"
    keep_frame: bool = False
    format: Literal["png", "tiff", "webp", "jpeg"] = "png"
    names: Literal["suffix", "keep"] = "suffix"
    png_level: int = 1
    metadata: Literal["keep", "icc", "none"] = "icc"
    keep_times: bool = False
    quality: bool = False
    device: str = "auto"
    precision: Precision = "float32"
    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6
    bands: tuple[int, ...] | None = None

    @property
    def kind(self) -> Kind:
        """Returns which noise is meant: the named one, else that of the generator that is named, else codes."""
        if self.noise is not None:
            return self.noise
        if self.generator is None:
            return "codes"
        return "compact" if str(self.generator) == COMPACT else "own"

    @property
    def network(self) -> str | Path:
        """Returns the generator of a noise that needs one."""
        return COMPACT if self.generator is None else self.generator

    @property
    def max_pixels(self) -> int:
        """Returns the most pixels that an image may have."""
        return int(self.max_megapixels * 1e6)

    def __post_init__(self) -> None:
        self._check_noise()
        if self.noise == "tint" and not self.rule.by_class:
            if self.rule.which == "all" and not self.auto_objects:
                raise UserError("--objects all: --noise tint tells classes apart; leave one of them out")
            object.__setattr__(self, "rule", replace(self.rule, by_class=True))
        _check_choice("--region", self.region, ("mask", "published"))
        self._check_by_class()
        _check_choice("--mask-type", self.mask_type, ("auto", *MASK_KINDS))
        _check_choice("--mask-frame", self.mask_frame, get_args(MaskFrame))
        if self.auto_model is not None:
            check_model(self.auto_model)
        _check_choice("--unmasked", self.unmasked, get_args(Unmasked))
        _check_choice("--format", self.format, tuple(SUFFIXES))
        _check_choice("--names", self.names, ("suffix", "keep"))
        if self.precision in REMOVED_PRECISIONS:
            raise UserError(f"--precision {self.precision}: was removed in 0.2: choose from {', '.join(PRECISIONS)}")
        _check_choice("--precision", self.precision, PRECISIONS)
        _check_choice("--metadata", self.metadata, ("keep", "icc", "none"))
        if not _DEVICE.fullmatch(self.device):
            raise UserError(f"--device {self.device}: give auto, cpu or cuda")
        self._check_numbers()

    def _check_noise(self) -> None:
        """Raises UserError where the noise and what is asked of it do not go together."""
        if self.noise is not None:
            _check_choice("--noise", self.noise, get_args(Noise))
        if self.noise == "sam" and self.generator is None:
            raise UserError("--noise sam: name the weight file of a generator with --generator; none ships")
        if self.noise == "codes" and self.generator is not None:
            raise UserError(f"--generator {self.generator}: is for noise of a network; leave out --noise codes")
        if self.noise in ("compact", "tint") and str(self.network) != COMPACT:
            raise UserError(f"--noise {self.noise}: has a generator of its own; leave out --generator {self.generator}")
        options = (("--mask-by-contrast", self.mask_by_contrast), ("--survive-grey", self.survive_grey))
        for option, is_on in options if self.kind != "codes" else ():
            if is_on:
                raise UserError(f"{option}: is for --noise codes; leave it out")

    @property
    def by_class_option(self) -> str:
        """Returns the option that asks for classes told apart, where one does."""
        return "--noise tint" if self.noise == "tint" else "--objects by-class"

    def _check_by_class(self) -> None:
        option = self.by_class_option
        if self.rule.by_class and self.region != "mask":
            raise UserError(f"{option}: has no prompt, so no --region {self.region}; leave it out")
        if self.rule.by_class and self.mask_type not in ("auto", "index"):
            raise UserError(f"{option}: needs masks of class ids, so no --mask-type {self.mask_type}")
        if self.rule.by_class and self.unmasked == "whole":
            raise UserError(f"--unmasked whole: what has no mask has no class for {option}; leave it out")

    def _check_numbers(self) -> None:
        if not 0 <= self.png_level <= 9:
            raise UserError(f"--png-level {self.png_level}: give 0 (stored) to 9 (smallest)")
        for option, value in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value}: give 1 or more")
        if self.bands is not None and (not self.bands or min(self.bands) < 1 or len(set(self.bands)) < len(self.bands)):
            raise UserError(f"--bands {','.join(map(str, self.bands))}: give numbers of bands from 1, each once")
        if not 0 < self.max_megapixels < math.inf:
            raise UserError(f"--max-megapixels {self.max_megapixels}: give a number over 0")


DEFAULTS = ProtectSettings()
