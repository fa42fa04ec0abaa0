"""The blocks of SAM's image encoder on a processor, without gradients, in memory that is used again and again.

They compute the sums of `image_encoder.Block`.

As whole tensors, a block's results cost a processor more than their arithmetic: each large one is fresh memory, which
the system clears page by page, and windows are copied apart and together. Here

- a block's wide results (queries, keys and values; the MLP's hidden layer) take turns in one place, sums go into what
  they are added to, and GELU works in place;
- windows are filled one row of windows after another, from what is computed for the whole image; tokens that fill the
  last windows have the layer's bias, and those below the image ask nothing;
- both tables of relative positions are one matrix product with the queries, over all differences of places; the terms
  of a logit are then a view of it.

Shapes: G×G tokens of an image, N = G·G, D = n·c for n heads of width c, M windows times heads, P places on a window's
side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Elements of one tile of logits: 4 MB of float32, as in `image_encoder`.
TILE_ELEMENTS = 1 << 20


class Room:
    """Holds memory that takes one tensor after another; each call's result lies where the last one's lay."""

    def __init__(self) -> None:
        self.flat = torch.empty(0)

    def __call__(self, *shape: int) -> Tensor:
        """Returns an uninitialised float32 tensor of that shape."""
        elements = torch.Size(shape).numel()
        if len(self.flat) < elements:
            self.flat = torch.empty(elements)
        return self.flat[:elements].view(shape)


class Rooms:
    """Holds the memory that all blocks of an encoder share."""

    def __init__(self) -> None:
        self.wide, self.windows, self.logits, self.attended, self.terms = (Room() for _ in range(5))


def difference_tables(rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Returns both tables as c×(2·L) columns, L = 2·P − 1.

    Each goes from the last place to the first, so that keys' places rise.
    """
    return torch.cat([rel_pos_h.flip(0), rel_pos_w.flip(0)]).t()


def term_views(terms: Tensor, rows: int, side: int) -> tuple[Tensor, Tensor]:
    """Returns what each query adds to its logits by the key's row, and what by the key's column, as views.

    Both are M×rows×side×side (query's row, query's column, key's row or column).

    terms: M×(rows·side)×(2·L) contiguous, queries times `difference_tables`. A query at row i and a key at row k meet
    in column side − 1 − i + k of the first half, and likewise for columns in the second half.
    """
    differences = 2 * side - 1
    of_query, of_row = 2 * differences, 2 * differences * side
    shape, start = (len(terms), rows, side, side), terms.storage_offset() + side - 1
    by_row = terms.as_strided(shape, (rows * of_row, of_row - 1, of_query, 1), start)
    by_column = terms.as_strided(shape, (rows * of_row, of_row, of_query - 1, 1), start + differences)
    return by_row, by_column


def add_terms(by_row: Tensor, by_column: Tensor, out: Tensor) -> None:
    """Writes the relative terms of logits to `out`, M×(rows·side)×(side·side), contiguous.

    by_row, by_column: M×rows×side×side, as `term_views` returns them.
    """
    torch.add(by_row[..., None], by_column[..., None, :], out=out.view(*by_row.shape, by_column.shape[-1]))


