"""UnSeg: make images unlearnable to segmentation models.

    import unseg

    protected = unseg.protect(image, mask=mask)      # one image: numpy, PIL, bytes of a file, or a path
    summary = unseg.protect_folder("images", "out", masks="masks")  # a folder, as `unseg protect` does it
    unseg.verify("out")                              # every file of it against its original

What is imported here is loaded when it is first used: `import unseg` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseg.errors import WeakProtection as WeakProtection
    from unseg.method.config import Budget as Budget
    from unseg.protecting.generators import load_generator as load_generator
    from unseg.protecting.one_call import protect_image as protect
    from unseg.protecting.protector import Protector as Protector
    from unseg.protecting.run import protect as protect_folder
    from unseg.protecting.stores import verify_anywhere as verify

__version__ = "0.2.0"
__all__ = [
    "Budget",
    "Protector",
    "WeakProtection",
    "__version__",
    "load_generator",
    "protect",
    "protect_folder",
    "verify",
]

# A name → the module that defines it, and its name there.
_HOMES = {
    "Budget": ("unseg.method.config", "Budget"),
    "Protector": ("unseg.protecting.protector", "Protector"),
    "WeakProtection": ("unseg.errors", "WeakProtection"),
    "load_generator": ("unseg.protecting.generators", "load_generator"),
    "protect": ("unseg.protecting.one_call", "protect_image"),
    "protect_folder": ("unseg.protecting.run", "protect"),
    "verify": ("unseg.protecting.stores", "verify_anywhere"),
}

if not TYPE_CHECKING:  # a type checker that saw it would take any name for one that is there

    def __getattr__(name: str) -> Any:
        """Returns the object behind a public name, whose module is imported now."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, own_name = _HOMES[name]
        return getattr(import_module(module), own_name)


def __dir__() -> list[str]:
    """Returns the names of the module, with those that are not loaded yet."""
    return sorted({*globals(), *_HOMES})
