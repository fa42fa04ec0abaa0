"""SAM's image encoder (ViT), which also returns its first global block's output, with attention of linear memory.

State names are those of `segment_anything.modeling.ImageEncoderViT`. Shapes: B batch (of images, or of windows), h×w
tokens of one image or window, N = h·w, n heads of width c, D = n·c.

SAM adds to the attention logits of query (i, j) and key (k, l) the terms q·R_h[i−k] + q·R_w[j−l]. Its own code builds
that bias, and the logits, as B·n·N×N tensors (805 MB an image in each global layer of ViT-B at 1024). Two exact forms
avoid them, forward and backward:

- `tiled_attention`, on the CPU: a few rows of queries, or a few whole heads, at a time, so that the logits stay in the
  processor's cache; the way back computes them again.
- `folded_attention`, elsewhere: the terms become dot products of longer queries and keys, (q ‖ rel_h ‖ rel_w) ·
  (k ‖ one-hot row ‖ one-hot column), for PyTorch's fused kernels.

docs/research/performance.md has the time and memory of both, and of what was tried beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import nn
from torch.autograd.function import once_differentiable

from segment_anything_training import cpu_blocks
from segment_anything_training.sam import PATCH_SIZE, PROMPT_DIM, ChannelNorm, SamConfig

# Elements of one tile of logits: 4 MB of float32, the fastest of 2^17 to 2^21 over all of ViT-B's layers.
TILE_ELEMENTS = 1 << 20
# Fused kernels want widths that fill vectors: a window's 64 + 14 + 14 becomes 96.
WIDTH_STEP = 8


def relative_positions(table_LC: torch.Tensor, size: int) -> torch.Tensor:
    """Returns size×size×c: entry (i, k) is the table's row for a query at i and a key at k. table: (2·size − 1)×c."""
    index = torch.arange(size, device=table_LC.device)
    return table_LC[index[:, None] - index[None, :] + size - 1]