def attend_globally(qkv_N3D: Tensor, heads: int, tables: Tensor, out_ND: Tensor, rooms: Rooms) -> None:
    """Lets every token attend to all. qkv: N×3D; out: N×D, overwritten."""
    tokens, dim = out_ND.shape
    width, side = dim // heads, int(tokens**0.5)
    step = max(1, TILE_ELEMENTS // (side * tokens))  # rows of the image
    for head in range(heads):
        q, k, v = (qkv_N3D[:, start : start + width] for start in range(head * width, 3 * dim, dim))
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        terms = torch.mm(q, tables, out=rooms.terms(tokens, tables.shape[1]))
        by_row, by_column = term_views(terms[None], side, side)
        for row in range(0, side, step):
            rows, queries = slice(row, row + step), slice(row * side, min(row + step, side) * side)
            logits = rooms.logits(queries.stop - queries.start, tokens)
            add_terms(by_row[:, rows], by_column[:, rows], logits[None])
            logits.addmm_(q[queries], k.t(), alpha=width**-0.5)
            torch.softmax(logits, dim=-1, out=logits)
            torch.mm(logits, v, out=out_ND[queries, head * width : (head + 1) * width])


def attend_in_windows(
    qkv_N3D: Tensor, bias_3D: Tensor, heads: int, window: int, tables: Tensor, out_ND: Tensor, rooms: Rooms
) -> None:
    """Lets every token attend to those of its window; tokens that fill the last windows are keys, too, as in SAM.

    qkv: N×3D; bias: 3D, what those tokens' queries, keys and values are; out: N×D, overwritten.
    """
    tokens, dim = out_ND.shape
    width, side = dim // heads, int(tokens**0.5)
    across = -(-side // window)
    qkv = qkv_N3D.view(side, side, 3, heads, width)
    out = out_ND.view(side, side, heads, width)
    bias = bias_3D.view(3, heads, 1, 1, 1, width)
    padded = rooms.windows(3, heads, across, window, window, width)
    padded[:, :, -1:, :, side - (across - 1) * window :] = bias
    for top in range(0, side, window):
        rows = min(window, side - top)
        padded[:, :, :, rows:] = bias
        for index in range(across):
            columns = slice(index * window, min((index + 1) * window, side))
            part = qkv[top : top + rows, columns]
            padded[:, :, index, :rows, : part.shape[1]] = part.permute(2, 3, 0, 1, 4)
        q, k, v = padded.view(3, heads * across, window * window, width)
        queries = rows * window
        attended = rooms.attended(heads * across, queries, width)
        group = max(1, TILE_ELEMENTS // (queries * window * window))
        for first in range(0, heads * across, group):
            some = slice(first, first + group)
            asked = q[some, :queries]
            terms = torch.matmul(asked, tables, out=rooms.terms(len(asked), queries, tables.shape[1]))
            logits = rooms.logits(len(asked), queries, window * window)
            add_terms(*term_views(terms, rows, window), logits)
            logits.baddbmm_(asked, k[some].transpose(1, 2), alpha=width**-0.5)
            torch.softmax(logits, dim=-1, out=logits)
            torch.bmm(logits, v[some], out=attended[some])
        attended = attended.view(heads, across, rows, window, width)
        for index in range(across):
            columns = slice(index * window, min((index + 1) * window, side))
            out[top : top + rows, columns] = attended[:, index, :, : columns.stop - columns.start].permute(1, 2, 0, 3)


def run_block(block: Any, x_ND: Tensor, rooms: Rooms) -> None:
    """Puts one image's tokens after a block in place of those before it.

    block: an `image_encoder.Block`; x: N×D contiguous.
    """
    dim, attn, mlp = x_ND.shape[1], block.attn, block.mlp
    tables = difference_tables(attn.rel_pos_h, attn.rel_pos_w)
    normed = block.norm1(x_ND)
    qkv = torch.addmm(attn.qkv.bias, normed, attn.qkv.weight.t(), out=rooms.wide(len(x_ND), 3 * dim))
    attended = normed  # which has been used
    if block.window:
        attend_in_windows(qkv, attn.qkv.bias, attn.num_heads, block.window, tables, attended, rooms)
    else:
        attend_globally(qkv, attn.num_heads, tables, attended, rooms)
    x_ND.add_(attn.proj.bias).addmm_(attended, attn.proj.weight.t())
    hidden = torch.addmm(
        mlp.lin1.bias, block.norm2(x_ND), mlp.lin1.weight.t(), out=rooms.wide(len(x_ND), len(mlp.lin1.bias))
    )
    torch.ops.aten.gelu_(hidden)
    x_ND.add_(mlp.lin2.bias).addmm_(hidden, mlp.lin2.weight.t())


def suits(x_BGGD: Tensor) -> bool:
    """Returns whether `run_blocks` may take the place of the blocks: on a processor, in float32, without gradients."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return x_BGGD.device.type == "cpu" and x_BGGD.dtype == torch.float32


def run_blocks(blocks: Iterable[Any], x_BGGD: Tensor, kept: int) -> Tensor:
    """Puts the tokens after all blocks in place of those before them, one image after another.

    Returns those after block `kept`.
    """
    rooms, states = Rooms(), torch.empty_like(x_BGGD)
    for image_GGD, state_GGD in zip(x_BGGD, states, strict=True):
        for index, block in enumerate(blocks):
            run_block(block, image_GGD.view(-1, image_GGD.shape[-1]), rooms)
            if index == kept:
                state_GGD.copy_(image_GGD)
    return states
