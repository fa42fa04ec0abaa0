"""Files of weights: read strictly, safetensors or PyTorch's .pth, told apart by content; written whole or not at all.

Shapes are known before any value is read, so that a file that does not fit costs nothing.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch

from segment_anything_training.build import SAM_CONFIGS
from segment_anything_training.key_remaps import SAM_PARTS, Shapes, State, shapes_of
from unseg.errors import UserError
from unseg.storage.files import write_durably
from unseg.storage.tensor_files import NoTensorFile, check_tensors, load_pickle, read_header, shown

KEYS_SHOWN = 3
OF_FRACTIONS = (".weight", ".bias")  # how the names of entries end that never hold whole numbers

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM_FILES = {  # name → sha256, as in pretrained_checkpoint/README.md
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
# What users are told about a known file that is not there.
_REMEDIES = {
    **{
        name: f"get it from {_SAM_URL}{name} (sha256 {sha256}) and put it into pretrained_checkpoint/"
        for name, sha256 in _SAM_FILES.items()
    },
    **{
        f"sam_{size}_{suffix}.pth": "make it from the official SAM file with utils/split_sam.py, or give that file"
        for size in SAM_CONFIGS
        for suffix in SAM_PARTS.values()
    },
    "Generator_unseg_final.pth": "get it from https://github.com/sunye23/UnSeg (its sha256 is not published) and put"
    " it into weight_dir/",
    "mae_pretrain_vit_base.pth": "get it from https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"
    " (CC BY-NC 4.0) and put it into pretrained_checkpoint/",
    "modified_mae_pretrain_vit_base.pth": "give MAE's official mae_pretrain_vit_base.pth, which is read as it is, or"
    " make it from that with utils/convert_mae.py",
}

# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """How a state differs from what a network expects: the names of every entry that does not fit. False if all fit.

    As text, it counts the entries of each kind and names the first three.
    """

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", self.misshaped))
        return "; ".join(f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds if keys)


def compare(given: Shapes, expected: Shapes) -> Misfit:
    """Returns how the entries of a state differ from the expected ones, in name or shape."""
    return Misfit(
        missing=[name for name in expected if name not in given],
        unexpected=[name for name in given if name not in expected],
        misshaped=[
            f"{shown(name)} is {_size(given[name])}, not {_size(shape)}"
            for name, shape in expected.items()
            if name in given and given[name] != shape
        ],
    )


def _first(names: list[str]) -> str:
    return ", ".join(map(shown, names[:KEYS_SHOWN])) + (", …" if len(names) > KEYS_SHOWN else "")


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateFile:
    """A file of weights, whose values are read when they are asked for.

    shapes: of every entry. metadata: what a safetensors file says beside its tensors. integers: the entries that hold
    no fractions, such as counters of batches.
    """

    path: Path
    shapes: Shapes
    metadata: dict[str, str]
    integers: list[str]
    _values: Callable[[], State] = field(repr=False)

    def read(self) -> State:
        """Returns every tensor. A UserError, which names the file, says where the values are no weights."""
        try:
            state = self._values()
        except OSError as error:
            raise _unreadable(self.path, error) from None
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise UserError(
                f"{self.path}: {len(broken)} entries hold non-finite values ({_first(broken)}); get it again"
            )
        return state

    def read_floats(self) -> State:
        """Returns every tensor of a network that has no whole numbers, as SAM, MAE and generators are."""
        if self.integers:
            raise UserError(
                f"{self.path}: {len(self.integers)} entries hold whole numbers ({_first(self.integers)}), where this"
                " network has fractions; get it again"
            )
        return self.read()


def open_state(path: str | Path, inside: str | None = None) -> StateFile:
    """Returns a weight file, safetensors or .pth, as far as it is known without its values. A UserError names the file.

    inside: the entry of a .pth under which the dictionary of tensors lies, if it lies under one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a weight file")
        header = read_header(path)
        if header is None:
            state = _read_pickle(path, inside)
            shapes, types, metadata = shapes_of(state), {name: tensor.dtype for name, tensor in state.items()}, {}
        else:
            shapes, types, metadata = header.shapes, header.types, header.metadata
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except NoTensorFile as reason:
        raise UserError(f"{path}: {reason}; get the file again") from None
    integers = [name for name, kind in types.items() if not kind.is_floating_point]
    wrong = [name for name in integers if name.endswith(OF_FRACTIONS)]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} entries hold whole numbers, no weights ({_first(wrong)}); get it again")
    return StateFile(path, shapes, metadata, integers, (lambda: _read_safetensors(path)) if header else (lambda: state))


def read_state(path: str | Path, inside: str | None = None) -> State:
    """Returns the tensors of one weight file, safetensors or .pth. A UserError names the file. inside: see above."""
    return open_state(path, inside).read()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions")


def _read_safetensors(path: Path) -> State:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    except (safetensors.SafetensorError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged safetensors file ({shown(reason)}); get it again") from None


def _read_pickle(path: Path, inside: str | None) -> State:
    state = load_pickle(path)
    if isinstance(state, dict) and isinstance(state.get(inside), dict):
        state = state[inside]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: holds no weights; expected a dictionary of tensors, found {type(state).__name__}")
    named = {name for name, value in state.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    others = [shown(name) for name in state if name not in named]
    if others:
        raise UserError(f"{path}: expected a dictionary of tensors; {len(others)} entries are none ({_first(others)})")
    check_tensors(state)
    return dict(state)


def missing_file(path: Path) -> UserError:
    """Returns the error for a weight file that is not there; for a known file it says where to get it."""
    return UserError(f"{path}: no such file; {_REMEDIES.get(path.name, 'check the path')}")


# --- writing ---------------------------------------------------------------------------------------------------------


def save_pth(state: State, path: str | Path) -> str:
    """Writes a plain dictionary of tensors as PyTorch does, atomically, and returns the file's sha256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_durably(path, buffer.getvalue())


def sorted_header(data: bytes) -> bytes:
    """Returns the same safetensors with its header's keys in order, because the library writes them in random order."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    header_bytes = header.encode()
    header_bytes += b" " * (-len(header_bytes) % 8)
    return struct.pack("<Q", len(header_bytes)) + header_bytes + data[8 + length :]
