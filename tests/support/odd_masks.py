"""Odd but sound folders of masks, by seed: every storage that tools write, mixed, soft, turned, scaled, of class ids.

Each folder comes with its right answer: the object of each image, as it was drawn before it was stored, or the refusal.
`seen_by_others` reads the stored files once more, with OpenCV and its own arithmetic, and none of the project's code.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

Draw = np.random.Generator
Writer = Callable[[Path, np.ndarray, Draw], Path]
ORIENTATION = 274


@dataclass
class Odd:
    """One folder.

    objects: image → its object, H×W bool upright; None: that image alone fails. refused: the run is, with these words.
    options: of `ProtectSettings`; rule: of its ObjectRule. kind: how others see the masks' values. parts: stem, object,
    what writes the mask, and the image's EXIF orientation.
    """

    name: str
    root: Path
    objects: dict[str, np.ndarray | None] = field(default_factory=dict)
    refused: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    parts: list[tuple[str, np.ndarray, Callable[[Path], Path], int]] = field(default_factory=list)


def odd_folders(root: Path, seed: int, rounds: int = 3) -> Iterator[Odd]:
    """Yields all kinds of folders, `rounds` times each with other objects, sizes and companions."""
    for number in range(rounds):
        for build in KINDS:
            draw = np.random.default_rng([seed, number, zlib.crc32(build.__name__.encode())])
            for odd in build(draw):
                place = root / f"{number}-{odd.name}"
                odd.root = place
                yield odd


# --- what is drawn ---------------------------------------------------------------------------------------------------


def blob(draw: Draw, height: int, width: int) -> np.ndarray:
    """An object that lies neither in the middle nor evenly, with a corner and a round side, H×W bool."""
    rows, columns = np.mgrid[0:height, 0:width]
    top, left = draw.uniform(0.1, 0.3) * height, draw.uniform(0.08, 0.35) * width
    disc = ((rows - top - 0.3 * height) / (0.28 * height)) ** 2 + ((columns - left - 0.2 * width) / (0.22 * width)) ** 2
    box = (rows > top) & (rows < 0.62 * height) & (columns > left + 0.1 * width) & (columns < left + 0.5 * width)
    return (disc <= 1) | box


def size(draw: Draw) -> tuple[int, int]:
    height = int(draw.integers(36, 60))
    return height, height + int(draw.integers(3, 30))


def soft_levels(draw: Draw, hard: np.ndarray) -> np.ndarray:
    """Levels 0 to 255 with edges: halved from twice the size, or blurred a little."""
    if draw.random() < 0.5:
        return cv2.resize(np.where(hard, 255, 0).astype(np.uint8), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    shrunk = np.where(hard[::2, ::2], 255, 0).astype(np.uint8)
    return cv2.GaussianBlur(shrunk, (0, 0), float(draw.uniform(0.6, 1.0)))


# --- how it is stored ------------------------------------------------------------------------------------------------


def as_png(path: Path, image: Pillow.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path.with_suffix(".png"), **options)
    return path.with_suffix(".png")


def with_palette(indices: np.ndarray, colours: list[tuple[int, int, int]]) -> Pillow.Image:
    image = Pillow.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(sum(colours, ()))
    return image


def raw_grey_png(path: Path, samples: np.ndarray, depth: int) -> Path:
    """A grey PNG of 1, 2 or 4 bits a pixel, which Pillow does not write."""
    rows = []
    for row in samples.astype(np.uint8):
        bits = np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].reshape(-1)
        rows.append(b"\0" + np.packbits(bits).tobytes())
    height, width = samples.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))

    header = pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )
    return path.with_suffix(".png")


def saved(path: Path, image: Pillow.Image, suffix: str, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path.with_suffix(suffix), **options)
    return path.with_suffix(suffix)


def grey(hard: np.ndarray, on: int = 255, off: int = 0) -> np.ndarray:
    return np.where(hard, on, off).astype(np.uint8)


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HARD_STORAGES: dict[str, Writer] = {
    "8 bits": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard))),
    "1 bit": lambda path, hard, draw: as_png(path, Pillow.fromarray(hard)),
    "2 bits": lambda path, hard, draw: raw_grey_png(path, np.where(hard, 3, 0), 2),
    "4 bits": lambda path, hard, draw: raw_grey_png(path, np.where(hard, 15, 0), 4),
    "16 bits": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard).astype(np.uint16) * 257)),
    "RGB": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard)).convert("RGB")),
    "opaque RGBA": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard)).convert("RGBA")),
    "opaque LA": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard)).convert("LA")),
    "palette": lambda path, hard, draw: as_png(path, with_palette(hard, [BLACK, WHITE])),
    "white-first palette": lambda path, hard, draw: as_png(path, with_palette(~hard, [WHITE, BLACK])),
    "palette of 1 and 3": lambda path, hard, draw: as_png(
        path, with_palette(np.where(hard, 3, 1), [(9, 9, 9), BLACK, (7, 7, 7), WHITE])
    ),
    "quantised": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard)).convert("RGB").quantize(2)),
    "grey palette": lambda path, hard, draw: as_png(path, Pillow.fromarray(grey(hard)).convert("P")),
    "TIFF": lambda path, hard, draw: saved(path, Pillow.fromarray(grey(hard)), ".tif", compression="tiff_lzw"),
    "TIFF of 1 bit": lambda path, hard, draw: saved(path, Pillow.fromarray(hard), ".tiff", compression="group4"),
    "BMP": lambda path, hard, draw: saved(path, Pillow.fromarray(grey(hard)), ".bmp"),
    "BMP of 1 bit": lambda path, hard, draw: saved(path, Pillow.fromarray(hard), ".bmp"),
    "WebP": lambda path, hard, draw: saved(path, Pillow.fromarray(grey(hard)), ".webp", lossless=True),
}
SOFT_STORAGES: dict[str, Writer] = {
    "8 bits": lambda path, levels, draw: as_png(path, Pillow.fromarray(levels)),
    "16 bits": lambda path, levels, draw: as_png(path, Pillow.fromarray(levels.astype(np.uint16) * 257)),
    "RGB": lambda path, levels, draw: as_png(path, Pillow.fromarray(levels).convert("RGB")),
    "shuffled palette": lambda path, levels, draw: shuffled(path, levels, draw),
    "TIFF": lambda path, levels, draw: saved(path, Pillow.fromarray(levels), ".tif"),
}


def shuffled(path: Path, levels: np.ndarray, draw: Draw) -> Path:
    """Grey levels behind a palette in any order, as optimisers sort it."""
    order = draw.permutation(256)
    return as_png(path, with_palette(np.argsort(order)[levels], [(int(level),) * 3 for level in order]))


# --- kinds of folders ------------------------------------------------------------------------------------------------


def stored_alike(draw: Draw) -> Iterator[Odd]:
    for storage in HARD_STORAGES:
        yield filled(draw, f"hard, {storage}", HARD_STORAGES, [storage] * 2, kind="bright")
    for storage in SOFT_STORAGES:
        yield filled(draw, f"soft, {storage}", SOFT_STORAGES, [storage] * 2, soft=True, kind="bright")


def stored_in_all_ways(draw: Draw) -> Iterator[Odd]:
    for number in range(4):
        chosen = [str(name) for name in draw.choice(list(HARD_STORAGES), 4, replace=False)]
        yield filled(draw, f"mixed {number}", HARD_STORAGES, chosen, kind="bright")
    odd = filled(draw, "one soft among hard ones", HARD_STORAGES, ["8 bits", "RGB", "1 bit"], kind="bright")
    levels = soft_levels(draw, blob(draw, 2 * 41, 2 * 57))
    add(odd, "soft", levels > 127, lambda path: SOFT_STORAGES["8 bits"](path, levels, draw))
    yield odd


def of_two_levels(draw: Draw) -> Iterator[Odd]:
    for on, off in ((1, 0), (254, 0), (130, 40), (255, 60)):
        odd = Odd(f"levels {off} and {on}", Path(), kind="bright")
        for number in range(2):
            hard = blob(draw, *size(draw))
            image = Pillow.fromarray(grey(hard, on, off))
            add(odd, f"m{number}", hard, lambda path, image=image: as_png(path, image))
        yield odd
    odd = Odd("0 and 1 beside 0 and 255", Path(), kind="bright")
    for on in (1, 255):
        hard = blob(draw, *size(draw))
        add(odd, f"m{on}", hard, lambda path, hard=hard, on=on: as_png(path, Pillow.fromarray(grey(hard, on))))
    yield odd
    odd = Odd("JPEG", Path(), kind="bright")
    for number in range(2):
        hard = np.kron(blob(draw, 5, 7), np.ones((8, 8))) > 0  # whole blocks of a JPEG: no ringing crosses the middle
        image = Pillow.fromarray(grey(hard))
        add(odd, f"m{number}", hard, lambda path, image=image: saved(path, image, ".jpg", quality=75))
    yield odd


def of_class_ids(draw: Draw) -> Iterator[Odd]:
    """Ids 3 and 12 and a border of 255 (void); what is the object depends on the rule."""
    for name, deep, coloured, rule in (
        ("ids", False, False, {}),
        ("ids, one of them", False, False, {"which": (12,)}),
        ("ids of 16 bits", True, False, {}),
        ("ids, coloured palette", False, True, {}),
        ("ids, palette, one of them", False, True, {"which": (3,)}),
        ("ids, 0 is a class", False, False, {"background_label": None}),
        ("ids, 12 is ignored", False, False, {"ignore_label": 12}),
    ):
        odd = Odd(name, Path(), rule=rule, kind="ids")
        colours = [(int(r), int(g), int(b)) for r, g, b in draw.integers(0, 256, (256, 3))]
        for number in range(2):
            values = np.zeros(size(draw), np.uint16 if deep else np.uint8)
            height, width = values.shape
            values[4 : height // 2, 3 : width // 2] = 3 * (300 if deep else 1)
            values[height // 3 : height - 5, width // 3 : width - 4] = 12 * (300 if deep else 1)
            if not deep:
                values[height - 5] = 255
            image = with_palette(values, colours) if coloured else Pillow.fromarray(values)
            add(odd, f"m{number}", taken(values, rule), lambda path, image=image: as_png(path, image))
        yield odd


def taken(values: np.ndarray, rule: dict[str, Any]) -> np.ndarray:
    """The rule in words of numpy: chosen ids, or all but the background's, and never the ignored one."""
    ignored, background = rule.get("ignore_label", 255), rule.get("background_label", 0)
    chosen = np.isin(values, rule["which"]) if "which" in rule else np.ones(values.shape, bool)
    if "which" not in rule and background is not None:
        chosen &= values != background
    return chosen & (values != ignored)


