"""Weight files: strict loading of every layout that people have, atomic saving as safetensors.

Layouts read:
- the official SAM file (`sam_vit_b_01ec64.pth`): entries `image_encoder.…`, `prompt_encoder.…`, `mask_decoder.…`;
- the same in three files of one folder, as the published code wants it: each part's entries without prefix;
- a published generator (`Generator_unseg_final.pth`): the whole state of a generator;
- this project's safetensors: the whole state, with the network's name, the format's version and facts of its training;
- MAE's official file (`mae_pretrain_vit_base.pth`, or with its decoder), and the same in SAM's names
  (`modified_mae_pretrain_vit_base.pth`), for surrogates.

Only tensors are ever unpickled (`weights_only=True`): code in a file is not run. Every entry must fit, name and shape.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import math
import os
import pickle
import re
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from segment_anything_training.build import COMPACT, NAMES, SAM_CONFIGS, build_generator, build_noise_generator
from segment_anything_training.sizes import PATCH_SIZE, SamConfig, is_noise_part
from unseg.errors import UserError
from unseg.storage.files import write_bytes

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

FORMAT_VERSION = 1
CUSTOM = "custom"  # the name of a SAM-derived generator of another size than the three released ones
SHIPPED_GENERATOR = ("weights", "compact.safetensors")
KEYS_SHOWN = 3

# A part of SAM → how the published three-way split names its file, after `sam_vit_b_`.
SAM_PARTS = {"image_encoder": "backbone", "prompt_encoder": "prompt_decoder", "mask_decoder": "maskdecoder"}

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM_FILES = {  # name → sha256, as in pretrained_checkpoint/README.md
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
# What users are told about a known file that is not there.
REMEDIES = {
    **{
        name: f"get it from {_SAM_URL}{name} (sha256 {sha256}) and put it into pretrained_checkpoint/"
        for name, sha256 in _SAM_FILES.items()
    },
    **{
        f"sam_{size}_{suffix}.pth": "make it from the official SAM file with utils/split_sam.py, or give that file"
        for size in SAM_CONFIGS
        for suffix in SAM_PARTS.values()
    },
    "Generator_unseg_final.pth": "get it from https://github.com/sunye23/UnSeg (its sha256 is not published) and put it into"
    " weight_dir/",
    "mae_pretrain_vit_base.pth": "get it from https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth (CC BY-NC"
    " 4.0) and put it into pretrained_checkpoint/",
    "modified_mae_pretrain_vit_base.pth": "give MAE's official mae_pretrain_vit_base.pth, which is read as it is, or make it"
    " from that with utils/convert_mae.py",
}

MAE_LICENCE = "CC BY-NC 4.0"
# MAE's names → SAM's, where they differ.
_MAE_RENAMED = ((".mlp.fc1.", ".mlp.lin1."), (".mlp.fc2.", ".mlp.lin2."))
# What MAE has and SAM's encoder does not: the class token, the last norm (SAM has its neck there), the decoder.
_MAE_DROPPED = re.compile(
    r"cls_token|mask_token|norm\.(weight|bias)|decoder_(pos_embed|(embed|blocks\.\d+|norm|pred)\..+)"
)
# What SAM's encoder has and MAE does not. A file holds all of a group or none of it.
_SAM_ONLY = (re.compile(r"blocks\.\d+\.attn\.rel_pos_[hw]"), re.compile(r"neck\.[0-3]\.(weight|bias)"))

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


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to use: evaluation mode, no gradients.

    name: vit_b, vit_l, vit_h, compact, or "custom" for SAM's architecture in another size. source: the file's name.
    sha256: of the file. metadata: what its safetensors say beside the tensors (empty for .pth).
    """

    network: nn.Module
    name: str
    source: str
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)


# Pure functions on states


def split_sam(state: State) -> dict[str, State]:
    """SAM's state → part → that part's state without prefix. Entries of no part are under ""."""
    parts: dict[str, State] = {part: {} for part in SAM_PARTS}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part in SAM_PARTS and rest:
            parts[part][rest] = tensor
        else:
            parts.setdefault("", {})[name] = tensor
    return parts


def join_sam(parts: dict[str, State]) -> State:
    """The inverse of `split_sam`."""
    return {
        f"{part}.{name}" if part else name: tensor for part, state in parts.items() for name, tensor in state.items()
    }


def shapes_of(state: State) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def expected_shapes(target: str | SamConfig) -> Shapes:
    """The state entries of a generator, by name or by SAM sizes; the large ones are not allocated."""
    if target == COMPACT:
        return shapes_of(build_generator(COMPACT).state_dict())
    with torch.device("meta"):
        return shapes_of(_build(target).state_dict())


