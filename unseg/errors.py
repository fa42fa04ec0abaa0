"""Errors that a user can do something about: what is wrong and the remedy, in one line; missing packages among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec


class UserError(Exception):
    """What went wrong and the remedy, in one line that names the file or option.

    The command line prints it and exits with code 2.
    """


class WeakProtection(UserWarning):
    """An image came back that is not to be called protected: its object changed too little, or not at all; or its noise
    is all over, so that nothing tells the object from the rest."""


# Package → the extra that brings it. What stands in no extra is part of the base, or a user's own.
EXTRA_OF = {
    "onnxruntime": "compact",
    "torch": "sam",
    "torchvision": "sam",
    "segment_anything": "sam",
    "timm": "sam",
    "safetensors": "sam",
    "tensorboard": "train",
    "segmentation_models_pytorch": "evaluate",
    "transformers": "evaluate",
    "torchmetrics": "evaluate",
    "scipy": "evaluate",
    "skimage": "quality",
    "pillow_heif": "formats",
    "pillow_jxl": "formats",
    "pydicom": "formats",
    "nibabel": "formats",
    "rasterio": "formats",
    "pyogrio": "formats",
    "imagecodecs": "formats",
    "rembg": "auto",
    "starlette": "web",
    "uvicorn": "web",
    "python_multipart": "web",
    "pyarrow": "huggingface",
    "fsspec": "scale",
    "s3fs": "scale",
    "ray": "scale",
}
# Commands that need more than one package say so at once, not one package after another.
EXTRA_OF_COMMAND = {"train": "train", "evaluate": "evaluate", "bench": "evaluate"}


def is_there(package: str) -> bool:
    """Returns whether a package is installed; it is not imported."""
    return find_spec(package) is not None


def command_for(extra: str) -> str:
    """Returns the command that installs an extra."""
    return f"pip install 'unseg[{extra}]'"


def needs(package: str, extra: str | None = None) -> str:
    """Returns how a sentence about what a missing package would do goes on: `needs`, the package, the command.

    extra: the one to install, in place of the one that brings the package.
    """
    return f"needs {package}, which is not installed; run: {command_for(extra or EXTRA_OF[package])}"


def check_installed(what: str, packages: Sequence[str], extra: str) -> None:
    """Raises UserError, which begins with `what`, an option or a command, where a package of an extra is missing."""
    missing = next((package for package in packages if not is_there(package)), None)
    if missing is not None:
        raise UserError(f"{what}: {needs(missing, extra)}")


@contextmanager
def naming_the_extra(what: str, extra: str | None = None) -> Iterator[None]:
    """Turns a missing package of an extra into a UserError that begins with `what`, an option or a command.

    extra: the one to install, in place of the one that brings the missing package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise UserError(f"{what}: {needs(package, extra)}") from error
