"""A protected GeoTIFF beside its original, both read by tifffile: every value of every band, tags, masks, overviews."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from unseg.storage.image_limits import ImageError, image_errors
from unseg.storage.stacks.stack import Part, Proof
from unseg.storage.tiff_structure import check_entries

# Tags that say how values are stored: SubfileType, Compression, the places and sizes of strips and tiles, planes,
# predictor, SubIFDs, JPEG's tables and GDAL's metadata, which are looked at by themselves.
OF_STORING = {254, 259, 273, 278, 279, 284, 317, 322, 323, 324, 325, 330, 347, 530, 531, 532, 42112}
OF_COLOURS = {262, 258}  # what unpacking JPEG changes
OF_MAP = {34735, 34736, 34737}  # keys of coordinates, which may be worded in several ways
ITEM = re.compile(r"<Item\b[^>]*>.*?</Item>", re.DOTALL)
OF_PACKING = ("OVERVIEW", "LAYOUT")
CACHED = 2**27  # bytes of unpacked parts
BLOCK = 1024
MASK, PREVIEW = 4, 1  # of SubfileType
NO_DATA = 42113  # GDAL's tag: a number as text, which may be worded in several ways


class GeoTiffProof(Proof):
    """Reads both files. bands: those that may change, from 1. same_place: whether coordinates mean the same."""

    def __init__(self, original: Pages, output: Pages, bands: tuple[int, ...], same_place: bool) -> None:
        self._before, self._after, self._bands, self._same_place = original, output, bands, same_place

    @classmethod
    def open(cls, original: Path, output: Path, bands: tuple[int, ...], same_place: bool) -> GeoTiffProof:
        """Opens both files; ImageError where tifffile cannot read them."""
        before = Pages.open(original)
        try:
            return cls(before, Pages.open(output), bands, same_place)
        except ImageError:
            before.close()
            raise

    def pair(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        chosen = [band - 1 for band in self._bands]
        before, after = (
            pages.main.window(part.rows, part.columns)[..., chosen] for pages in (self._before, self._after)
        )
        return before, after

    def differences(self) -> Iterator[str]:
        before, after = self._before, self._after
        if before.main.shape != after.main.shape:
            yield f"it is {after.main.shape}, its original is {before.main.shape}"
            return
        if not self._same_place:
            yield "its coordinates are not the original's"
        yield from self._tags()
        others = sorted(set(range(before.main.shape[2])) - {band - 1 for band in self._bands})
        if others and not before.main.is_same(after.main, others):
            yield "bands that were not to change are not the original's"
        if (before.mask is None) != (after.mask is None):
            yield "it has not the mask that its original has"
        elif before.mask is not None and after.mask is not None and not before.mask.is_same(after.mask, [0]):
            yield "its mask is not the original's"
        if before.previews != after.previews:
            yield f"it has overviews of {after.previews}, its original of {before.previews}"

    def _close(self) -> None:
        self._before.close()
        self._after.close()

    def _tags(self) -> Iterator[str]:
        before, after = (_tags_of(pages.main.page) for pages in (self._before, self._after))
        unpacked = self._before.main.page.compression != self._after.main.page.compression
        left_out = OF_STORING | OF_MAP | (OF_COLOURS if unpacked else set())
        for tag in sorted((before.keys() | after.keys()) - left_out):
            one, other = before.get(tag), after.get(tag)
            if tag == NO_DATA and _same_number(one, other, self._before.main.page.dtype):
                continue
            if one != other:
                yield f"its tag {tag} is not the original's"
        old, new = (_items(tags.get(42112)) for tags in (before, after))
        if old != new:
            yield "its GDAL metadata are not the original's"


def _tags_of(page: Any) -> dict[int, Any]:
    return {tag.code: _plain(tag.value) for tag in page.tags.values()}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else value


def _same_number(one: Any, other: Any, kind: np.dtype) -> bool:
    """Returns whether two texts are the same number among values of this type."""
    try:
        found = [np.float64(text).astype(kind) if kind.kind == "f" else _number(text) for text in (one, other)]
    except (TypeError, ValueError, OverflowError):
        return False
    return bool(found[0] == found[1] or (found[0] != found[0] and found[1] != found[1]))


def _number(text: Any) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _items(text: Any) -> list[str]:
    found = ITEM.findall(str(text or ""))
    return sorted(item for item in found if not any(f'name="{name}' in item for name in OF_PACKING))


class Pages:
    """The pages of a file that show one image: itself, its mask and its overviews."""

    def __init__(self, file: Any, main: Page, mask: Page | None, previews: list[tuple[int, int]]) -> None:
        self._file, self.main, self.mask, self.previews = file, main, mask, previews

    @classmethod
    def open(cls, path: Path) -> Pages:
        """Opens a file; ImageError where tifffile cannot read it."""
        check_entries(path)
        with image_errors(path):
            file = tifffile.TiffFile(path)
            found = [page for page in file.pages if isinstance(page, (tifffile.TiffPage, tifffile.TiffFrame))]
            pages = [page if isinstance(page, tifffile.TiffPage) else page.aspage() for page in found]
            if not pages:
                raise ImageError(path, "a second reader finds no image in it")
            masks = [page for page in pages[1:] if page.subfiletype & MASK and not page.subfiletype & PREVIEW]
            previews = [page for page in pages[1:] if page.subfiletype & PREVIEW and not page.subfiletype & MASK]
            sizes = [(page.imagelength, page.imagewidth) for page in previews]
            return cls(file, Page(path, pages[0]), Page(path, masks[0]) if masks else None, sizes)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class Page:
    """One page, read in windows: only the strips or tiles that a window needs are unpacked."""

    def __init__(self, path: Path, page: Any) -> None:
        self._path, self.page = path, page
        self.shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        tiled = page.is_tiled
        self._height = page.tilelength if tiled else min(page.rowsperstrip, page.imagelength)
        self._width = page.tilewidth if tiled else page.imagewidth
        self._across, self._down = -(-self.shape[1] // self._width), -(-self.shape[0] // self._height)
        self._separate = page.planarconfig == 2 and page.samplesperpixel > 1
        self._unpacked: OrderedDict[int, np.ndarray] = OrderedDict()

    def window(self, rows: slice, columns: slice) -> np.ndarray:
        """Returns the values of a window in all bands, H×W×C."""
        size = (rows.stop - rows.start, columns.stop - columns.start, self.shape[2])
        values = np.zeros(size, self.page.dtype)
        for down in range(rows.start // self._height, -(-rows.stop // self._height)):
            for across in range(columns.start // self._width, -(-columns.stop // self._width)):
                for plane in range(self.shape[2] if self._separate else 1):
                    part = self._part(plane * self._down * self._across + down * self._across + across)
                    bands = slice(plane, plane + 1) if self._separate else slice(None)
                    self._put(values, part, (down, across), rows, columns, bands=bands)
        return values

    def is_same(self, other: Page, bands: list[int]) -> bool:
        """Returns whether all values of these bands are another page's."""
        if self.shape != other.shape or self.page.dtype != other.page.dtype:
            return False
        height, width, _ = self.shape
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                where = slice(top, min(top + BLOCK, height)), slice(left, min(left + BLOCK, width))
                one, two = (page.window(*where)[..., bands] for page in (self, other))
                if not np.array_equal(one, two, equal_nan=one.dtype.kind == "f"):
                    return False
        return True

    def _put(
        self,
        values: np.ndarray,
        part: np.ndarray,
        place: tuple[int, int],
        rows: slice,
        columns: slice,
        *,
        bands: slice,
    ) -> None:
        top, left = place[0] * self._height, place[1] * self._width
        first, last = max(rows.start, top), min(rows.stop, top + part.shape[0], self.shape[0])
        begin, end = max(columns.start, left), min(columns.stop, left + part.shape[1], self.shape[1])
        values[first - rows.start : last - rows.start, begin - columns.start : end - columns.start, bands] = part[
            first - top : last - top, begin - left : end - left
        ]

    def _part(self, index: int) -> np.ndarray:
        """Returns a strip or tile, unpacked: H×W×C."""
        if index in self._unpacked:
            self._unpacked.move_to_end(index)
            return self._unpacked[index]
        page = self.page
        with image_errors(self._path):
            length = page.databytecounts[index]
            if length == 0:  # a part that was never written
                depth = 1 if self._separate else self.shape[2]
                part = np.full((self._height, self._width, depth), page.nodata, page.dtype)
            else:
                file = page.parent.filehandle
                file.seek(page.dataoffsets[index])
                decoded, _, _ = page.decode(file.read(length), index, jpegtables=page.jpegtables)
                part = decoded[0]
        while self._unpacked and sum(kept.nbytes for kept in self._unpacked.values()) + part.nbytes > CACHED:
            self._unpacked.popitem(last=False)
        self._unpacked[index] = part
        return part
