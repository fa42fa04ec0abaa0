"""Where a path lies, wherever links lead."""

from __future__ import annotations

import os
from pathlib import Path


def lies_in(path: Path, folder: Path) -> bool:
    """Returns whether a path is a folder, or lies in it; neither need exist."""
    real, around = (Path(os.path.realpath(place)) for place in (path, folder))
    return around in (real, *real.parents)
