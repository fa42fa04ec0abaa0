"""Networks filled from files of weights, strictly: every entry must fit, name and shape.

Layouts read:
- the official SAM file (`sam_vit_b_01ec64.pth`): entries `image_encoder.…`, `prompt_encoder.…`, `mask_decoder.…`;
- the same in three files of one folder, as the published code wants it: each part's entries without prefix;
- a published generator (`Generator_unseg_final.pth`): the whole state of a generator;
- this project's safetensors: the whole state, with the network's name, the format's version and facts of its training;
- MAE's official file (`mae_pretrain_vit_base.pth`, or with its decoder), and the same in SAM's names
  (`modified_mae_pretrain_vit_base.pth`), for surrogates.
"""

from __future__ import annotations

import importlib.resources
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from segment_anything_training.build import COMPACT, NAMES, SAM_CONFIGS, build_generator, build_noise_generator
from segment_anything_training.key_remaps import (
    CUSTOM,
    SAM_PARTS,
    Shapes,
    State,
    has_code_prompt,
    join_sam,
    mae_to_sam,
    names_absent_from_mae,
    sam_config_of,
    sam_name,
    shapes_of,
)
from segment_anything_training.sizes import SamConfig, is_noise_part
from unseg.errors import UserError
from unseg.storage.files import sha256_or_refuse, write_durably
from unseg.storage.loaded_generator import LoadedGenerator
from unseg.storage.state_files import Misfit, StateFile, compare, missing_file, open_state, sorted_header
from unseg.storage.tensor_files import shown

FORMAT_VERSION = 1
SHIPPED_GENERATOR = ("weights", "compact.safetensors")
CPU = torch.device("cpu")


def expected_shapes(target: str | SamConfig) -> Shapes:
    """Returns the state entries of a generator, by name or by SAM sizes; the large ones are not allocated."""
    if target == COMPACT:
        return shapes_of(build_generator(COMPACT).state_dict())
    with torch.device("meta"):
        return shapes_of(_build(target).state_dict())


def _build(target: str | SamConfig) -> nn.Module:
    return build_generator(target) if isinstance(target, str) else build_noise_generator(target)


# --- published starts ------------------------------------------------------------------------------------------------


def read_sam(path: str | Path, size: str = "vit_b") -> State:
    """Returns SAM's state from the official file, or from a folder with the three files of `size`."""
    path = Path(path)
    if not path.is_dir():
        return open_state(path).read_floats()
    files = {part: path / f"sam_{size}_{suffix}.pth" for part, suffix in SAM_PARTS.items()}
    missing = [file for file in files.values() if not file.exists()]
    if len(missing) == len(files):
        names = ", ".join(file.name for file in missing)
        raise UserError(f"{path}: holds none of {names}; give the official SAM file, or the folder of these three")
    if missing:
        raise missing_file(missing[0])
    return join_sam({part: open_state(file).read_floats() for part, file in files.items()})


def check_sam(state: State, source: str | Path) -> SamConfig:
    """Returns the sizes of the whole SAM that a state holds.

    A UserError, which names `source`, says where it is no SAM or parts are missing.
    """
    config = sam_config_of(shapes_of(state))
    if config is None:
        raise UserError(f"{source}: is not an official SAM file (image_encoder, prompt_encoder and mask_decoder)")
    expected = {key: shape for key, shape in expected_shapes(config).items() if not is_noise_part(key)}
    if misfit := compare(shapes_of(state), expected):
        raise UserError(f"{source}: is not a whole SAM: {misfit}; get the official file")
    return config


