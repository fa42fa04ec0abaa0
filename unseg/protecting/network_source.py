"""Noise of a network for a run: a generator that is asked image by image, or its tints where classes are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unseg.compute.device import device_name, visible_gpus
from unseg.errors import UserError
from unseg.method import noise as noise_of
from unseg.protecting.coded_source import CodedSource
from unseg.protecting.generators import fastest_generator
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.noise_source import NoiseSource, Prepared, SourcePlan, codes_of
from unseg.protecting.objects import FoundObject, Refused
from unseg.protecting.settings import ProtectSettings
from unseg.storage.loaded_generator import LoadedGenerator

SMALL_NETWORK_SIDE = 512  # up to here several images side by side, one thread each, beat one image on all threads
CUDA_BATCH_SIZES = {"small": 32, "large": 8}  # images a batch: of networks up to that side, and of larger ones


class NetworkSource(NoiseSource):
    """Asks a network for noise.

    codes: of the classes, where those are told apart: then no network is asked, and each pixel has its code's tint.
    coded: says which code each pixel has, for a network that takes codes; then `codes` is None.
    own: whether the generator is the caller's object, which no name leads to.
    """

    def __init__(
        self,
        settings: ProtectSettings,
        loaded: LoadedGenerator,
        device: str,
        codes: Mapping[int, int] | None = None,
        own: bool = False,
        coded: CodedSource | None = None,
    ) -> None:
        self._settings, self.loaded, self.codes, self._own, self._coded = settings, loaded, codes, own, coded
        network: Any = loaded.network
        self.protector = NetworkProtector(
            loaded,
            settings.budget,
            settings.region,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device, network.image_size),
            precision=settings.precision,
            key=None if coded is None else coded.key,
        )
        self.device_type, self.batch_size = device.partition(":")[0], self.protector.batch_size
        self.side_by_side = self.device_type == "cpu" and network.image_size <= SMALL_NETWORK_SIDE
        self.generator = loaded.sha256
        self.background_budget = float(settings.budget.background)

    def settings(self) -> dict[str, Any]:
        network = self.loaded.network
        found: dict[str, Any] = {
            "image_size": network.image_size,
            "mask_size": network.mask_size,
        }
        if self._coded is not None:
            of_codes = self._coded.settings()
            found |= {name: of_codes[name] for name in ("book", "key", "codes")}
        if self.codes is not None:
            found["codes"] = {str(label): code for label, code in sorted(self.codes.items())}
        return found

    def description(self) -> dict[str, Any]:
        loaded = self.loaded
        return {
            **({} if self._coded is None else self._coded.description()),
            "generator": {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256},
        }

    def region(self, found: FoundObject) -> np.ndarray:
        if self.codes is not None:
            codes_of(found, self.codes)
        return self.protector.region(found.mask_HW if self._coded is None else self._coded.region(found))

    def prepare(self, image_HWC: np.ndarray, found: FoundObject) -> Prepared:
        if self._coded is not None:
            coded = self._coded.prepare(image_HWC, found)
            book = self._coded.coding.book
            framed = self.protector.frame(image_HWC, coded.region_HW, found.boxes, coded.codes_HW, book)
            return Prepared(self.protector.region(coded.region_HW), framed=framed)
        region_HW = self.protector.region(found.mask_HW)
        if self.codes is not None:
            return Prepared(region_HW, codes_HW=codes_of(found, self.codes))
        return Prepared(region_HW, framed=self.protector.frame(image_HWC, found.mask_HW, found.boxes))

    def noises(self, prepared: Sequence[Prepared]) -> Sequence[np.ndarray | None]:
        framed = [item.framed for item in prepared if item.framed is not None]
        return list(self.protector.noise(framed)) if framed else [None] * len(prepared)

    def apply(self, image_HWC: np.ndarray, prepared: Prepared, noise: Any) -> np.ndarray:
        if prepared.codes_HW is not None:
            return self.protector.by_class(image_HWC, prepared.codes_HW)
        if not np.isfinite(noise).all():
            raise Refused("failed", "the generator's noise is not finite: its weights are damaged or not trained")
        return noise_of.apply(image_HWC, noise, prepared.region_HW, self._settings.budget)

    def for_worker(self) -> SourcePlan:
        return _NetworkPlan(
            self._settings, self.loaded if self._own else None, self.loaded.sha256, self.codes, self._coded
        )


@dataclass(frozen=True)
class _NetworkPlan(SourcePlan):
    """What a process builds the source from. generator: the caller's own; None where the settings name it. sha256: of
    the generator that is meant, which a file may not be any more."""

    settings: ProtectSettings
    generator: LoadedGenerator | None
    sha256: str
    codes: Mapping[int, int] | None
    coded: CodedSource | None

    def build(self, rank: int) -> NoiseSource:
        """Returns the source; loads the generator where it is a file. Of several GPUs each process has its own."""
        settings = self.settings
        device = device_name(settings.device)
        if device != "cpu":
            settings = replace(settings, device=f"cuda:{rank % visible_gpus()}")
            device = settings.device
        loaded = self.generator or fastest_generator(settings.network, device)
        if loaded.sha256 != self.sha256:
            raise UserError(
                f"--generator {settings.network}: was changed since the run began; run the same command again"
            )
        return NetworkSource(settings, loaded, device, self.codes, own=self.generator is not None, coded=self.coded)


def default_batch_size(device: str, side: int) -> int:
    """Returns the images a batch for a network whose frame has that side: 1 on a processor, 32 or 8 on a GPU."""
    if device == "cpu":
        return 1
    return CUDA_BATCH_SIZES["small" if side <= SMALL_NETWORK_SIDE else "large"]
