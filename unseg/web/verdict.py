"""What a picture's owner is told of it, in plain words: how much changed, whether it is weak, whether it is seen."""

from __future__ import annotations

import math
import threading
from typing import Any

from unseg.method.visibility import can_measure, visibility
from unseg.protecting.effect import too_small
from unseg.protecting.request import CANNOT
from unseg.storage.image_decoding import eight_bit_rgb
from unseg.web.darkroom import Changed

# Of S-CIELAB's mean on the object: from there on, the words. One unit is about what an eye can just tell apart.
SEEN = (
    (1.5, "The noise is easy to see on plain surfaces."),
    (0.5, "The noise can be seen if you look for it, most of all on plain surfaces."),
    (0.0, "The noise is hard to see at the picture's own size; enlarged, it shows."),
)
_one_at_a_time = threading.Lock()  # each takes some hundred MB; whoever draws asks again and again


def verdict(changed: Changed, whole: bool) -> dict[str, Any]:
    """Returns status, figures and sentences.

    whole: whether the object is the whole image, which is not called protected.
    """
    ratio = changed.psnr if math.isfinite(changed.psnr) else None
    return {
        "status": "whole" if whole and changed.status == "protected" else changed.status,
        "reason": changed.reason,
        "largest": changed.largest,
        "psnr": None if ratio is None else round(ratio, 2),
        "share": float(changed.mask_HW.mean()),
        "sentences": [
            _status(changed, whole),
            f"No value changed by more than {changed.largest:.3g} of 255 grey levels.",
        ],
    }


def _status(changed: Changed, whole: bool) -> str:
    if changed.status == "protected":
        return f"Noise over the whole image, {CANNOT}." if whole else "Protected: the object carries the noise."
    advice = "Mark a larger object." if too_small(changed.mask_HW) else "Black or white areas have no room for noise."
    return f"Weak, not protected: {changed.reason}. {advice}"


def looks(changed: Changed) -> dict[str, Any]:
    """Returns the means of ΔE2000 and S-CIELAB on the object, and a sentence; empty for want of scikit-image, or where
    nothing changed. It takes a second or more.
    """
    if not can_measure():
        return {}
    before, after = (eight_bit_rgb(samples) for samples in (changed.original.samples, changed.samples_HWC))
    with _one_at_a_time:
        found = visibility(before, after, changed.mask_HW & (before != after).any(axis=2))
    if found is None:
        return {}
    return {
        "delta_e": round(found.delta_e, 2),
        "s_cielab": round(found.s_cielab, 2),
        "sentence": next(words for least, words in SEEN if found.s_cielab >= least),
    }
