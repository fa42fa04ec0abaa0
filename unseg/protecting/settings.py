"""What a run of `unseg protect` may vary, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from segment_anything_training.sizes import ATTENTION
from unseg.compute.device import compiles
from unseg.data.annotations import ObjectRule
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.outputs import SUFFIXES
from unseg.protecting.protector import Precision, Region
from unseg.storage import image_limits


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{option} {value}: choose from {', '.join(choices)}")


@dataclass(frozen=True)
class ProtectSettings:
    """Everything that a run of `protect` may vary. None for batch_size or workers: chosen from the device.

    objects: class ids; "things", where annotations tell them; None: all. by_class: every class gets a noise of its own (see
    `unseg.method.codes`), and every pixel that has a class other than `ignore_label` the object's budget. names: whether a file
    of another format gets that format's suffix ("suffix"), or every output exactly its input's name ("keep"): a.jpg then
    holds a PNG, which readers that go by content read. precision "auto": see `unseg.protecting.protector.fitting_precision`. attention,
    compile, graph: how the network computes, see `unseg.protecting.protector.Protector`.
    """

    budget: Budget = field(default_factory=Budget)
    generator: str | Path = "compact"
    region: Region = "mask"
    mask_type: Literal["auto", "binary", "index"] = "auto"
    objects: tuple[int, ...] | Literal["things"] | None = None
    by_class: bool = False
    ignore_label: int | None = 255
    background_label: int | None = 0
    format: Literal["png", "tiff", "webp", "jpeg"] = "png"
    names: Literal["suffix", "keep"] = "suffix"
    png_level: int = 1
    metadata: Literal["keep", "icc", "none"] = "icc"
    keep_times: bool = False
    device: str = "auto"
    precision: Precision | Literal["auto"] = "float32"
    attention: str = "auto"
    compile: bool = False
    graph: bool = False
    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: float = image_limits.MAX_PIXELS / 1e6

    @property
    def rule(self) -> ObjectRule:
        """What annotations are asked for. By class the background is a class like any other."""
        return ObjectRule(
            "all" if self.objects is None else self.objects,
            self.by_class,
            self.ignore_label,
            None if self.by_class else self.background_label,
        )

    def with_rule(self, rule: ObjectRule) -> ProtectSettings:
        return replace(
            self,
            objects=None if rule.which == "all" else rule.which,
            by_class=rule.by_class,
            ignore_label=rule.ignore_label,
            background_label=rule.background_label,
        )

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)

    def __post_init__(self) -> None:
        _check_choice("--region", self.region, ("mask", "published"))
        if self.by_class and self.region != "mask":
            raise UserError(f"--objects by-class: has no prompt, so no --region {self.region}; leave it out")
        if self.by_class and self.mask_type == "binary":
            raise UserError("--objects by-class: needs masks of class ids, so no --mask-type binary")
        _check_choice("--mask-type", self.mask_type, ("auto", "binary", "index"))
        _check_choice("--format", self.format, tuple(SUFFIXES))
        _check_choice("--names", self.names, ("suffix", "keep"))
        _check_choice("--precision", self.precision, ("auto", *get_args(Precision)))
        _check_choice("--attention", self.attention, ATTENTION)
        compiles(
            self.compile or self.attention == "flex" or (self.attention == "fastest" and self.device != "cpu"),
            "--compile" if self.compile else f"--attention {self.attention}",
        )
        _check_choice("--metadata", self.metadata, ("keep", "icc", "none"))
        if not 0 <= self.png_level <= 9:
            raise UserError(f"--png-level {self.png_level}: give 0 (stored) to 9 (smallest)")
        for option, value in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value}: give 1 or more")
        if not 0 < self.max_megapixels < math.inf:
            raise UserError(f"--max-megapixels {self.max_megapixels}: give a number over 0")
