"""Generators of every kind: the shipped one, weight files, and a user's own, by `module:name` or as a Python object.

Torch is loaded where a generator needs it; the shipped one does not where onnxruntime is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseg.compute.device import device_name
from unseg.compute.plugins import is_spec
from unseg.errors import is_there, naming_the_extra
from unseg.protecting.settings import COMPACT
from unseg.storage.loaded_generator import LoadedGenerator

if TYPE_CHECKING:
    import torch

AnyGenerator = str | Path | LoadedGenerator | Callable[..., Any]


def load_generator(generator: AnyGenerator, device: str | torch.device = "cpu") -> LoadedGenerator:
    """Returns a generator of any kind as a module of torch, with the facts that a manifest holds of it.

    generator: "compact", the one that ships; a weight file; `module:name`, which is a generator, or a function or class
    that returns one when it is called without arguments; or a generator itself, loaded or any callable that
    `unseg.protecting.own_generators.OwnGenerator` describes. A user's own generator has the name "own", and the sha256
    of the source file that it is from: a change of weights that its code reads does not show in it.
    """
    if isinstance(generator, LoadedGenerator):
        return generator
    with naming_the_extra(option_of(generator)):
        import torch

        from unseg.protecting.own_generators import own_generator
        from unseg.storage import weights
    if isinstance(generator, Path) or (isinstance(generator, str) and not is_spec(generator)):
        return weights.load_generator(generator, torch.device(device))
    return own_generator(generator, device)


def option_of(generator: AnyGenerator) -> str:
    """Returns what a user gave to ask for a generator."""
    return f"--generator {generator}" if isinstance(generator, (str, Path)) else "generator"


def load_library(generator: AnyGenerator, device: str, what: str) -> None:
    """Imports what computes a generator's noise; UserError, which begins with `what`, names the extra that is missing.

    The shipped one asks for onnxruntime, which is small, where neither that nor torch is there.
    """
    with naming_the_extra(what):
        import_module("onnxruntime" if _is_for_onnx(generator, device) else "torch")


def _is_for_onnx(generator: AnyGenerator, device: str) -> bool:
    """Returns whether onnxruntime computes a generator's noise: the shipped one's on a processor, unless torch must."""
    if not _is_shipped(generator) or device_name(device) != "cpu":
        return False
    return is_there("onnxruntime") or not is_there("torch")


def _is_shipped(generator: AnyGenerator) -> bool:
    return isinstance(generator, (str, Path)) and str(generator) == COMPACT


def fastest_generator(generator: AnyGenerator, device: str) -> LoadedGenerator:
    """Returns a generator for what computes it fastest on the device; its noise and its facts are the same.

    UserError names the extra to install where the shipped one finds neither onnxruntime nor torch.
    """
    if _is_for_onnx(generator, device):
        from unseg.storage.onnx_generator import load_onnx

        return load_onnx()
    return load_generator(generator, device)
