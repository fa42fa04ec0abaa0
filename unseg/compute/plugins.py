"""Objects of a user's own modules, named on the command line as `module:name`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from unseg.errors import UserError

_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_spec(text: str) -> bool:
    """Returns whether `text` has the form `package.module:name`, which paths and addresses do not have."""
    return _SPEC.fullmatch(text) is not None


def load_object(spec: str, option: str) -> Any:
    """Returns the object that `spec` names, for example `my_package.networks:build`.

    The module is imported as `python -m` would import it, so modules of the current folder are found, too. An import
    runs the module's code. option: the command-line option, for messages. Raises UserError, in one line, where the text
    has another form, the module cannot be imported, or it has no such name.
    """
    if not is_spec(spec):
        raise UserError(f"{option} {spec}: give module:name, for example my_networks:build")
    module_name, _, path = spec.partition(":")
    module = _import(module_name, spec, option)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError(f"{option} {spec}: module {module_name} ({module.__file__}) has no {path}; check the name")
        found = getattr(found, name)
    return found


def _import(name: str, spec: str, option: str) -> Any:
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(f"{option} {spec}: there is no module {error.name} in {folder} or installed") from error
        raise UserError(f"{option} {spec}: module {name} needs {error.name}, which is not installed") from error
    except (
        ImportError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
        OSError,
    ) as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(f"{option} {spec}: module {name} fails on import: {type(error).__name__}: {reason}") from error
