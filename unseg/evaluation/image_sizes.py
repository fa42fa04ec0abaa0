"""Whether protected images have the size of the clean ones, told by their headers before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unseg.errors import UserError
from unseg.storage.files import open_for_reading
from unseg.storage.image_headers import promised_size


def check_sizes(protected: Sequence[Path], clean: Sequence[Path]) -> None:
    """Raises UserError where a protected image is of another size than the clean one, as far as headers say.

    So that a training of hours does not come before it. Sides may be exchanged, as EXIF does.
    """
    for one, other in zip(protected, clean, strict=True):
        sizes = []
        for path in (one, other):
            with open_for_reading(path) as file:
                sizes.append(promised_size(file))
        if all(map(all, sizes)) and sorted(sizes[0]) != sorted(sizes[1]):
            raise UserError(other_size(one, *sizes))


def other_size(path: Path, size: tuple[int, int], clean: tuple[int, int]) -> str:
    """Returns what is wrong with a protected image. size, clean: width and height."""
    return (
        f"{path}: {size[0]}×{size[1]} pixels, but the clean image has {clean[0]}×{clean[1]}; protect the images at full"
        " size"
    )
