"""Files of weights: read strictly, safetensors or PyTorch's .pth, told apart by content; written whole or not at all.

Only tensors are ever unpickled (`weights_only=True`), so that code in a file is not run.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch

from segment_anything_training.build import SAM_CONFIGS
from segment_anything_training.key_remaps import SAM_PARTS, Shapes, State
from unseg.errors import UserError
from unseg.storage.files import open_for_reading, write_durably

KEYS_SHOWN = 3

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

# What reading a damaged or foreign pickle raises, besides OSError.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


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
            f"{name} is {_size(given[name])}, not {_size(shape)}"
            for name, shape in expected.items()
            if name in given and given[name] != shape
        ],
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:KEYS_SHOWN]) + (", …" if len(names) > KEYS_SHOWN else "")


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_state(path: str | Path, inside: str | None = None) -> tuple[State, dict[str, str]]:
    """Returns tensors and metadata of one weight file, safetensors or .pth. A UserError names the file.

    inside: the entry of a .pth under which the dictionary of tensors lies, if it lies under one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a weight file")
        with open_for_reading(path) as file:
            start = file.read(9)
        # Safetensors: the header's length in 8 bytes, then the header, which is JSON.
        state, metadata = _read_safetensors(path) if start[8:] == b"{" else (_read_pickle(path, inside), {})
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"{path}: {len(broken)} entries hold non-finite values ({_first(broken)}); get it again")
    return state, metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error}); get it again") from None


def _read_pickle(path: Path, inside: str | None) -> State:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"{path}: not a file of weights that can be read ({type(error).__name__}); it is damaged or holds "
            "more than tensors, which is refused because it could run code; get the file again"
        ) from None
    if isinstance(state, dict) and isinstance(state.get(inside), dict):
        state = state[inside]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: holds no weights; expected a dictionary of tensors, found {type(state).__name__}")
    named = {name for name, value in state.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    others = [str(name) for name in state if name not in named]
    if others:
        raise UserError(f"{path}: expected a dictionary of tensors; {len(others)} entries are none ({_first(others)})")
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