def _build(target: str | SamConfig) -> nn.Module:
    return build_generator(target) if isinstance(target, str) else build_noise_generator(target)


def is_dropped_from_mae(name: str) -> bool:
    """Whether an entry of a MAE file has no place in SAM's image encoder: class token, mask token, last norm, decoder."""
    return _MAE_DROPPED.fullmatch(name) is not None


def mae_to_sam(state: State, grid: int) -> State:
    """The encoder of a MAE in the names of SAM's image encoder (`blocks.0.mlp.lin1.weight`, …); SAM's names stay.

    `pos_embed`, 1×(1 + n²)×D with the class token's entry first, becomes 1×grid×grid×D: without that entry, resized
    bicubically where n is not `grid`, as MAE does for other image sizes. What SAM has no place for is left out.
    """
    renamed = {}
    for name, tensor in state.items():
        if not is_dropped_from_mae(name):
            for theirs, ours in _MAE_RENAMED:
                name = name.replace(theirs, ours)
            renamed[name] = tensor
    position = renamed.get("pos_embed")
    if (
        position is not None
        and position.ndim == 3
        and (side := math.isqrt(position.shape[1])) ** 2 + 1 == position.shape[1]
    ):
        table = position[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if side != grid:
            table = F.interpolate(table, (grid, grid), mode="bicubic", align_corners=False)
        renamed["pos_embed"] = table.permute(0, 2, 3, 1).contiguous()
    return renamed


def sam_config_of(shapes: Shapes) -> SamConfig | None:
    """The sizes that a SAM state's entries imply, or None where they do not tell.

    Global blocks are known by their longer tables of relative positions; windows as large as the grid hide them.
    """
    rows = {
        int(match[1]): shape
        for name, shape in shapes.items()
        if (match := re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h", name)) and len(shape) == 2
    }
    position = shapes.get("image_encoder.pos_embed", ())
    if len(position) != 4 or sorted(rows) != list(range(len(rows))) or not rows or not rows[0][1]:
        return None
    _, grid, _, dim = position
    global_blocks = tuple(index for index in sorted(rows) if rows[index][0] == 2 * grid - 1)
    windowed = [rows[index][0] for index in rows if index not in global_blocks]
    if not windowed:
        return None
    try:
        return SamConfig(grid * PATCH_SIZE, dim, len(rows), dim // rows[0][1], global_blocks, (windowed[0] + 1) // 2)
    except ValueError:
        return None


def sam_name(config: SamConfig) -> str:
    """vit_b, vit_l, vit_h or "custom"."""
    return next((name for name, known in SAM_CONFIGS.items() if known == config), CUSTOM)


@dataclass(frozen=True)
class Misfit:
    """How a state differs from what a network expects."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", self.misshaped))
        return "; ".join(f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds if keys)


def compare(given: Shapes, expected: Shapes) -> Misfit:
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


# Reading


def read_state(path: str | Path, inside: str | None = None) -> tuple[State, dict[str, str]]:
    """Tensors and metadata of one weight file, safetensors or .pth, told apart by content. UserError names the file.

    inside: the entry of a .pth under which the dictionary of tensors lies, if it lies under one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a weight file")
        with open(path, "rb") as file:
            start = file.read(9)
        # Safetensors: the header's length in 8 bytes, then the header, which is JSON.
        state, metadata = _read_safetensors(path) if start[8:] == b"{" else (_read_pickle(path, inside), {})
    except FileNotFoundError:
        raise UserError(_missing_file(path)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"{path}: {len(broken)} entries hold non-finite values ({_first(broken)}); get it again")
    return state, metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
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


def _missing_file(path: Path) -> str:
    return f"{path}: no such file; {REMEDIES.get(path.name, 'check the path')}"


def read_sam(path: str | Path, size: str = "vit_b") -> State:
    """SAM's state from the official file, or from a folder with the three files of `size`."""
    path = Path(path)
    if not path.is_dir():
        return read_state(path)[0]
    files = {part: path / f"sam_{size}_{suffix}.pth" for part, suffix in SAM_PARTS.items()}
    missing = [file for file in files.values() if not file.exists()]
    if len(missing) == len(files):
        names = ", ".join(file.name for file in missing)
        raise UserError(f"{path}: holds none of {names}; give the official SAM file, or the folder of these three")
    if missing:
        raise UserError(_missing_file(missing[0]))
    return join_sam({part: read_state(file)[0] for part, file in files.items()})


def read_mae(path: str | Path, expected: Shapes) -> State:
    """The entries that a MAE file gives to SAM's image encoder, whose own are `expected`, in its names.

    path: MAE's official file, with or without decoder, or one whose entries bear SAM's names, in which `pos_embed` may be
    missing. What the result leaves out of `expected` is all of the relative positions, all of the neck, and in the latter
    case perhaps `pos_embed`; anything else missing is a UserError, as is what fits nowhere. The official weights are
    licensed CC BY-NC 4.0: not for commercial use.
    """
    given, _ = read_state(path, inside="model")
    state = mae_to_sam(given, expected["pos_embed"][1])
    groups = [{name for name in expected if group.fullmatch(name)} for group in _SAM_ONLY]
    if not any(theirs in name for theirs, _ in _MAE_RENAMED for name in given):
        groups.append({"pos_embed"})
    absent = {name for group in groups if group.isdisjoint(state) for name in group}
    misfit = compare(shapes_of(state), {name: shape for name, shape in expected.items() if name not in absent})
    if misfit:
        raise UserError(f"{path}: is not a MAE for this encoder: {misfit}; give the official MAE file of its size")
    return state


# Loading


def initialise_from_mae(network: nn.Module, path: str | Path) -> None:
    """Fill the image encoder of a Surrogate from MAE, as the published code does; all else stays as it was made.

    path: see `read_mae`. The weights are licensed CC BY-NC 4.0: what is trained from them is not for commercial use.
    """
    from segment_anything_training.surrogate import Surrogate

    if not isinstance(network, Surrogate):
        raise UserError(f"{path}: MAE weights start SAM-derived surrogates only ({', '.join(SAM_CONFIGS)})")
    expected = shapes_of(network.image_encoder.state_dict())
    state = read_mae(path, expected)
    left_fresh = network.image_encoder.load_state_dict(state, strict=False).missing_keys
    assert set(left_fresh) == expected.keys() - state.keys(), "exactly what read_mae left out starts fresh"


def check_sam(state: State, source: str | Path) -> SamConfig:
    """The sizes of the SAM that a state holds, whole; UserError, which names `source`, where it is none or parts are missing."""
    config = sam_config_of(shapes_of(state))
    if config is None:
        raise UserError(f"{source}: is not an official SAM file (image_encoder, prompt_encoder and mask_decoder)")
    expected = {key: shape for key, shape in expected_shapes(config).items() if not is_noise_part(key)}
    if misfit := compare(shapes_of(state), expected):
        raise UserError(f"{source}: is not a whole SAM: {misfit}; get the official file")
    return config


def initialise_from_sam(network: nn.Module, path: str | Path) -> None:
    """Fill the SAM parts of a NoiseGenerator; its noise parts stay as they were made.

    path: the official SAM file, or the folder of its three-way split.
    """
    from segment_anything_training.generator import NoiseGenerator

    if not isinstance(network, NoiseGenerator):
        raise UserError(f"{path}: SAM weights start SAM-derived generators only ({', '.join(SAM_CONFIGS)})")
    name = sam_name(network.config)
    state = read_sam(path, size="vit_b" if name == CUSTOM else name)
    expected = shapes_of(network.state_dict())
    noise_parts = {key for key in expected if is_noise_part(key)}
    misfit = compare(shapes_of(state), {key: shape for key, shape in expected.items() if key not in noise_parts})
    if misfit:
        raise UserError(f"{path}: is not SAM in size {name}: {misfit}; give the official file of that size")
    left_fresh = network.load_state_dict(state, strict=False).missing_keys
    assert set(left_fresh) == noise_parts, "exactly the noise parts start fresh"


def load_generator(which: str | Path, device: str = "cpu") -> LoadedGenerator:
    """A generator from a file, or the one shipped with the package where `which` is "compact"."""
    _check_device(device)
    with ExitStack() as stack:
        shipped = str(which) == COMPACT
        path = stack.enter_context(_shipped_generator()) if shipped else Path(which)
        if shipped and not path.exists():
            raise UserError(f"{path}: the shipped generator is missing from this installation; install UnSeg again")
        state, metadata = read_state(path)
        network, name = generator_from_state(state, metadata, path)
        loaded = LoadedGenerator(network, name, path.name, _sha256(path), metadata)
    network.to(device).eval().requires_grad_(False)
    return loaded


def generator_from_state(state: State, metadata: dict[str, str], source: str | Path) -> tuple[nn.Module, str]:
    """The generator that a state belongs to, filled with it, and its name. `source` is for messages."""
    shapes = shapes_of(state)
    target = _described(metadata, source) or sam_config_of(shapes) or _nearest(shapes)
    misfit = compare(shapes, expected_shapes(target))
    if misfit.missing and all(map(is_noise_part, misfit.missing)) and not (misfit.unexpected or misfit.misshaped):
        raise UserError(f"{source}: is SAM itself, no generator: {misfit}; train a generator from it (unseg train)")
    if misfit:
        # What a damaged file implies may be nonsense: it is reported against the released size that it resembles most.
        nearest = target if isinstance(target, str) else _nearest(shapes)
        misfit = compare(shapes, expected_shapes(nearest))
        raise UserError(f"{source}: is not a {_name(nearest)} generator: {misfit}; give a generator's weight file")
    network = _build(target)
    network.load_state_dict(state, strict=True)
    return network, _name(target)


def _name(target: str | SamConfig) -> str:
    return target if isinstance(target, str) else sam_name(target)


def _described(metadata: dict[str, str], source: str | Path) -> str | SamConfig | None:
    """The network that this project's metadata name; None where a file has none."""
    version, name = metadata.get("format_version", str(FORMAT_VERSION)), metadata.get("network")
    if version != str(FORMAT_VERSION):
        raise UserError(f"{source}: has weight format {version}, not {FORMAT_VERSION}; install the UnSeg that wrote it")
    if name is None or name in NAMES:
        return name
    try:
        sizes = json.loads(metadata["sam_config"])
        return SamConfig(**{**sizes, "global_blocks": tuple(sizes["global_blocks"])})
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{source}: unknown network {name!r}; available: {', '.join(NAMES)}") from None


def _nearest(shapes: Shapes) -> SamConfig:
    """The released size whose encoder is as wide as this state's, or ViT-B."""
    width = shapes.get("image_encoder.patch_embed.proj.weight", (0,))[0]
    return next((config for config in SAM_CONFIGS.values() if config.embed_dim == width), SAM_CONFIGS["vit_b"])


def _shipped_generator():
    """Context of the path of the generator inside the package."""
    return importlib.resources.as_file(importlib.resources.files("unseg").joinpath(*SHIPPED_GENERATOR))


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UserError(f"--device {device}: unknown; give cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: no CUDA device here; use --device cpu")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# Saving


def save_generator(network: nn.Module, name: str, path: str | Path, metadata: dict[str, str] | None = None) -> str:
    """Write a generator as safetensors that `load_generator` reads, atomically; returns the file's sha256.

    name: one of the names of `segment_anything_training.build`, or "custom". metadata: facts of its training.
    Equal weights and facts give equal bytes.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    own = {"format_version": str(FORMAT_VERSION), "network": name}
    target: str | SamConfig = name
    if name == CUSTOM and isinstance(getattr(network, "config", None), SamConfig):
        target = network.config
        own["sam_config"] = json.dumps(asdict(target))
    elif name not in NAMES:
        raise ValueError(f"unknown network {name!r}; available: {', '.join(NAMES)}")
    if misfit := compare(shapes_of(state), expected_shapes(target)):
        raise ValueError(f"the network is not a {name} generator: {misfit}")
    if taken := own.keys() & (metadata or {}).keys():
        raise ValueError(f"metadata: {', '.join(sorted(taken))} is written by save_generator itself")
    data = safetensors.torch.save(state, {**(metadata or {}), **own})
    return write_durably(path, sorted_header(data))


def sorted_header(data: bytes) -> bytes:
    """The same safetensors with its header's keys in order: the library writes metadata in random order."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    header_bytes = header.encode()
    header_bytes += b" " * (-len(header_bytes) % 8)
    return struct.pack("<Q", len(header_bytes)) + header_bytes + data[8 + length :]


def refuse_existing(paths: Iterable[Path]) -> None:
    """UserError where one of the files to be written is there already."""
    for path in paths:
        if os.path.lexists(path):
            raise UserError(f"{path}: exists already; give another name, or move it away")


def save_pth(state: State, path: str | Path) -> str:
    """Write a plain dictionary of tensors as PyTorch does, atomically; returns the file's sha256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_durably(path, buffer.getvalue())


def write_durably(path: str | Path, data: bytes) -> str:
    """Write `data` so that `path` holds either what it held or all of it, whatever happens; returns its sha256."""
    try:
        return write_bytes(path, data, durable=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check space and permissions") from None