def turned(draw: Draw) -> Iterator[Odd]:
    """Photographs with an EXIF orientation, and masks that lie upright or like the stored pixels."""
    for frame in ("upright", "stored"):
        odd = Odd(f"turned, {frame}", Path(), options={"mask_frame": frame})
        for orientation in range(1, 9):
            upright = blob(draw, *size(draw))
            lying = upright if frame == "upright" else as_stored(upright, orientation)
            add(
                odd,
                f"o{orientation}",
                upright,
                lambda path, lying=lying: as_png(path, Pillow.fromarray(grey(lying))),
                orientation,
            )
        yield odd


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera stores them whose EXIF says `orientation`: what EXIF 2.32 says of row 0 and column 0."""
    rotated = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]
    lying = np.rot90(upright, rotated)
    return {2: np.fliplr, 4: np.fliplr, 5: np.flipud, 7: np.flipud}.get(orientation, np.asarray)(lying).copy()


def of_other_sizes(draw: Draw) -> Iterator[Odd]:
    odd = Odd("half the size", Path(), options={"fit_masks": True})
    for number in range(2):
        small = blob(draw, *size(draw))
        large = np.kron(small, np.ones((2, 2))) > 0
        add(odd, f"m{number}", large, lambda path, small=small: as_png(path, Pillow.fromarray(grey(small))))
    yield odd
    odd = Odd("half the size, not asked for", Path())
    small = blob(draw, *size(draw))
    image = np.kron(small, np.ones((2, 2))) > 0
    add(odd, "m", image, lambda path: as_png(path, Pillow.fromarray(grey(small))))
    odd.objects["m.png"] = None
    yield odd
    odd = Odd("transparent and coloured masks", Path())
    hard = blob(draw, 40, 57)
    cut_out = Pillow.fromarray(np.dstack([np.full((40, 57, 3), 90, np.uint8), grey(hard)]))
    red = Pillow.fromarray(np.dstack([grey(hard), grey(hard, 0, 9), grey(hard, 4, 0)]))
    for name, picture in (("alpha", cut_out), ("red", red)):
        add(odd, name, hard, lambda path, picture=picture: as_png(path, picture))
        odd.objects[f"{name}.png"] = None
    add(odd, "good", hard, lambda path: as_png(path, Pillow.fromarray(grey(hard))))
    yield odd


def ambiguous(draw: Draw) -> Iterator[Odd]:
    """What nothing tells apart is asked for, and taken as it is named."""
    hard = blob(draw, *size(draw))
    wide = cv2.dilate(hard.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    trimap = np.where(hard, 255, np.where(wide, 128, 0)).astype(np.uint8)
    pet = np.where(hard, 1, np.where(wide, 3, 2)).astype(np.uint8)
    steps = np.where(hard, 192, np.where(wide, 64, 0)).astype(np.uint8)
    steps[-8:] = 255
    grey_palette = with_palette(trimap // 127, [BLACK, (128,) * 3, WHITE])
    for name, picture, named, right in (
        ("trimap", Pillow.fromarray(trimap), {"mask_type": "trimap"}, wide),
        ("trimap in a palette", grey_palette, {"mask_type": "trimap"}, wide),
        ("trimap of pets", Pillow.fromarray(pet), {"mask_type": "index"}, hard),
        ("steps", Pillow.fromarray(steps), {"mask_type": "soft"}, steps > 127),
    ):
        rule = {"which": (1,)} if name.endswith("pets") else {}
        for options, object_ in (({}, None), (named, right)):
            odd = Odd(f"{name}, {'asked' if not options else 'named'}", Path(), options=options)
            odd.rule = rule if options else {}
            add(odd, "m", hard if object_ is None else object_, lambda path, picture=picture: as_png(path, picture))
            odd.refused = "say which with --mask-type" if object_ is None else None
            yield odd


KINDS = (
    stored_alike,
    stored_in_all_ways,
    of_two_levels,
    of_class_ids,
    turned,
    of_other_sizes,
    ambiguous,
)


# --- writing ---------------------------------------------------------------------------------------------------------


def filled(
    draw: Draw, name: str, storages: dict[str, Writer], chosen: list[str], soft: bool = False, kind: str | None = None
) -> Odd:
    odd = Odd(name, Path(), kind=kind)
    for number, storage in enumerate(chosen):
        high, wide = size(draw)
        levels = soft_levels(draw, blob(draw, 2 * high, 2 * wide)) if soft else blob(draw, high, wide)
        write = storages[storage]
        right = levels > 127 if soft else levels
        add(odd, f"m{number}", right, lambda path, levels=levels, write=write: write(path, levels, draw))
    return odd


def add(odd: Odd, stem: str, right: np.ndarray, write: Callable[[Path], Path], orientation: int = 1) -> None:
    """Puts an image of `right`'s size, and what will write its mask, into a folder."""
    odd.objects[f"{stem}.png"] = right
    odd.parts.append((stem, right, write, orientation))


