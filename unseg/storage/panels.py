"""Photographs side by side under captions, drawn with Pillow alone. Each picture is H×W×3 uint8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

NOISE_GAIN = 16
INK, FAINT, PAPER = (34, 34, 34), (110, 110, 110), (255, 255, 255)
WRONG, MISSED = (230, 130, 30), (70, 130, 220)


def before_after_noise_mask(original: np.ndarray, unlearnable: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns original, unlearnable, noise × 16 (grey 128 = no change) and mask, side by side under small captions.

    original, unlearnable: H×W×3 uint8. mask: H×W bool, white in the picture. The photographs keep their own size.
    """
    change = unlearnable.astype(np.int16) - original
    row = [
        ("original", original),
        ("unlearnable", unlearnable),
        (f"noise x{NOISE_GAIN}", noise_panel(change, NOISE_GAIN)),  # "x": Pillow's own font has no "×"
        ("mask", mask_panel(mask)),
    ]
    return captioned_grid([row])


def noise_panel(change_HW3: np.ndarray, gain: float) -> np.ndarray:
    """Returns a change in grey levels, enlarged around grey (128 = no change): H×W×3 uint8. change: H×W×3 numbers, of
    which those that are not finite are drawn as no change.
    """
    return np.rint(np.nan_to_num(change_HW3, posinf=0, neginf=0) * gain + 128).clip(0, 255).astype(np.uint8)


def mask_panel(mask_HW: np.ndarray) -> np.ndarray:
    """Returns a mask (H×W bool) in white on black: H×W×3 uint8."""
    return np.repeat(mask_HW[..., None], 3, axis=2).astype(np.uint8) * 255


def answer_panel(label_HW: np.ndarray, answer_HW: np.ndarray) -> np.ndarray:
    """Returns a mask against the true one (both H×W bool) as H×W×3 uint8.

    Object that was found is white, background taken for object is orange, and object that was missed is blue.
    """
    panel = mask_panel(label_HW & answer_HW)
    panel[answer_HW & ~label_HW] = WRONG
    panel[label_HW & ~answer_HW] = MISSED
    return panel


def captioned_grid(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], legend: Sequence[tuple[str, tuple[int, int, int]]] = ()
) -> np.ndarray:
    """Returns rows of panels (H×W×3 uint8, shown at their own size), each under its caption, as one picture.

    Panels are centred in columns as wide as the widest panel; captions are cut to that width. legend: words, each with
    the colour that it is written in, below the rows.
    """
    panels = [panel for row in rows for _, panel in row]
    width = max(panel.shape[1] for panel in panels)
    gap = max(4, width // 64)
    font = _font_of(max(12, min(width // 16, 32)))
    top = round(1.6 * font.size)
    heights = [top + max(panel.shape[0] for _, panel in row) + gap for row in rows]
    columns = max(len(row) for row in rows)
    picture = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + (top if legend else 0)), PAPER)
    draw = ImageDraw.Draw(picture)
    above = 0
    for row, height in zip(rows, heights, strict=True):
        for column, (caption, panel) in enumerate(row):
            left = gap + column * (width + gap)
            x, y = left + (width - panel.shape[1]) // 2, above + top
            # A line around it: masks are white to their edge, as the paper is.
            draw.rectangle([x - 1, y - 1, x + panel.shape[1], y + panel.shape[0]], outline=FAINT)
            picture.paste(Image.fromarray(panel), (x, y))
            draw.text((left + width / 2, above + top / 2), _cut(caption, font, width), INK, font, anchor="mm")
        above += height
    left = gap
    for word, colour in legend:
        draw.text((left, above + top / 2 - gap / 2), word, colour, font, anchor="lm")
        left += draw.textlength(f"{word}   ", font)
    return np.asarray(picture)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns the text, or as much of its end as fits into `width` after two dots: file names differ in their ends."""
    cut = text
    while font.getlength(cut) > width and len(cut) > 2:
        text = text[1:]
        cut = f"..{text}"
    return cut


def _font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font in `size` pixels."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels come with FreeType"
    return font
