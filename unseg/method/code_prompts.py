"""Codes as a prompt of a generator: how the pattern of each pixel's code would change it, in the generator's frame."""

from __future__ import annotations

import numpy as np

from unseg.method.coded_noise import code_signs
from unseg.method.codes import OBJECT, code_map
from unseg.method.letterbox import image_frame
from unseg.method.patterns import ABSENCE, ONE_CODE_BOOK, CodeBook
from unseg.storage.key_file import KEY_BYTES

ON = 255  # of a label's pixels: above a half of it is the object


def code_prompt(image_HWC: np.ndarray, codes_HW: np.ndarray, book: CodeBook, key: bytes, side: int) -> np.ndarray:
    """Returns the codes of an image as a prompt: 3×side×side float32 in [−1, 1].

    It holds the signs of the patterns that `apply_codes` adds for these codes and this key, averaged over each of the
    prompt's pixels, in the square that the image is padded to; 0 where there is no noise. image, codes: as for
    `apply_codes`.
    """
    signs_HW3 = code_signs(image_HWC, codes_HW, book, key)
    up, down = (
        image_frame((signs_HW3 == sign).astype(np.uint8) * np.uint8(ON), side, antialias=True) for sign in (1, -1)
    )
    return up - down


def object_code_prompt(
    view_4VV: np.ndarray, side: int, random: np.random.Generator, code: int | None = None
) -> np.ndarray:
    """Returns the codes of a training view as a prompt, 3×side×side: one code on its object, none elsewhere.

    view: colours and label, uint8. The key is drawn from `random`, and so is the code, unless it is given.
    """
    key = random.bytes(KEY_BYTES)
    drawn = int(random.integers(OBJECT, ONE_CODE_BOOK.codes + 1)) if code is None else code
    is_object_HW = (view_4VV[3] > ON // 2).astype(np.uint8)
    codes_HW = code_map(is_object_HW, {0: ABSENCE, 1: drawn})
    return code_prompt(np.ascontiguousarray(view_4VV[:3].transpose(1, 2, 0)), codes_HW, ONE_CODE_BOOK, key, side)
