"""SAM's image encoder (ViT), which also returns its first global block's output, with attention of linear memory.

State names are those of `segment_anything.modeling.ImageEncoderViT`. Shapes: B batch (of images, or of windows), h×w
tokens of one image or window, N = h·w, n heads of width c, D = n·c.

SAM adds to the attention logits of query (i, j) and key (k, l) the terms q·R_h[i−k] + q·R_w[j−l]. Its own code builds
that bias, and the logits, as B·n·N×N tensors (805 MB an image in each global layer of ViT-B at 1024). Two exact forms
avoid them. One attention layer of ViT-B on one core of a busy processor, median of 3 (SAM's own: 8.2 s where global,
0.79 s in windows):

- `folded_attention` (3.9 s; windows 0.65 s): the terms become dot products of longer queries and keys,
  (q ‖ rel_h ‖ rel_w) · (k ‖ one-hot row ‖ one-hot column), for the fused kernel, forward and backward.
- `tiled_attention` (2.4 s; windows 0.64 s): one head and a few rows of queries at a time, so that the logits stay in the
  processor's cache. CPU only, without gradients.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed, window_partition, window_unpartition
from torch import nn

from segment_anything_training.sam import PATCH_SIZE, PROMPT_DIM, SamConfig

# Elements of one tile of logits: 4 MB of float32, the fastest of 1, 4 and 14 rows of 64 queries against 4096 keys.
TILE_ELEMENTS = 1 << 20


def relative_positions(table_LC: torch.Tensor, size: int) -> torch.Tensor:
    """size×size×c: entry (i, k) is the table's row for a query at i and a key at k. table: (2·size − 1)×c."""
    index = torch.arange(size, device=table_LC.device)
    return table_LC[index[:, None] - index[None, :] + size - 1]


def relative_terms(
    q_BnNc: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each query adds to its logits by the key's row (B×n×N×h) and by the key's column (B×n×N×w)."""
    batch, heads, tokens, _ = q_BnNc.shape
    q = q_BnNc.reshape(batch, heads, height, width, -1)
    rel_h = q @ relative_positions(rel_pos_h, height).transpose(-1, -2)
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", q, relative_positions(rel_pos_w, width))
    return rel_h.reshape(batch, heads, tokens, height), rel_w.reshape(batch, heads, tokens, width)


def folded_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """Attention with relative terms through the fused kernel. q, k, v: B×n×N×c; returns B×n×N×c."""
    batch, heads, tokens, channels = q.shape
    height, width = rel_h.shape[-1], rel_w.shape[-1]
    index = torch.arange(tokens, device=q.device)
    places = torch.cat([F.one_hot(index // width, height), F.one_hot(index % width, width)], dim=-1).to(k.dtype)
    q = torch.cat([q * channels**-0.5, rel_h.to(q.dtype), rel_w.to(q.dtype)], dim=-1)
    k = torch.cat([k, places.expand(batch, heads, -1, -1)], dim=-1)
    # The kernels want values as wide as keys; the padding's outputs are cut off.
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, height + width)), scale=1.0)[..., :channels]


def tiled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """Attention with relative terms, tile by tile, without gradients. q, k, v: B×n×N×c; returns B×n×N×c."""
    tokens, channels = q.shape[-2:]
    step = max(1, TILE_ELEMENTS // tokens)
    out = torch.empty(q.shape, dtype=q.dtype)
    heads = (tensor.flatten(0, 1) for tensor in (q, k, v, rel_h, rel_w, out))
    for q_Nc, k_Nc, v_Nc, rel_h_Nh, rel_w_Nw, out_Nc in zip(*heads):
        for start in range(0, tokens, step):
            tile = slice(start, start + step)
            logits = (rel_h_Nh[tile, :, None] + rel_w_Nw[tile, None, :]).view(-1, tokens)
            logits.addmm_(q_Nc[tile], k_Nc.t(), alpha=channels**-0.5)
            torch.softmax(logits, dim=-1, out=logits)
            torch.mm(logits, v_Nc, out=out_Nc[tile])
    return out


class Attention(nn.Module):
    """Multi-head self-attention with decomposed relative positions over a square of `size`×`size` tokens."""

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x_BhwD: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x_BhwD.shape
        tokens = height * width
        qkv = self.qkv(x_BhwD).view(batch, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        rel_h, rel_w = relative_terms(q, self.rel_pos_h, self.rel_pos_w, height, width)
        # Tiles win where one head's logits do not fit a tile; they write in place, so never where gradients flow.
        differentiable = any(tensor.requires_grad for tensor in (q, k, v, rel_h, rel_w))
        tiles_pay = q.device.type == "cpu" and tokens * tokens > TILE_ELEMENTS
        attend = tiled_attention if tiles_pay and not differentiable else folded_attention
        x = attend(q, k, v, rel_h, rel_w)
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, dim))


class Block(nn.Module):
    """A transformer block; `window` 0 attends over the whole grid, else within windows of that side."""

    def __init__(self, dim: int, num_heads: int, window: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=4 * dim)
        self.window = window

    def forward(self, x_BGGD: torch.Tensor) -> torch.Tensor:
        x_BGGD = x_BGGD + self._attend(self.norm1(x_BGGD))
        return x_BGGD + self.mlp(self.norm2(x_BGGD))

    def _attend(self, x_BGGD: torch.Tensor) -> torch.Tensor:
        if not self.window:
            return self.attn(x_BGGD)
        grid = x_BGGD.shape[1:3]
        windows, padded = window_partition(x_BGGD, self.window)
        return window_unpartition(self.attn(windows), self.window, padded, grid)


class ImageEncoder(nn.Module):
    """Normalised images B×3×S×S → embedding B×256×G×G and the first global block's output B×D×G×G, G = S/16."""

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
            LayerNorm2d(PROMPT_DIM),
            nn.Conv2d(PROMPT_DIM, PROMPT_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(PROMPT_DIM),
        )

    def forward(self, images_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The patch convolution leaves channels first in memory; every layer after it works on channels last.
        x = self.patch_embed(images_B3SS).contiguous() + self.pos_embed
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.first_global_block:
                first_global = x.permute(0, 3, 1, 2)
        return self.neck(x.permute(0, 3, 1, 2)), first_global
