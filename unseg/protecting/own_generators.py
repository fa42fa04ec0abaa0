"""A user's own generators, by `module:name` or as a Python object, with what their authors left out."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segment_anything_training.prompt_batch import Prompts
from unseg.compute.plugins import OwnCode, load_object
from unseg.errors import UserError
from unseg.storage.files import sha256_of
from unseg.storage.loaded_generator import LoadedGenerator

Network = Callable[[torch.Tensor, Prompts], torch.Tensor]

OPTION = "--generator"
INTERFACE = ("image_size", "mask_size", "antialias")


class OwnGenerator(nn.Module):
    """A generator that is not of this project, with what its author left out of the interface.

    The function or network is called with images, B×3×S×S float32 in [0, 1], padded with zeros right and below, and
    `Prompts` in pixels of that square; it returns noise, B×3×N×N in [−1, 1], for the whole square, with any N. S is its
    attribute `image_size`, which it must have. Optional are `mask_size`, the side of mask prompts (default: S), and
    `antialias`, whether images are averaged where they are shrunk to S (default: True). With `codes`, a number of
    classes, and `code_noise()`, their colours K×3 in [−1, 1], it serves `by_class`, too.
    """

    def __init__(self, function: Network) -> None:
        super().__init__()
        self.function = function
        self.image_size = _side(function, "image_size", None)
        self.mask_size = _side(function, "mask_size", self.image_size)
        self.antialias = bool(getattr(function, "antialias", True))
        self.codes = int(getattr(function, "codes", 0))

    def forward(self, images_B3SS: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """Returns what the function returns."""
        return self.function(images_B3SS, prompts)

    def code_noise(self) -> torch.Tensor:
        """Returns the noise of each code, K×3 in [−1, 1]."""
        noise_K3: torch.Tensor = self.function.code_noise()  # type: ignore[attr-defined]  # functions of codes have it
        return noise_K3


def _side(function: Network, name: str, default: int | None) -> int:
    side = getattr(function, name, default)
    if isinstance(side, int) and side > 0:
        return side
    has = "has no image_size" if side is None else f"has {name} {side!r}"
    raise UserError(
        f"{OPTION}: {_name(function)} {has}; give it the attribute {name}, the side in pixels of the square it takes"
    )


def own_generator(generator: str | nn.Module | Network, device: str | torch.device) -> LoadedGenerator:
    """Returns a user's own generator, ready to use, with its name "own" and the sha256 of the source file it is from.

    generator: `module:name`, or the object itself. A change of weights that its code reads does not show in the sha256.
    """
    if isinstance(generator, str):
        network, file = complete(_built(generator)), importlib.import_module(generator.partition(":")[0]).__file__
        return LoadedGenerator(_ready(network, device), "own", generator, _sha256(file, generator))
    network, name, source_file = complete(generator), _name(generator), _source_file(generator)
    source = f"{Path(source_file).stem}:{name}" if source_file else name
    return LoadedGenerator(_ready(network, device), "own", source, _sha256(source_file, name))


def _built(spec: str) -> Network:
    """Returns the generator that `spec` names: what has an image size is one, all else makes one."""
    found = load_object(spec, OPTION)
    if isinstance(found, type) or not hasattr(found, "image_size"):
        if not callable(found):
            raise UserError(f"{OPTION} {spec}: is no generator and cannot be called to make one; name a function")
        try:
            inspect.signature(found).bind()
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{OPTION} {spec}: cannot be called without arguments ({error}); name a function that needs none, or a"
                " generator with the attribute image_size"
            ) from error
        with OwnCode(f"{OPTION} {spec}: cannot be built"):
            found = found()
    if not callable(found):
        raise UserError(f"{OPTION} {spec}: returns a {type(found).__name__}, which is no generator; return a callable")
    network: Network = found
    return network


def complete(generator: nn.Module | Network) -> nn.Module:
    """Returns the network of a generator that was given as an object, with all attributes of the interface."""
    if isinstance(generator, type):
        raise UserError(f"{OPTION}: {_name(generator)} is a class; give an object of it, {_name(generator)}()")
    if not callable(generator):
        raise UserError(
            f"{OPTION}: a {type(generator).__name__} is no generator; give a name, a file, or a callable (see"
            " unseg.protecting.own_generators.OwnGenerator)"
        )
    if isinstance(generator, nn.Module) and all(hasattr(generator, name) for name in INTERFACE):
        return generator
    return OwnGenerator(generator)


def _ready(network: nn.Module, device: str | torch.device) -> nn.Module:
    return network.to(device).eval().requires_grad_(False)


def _name(generator: Any) -> str:
    return getattr(generator, "__qualname__", type(generator).__qualname__)


def _source_file(generator: Any) -> str | None:
    """Returns the file that holds a generator's code, or None where it is from no file."""
    while isinstance(generator, functools.partial):
        generator = generator.func
    try:
        return inspect.getsourcefile(generator if inspect.isroutine(generator) else type(generator))
    except (TypeError, OSError):
        return None


def _sha256(file: str | None, source: str) -> str:
    digest = None if file is None else sha256_of(Path(file))
    if digest is None:
        raise UserError(f"{OPTION}: {source} is from no file, whose sha256 the manifest needs; define it in a module")
    return digest
