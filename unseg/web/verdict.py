"""What a picture's owner is told of it, in plain words: how much changed, whether it is seen, whether it is weak."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from unseg.protecting.request import CANNOT
from unseg.storage.image_decoding import eight_bit_rgb
from unseg.web.darkroom import Changed

# Of S-CIELAB's mean on the object: from there on, the words. One unit is about what an eye can just tell apart.
SEEN = (
    (1.5, "The noise is easy to see on plain surfaces."),
    (0.5, "The noise can be seen if you look for it, most of all on plain surfaces."),
    (0.0, "The noise is hard to see at the picture's own size; enlarged, it shows."),
)


def verdict(changed: Changed, whole: bool) -> dict[str, Any]:
    """Returns status, figures and sentences; `delta_e` and `s_cielab` are None where scikit-image is not installed.

    whole: whether the object is the whole image, which is not called protected.
    """
    seen = _seen(changed)
    ratio = changed.psnr if math.isfinite(changed.psnr) else None
    sentences = [_status(changed, whole), f"No value changed by more than {changed.largest:.3g} of 255 grey levels."]
    if seen is not None:
        sentences.append(next(words for least, words in SEEN if seen[1] >= least))
    return {
        "status": "whole" if whole and changed.status == "protected" else changed.status,
        "reason": changed.reason,
        "largest": changed.largest,
        "psnr": None if ratio is None else round(ratio, 2),
        "share": float(changed.mask_HW.mean()),
        "delta_e": None if seen is None else round(seen[0], 2),
        "s_cielab": None if seen is None else round(seen[1], 2),
        "sentences": sentences,
    }


def _status(changed: Changed, whole: bool) -> str:
    if changed.status == "protected":
        return f"Noise over the whole image, {CANNOT}." if whole else "Protected: the object carries the noise."
    return f"Weak, not protected: {changed.reason}. Black or white areas have no room for noise."


def _seen(changed: Changed) -> tuple[float, float] | None:
    """Returns the means of ΔE2000 and S-CIELAB on the object; None where nothing changed, or for want of packages."""
    if find_spec("skimage") is None or find_spec("scipy") is None:
        return None
    from unseg.evaluation.visibility import visibility

    before, after = (eight_bit_rgb(samples) for samples in (changed.original.samples, changed.samples_HWC))
    found = visibility(before, after, changed.mask_HW & (before != after).any(axis=2))
    return None if found is None else (found.delta_e, found.s_cielab)
