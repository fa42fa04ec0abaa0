"""Noise of codes for a run: a key, a coding and a budget. No network is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unseg.method.coded_noise import apply_codes
from unseg.method.codes import OBJECT
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, NO_CODE
from unseg.method.ranged_noise import apply_codes_in_range
from unseg.protecting.coding import Coding
from unseg.protecting.noise_source import NoiseSource, Prepared, SourcePlan, codes_of
from unseg.protecting.objects import FoundObject
from unseg.storage.key_file import key_hash
from unseg.storage.stacks.stack import Layout, Samples


@dataclass(frozen=True)
class CodedSource(NoiseSource, SourcePlan):
    """Adds the patterns of codes to objects or classes; pixels of the absent class and of none stay as they are.

    mask_by_contrast, survive_grey: as for `unseg.method.coded_noise.apply_codes`.
    """

    key: bytes
    coding: Coding
    budget: Budget
    mask_by_contrast: bool = False
    survive_grey: bool = False

    def settings(self) -> dict[str, Any]:
        coding = self.coding.as_json()
        options = {"mask_by_contrast": self.mask_by_contrast, "survive_grey": self.survive_grey}
        return {
            "noise": "codes",
            "book": coding["book"],
            "key": key_hash(self.key),
            "codes": coding["codes"],
            **{name: value for name, value in options.items() if value},
        }

    def description(self) -> dict[str, Any]:
        return {"codes": self.coding.as_json()}

    def region(self, found: FoundObject) -> np.ndarray:
        return _has_noise(self._codes(found))

    def prepare(self, image_HWC: np.ndarray, found: FoundObject) -> Prepared:
        codes_HW = self._codes(found)
        return Prepared(_has_noise(codes_HW), codes_HW=codes_HW)

    def _codes(self, found: FoundObject) -> np.ndarray:
        if self.coding.codes is None:
            return np.where(found.mask_HW, np.uint8(OBJECT), np.uint8(ABSENCE))
        return codes_of(found, self.coding.codes)

    def apply(self, image_HWC: np.ndarray, prepared: Prepared, noise: Any) -> np.ndarray:
        if prepared.codes_HW is None:
            raise ValueError("an image without codes is asked of a source of codes")
        return apply_codes(
            image_HWC,
            prepared.codes_HW,
            self.coding.book,
            self.key,
            self.budget,
            mask_by_contrast=self.mask_by_contrast,
            survive_grey=self.survive_grey,
        )

    def apply_in_range(self, samples: Samples, prepared: Prepared, layout: Layout) -> np.ndarray:
        """Returns the values of a part of a plane with their noise; those that stand for no value stay as they are."""
        if prepared.codes_HW is None:
            raise ValueError("an image without codes is asked of a source of codes")
        values_HWC, levels = samples.values_HWC, [found.grey_level for found in layout.ranges]
        changed_HWC = apply_codes_in_range(
            values_HWC,
            np.where(samples.fixed_HW, np.uint8(ABSENCE), prepared.codes_HW),
            self.coding.book,
            self.key,
            [level * self.budget.object for level in levels],
            lowest=layout.lowest,
            highest=layout.highest,
            mask_by_contrast=self.mask_by_contrast,
            survive_grey=self.survive_grey,
            ranges_C=[(found.low, found.high) for found in layout.ranges],
            void_HW=samples.fixed_HW,
        )
        stays = samples.void(values_HWC) | samples.void(changed_HWC)
        return np.where(stays, values_HWC, changed_HWC) if stays.any() else changed_HWC

    def for_worker(self) -> SourcePlan:
        return self

    def build(self, rank: int) -> NoiseSource:
        return self


def _has_noise(codes_HW: np.ndarray) -> np.ndarray:
    return (codes_HW != ABSENCE) & (codes_HW != NO_CODE)
