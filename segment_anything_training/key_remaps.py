"""Published states of weights in the names and shapes of the networks here: pure functions on dictionaries.

This module opens no file; `unseg.storage` reads and writes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F

from segment_anything_training.build import SAM_CONFIGS
from segment_anything_training.sizes import PATCH_SIZE, SamConfig

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

CUSTOM = "custom"  # the name of a SAM-derived generator of another size than the three released ones

# A part of SAM → how the published three-way split names its file, after `sam_vit_b_`.
SAM_PARTS = {"image_encoder": "backbone", "prompt_encoder": "prompt_decoder", "mask_decoder": "maskdecoder"}

# MAE's names → SAM's, where they differ.
_MAE_RENAMED = ((".mlp.fc1.", ".mlp.lin1."), (".mlp.fc2.", ".mlp.lin2."))
# What MAE has and SAM's encoder does not: the class token, the last norm (SAM has its neck there), the decoder.
_MAE_DROPPED = re.compile(
    r"cls_token|mask_token|norm\.(weight|bias)|decoder_(pos_embed|(embed|blocks\.\d+|norm|pred)\..+)"
)
# What SAM's encoder has and MAE does not. A file holds all of a group or none of it.
_SAM_ONLY = (re.compile(r"blocks\.\d+\.attn\.rel_pos_[hw]"), re.compile(r"neck\.[0-3]\.(weight|bias)"))


def shapes_of(state: Mapping[str, torch.Tensor]) -> Shapes:
    """Returns the shape of every tensor of a state, by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# --- SAM -------------------------------------------------------------------------------------------------------------


def split_sam(state: State) -> dict[str, State]:
    """Returns each part of SAM's state without its prefix, by the part's name. Entries of no part are under ""."""
    parts: dict[str, State] = {part: {} for part in SAM_PARTS}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part in SAM_PARTS and rest:
            parts[part][rest] = tensor
        else:
            parts.setdefault("", {})[name] = tensor
    return parts


def join_sam(parts: Mapping[str, State]) -> State:
    """Returns SAM's state from its parts: the inverse of `split_sam`."""
    return {
        f"{part}.{name}" if part else name: tensor for part, state in parts.items() for name, tensor in state.items()
    }


def sam_name(config: SamConfig) -> str:
    """Returns vit_b, vit_l or vit_h for the sizes of a released SAM, "custom" for all others."""
    sizes = replace(config, code_prompt=False)
    return next((name for name, known in SAM_CONFIGS.items() if known == sizes), CUSTOM)


def sam_config_of(shapes: Shapes) -> SamConfig | None:
    """Returns the sizes that the entries of a SAM state imply, or None where they do not tell.

    Global blocks are known by their longer tables of relative positions. Where the windows are as large as the grid,
    all tables are equally long, and the result is None.
    """
    rows = _rows_of_positions(shapes)
    position = shapes.get("image_encoder.pos_embed", ())
    if len(position) != 4 or sorted(rows) != list(range(len(rows))) or not rows or not rows[0][1]:
        return None
    _, grid, _, dim = position
    global_blocks = tuple(index for index in sorted(rows) if rows[index][0] == 2 * grid - 1)
    windowed = [rows[index][0] for index in rows if index not in global_blocks]
    if not windowed:
        return None
    try:
        return SamConfig(
            grid * PATCH_SIZE,
            embed_dim=dim,
            depth=len(rows),
            num_heads=dim // rows[0][1],
            global_blocks=global_blocks,
            window=(windowed[0] + 1) // 2,
            code_prompt=has_code_prompt(shapes),
        )
    except ValueError:
        return None


def has_code_prompt(shapes: Shapes) -> bool:
    """Returns whether a state is of a generator that takes the codes of pixels as a prompt."""
    return any(name.startswith("noise_code_embedding.") for name in shapes)


def _rows_of_positions(shapes: Shapes) -> dict[int, tuple[int, ...]]:
    """Returns the shape of each block's table of vertical relative positions, by the block's number."""
    found: dict[int, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h", name)
        if match and len(shape) == 2:
            found[int(match[1])] = shape
    return found


# --- MAE -------------------------------------------------------------------------------------------------------------


def is_dropped_from_mae(name: str) -> bool:
    """Returns whether an entry of a MAE file has no place in SAM's image encoder.

    These are the class token, the mask token, the last norm and the decoder.
    """
    return _MAE_DROPPED.fullmatch(name) is not None


def mae_to_sam(state: State, grid: int) -> State:
    """Returns the encoder of a MAE in the names of SAM's image encoder (`blocks.0.mlp.lin1.weight`, …).

    Entries that have SAM's names already stay. `pos_embed`, 1×(1 + n²)×D with the class token's entry first, becomes
    1×grid×grid×D: without that entry, resized bicubically where n is not `grid`, as MAE does for other image sizes.
    Entries that SAM has no place for are left out.
    """
    renamed = {}
    for name, tensor in state.items():
        if not is_dropped_from_mae(name):
            for theirs, ours in _MAE_RENAMED:
                name = name.replace(theirs, ours)
            renamed[name] = tensor
    position = renamed.get("pos_embed")
    if position is not None and position.ndim == 3 and _has_class_token(position):
        renamed["pos_embed"] = _positions_on_grid(position, grid)
    return renamed


def names_absent_from_mae(given: State, expected: Shapes) -> set[str]:
    """Returns the entries of SAM's image encoder that a MAE file may lack, and this one does.

    given: the file's state, in its own names. expected: the encoder's entries. These are all of the relative positions,
    or none; all of the neck, or none; and `pos_embed` where the file has SAM's names.
    """
    groups = [{name for name in expected if group.fullmatch(name)} for group in _SAM_ONLY]
    if not any(theirs in name for theirs, _ in _MAE_RENAMED for name in given):
        groups.append({"pos_embed"})
    return {name for group in groups if group.isdisjoint(given) for name in group}


def _has_class_token(position_1ND: torch.Tensor) -> bool:
    """Returns whether a table of positions has one row more than a square grid has patches."""
    return math.isqrt(position_1ND.shape[1]) ** 2 + 1 == position_1ND.shape[1]


def _positions_on_grid(position_1ND: torch.Tensor, grid: int) -> torch.Tensor:
    """Returns the positions of the patches, 1×grid×grid×D. N is one more than the square of the grid's side in MAE."""
    side = math.isqrt(position_1ND.shape[1])
    table = position_1ND[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if side != grid:
        table = F.interpolate(table, (grid, grid), mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1).contiguous()