def initialise_from_sam(network: nn.Module, path: str | Path) -> None:
    """Fills the SAM parts of a NoiseGenerator; its noise parts stay as they were made.

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


def read_mae(path: str | Path, expected: Shapes) -> State:
    """Returns the entries that a MAE file gives to SAM's image encoder, in its names.

    path: MAE's official file, with or without decoder, or one whose entries have SAM's names, in which `pos_embed` may
    be missing. expected: the encoder's own entries. The result leaves out all of the relative positions, all of the
    neck, and in the latter case perhaps `pos_embed`. If anything else is missing, or an entry fits nowhere, a
    UserError says so. The official weights are licensed CC BY-NC 4.0: not for commercial use.
    """
    given = open_state(path, inside="model").read_floats()
    state = mae_to_sam(given, expected["pos_embed"][1])
    absent = names_absent_from_mae(given, expected)
    misfit = compare(shapes_of(state), {name: shape for name, shape in expected.items() if name not in absent})
    if misfit:
        raise UserError(f"{path}: is not a MAE for this encoder: {misfit}; give the official MAE file of its size")
    return state


def initialise_from_mae(network: nn.Module, path: str | Path) -> None:
    """Fills the image encoder of a Surrogate from MAE, as the published code does; all else stays as it was made.

    path: see `read_mae`. The weights are licensed CC BY-NC 4.0: what is trained from them is not for commercial use.
    """
    from segment_anything_training.surrogate import Surrogate

    if not isinstance(network, Surrogate):
        raise UserError(f"{path}: MAE weights start SAM-derived surrogates only ({', '.join(SAM_CONFIGS)})")
    expected = shapes_of(network.image_encoder.state_dict())
    state = read_mae(path, expected)
    left_fresh = network.image_encoder.load_state_dict(state, strict=False).missing_keys
    assert set(left_fresh) == expected.keys() - state.keys(), "exactly what read_mae left out starts fresh"


# --- generators ------------------------------------------------------------------------------------------------------


def load_generator(which: str | Path, device: torch.device = CPU) -> LoadedGenerator:
    """Returns a generator from a file, or the one shipped with the package where `which` is "compact".

    device: where its network is put; `unseg.compute.device.choose_device` makes one of a user's word.
    """
    shipped = str(which) == COMPACT
    with _shipped_generator() if shipped else nullcontext(Path(which)) as path:
        if shipped and not path.exists():
            raise UserError(f"{path}: the shipped generator is missing from this installation; install UnSeg again")
        file = open_state(path)
        network, name = generator_of(file)
        loaded = LoadedGenerator(network, name, path.name, sha256_or_refuse(path), file.metadata)
    network.to(device).eval().requires_grad_(False)
    return loaded


def _shipped_generator() -> AbstractContextManager[Path]:
    """Returns a context of the path of the generator inside the package."""
    return importlib.resources.as_file(importlib.resources.files("unseg").joinpath(*SHIPPED_GENERATOR))


def generator_of(file: StateFile) -> tuple[nn.Module, str]:
    """Returns the generator that a file holds, filled with it, and its name.

    All shapes are compared before a network is built or a value is read. A UserError says what does not fit.
    """
    shapes, source = file.shapes, file.path
    target = _described(file.metadata, source) or sam_config_of(shapes) or _nearest(shapes)
    target = _with_code_prompt(target, shapes)
    misfit = compare(shapes, expected_shapes(target))
    if _is_sam_itself(misfit):
        raise UserError(f"{source}: is SAM itself, no generator: {misfit}; train a generator from it (unseg train)")
    if misfit:
        # A damaged file may imply absurd sizes: it is reported against the released size that it resembles most.
        nearest = target if isinstance(target, str) else _nearest(shapes)
        misfit = compare(shapes, expected_shapes(nearest))
        raise UserError(f"{source}: is not a {_name(nearest)} generator: {misfit}; give a generator's weight file")
    state, network = file.read_floats(), _build(target)
    network.load_state_dict(state, strict=True)
    return network, _name(target)


def _is_sam_itself(misfit: Misfit) -> bool:
    """Returns whether a generator's noise parts, and nothing else, are missing."""
    only_missing = misfit.missing and not (misfit.unexpected or misfit.misshaped)
    return bool(only_missing) and all(map(is_noise_part, misfit.missing))


def _name(target: str | SamConfig) -> str:
    return target if isinstance(target, str) else sam_name(target)


def _with_code_prompt(target: str | SamConfig, shapes: Shapes) -> str | SamConfig:
    """Returns the network as one that takes codes, where the state has that part; its name does not tell."""
    if target == COMPACT or not has_code_prompt(shapes):
        return target
    return replace(SAM_CONFIGS[target] if isinstance(target, str) else target, code_prompt=True)


def _described(metadata: dict[str, str], source: str | Path) -> str | SamConfig | None:
    """Returns the network that this project's metadata name; None where a file has none."""
    version, name = metadata.get("format_version", str(FORMAT_VERSION)), metadata.get("network")
    if version != str(FORMAT_VERSION):
        raise UserError(
            f"{source}: has weight format {shown(version)}, not {FORMAT_VERSION}; install the UnSeg that wrote it"
        )
    if name is None or name in NAMES:
        return name
    try:
        sizes = json.loads(metadata["sam_config"])
        return SamConfig(**{**sizes, "global_blocks": tuple(sizes["global_blocks"])})
    except KeyError:
        raise UserError(f"{source}: unknown network {shown(name)!r}; available: {', '.join(NAMES)}") from None
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: its sam_config is that of no network ({shown(error)}); get the file again"
        ) from None


def _nearest(shapes: Shapes) -> SamConfig:
    """Returns the released size whose encoder is as wide as this state's, or ViT-B."""
    width = shapes.get("image_encoder.patch_embed.proj.weight", (0,))[0]
    return next((config for config in SAM_CONFIGS.values() if config.embed_dim == width), SAM_CONFIGS["vit_b"])


def save_generator(network: nn.Module, name: str, path: str | Path, metadata: dict[str, str] | None = None) -> str:
    """Writes a generator as safetensors that `load_generator` reads, atomically, and returns the file's sha256.

    name: one of the names of `segment_anything_training.build`, or "custom". metadata: facts of its training.
    Equal weights and facts give equal bytes. A ValueError says where the network is not what `name` says.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    own = {"format_version": str(FORMAT_VERSION), "network": name}
    target: str | SamConfig = name
    config = getattr(network, "config", None)
    if name == CUSTOM and isinstance(config, SamConfig):
        target = config
        sizes = asdict(config)
        if not config.code_prompt:
            del sizes["code_prompt"]  # files without codes stay what they were, to the byte
        own["sam_config"] = json.dumps(sizes)
    elif name not in NAMES:
        raise ValueError(f"unknown network {name!r}; available: {', '.join(NAMES)}")
    if misfit := compare(shapes_of(state), expected_shapes(_with_code_prompt(target, shapes_of(state)))):
        raise ValueError(f"the network is not a {name} generator: {misfit}")
    if taken := own.keys() & (metadata or {}).keys():
        raise ValueError(f"metadata: {', '.join(sorted(taken))} is written by save_generator itself")
    data = safetensors.torch.save(state, {**(metadata or {}), **own})
    return write_durably(path, sorted_header(data))
