"""How a mask lies on its image: upright or as the pixels are stored, of its size or scaled to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unseg.data.masks import fits, scaled
from unseg.storage.image_decoding import Frame, turn
from unseg.storage.label_decoding import Label

MaskFrame = Literal["auto", "upright", "stored"]
STORED: Literal["stored"] = "stored"
SCALED = "scaled"  # this and the one above: what a manifest says of a mask that does not lie on its image as it is


class Misfit(Exception):
    """Says why a mask does not lie on its image, and the remedy."""


@dataclass(frozen=True)
class Placing:
    """How the masks of a run lie.

    frame: "stored" where EXIF's orientation turns them with their image; "auto" is upright, and says where that was a
    choice. fit: scale masks of other sizes with the image's proportions.
    """

    frame: MaskFrame = "auto"
    fit: bool = False

    @staticmethod
    def recorded(placed: str | None) -> Placing:
        """Returns how a manifest's line says that its mask was laid."""
        words = (placed or "").split(" ")
        return Placing(STORED if STORED in words else "upright", SCALED in words)

    def turns(self, orientation: int) -> bool:
        """Returns whether masks of an image with this EXIF orientation are turned with it."""
        return self.frame == STORED and orientation != 1

    def place(self, values_HW: np.ndarray, label: Label, frame: Frame) -> PlacedMask:
        """Returns a mask's values on its image, whose upright size and orientation are `frame`'s; else raises Misfit.

        A mask with an orientation of its own has been turned by that already.
        """
        turned = label.orientation == 1 and self.turns(frame.orientation)
        lying_HW = turn(values_HW, frame.orientation) if turned else values_HW
        words: list[str] = [STORED] if turned else []
        notes: list[str] = []
        wanted = frame.height, frame.width
        if lying_HW.shape != wanted:
            if not (self.fit and fits(lying_HW.shape, wanted)):
                raise Misfit(self.misfit((lying_HW.shape[0], lying_HW.shape[1]), label.orientation, frame))
            notes.append(f"its mask was scaled from {_size(lying_HW)}")
            lying_HW, words = scaled(lying_HW, *wanted), [*words, SCALED]
        elif self.frame == "auto" and _fits_either_way(label, frame):
            notes.append(
                f"EXIF turns it (orientation {frame.orientation}) and its mask fits either way: taken as upright; if it"
                " lies like the stored pixels, give --mask-frame stored"
            )
        return PlacedMask(lying_HW, " ".join(words) or None, tuple(notes))

    def expected(self, frame: Frame) -> tuple[int, int] | None:
        """Returns the height and width that a mask must have, whichever way it lies; None where it may be scaled."""
        return None if self.fit else (frame.height, frame.width)

    def misfit(self, size: tuple[int, int], orientation: int, frame: Frame) -> str:
        """Returns why a mask of that height and width, with that orientation of its own, does not lie on its image."""
        wanted = frame.height, frame.width
        told = f"is {size[1]}×{size[0]}, the image (upright) is {frame.width}×{frame.height}: make them one size"
        other_way = size[::-1]  # as the other frame has it
        if orientation == 1 and frame.is_turned and other_way == wanted:
            other = "upright" if self.frame == STORED else STORED
            return f"{told}, or give --mask-frame {other} if it lies so"
        if fits(size, wanted):
            return f"{told}, or give --fit-masks, since the proportions are the same"
        return told


@dataclass(frozen=True)
class PlacedMask:
    """A mask on its image. values: H×W as the image. placed: for the manifest; None where it lies as it is."""

    values_HW: np.ndarray
    placed: str | None
    notes: tuple[str, ...]


def _fits_either_way(label: Label, frame: Frame) -> bool:
    """Returns whether a mask that fits the upright image would also fit its stored pixels, and mean something else."""
    same_size = not frame.is_turned or frame.height == frame.width
    return label.orientation == 1 and frame.orientation != 1 and same_size


def _size(values_HW: np.ndarray) -> str:
    return f"{values_HW.shape[1]}×{values_HW.shape[0]}"