def write(odd: Odd) -> list[Path]:
    """Writes images and masks, and returns the masks' files. No change of these greys is cut off at black or white."""
    files = []
    for stem, right, write_mask, orientation in odd.parts:
        pixels = np.random.default_rng(zlib.crc32(stem.encode())).integers(60, 190, (*right.shape, 3), np.uint8)
        exif = Pillow.Exif()
        exif[ORIENTATION] = orientation
        lying = Pillow.fromarray(as_stored(pixels, orientation) if orientation != 1 else pixels)
        (odd.root / "in").mkdir(parents=True, exist_ok=True)
        lying.save(odd.root / "in" / f"{stem}.png", **({"exif": exif} if orientation != 1 else {}))
        files.append(write_mask(odd.root / "masks" / stem))
    return files


# --- reading once more -----------------------------------------------------------------------------------------------


def seen_by_others(path: Path, odd: Odd) -> np.ndarray:
    """The object as OpenCV's decoders show it: by brightness, or by the file's own numbers under the rule."""
    if odd.kind == "ids":
        with Pillow.open(path) as image:
            values = np.array(image)  # of a palette its indices
        return taken(values, odd.rule)
    colours = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH).astype(float)
    light = colours @ [0.114, 0.587, 0.299]
    return light > (light.min() + light.max()) / 2
