"""`unseg.protect`: one call for one image; what it takes to make a protector is kept for the next call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, overload

from PIL import Image as Pillow

from unseg.compute.device import device_name
from unseg.errors import UserError
from unseg.protecting.foreground_object import is_auto
from unseg.protecting.generators import fastest_generator
from unseg.protecting.given_files import GivenFile
from unseg.protecting.given_images import AnyImage, AnyMask
from unseg.protecting.protector import Protector, warn_if_weak
from unseg.protecting.settings import COMPACT
from unseg.storage.key_file import new_key
from unseg.storage.loaded_generator import LoadedGenerator

OF_OBJECT = ("boxes", "refine_boxes", "points", "classes", "whole_image")


@overload
def protect_image(image: AnyImage, mask: AnyMask | GivenFile | None = None, **options: Any) -> AnyImage:
    """Of an array or a PIL image."""


@overload
def protect_image(image: bytes, mask: AnyMask | GivenFile | None = None, **options: Any) -> bytes:
    """Of the bytes of a file."""


@overload
def protect_image(image: str | Path, mask: AnyMask | GivenFile | None = None, **options: Any) -> Pillow.Image:
    """Of a path."""


def protect_image(image: Any, mask: Any = None, **options: Any) -> Any:
    """Returns the unlearnable version of one image, as `Protector(generator, budget, …)(image, mask)` makes it.

    image: a numpy array, a PIL image, or the bytes of an image file, and the same comes back; or a path, for which a
    PIL image comes back. One of mask, boxes, points, classes and whole_image=True says what the object is: see
    `Protector.result`. All other options are those of `Protector`: epsilon, strength, key, codes, noise, generator and
    more. Warns with WeakProtection where the image is not to be called protected, or the noise is all over.

    Without a key, one is drawn for all calls of this process. A generator that is given by its name is loaded once for
    all calls, whatever their keys, and so is the network of mask="auto". A weight file is loaded anew once it has
    changed.
    """
    model = options.get("auto_model")
    if model is not None and not is_auto(mask):
        raise UserError(f"auto_model {model!r}: is for mask='auto'; give that, or leave it out")
    of_object = {name: options.pop(name) for name in OF_OBJECT if name in options}
    made = _protector_of(options).result(image, mask, **of_object)
    warn_if_weak(made, stacklevel=3)
    return made.image


def _protector_of(options: dict[str, Any]) -> Protector:
    """Returns the protector of a call; one with a network that has a name is kept for later calls."""
    generator, noise, codes = (options.get(name) for name in ("generator", "noise", "codes"))
    if generator is None and noise in (None, "codes"):
        return Protector(**{"key": _own_key(), **options} if options.get("key") is None else options)
    if not isinstance(generator, (str, Path, NoneType)):
        return Protector(**options)
    path = Path(generator or "")
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    name = None if generator is None else str(generator)
    if options.get("key") is not None and name not in (None, COMPACT) and noise in (None, "sam"):
        device, precision = device_name(options.get("device", "auto")), options.get("precision", "float32")
        return Protector(**{**options, "generator": _kept_generator(changed, name, device, precision)})
    if isinstance(codes, Mapping):
        options = {**options, "codes": tuple(sorted(codes.items()))}
    return _cached_protector(changed, **{**options, "generator": name})


@lru_cache(maxsize=1)
def _own_key() -> bytes:
    return new_key()


@lru_cache(maxsize=4)
def _kept_generator(changed: int, name: str, device: str, precision: str) -> LoadedGenerator:
    """Returns a generator, whatever the keys of its calls. changed: when its weight file was.

    precision: of the calls; networks remember it, so each has its own.
    """
    return fastest_generator(name, device)


@lru_cache(maxsize=4)
def _cached_protector(changed: int, **options: Any) -> Protector:
    """Returns a protector with these options; codes are pairs. changed: when the weight file of its generator was."""
    if isinstance(options.get("codes"), tuple):
        options["codes"] = dict(options["codes"])
    return Protector(**options)
