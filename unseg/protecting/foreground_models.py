"""The networks of `rembg` that say what is foreground: found on disk, or fetched by rembg on first use."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image as Pillow

from unseg.compute.plugins import OwnCode
from unseg.compute.progress import Progress
from unseg.errors import UserError, command_for, needs

MODELS: Mapping[str, int] = {  # name of rembg → MB to download
    "isnet-general-use": 179,
    "u2net": 176,
    "u2net_human_seg": 176,
    "silueta": 44,
    "u2netp": 5,
}
DEFAULT_MODEL = "isnet-general-use"
_ADDRESS = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"


@dataclass(frozen=True)
class Asking:
    """Who asks a network, in the words of its errors.

    option: what was given. otherwise: what can be done in its place. fetches: whether rembg may download what is not
    there. tries_again: whether a network that could not be had once is looked for again when it is asked for again.
    """

    option: str
    otherwise: str
    fetches: bool = True
    tries_again: bool = True


BY_COMMAND = Asking("--masks auto", "name a folder of masks", tries_again=False)
BY_CALL = Asking("mask='auto'", "give a mask, boxes or points")
BY_PAGE = Asking("Find objects", "draw a box around the object", fetches=False)


def check_model(name: str) -> None:
    """Raises UserError where no network of `MODELS` has that name; reads nothing."""
    if name not in MODELS:
        raise UserError(f"--auto-model {name}: choose from {', '.join(MODELS)}")


class ForegroundModel:
    """A network of rembg, by its name in `MODELS`. It answers one image at a time, with all the threads it was given.

    It is opened when it is first asked; `progress` is told before rembg fetches it, and where it will lie. Raises
    UserError for another name; and, when it is asked, where rembg is not installed or cannot fetch or open its file.
    """

    def __init__(self, name: str, threads: int, progress: Progress, asking: Asking = BY_COMMAND) -> None:
        check_model(name)
        self.name, self._threads, self._progress, self._asking = name, threads, progress, asking
        self._session: Any = None
        self._failed: UserError | None = None  # whoever asks next is not to wait for the network again
        self._one_at_a_time = threading.Lock()

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        """Returns how sure the network is that each pixel is foreground, H×W uint8. image: H×W×3 uint8 RGB."""
        with self._one_at_a_time:
            if self._failed is not None:
                raise self._failed
            if self._session is None:
                try:
                    self._session = self._open()
                except UserError as error:
                    self._failed = None if self._asking.tries_again else error
                    raise
            # It divides by the answer's range, which is zero where all pixels are answered alike.
            with (
                OwnCode(f"{self._asking.option}: rembg's model {self.name} cannot be asked"),
                np.errstate(all="ignore"),
            ):
                masks = self._session.predict(Pillow.fromarray(image_HW3))
            return np.max([np.asarray(mask.convert("L")) for mask in masks], axis=0)

    def _open(self) -> Any:
        option = self._asking.option
        kind, onnxruntime = _session_kind(self.name, self._asking)
        place = _place_of(kind, self.name)
        if not place.exists():
            if not self._asking.fetches:
                raise UserError(
                    f"{option}: rembg's model {self.name} is not on this machine, and nothing is downloaded from"
                    f" here; {_by_hand(place)}; or {self._asking.otherwise}"
                )
            self._progress.say(
                f"{option}: rembg's model {self.name} is not on this machine; rembg downloads it now, once"
                f" ({MODELS[self.name]} MB), into {place.parent}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        with OwnCode(f"{option}: {place} cannot be opened as rembg's model {self.name}; remove it to fetch it again"):
            return self._session_of(kind, options, place)

    def _session_of(self, kind: Any, options: Any, place: Path) -> Any:
        there = place.exists()
        try:
            return kind(self.name, options, providers=["CPUExecutionProvider"])
        except (OSError, ValueError) as error:  # of requests and pooch: no network, no room, another hash
            if there:
                raise
            told = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = told.partition(" with url: ")[0]  # what follows repeats the address
            raise UserError(
                f"{self._asking.option}: rembg's model {self.name} could not be downloaded ({reason});"
                f" {_by_hand(place)}"
            ) from error


def _by_hand(place: Path) -> str:
    return f"get {_ADDRESS}{place.name} where there is a network, and put it here: {place}"


def _place_of(kind: Any, name: str) -> Path:
    """Returns where rembg has a network's file, or will put it."""
    file = f"{name}.onnx"
    if hasattr(kind, "resolve_existing"):  # rembg 2.0.76 and later have a folder for each network
        return Path(kind.resolve_existing(file) or os.path.join(kind.model_dir(), file))
    return Path(kind.u2net_home()) / file


def _session_kind(name: str, asking: Asking) -> tuple[Any, ModuleType]:
    """Returns rembg's class for a network, and onnxruntime.

    `import rembg` imports its matting, too, which numba compiles for minutes the first time, and loads for a second
    each time after. Nothing here mats, so the package is read without it, and forgotten again: whoever imports rembg
    later gets all of it.
    """
    is_ours = not any(map(_is_of_rembg, sys.modules))
    if is_ours:
        matting = ModuleType("rembg.bg")
        matting.remove = None  # type: ignore[attr-defined]  # what rembg's package takes from there
        sys.modules["rembg.bg"] = matting
    try:
        kinds = import_module("rembg.sessions").sessions_class
        onnxruntime = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        package = (error.name or "rembg").partition(".")[0]
        raise UserError(f"{asking.option}: {needs(package, 'auto')}; or {asking.otherwise}") from error
    except ImportError as error:
        raise UserError(
            f"{asking.option}: rembg, which finds the foreground, cannot be loaded ({error}); run:"
            f" {command_for('auto')}; or {asking.otherwise}"
        ) from error
    finally:
        for module in [module for module in sys.modules if _is_of_rembg(module)] if is_ours else []:
            del sys.modules[module]
    kind = next((kind for kind in kinds if kind.name() == name), None)
    if kind is None:
        raise UserError(f"--auto-model {name}: this version of rembg has no such model: pip install -U rembg")
    return kind, onnxruntime


def _is_of_rembg(module: str) -> bool:
    return module == "rembg" or module.startswith("rembg.")