def relative_terms(
    q_BnNc: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what each query adds to its logits by the key's row (B×n×N×h) and by the key's column (B×n×N×w)."""
    batch, heads, tokens, _ = q_BnNc.shape
    q = q_BnNc.reshape(batch, heads, height, width, -1)
    rel_h = q @ relative_positions(rel_pos_h, height).transpose(-1, -2)
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", q, relative_positions(rel_pos_w, width))
    return rel_h.reshape(batch, heads, tokens, height), rel_w.reshape(batch, heads, tokens, width)


def folded_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """Returns attention with relative terms through the fused kernel. q, k, v and result: B×n×N×c."""
    batch, heads, tokens, channels = q.shape
    height, width = rel_h.shape[-1], rel_w.shape[-1]
    rows, columns = (torch.arange(side, device=q.device) for side in (height, width))
    tokens_N = torch.arange(tokens, device=q.device)[:, None]
    places = torch.cat([tokens_N // width == rows, tokens_N % width == columns], dim=-1).to(k.dtype)
    q = torch.cat([q * channels**-0.5, rel_h.to(q.dtype), rel_w.to(q.dtype)], dim=-1)
    k = torch.cat([k, places.expand(batch, heads, -1, -1)], dim=-1)
    padding = -q.shape[-1] % WIDTH_STEP
    # The kernels want values as wide as keys; the padding's outputs are cut off.
    v = F.pad(v, (0, height + width + padding))
    return F.scaled_dot_product_attention(F.pad(q, (0, padding)), F.pad(k, (0, padding)), v, scale=1.0)[..., :channels]


def _tiles(heads: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Yields heads and query rows whose logits make up one tile: several whole heads, or some rows of one."""
    group, rows = max(1, TILE_ELEMENTS // tokens**2), max(1, TILE_ELEMENTS // tokens)
    for head in range(0, heads, group):
        for row in range(0, tokens, rows):
            yield slice(head, head + group), slice(row, row + rows)


def _probabilities(q: torch.Tensor, k: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor) -> torch.Tensor:
    """Returns the attention of a tile's queries to all keys: m×rows×N."""
    logits = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    logits.baddbmm_(q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.softmax(logits, dim=-1, out=logits)


class _TiledAttention(torch.autograd.Function):
    """Computes attention over m heads, tile by tile.

    q, k, v, result: m×N×c; rel_h: m×N×h; rel_w: m×N×w; float32 or float64.

    Backward follows FlashAttention (Dao et al., 2022, section 3.1): with P the probabilities and O the result, the
    gradient of the logits is P ∘ (dO·Vᵀ − rowsum(dO ∘ O)); P is computed again, a tile at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
    ) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        for heads, rows in _tiles(*q.shape[:2]):
            tile = _probabilities(q[heads, rows], k[heads], rel_h[heads, rows], rel_w[heads, rows])
            torch.bmm(tile, v[heads], out=out[heads, rows])
        ctx.save_for_backward(q, k, v, rel_h, rel_w, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, rel_h, rel_w, out = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        grad_q, grad_h, grad_w = (torch.empty(tensor.shape, dtype=q.dtype) for tensor in (q, rel_h, rel_w))
        grad_k, grad_v = (torch.zeros(tensor.shape, dtype=q.dtype) for tensor in (k, v))
        row_sums = (grad_out * out).sum(-1, keepdim=True)
        for heads, rows in _tiles(*q.shape[:2]):
            tile = _probabilities(q[heads, rows], k[heads], rel_h[heads, rows], rel_w[heads, rows])
            grad_v[heads].baddbmm_(tile.transpose(1, 2), grad_out[heads, rows])
            grad_logits = torch.baddbmm(row_sums[heads, rows], grad_out[heads, rows], v[heads].transpose(1, 2), beta=-1)
            grad_logits.mul_(tile)
            torch.bmm(grad_logits, k[heads], out=grad_q[heads, rows])
            grad_k[heads].baddbmm_(grad_logits.transpose(1, 2), q[heads, rows], alpha=scale)
            grid = grad_logits.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
            torch.sum(grid, -1, out=grad_h[heads, rows])
            torch.sum(grid, -2, out=grad_w[heads, rows])
        return grad_q.mul_(scale), grad_k, grad_v, grad_h, grad_w


def tiled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """Returns attention with relative terms, tile by tile, on the CPU.

    q, k, v: B×n×N×c, float32 or float64; returns B×n×N×c.
    """
    out = _TiledAttention.apply(*(tensor.flatten(0, 1) for tensor in (q, k, v, rel_h, rel_w)))
    return out.unflatten(0, q.shape[:2])


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor) -> torch.Tensor:
    """Returns attention with relative terms in the form for the tensors' device and precision, B×n×N×c.

    Half precision on a processor goes to the fused kernel, which adds up in float32.
    """
    if q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64):
        return tiled_attention(q, k, v, rel_h, rel_w)
    return folded_attention(q, k, v, rel_h, rel_w)


class Attention(nn.Module):
    """Computes multi-head self-attention with decomposed relative positions over squares of `size`×`size` tokens.

    A larger grid is cut into such windows; those at its right and lower edges are filled up with tokens of 0, as in
    SAM.
    """

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x_BHWD: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x_BHWD.shape
        size, heads, tokens = self.size, self.num_heads, self.size**2
        # Cut after the projection, which then has no filled-up tokens to work on: theirs is the bias.
        qkv = self._filled_up(self.qkv(x_BHWD))
        rows, columns = qkv.shape[1] // size, qkv.shape[2] // size
        qkv = qkv.view(batch, rows, size, columns, size, 3, heads, dim // heads).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, -1, heads, tokens, dim // heads).unbind(0)
        rel_h, rel_w = relative_terms(q, self.rel_pos_h, self.rel_pos_w, size, size)
        x = attend(q, k, v, rel_h, rel_w)
        x = x.reshape(batch, rows, columns, heads, size, size, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj(x.reshape(batch, rows * size, columns * size, dim)[:, :height, :width])

    def _filled_up(self, qkv_BHWE: torch.Tensor) -> torch.Tensor:
        """Returns qkv with those of tokens of 0 to the right and below, up to multiples of `size`."""
        batch, height, width, channels = qkv_BHWE.shape
        below, right = -height % self.size, -width % self.size
        bias = self.qkv.bias.to(qkv_BHWE.dtype)
        if right:
            qkv_BHWE = torch.cat([qkv_BHWE, bias.expand(batch, height, right, channels)], dim=2)
        if below:
            qkv_BHWE = torch.cat([qkv_BHWE, bias.expand(batch, below, width + right, channels)], dim=1)
        return qkv_BHWE


class Block(nn.Module):
    """Computes a transformer block; `window` 0 attends over the whole grid, else within windows of that side."""

    def __init__(self, dim: int, num_heads: int, window: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=4 * dim)
        self.window = window

    def forward(self, x_BGGD: torch.Tensor) -> torch.Tensor:
        x_BGGD = x_BGGD + self.attn(self.norm1(x_BGGD))
        return x_BGGD + self.mlp(self.norm2(x_BGGD))


class ImageEncoder(nn.Module):
    """Makes an embedding B×256×G×G of normalised images B×3×S×S, G = S/16.

    It also returns the first global block's output, B×D×G×G.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim, grid = config.embed_dim, config.grid
        self.img_size = config.image_size
        self.first_global_block = min(config.global_blocks)
        self.patch_embed = PatchEmbed((PATCH_SIZE, PATCH_SIZE), (PATCH_SIZE, PATCH_SIZE), embed_dim=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, 0 if index in config.global_blocks else config.window, grid)
            for index in range(config.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, PROMPT_DIM, kernel_size=1, bias=False),
            ChannelNorm(PROMPT_DIM),
            nn.Conv2d(PROMPT_DIM, PROMPT_DIM, kernel_size=3, padding=1, bias=False),
            ChannelNorm(PROMPT_DIM),
        )

    def forward(self, images_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The patch convolution leaves channels first in memory; every layer after it works on channels last.
        x = self.patch_embed(images_B3SS).contiguous() + self.pos_embed
        if cpu_blocks.suits(x) and all(type(block.attn) is Attention for block in self.blocks):
            first_global = cpu_blocks.run_blocks(self.blocks, x, self.first_global_block)
        else:
            for index, block in enumerate(self.blocks):
                x = block(x)
                if index == self.first_global_block:
                    first_global = x
        return self.neck(x.permute(0, 3, 1, 2)), first_global.permute(0, 3, 1, 2)
