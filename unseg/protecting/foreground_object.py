"""The object of an image in memory that nobody shows: the foreground that a network of rembg finds."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np

from unseg.compute.progress import Silent
from unseg.compute.threads import cores
from unseg.errors import UserError
from unseg.protecting.auto_masks import propose
from unseg.protecting.foreground_models import BY_CALL, DEFAULT_MODEL, ForegroundModel
from unseg.protecting.request import AUTO
from unseg.storage.image_decoding import eight_bit_rgb

_models: dict[str, ForegroundModel] = {}
_one_at_a_time = threading.Lock()


class _Warned(Silent):
    """Tells a caller in Python that a network is downloaded."""

    def say(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)


def is_auto(mask: Any) -> bool:
    """Returns whether the word `auto` was given for a mask."""
    return isinstance(mask, str) and mask == AUTO


def foreground_object(samples_HWC: np.ndarray, model: str | None = None) -> np.ndarray:
    """Returns the object, H×W bool, that `unseg protect --masks auto` finds; UserError where none is clear.

    samples: H×W×3 RGB or H×W×1 grey, uint8 or uint16, upright. model: a name of rembg; None: the default one. It is
    opened once for all calls of the process, and stays in memory.
    """
    name = model or DEFAULT_MODEL
    with _one_at_a_time:
        if name not in _models:
            _models[name] = ForegroundModel(name, cores(), _Warned(), BY_CALL)
    found = propose(eight_bit_rgb(samples_HWC), _models[name])
    if found.unclear is not None:
        raise UserError(f"{BY_CALL.option}: no clear foreground ({found.unclear}); {BY_CALL.otherwise}")
    return found.numbers(*samples_HWC.shape[:2]) > 0
