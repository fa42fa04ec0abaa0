"""Finds out what the masks of a folder are, over all of them together; what stays ambiguous is not guessed.

Soft edges and class ids both lie between black and white. What tells them apart is their place: class ids fill areas,
and a pixel inside one has four equal neighbours ("flat"); soft edges are a pixel or a few wide, and hardly any of
theirs has. Where ids are as thin as edges, it is what lies beside them: an edge leads from dark to bright, and its
pixels have a darker and a brighter neighbour (a "step"), while a line of an id lies on something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import SILENT, Progress, track
from unseg.compute.threads import in_order
from unseg.data.masks import MASK_KINDS, MaskKind, brightness, grey_levels
from unseg.errors import UserError
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import Label, open_label

BLACK, WHITE, DEEP_WHITE = 0, 255, 65535
HIGHEST_CLASS_ID = 200  # no common segmentation set numbers its classes higher (COCO panoptic ends at 200)
LOW_IDS = 30  # soft edges and trimaps also have levels over this; sets of a few classes have none
MIDDLE = (90, 165)  # grey levels that stand for "unknown" in trimaps: 127 and 128, with room for other tools' choice
STEPS = 0.5  # share of steps from which levels are soft edges: of halved masks' hairs 0.6 are, of thin ids hardly any
AREAS = 0.25  # share of flat pixels from which values fill areas: edges a pixel wide have none, areas most
PETS = {1, 2, 3}  # the trimaps of Oxford-IIIT Pet: animal, background, not classified
STRAY = 0.1  # share of white below which scattered low values are no classes to rely on
MARGIN = 16  # grey levels next to black or white that JPEG and resizing make of them
AROUND = np.ones((3, 3), np.uint8)  # a pixel and its eight neighbours
PART = 2**18  # pixels that are counted at a time: counting takes 8 bytes each


@dataclass(frozen=True)
class Detected:
    """What the masks of a folder are.

    kind: None where it stays ambiguous. statement: tells the user what was found. otherwise: says what to do if that is
    wrong. fits: every kind that the masks may be; few or blank masks fit several.
    """

    kind: MaskKind | None
    statement: str
    otherwise: str = ""
    fits: tuple[MaskKind, ...] = ()

    def settled(self, where: str, option: str) -> MaskKind:
        """Returns the kind; UserError, which names the masks' place and the option that says it, where none shows."""
        if self.kind is None:
            raise UserError(f"{where}: the masks may be {self.statement}; say which with {option}")
        return self.kind


def detect_kind(
    paths: Sequence[Any],
    executor: Executor | None = None,
    progress: Progress = SILENT,
    opener: Callable[[Any], Label] = open_label,
) -> Detected:
    """Decides for all the masks of a folder together, so that one file cannot be read unlike its neighbours.

    Files that cannot be read do not vote. opener: what reads one of `paths`, for masks that lie elsewhere than in files
    of their own.
    """
    seen = _Seen()

    def look_at(item: Any) -> _Look | None:
        return _look(item, opener)

    looks = in_order(executor, look_at, paths) if executor else map(look_at, paths)
    for look in track(progress, looks, len(paths), "masks"):
        if look is not None:
            seen.add(look)
    return _decide(seen)


