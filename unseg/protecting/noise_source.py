"""Where a run's noise comes from: what every kind of noise answers to the files, threads and manifests around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unseg.method.codes import code_map
from unseg.protecting.objects import FoundObject, Refused

if TYPE_CHECKING:
    from unseg.method.letterbox import Framed


@dataclass(frozen=True)
class Prepared:
    """One image, ready for its noise.

    region: where the object's budget holds, H×W bool. framed: what a network is given. codes: of every pixel, H×W
    uint8. At most one of these two is there.
    """

    region_HW: np.ndarray
    framed: Framed | None = None
    codes_HW: np.ndarray | None = None


class NoiseSource(ABC):
    """Makes the noise of a run.

    device_type: where it is computed. batch_size: images that are asked for together. side_by_side: whether several
    images are computed at the same time, one thread each. generator: sha256 of the network's file, if there is one.
    background_budget: the bound beside the object, in grey levels.
    """

    device_type: str = "cpu"
    batch_size: int = 1
    side_by_side: bool = True
    generator: str | None = None
    background_budget: float = 0.0

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns what of it must not differ between runs into one folder, as JSON holds it."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Returns what else a manifest's first line says of it."""

    @abstractmethod
    def region(self, found: FoundObject) -> np.ndarray:
        """Returns where the object's budget holds, H×W bool; raises Refused where a class of the image has no code."""

    @abstractmethod
    def prepare(self, image_HWC: np.ndarray, found: FoundObject) -> Prepared:
        """Returns an image ready for its noise; raises Refused where it cannot have any."""

    def noises(self, prepared: Sequence[Prepared]) -> Sequence[Any]:
        """Returns the noise of each image of a batch; None for an image whose noise needs no network."""
        return [None] * len(prepared)

    @abstractmethod
    def apply(self, image_HWC: np.ndarray, prepared: Prepared, noise: Any) -> np.ndarray:
        """Returns the image with its noise; raises Refused where that is none."""

    @abstractmethod
    def for_worker(self) -> SourcePlan:
        """Returns what another process builds the same source from."""


class SourcePlan(ABC):
    """What a process is told so that it can build its own source."""

    @abstractmethod
    def build(self, rank: int) -> NoiseSource:
        """Returns the source of the process with this number."""


def codes_of(found: FoundObject, codes: Mapping[int, int]) -> np.ndarray:
    """Returns the code of every pixel, H×W uint8; raises Refused where a class of the image has none."""
    if found.classes_HW is None:
        raise Refused(
            "failed",
            "nothing says its classes, and where classes are told apart a whole image has no code: leave it out with"
            " --unmasked skip",
        )
    try:
        return code_map(found.classes_HW, codes, found.no_class)
    except ValueError as error:
        raise Refused(
            "failed",
            f"{error}: the codes are those of the masks that were there at first, or of --codes; give a file with a"
            " code for every class (0: no noise) with --codes",
        ) from error
