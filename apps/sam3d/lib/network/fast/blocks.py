"""A transformer block on rows of tokens, changed in place: lib.network.image_encoder.Block without a temporary of all
tokens, and with the relative positions inside the product of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.network.fast.dense import Convolution, Dense, product
from lib.network.image_encoder import Block
from lib.network.layers import MASKED, WindowAttention, split_windows

# Rows that pass together through everything local to a window: their temporaries stay in the processor's cache.
ROWS_AT_ONCE = 2048
SIDES = 8  # combinations of the volume's two ends on three axes, see lib.network.layers.window_regions


class FastBlock:
    """One block; `x` (tokens, C) is the network's only full-size tensor."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.dtype, self.grid = dtype, block.grid_size
        self.down = Dense.of(block.adapter.linear1, dtype)
        self.spread = Convolution(block.adapter.conv, dtype)
        self.up = Dense.of(block.adapter.linear2, dtype)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = FastAttention(block.attn, dtype)
        self.widen, self.narrow = Dense.of(block.mlp.lin1, dtype), Dense.of(block.mlp.lin2, dtype)
        self.order = window_order(block.grid_size, block.window_size, block.shift)
        self.regions = block.regions
        self.windows_at_once = max(1, ROWS_AT_ONCE // self.order.shape[1])

    def __call__(self, x: Tensor) -> None:
        """x (tokens, C), single precision, h slowest and d fastest."""
        near = self._neighbourhoods(x)
        for start in range(0, len(self.order), self.windows_at_once):
            windows = slice(start, start + self.windows_at_once)
            rows = self.order[windows].reshape(-1)
            part = x.index_select(0, rows)
            part += self.up(near.index_select(0, rows), "relu")
            attended = self.attention(self.norm1(part), None if self.regions is None else self.regions[windows])
            part += attended
            part += self.narrow(self.widen(self.norm2(part), "gelu"))
            x.index_copy_(0, rows, part)

    def _neighbourhoods(self, x: Tensor) -> Tensor:
        """What the adapter's depth-wise convolution makes of the grid, (tokens, adapter_dim)."""
        narrow = torch.cat([self.down(part, "relu") for part in x.split(ROWS_AT_ONCE)])
        return self.spread(narrow.view(self.grid, self.grid, self.grid, -1)).relu_().view(len(x), -1)


class FastAttention:
    """Attention in windows. Its logits are one product: beside each query stand its relative terms and its penalties
    for the sides of the volume that it must not see, beside each key where it lies and on which side."""

    def __init__(self, attention: WindowAttention, dtype: torch.dtype) -> None:
        self.dtype, self.heads, self.side = dtype, attention.num_heads, attention.window_size
        self.qkv, self.proj = Dense.of(attention.qkv, dtype), Dense.of(attention.proj, dtype)
        tables = [attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d]
        gained = torch.cat([offset_table(table, self.side) for table in tables]) * attention.lr
        self.tables = gained.detach().to(dtype).contiguous()
        self.places = _places(self.side, dtype)

    def __call__(self, x: Tensor, regions: Tensor | None) -> Tensor:
        """x (n * size^3, C) to the same shape; regions (n, size^3), or None where nothing was rolled."""
        tokens = self.side**3
        qkv = self.qkv(x).view(-1, tokens, 3, self.heads, x.shape[1] // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, size^3, C / heads)
        queries, keys = self._queries(query, regions), self._keys(key, regions)
        out = torch.empty(len(value), tokens, self.heads, value.shape[-1], dtype=self.dtype)
        for window in range(len(value)):
            attend = _attended if self.dtype == torch.bfloat16 else _attended_by_head
            out[window] = attend(queries[window], keys[window], value[window]).transpose(0, 1)
        return self.proj(out.view(len(x), -1))

    def _queries(self, query: Tensor, regions: Tensor | None) -> Tensor:
        n, heads, tokens, width = query.shape
        side, rows = self.side, 2 * self.side - 1
        query = query.contiguous()
        offsets = product(query.view(-1, width), self.tables).view(n * heads, side, side, side, 3 * rows)
        extra = 0 if regions is None else SIDES
        queries = torch.empty(n, heads, tokens, width + 3 * side + extra, dtype=self.dtype)
        torch.mul(query, width**-0.5, out=queries[..., :width])
        grid = queries.view(n * heads, side, side, side, -1)
        for axis in range(3):
            at = width + axis * side
            grid[..., at : at + side] = _by_distance(offsets[..., axis * rows : (axis + 1) * rows], axis, side)
        if regions is not None:
            penalties = (1 - F.one_hot(regions, SIDES)).to(self.dtype) * MASKED
            queries[..., width + 3 * side :] = penalties[:, None]
        return queries

    def _keys(self, key: Tensor, regions: Tensor | None) -> Tensor:
        n, heads, tokens, width = key.shape
        extra = 0 if regions is None else SIDES
        keys = torch.empty(n, heads, tokens, width + 3 * self.side + extra, dtype=self.dtype)
        keys[..., :width] = key
        keys[..., width : width + 3 * self.side] = self.places
        if regions is not None:
            keys[..., width + 3 * self.side :] = F.one_hot(regions, SIDES)[:, None]
        return keys


def _attended(queries: Tensor, keys: Tensor, value: Tensor) -> Tensor:
    """Of one window: queries and keys (heads, T, K), value (heads, T, C). PyTorch itself gives bfloat16 to oneDNN."""
    return torch.bmm(torch.bmm(queries, keys.mT).softmax(-1), value)


def _attended_by_head(queries: Tensor, keys: Tensor, value: Tensor) -> Tensor:
    """The same by oneDNN's product, which knows no batches."""
    heads = zip(queries, keys, value.mT.contiguous(), strict=True)
    return torch.stack([product(product(query, key).softmax(-1), columns) for query, key, columns in heads])


def window_order(grid: int, size: int, shift: int) -> Tensor:
    """(windows, size^3): which row of the grid's tokens stands where after a roll by -shift and `split_windows`."""
    places = torch.arange(grid**3).view(1, grid, grid, grid, 1).roll((-shift,) * 3, dims=(1, 2, 3))
    return split_windows(places, size).squeeze(-1)


def offset_table(table: Tensor, size: int) -> Tensor:
    """A table (L, C) of relative positions as SAM resamples it, for key minus query from 1 - size to size - 1."""
    rows = 2 * size - 1
    resampled = F.interpolate(table.T[None], rows, mode="linear")[0].T if len(table) != rows else table
    return resampled.flip(0)


def _by_distance(offsets: Tensor, axis: int, size: int) -> Tensor:
    """offsets (m, i, j, k, 2 * size - 1), by key minus query, as (m, i, j, k, size), by key: a view, for the first of
    them moves back one place with each step of the query."""
    strides = list(offsets.stride())
    strides[1 + axis] -= 1
    return offsets.as_strided((*offsets.shape[:4], size), strides, offsets.storage_offset() + size - 1)


def _places(size: int, dtype: torch.dtype) -> Tensor:
    """(size^3, 3 * size): ones where a token's place along h, w and d is."""
    along = torch.arange(size)
    grid = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1).reshape(-1, 3)
    return F.one_hot(grid, size).flatten(1).to(dtype)