# --- one file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What one mask file shows: the little that may be kept for each of a hundred thousand files.

    pixels, flat, steps: value → how many pixels have it, how many of these have four equal neighbours, and how many a
    darker and a brighter one among eight; of 16-bit masks with white in grey levels of 255. palette: index → colour,
    where a palette shows another colour than the index as grey level. deep: white is 65535. lossy: the values are a
    JPEG's.
    """

    pixels: Counter[int]
    flat: Counter[int]
    steps: Counter[int]
    palette: dict[int, tuple[int, ...]] | None
    deep: bool
    lossy: bool


def _look(item: Any, opener: Callable[[Any], Label]) -> _Look | None:
    try:
        with PIXELS.room_for(pixel_count(Path(item)) if isinstance(item, (str, Path)) else 0):
            return _looked_at(opener(item))
    except ImageError:
        return None  # reported by name when its image is protected


def _looked_at(label: Label) -> _Look:
    values, palette = label.values, None
    if label.palette is not None:
        used = np.unique(values).tolist()
        palette = {index: tuple(label.palette[index].tolist()) for index in used}
        if _is_grey(palette):
            values = grey_levels(label)
            palette = None if np.array_equal(values, label.values) else palette
    deep = int(values.max(initial=0)) == DEEP_WHITE
    if deep:
        values = (values // (DEEP_WHITE // WHITE)).astype(np.uint8)
    flat, steps = _flat_and_steps(values)
    return _Look(_counted(values), flat, steps, palette, deep, label.lossy)


def _is_grey(palette: Mapping[int, tuple[int, ...]]) -> bool:
    """Returns whether colours are grey levels that tell their indices apart at all."""
    grey = all(red == green == blue for red, green, blue in palette.values())
    return grey and len(set(palette.values())) >= min(2, len(palette))


def _counted(values: np.ndarray) -> Counter[int]:
    """Returns value → how many of an array have it."""
    counts: Counter[int] = Counter()
    values_N = values.ravel()
    for start in range(0, len(values_N), PART):
        band = values_N[start : start + PART]
        if band.dtype in (np.uint8, np.uint16):
            numbers = np.bincount(band)
            counts.update({int(value): int(numbers[value]) for value in np.flatnonzero(numbers)})
        else:
            found, numbers = np.unique(band, return_counts=True)
            counts.update(dict(zip(found.tolist(), numbers.tolist(), strict=True)))
    return counts


def _flat_and_steps(values_HW: np.ndarray) -> tuple[Counter[int], Counter[int]]:
    """Returns value → how many pixels with it have the same value on all four sides, and how many are steps.

    A step has a darker and a brighter pixel among its eight neighbours; they are counted in 8 bits alone. Pixels at the
    border are neither.
    """
    height, width = values_HW.shape
    rows = max(1, PART // max(1, width))
    flat, steps = Counter[int](), Counter[int]()
    for top in range(1, height - 1, rows):
        part = values_HW[top - 1 : min(top + rows, height - 1) + 1]  # with the rows above and below
        inner = part[1:-1, 1:-1]
        same = np.ones(inner.shape, bool)
        for neighbour in (part[:-2, 1:-1], part[2:, 1:-1], part[1:-1, :-2], part[1:-1, 2:]):
            same &= inner == neighbour
        flat.update(_counted(inner[same]))
        if part.dtype == np.uint8:
            darkest, brightest = (change(part, AROUND)[1:-1, 1:-1] for change in (cv2.erode, cv2.dilate))
            steps.update(_counted(inner[(darkest < inner) & (inner < brightest)]))
    return flat, steps


# --- all files -------------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What all files show together.

    pixels, flat, steps: of files whose values are grey levels or class ids, also of palettes of grey levels. two: the
    values of each such file that has at most two; more: another has more. levels, colours: (index, colour) of palettes
    that show grey levels, and of those that show colours. plain_white: white occurs without a palette.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    flat: Counter[int] = field(default_factory=Counter)
    steps: Counter[int] = field(default_factory=Counter)
    two: set[tuple[int, ...]] = field(default_factory=set)
    more: bool = False
    levels: set[tuple[int, tuple[int, ...]]] = field(default_factory=set)
    colours: set[tuple[int, tuple[int, ...]]] = field(default_factory=set)
    plain_white: bool = False
    deep: bool = False
    jpeg: Counter[int] = field(default_factory=Counter)

    def add(self, look: _Look) -> None:
        """Adds what one file shows."""
        if look.lossy:
            self.jpeg.update(look.pixels)
            return
        if look.palette is not None and not _is_grey(look.palette):
            self.colours.update(look.palette.items())
            return
        self.levels.update(look.palette.items() if look.palette else ())
        self.plain_white |= look.palette is None and WHITE in look.pixels
        self.deep |= look.deep
        self.pixels.update(look.pixels)
        self.flat.update(look.flat)
        self.steps.update(look.steps)
        values = tuple(sorted(look.pixels))
        self.more |= len(values) > 2
        self.two.update({values} if len(values) <= 2 else ())

    @property
    def is_indexed(self) -> bool:
        """Returns whether palettes of two colours hold 0 where they are dark, as class ids do."""
        palettes = self.levels | self.colours
        dark = min(palettes, key=lambda pair: tuple(pair[1]), default=None)
        return (
            dark is not None
            and not self.plain_white
            and all((index == BLACK) == (colour == dark[1]) for index, colour in palettes)
            and WHITE not in {index for index, _ in palettes}
        )


def _decide(seen: _Seen) -> Detected:
    if seen.colours:
        return _of_colours(seen)
    values = set(seen.pixels)
    if not values and not seen.jpeg:
        return Detected("binary", "taken for binary, since none of the files could be read", fits=MASK_KINDS)
    if seen.jpeg and values <= {BLACK, WHITE}:
        return _of_jpegs(seen)
    if values <= {BLACK}:
        return Detected("binary", "binary (black all over)", fits=MASK_KINDS)
    if values <= {BLACK, WHITE}:
        fits: tuple[MaskKind, ...] = ("binary", "soft", "index") if seen.is_indexed else ("binary", "soft")
        told = ", by the colours of their palettes" if seen.levels else ""
        return Detected("binary", f"binary ({BLACK} and {WHITE}{told})", INDEX if seen.levels else "", fits)
    if _is_two_sided(seen):
        shown = " and ".join(map(str, sorted(values))) if len(values) == 2 else "0 and 1, or 0 and 255"
        return Detected("binary", f"binary ({shown}: the brighter one is object)", INDEX, ("binary",))
    if WHITE in values:
        return _of_levels(seen, sorted(values - {BLACK, WHITE}))
    return _without_white(seen, sorted(values - {BLACK}))


INDEX = "; if they are class ids give --mask-type index"
LEVELS = "; if they are grey levels give --mask-type binary"


def _is_two_sided(seen: _Seen) -> bool:
    """Returns whether every file has at most two levels, and these are no class ids: the brighter one is object.

    Some tools write 0 and 1, others 0 and 255, and both may lie in one folder. Two levels without black are no class
    ids where they are beyond the usual ones of few classes.
    """
    if seen.more or len(seen.pixels) > 3:
        return False
    values = set(seen.pixels)
    if values == {BLACK, 1, WHITE}:
        return (1, WHITE) not in seen.two
    if len(values) != 2:
        return False
    low, high = sorted(values)
    if low > LOW_IDS:
        return high <= WHITE or low > WHITE
    return low == BLACK and (bool(seen.levels) or HIGHEST_CLASS_ID < high <= WHITE)


def _of_jpegs(seen: _Seen) -> Detected:
    """Decides for JPEG masks, and black and white ones beside them: they are near black or white."""
    near = sum(count for value, count in seen.jpeg.items() if value < 64 or value > 191)
    dim = LOW_IDS // 2 < max(seen.jpeg) < 64 and not seen.plain_white
    if near < 0.9 * seen.jpeg.total() or dim:
        return Detected(None, "grey levels (soft, trimap), or class ids, which JPEG changes: save those as PNG")
    return Detected("soft", "binary (above 127 is object)", fits=("binary", "soft"))


def _of_colours(seen: _Seen) -> Detected:
    """Decides where palettes show colours: class ids, but for two colours that are the wrong way round for that."""
    if set(seen.pixels) - {BLACK} == {WHITE} and not seen.levels:
        return Detected(
            None, "binary (0 and 255 in some) or class ids (palettes with colours in others): keep the two kinds apart"
        )
    indices, colours = {index for index, _ in seen.colours}, sorted({colour for _, colour in seen.colours})
    light = brightness(np.array(colours))
    by_index = bool(seen.pixels) or len(colours) != 2 or WHITE in indices or light[0] == light[1]
    if by_index or not {(0, 0, 0), (255, 255, 255)} & set(colours):
        return Detected("index", "class ids (palette PNG)", fits=("index",))
    darker = colours[int(np.argmin(light))]
    if {index for index, colour in seen.colours if colour == darker} == {BLACK}:
        return Detected("index", "class ids (palette PNG)", fits=("index", "binary"))  # the same object either way
    return Detected("binary", "binary (palettes of two colours, the brighter one is object)", INDEX, ("binary",))


def _of_levels(seen: _Seen, between: Sequence[int]) -> Detected:
    """Decides where white occurs. between: the levels between black and white."""
    areas, white_areas, highest = _flat_share(seen, between), _flat_share(seen, [WHITE]), between[-1]
    if highest <= LOW_IDS or between[0] < BLACK:
        few = sum(seen.pixels[value] for value in between) < STRAY * seen.pixels[WHITE]
        if not few or areas >= AREAS or white_areas < AREAS:
            return _by_index(seen, between)
        told = f"binary with a few pixels of other values (soft; up to {highest} beside 0 and 255)"
        return Detected(None, f"{told}, or class ids (index) beside large areas of 255")
    thin = areas < AREAS and (white_areas >= AREAS or highest > HIGHEST_CLASS_ID)
    if highest > WHITE:
        return Detected("index", "class ids (values over 255)", fits=("index",))
    if thin or (highest > HIGHEST_CLASS_ID and _is_black_and_white(seen)):
        if not _are_edges(seen, between):
            told = f"class ids (index) in thin places, or grey edges (soft): they hold {_first(between)} beside 255"
            return Detected(None, told)
        told = f"binary with grey edges (values such as {highest} beside 0 and 255): above 127 is object"
        return Detected("soft", told, INDEX, ("soft", "binary"))
    if len(between) == 1 and MIDDLE[0] <= highest <= MIDDLE[1]:
        told = f"a trimap (0, {highest} and 255), binary with grey edges (soft), or class ids (index)"
        return Detected(None, told)
    if areas >= AREAS and highest <= HIGHEST_CLASS_ID and (between[0] <= LOW_IDS or white_areas < AREAS):
        return _by_index(seen, between)
    return Detected(None, f"grey levels (soft or trimap) or class ids (index): they hold {_first(between)} beside 255")


def _are_edges(seen: _Seen, between: Sequence[int]) -> bool:
    """Returns whether thin levels lead from black to white: some are above any class id, or most pixels are steps.

    Some must be in the upper half, which is the object.
    """
    if between[-1] > HIGHEST_CLASS_ID:
        return True
    share = sum(seen.steps[value] for value in between) / sum(seen.pixels[value] for value in between)
    return share >= STEPS and between[-1] > WHITE // 2


def _first(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:4])) + (", …" if len(values) > 4 else "")


def _without_white(seen: _Seen, ids: Sequence[int]) -> Detected:
    """Decides where no pixel is white: class ids, unless the values go beyond any set's and fill no areas."""
    values, highest = set(seen.pixels), ids[-1]
    if values in (PETS, {1, 2}):
        shown = ", ".join(map(str, ids))
        return Detected(
            None,
            f"class ids (index, {shown} without a background), or trimaps of Oxford-IIIT Pet, whose animal is"
            " --objects 1",
        )
    if highest > HIGHEST_CLASS_ID and len(ids) > 1 and _flat_share(seen, ids) < AREAS:
        if highest <= WHITE and BLACK in values:
            return Detected("soft", f"grey levels up to {highest}: above 127 is object", INDEX, ("soft", "binary"))
        return Detected(None, f"grey levels (soft) or class ids (index): they go up to {highest}")
    if highest > WHITE:
        return Detected("index", "class ids (values over 255)", fits=("index",))
    if highest > HIGHEST_CLASS_ID and len(ids) > 1:
        return Detected(None, f"grey levels (soft) or class ids (index): they go up to {highest}")
    return _by_index(seen, ids)


def _by_index(seen: _Seen, ids: Sequence[int]) -> Detected:
    """Returns class ids; where palettes of grey levels show them, those are their indices."""
    if seen.levels and len(seen.pixels) <= 3:
        return Detected(None, "a trimap or soft by their palettes' grey levels, or class ids (index) by their indices")
    if seen.levels:
        return Detected("index", "class ids (palette PNG)", LEVELS, ("index",))
    statement = f"class ids ({len(ids)} of them, {ids[0]} to {ids[-1]})"
    return Detected("index", statement, LEVELS, ("index", "binary") if list(ids) == [1] else ("index",))


def _flat_share(seen: _Seen, values: Sequence[int]) -> float:
    """Returns which share of the pixels with these values lies inside areas of one value."""
    return sum(seen.flat[value] for value in values) / sum(seen.pixels[value] for value in values)


def _is_black_and_white(seen: _Seen) -> bool:
    """Returns whether nearly all pixels are next to black or white, as after JPEG or resizing."""
    near = sum(count for value, count in seen.pixels.items() if value <= MARGIN or value >= WHITE - MARGIN)
    return near >= 0.95 * seen.pixels.total()
