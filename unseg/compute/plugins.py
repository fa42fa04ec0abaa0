"""Objects of a user's own modules, named on the command line as `module:name`."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
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
        with OwnCode(f"{option} {spec}: module {name} fails on import"):
            return importlib.import_module(name)
    except UserError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        if missing.name is not None and (name == missing.name or name.startswith(missing.name + ".")):
            raise UserError(f"{option} {spec}: there is no module {missing.name} in {folder} or installed") from missing
        raise UserError(f"{option} {spec}: module {name} needs {missing.name}, which is not installed") from missing


class OwnCode:
    """A context for a call into a user's own code: whatever that raises becomes one line with its place in the code.

    what: the beginning of the line, which names the option. An interrupt, a UserError and a lack of memory stay what
    they are.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> OwnCode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (UserError, KeyboardInterrupt, MemoryError, GeneratorExit)):
            return
        frames = traceback.extract_tb(trace)
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(f"{self.what}: {type(error).__name__}: {reason}{place}") from error
