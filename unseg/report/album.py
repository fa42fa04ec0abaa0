"""Pictures that results.json names, small enough for a page and inside it as data URIs."""

from __future__ import annotations

import base64
import io
import os
import stat
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unseg.errors import UserError
from unseg.report.model import Change, Picture
from unseg.storage.files import link_on_the_way, stays_inside
from unseg.storage.image_decoding import read_image
from unseg.storage.panels import NOISE_GAIN, noise_panel

LONGEST_SIDE = 416  # pixels in the page: twice the width at which a picture is shown on most screens
MAX_PIXELS = 40_000_000
QUALITY = 82  # of WebP, for photographs


@dataclass(frozen=True)
class Shown:
    """A picture for the page.

    uri: data:…, or None where `problem` says why there is none. masks: whether it has few colours and is no photograph.
    """

    caption: str
    uri: str | None
    width: int = 0
    height: int = 0
    masks: bool = False
    problem: str = ""


class Album:
    """Reads pictures for a page. problems: one line for each that could not be shown."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def photograph(self, picture: Picture, caption: str) -> Shown:
        """Returns a photograph, shrunk and encoded as WebP."""
        return self._keep(_shown(caption, _read(picture), masks=False), picture)

    def masks(self, picture: Picture, caption: str) -> Shown:
        """Returns a picture of masks, shrunk without mixing colours, and lossless if its colours are few."""
        return self._keep(_shown(caption, _read(picture), masks=True), picture)

    def before_after_noise(self, change: Change, captions: tuple[str, str, str]) -> list[Shown]:
        """Returns a training image before and after, and the difference × 16 around grey, taken at full size."""
        clean, changed = _read(change.clean), _read(change.changed)
        pictures = [
            self._keep(_shown(captions[0], clean, masks=False), change.clean),
            self._keep(_shown(captions[1], changed, masks=False), change.changed),
        ]
        if isinstance(clean, str) or isinstance(changed, str):
            return [*pictures, Shown(captions[2], None, problem="needs both pictures")]
        if clean.shape != changed.shape:
            problem = f"{change.changed.file}: not as large as {change.clean.file}"
            return [*pictures, self._keep(Shown(captions[2], None, problem=problem), change.changed)]
        noise = noise_panel(changed.astype(np.int16) - clean, NOISE_GAIN)
        return [*pictures, _shown(captions[2], noise, masks=False)]

    def _keep(self, shown: Shown, picture: Picture) -> Shown:
        if shown.problem:
            line = f"{picture.folder}: {shown.problem}"
            self.problems += [line] if line not in self.problems else []
        return shown


def _read(picture: Picture) -> np.ndarray | str:
    """Returns H×W×3 uint8, or the reason why there is none.

    It reads only files below the folder of the JSON, because a page is made to be passed on.
    """
    name = picture.file.replace("\\", "/") if os.name == "nt" else picture.file
    if not stays_inside(name) or link_on_the_way(picture.folder, name):
        return f"{picture.file}: not a file inside the folder of the results"
    path = picture.folder / name
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return f"{picture.file}: no file"
        return read_image(path, max_pixels=MAX_PIXELS).pixels
    except UserError as error:
        return str(error).replace(str(path), picture.file)
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        return f"{picture.file}: no such file"
    except OSError as error:
        return f"{picture.file}: {error.strerror}"


def _shown(caption: str, pixels: np.ndarray | str, masks: bool) -> Shown:
    if isinstance(pixels, str):
        return Shown(caption, None, problem=pixels)
    image = Image.fromarray(pixels)
    shrink = min(1.0, LONGEST_SIDE / max(image.size))
    if shrink < 1:
        size = max(1, round(image.width * shrink)), max(1, round(image.height * shrink))
        image = image.resize(size, Image.Resampling.NEAREST if masks else Image.Resampling.LANCZOS)
    file = io.BytesIO()
    few = masks and image.getcolors(256) is not None
    if few:
        image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    else:
        image.save(file, "WEBP", quality=QUALITY, method=4)
    kind = "png" if few else "webp"
    return Shown(
        caption, f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", *image.size, masks=few
    )
