"""Checkpoints of a training: nested dictionaries of tensors, numbers and texts, as `torch.save` writes them.

They are written whole or not at all, and read as if a stranger had written them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from unseg.errors import UserError
from unseg.storage.files import writing
from unseg.storage.tensor_files import NoTensorFile, check_tensors, load_pickle, shown

# What taking over a state raises where an entry is missing, of another type or of another size.
MISFITS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, OverflowError)
DEEPEST = 64  # levels of dictionaries and lists within each other


class _Digesting:
    """Writes a file from start to end, and keeps the sha256 of what went into it and the failure that ended it.

    torch answers a failure with words about its archive's positions, in which the reason is lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256 = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes the bytes, and counts them into the digest."""
        self._sha256.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Hands what was written on to the system."""
        self._file.flush()

    def hexdigest(self) -> str:
        """Returns the sha256 of all that was written."""
        return self._sha256.hexdigest()


def write_checkpoint(path: Path, state: dict[str, Any]) -> str:
    """Writes atomically and durably, without a second copy in memory (the paper's networks make 1.5 GB).

    Returns the file's sha256. A UserError says where the disk does not take it.
    """
    digesting: _Digesting | None = None
    try:
        with writing(path, durable=True) as file:
            digesting = _Digesting(file)
            torch.save(state, cast(IO[bytes], digesting))  # it calls write and flush, nothing else
            return digesting.hexdigest()
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        failure = digesting.failure if digesting else None
        cause = failure or error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({reason}); check space and permissions") from None


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """Returns what `write_checkpoint` wrote, on the CPU; code in a file is not run.

    remedy: what to do where the file is no checkpoint; it ends the UserError's line. FileNotFoundError stays as it is.
    """
    try:
        state = load_pickle(path, mapped=False)  # the file may be removed while its values are in use
        if not isinstance(state, dict):
            raise NoTensorFile(f"holds no checkpoint but a {type(state).__name__}")
        check_tensors(dict(_tensors(state)), bytes_too=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except NoTensorFile as reason:
        raise UserError(f"{path}: {reason}; {remedy}") from None
    return state


def _tensors(state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every tensor within nested dictionaries and lists, once, with its path in them."""
    seen: set[int] = set()
    left: list[tuple[str, Any, int]] = [("", state, 0)]
    while left:
        name, value, depth = left.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            if depth > DEEPEST:
                raise NoTensorFile("holds no checkpoint: its lists lie too deep within each other")
            seen.add(id(value))  # the same list may stand in many places
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [(f"{name}.{key}".lstrip("."), item, depth + 1) for key, item in items]


@contextmanager
def taken_over(path: Path, remedy: str) -> Iterator[None]:
    """Inside, a state from `path` is taken over: whatever does not fit is a UserError that ends with `remedy`."""
    try:
        yield
    except MISFITS as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: does not fit this run ({type(error).__name__}: {shown(reason)}); {remedy}") from None


def entry(state: Mapping[str, Any], name: str, kind: type) -> Any:
    """Returns an entry of a state. LookupError where it is missing, TypeError where it is not of that type."""
    value = state[name]
    if type(value) is not kind:
        raise TypeError(f"'{name}' is a {type(value).__name__}, not a {kind.__name__}")
    return value


def count(state: Mapping[str, Any], name: str) -> int:
    """Returns an entry of a state that counts something; raises as `entry`, and ValueError where it is negative."""
    value: int = entry(state, name, int)
    if value < 0:
        raise ValueError(f"'{name}' is {value}")
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Takes over what an optimizer remembers of each parameter, and nothing of its settings, which stay.

    state: as `Optimizer.state_dict` returns it. torch compares no sizes: a LookupError, TypeError or ValueError says
    what does not fit.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    remembered = entry(state, "state", dict)
    names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for number, values in remembered.items():
        if type(number) is not int or not 0 <= number < len(own) or set(values) != names:
            raise ValueError(f"its optimizer remembers other things of parameter {shown(number)}")
        for name, value in values.items():
            shape = own[number].shape if name != "step" else torch.Size()
            if value is None and name == "momentum_buffer":
                continue
            if not isinstance(value, torch.Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"{name} of parameter {number} does not have the parameter's size {list(shape)}")
    optimizer.load_state_dict({"state": remembered, "param_groups": optimizer.state_dict()["param_groups"]})
