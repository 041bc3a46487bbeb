"""One click as the published method computes it (arXiv 2306.13465 and the behaviour of its code), step for step.

This is what lib.network is measured against: the patch is up-sampled to 512 voxels a side, every slice embedded, every
block attends in all windows at once, the decoder concatenates all maps, and a second click does all of it again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lib.settings import NetworkSettings
from support.steps import Steps

MASKED = -100.0


class PublishedNetwork:
    """`weights` are the state of a `lib.network.sam3d.Sam3D` with the published decoder, under its names."""

    def __init__(self, weights: Mapping[str, Tensor], settings: NetworkSettings) -> None:
        self.weights, self.settings = weights, settings
        self.steps = Steps()

    @torch.no_grad()
    def click(self, patch: Tensor, points: Tensor) -> Tensor:
        """Logits (1, 2, D, H, W) for a patch (1, 1, D, H, W) and points (1, N, 3) in patch voxels (d, h, w)."""
        self.steps = Steps()
        x = self._tokens(patch.repeat(1, 3, 1, 1, 1))
        features = []
        for index in range(self.settings.depth):
            x = self._block(x, index)
            if index in self.settings.neck_blocks:
                with self.steps.timed("necks"):
                    features.append(self._neck(x, len(features)))
        with self.steps.timed("prompt encoder"):
            features[3] = self._prompted(features[3], points)
        return self._decoded(features, patch)

    def _get(self, name: str) -> Tensor:
        return self.weights[name]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._get(f"{name}.weight"), self._get(f"{name}.bias"), eps)

    def _tokens(self, patch: Tensor) -> Tensor:
        """(1, h, w, d, C) of a patch of three channels."""
        settings, size = self.settings, self.settings.vit_patch_size
        with self.steps.timed("interpolation"):
            volume = F.interpolate(patch, scale_factor=settings.upsampling, mode="trilinear")
            slices = rearrange(volume, "1 c d h w -> d c h w")
        with self.steps.timed("patch embedding"):
            proj = "image_encoder.patch_embed.proj"
            in_plane = F.conv2d(slices, self._get(f"{proj}.weight"), self._get(f"{proj}.bias"), stride=size)
        with self.steps.timed("slice embedding"):
            grid = rearrange(in_plane, "d c h w -> 1 c h w d")
            weight, bias = (self._get(f"image_encoder.slice_embed.{part}") for part in ("weight", "bias"))
            x = F.conv3d(grid, weight, bias, stride=(1, 1, size), groups=len(weight)).movedim(1, -1)
            pooled = F.adaptive_avg_pool2d(self._get("image_encoder.pos_embed").movedim(-1, 1), settings.grid_size)
            x = x + pooled.movedim(1, -1)[:, :, :, None] + self._get("image_encoder.depth_embed")[:, None, None]
        return x

    def _block(self, x: Tensor, index: int) -> Tensor:
        name, window = f"image_encoder.blocks.{index}", self.settings.window_size
        shift = window // 2 if index % 2 == 0 else 0
        with self.steps.timed("adapters"):
            y = F.relu(self._linear(x, f"{name}.adapter.linear1")).movedim(-1, 1)
            weight, bias = (self._get(f"{name}.adapter.conv.{part}") for part in ("weight", "bias"))
            y = F.relu(F.conv3d(y, weight, bias, padding=1, groups=len(weight))).movedim(1, -1)
            x = x + F.relu(self._linear(y, f"{name}.adapter.linear2"))
        with self.steps.timed("norms"):
            y = self._norm(x, f"{name}.norm1", 1e-6)
        with self.steps.timed("windows and residuals"):
            y = y.roll((-shift,) * 3, dims=(1, 2, 3)) if shift else y
            y = rearrange(y, "1 (h i) (w j) (d k) c -> (h w d) (i j k) c", i=window, j=window, k=window)
        y = self._attention(y, f"{name}.attn", shift)
        with self.steps.timed("windows and residuals"):
            n = self.settings.grid_size // window
            sizes = {"h": n, "w": n, "d": n, "i": window, "j": window, "k": window}
            y = rearrange(y, "(h w d) (i j k) c -> 1 (h i) (w j) (d k) c", **sizes)
            x = x + (y.roll((shift,) * 3, dims=(1, 2, 3)) if shift else y)
        with self.steps.timed("norms"):
            y = self._norm(x, f"{name}.norm2", 1e-6)
        with self.steps.timed("mlp"):
            y = self._linear(F.gelu(self._linear(y, f"{name}.mlp.lin1")), f"{name}.mlp.lin2")
        with self.steps.timed("windows and residuals"):
            return x + y

    def _attention(self, x: Tensor, name: str, shift: int) -> Tensor:
        heads = self.settings.num_heads
        with self.steps.timed("qkv and proj"):
            qkv = rearrange(self._linear(x, f"{name}.qkv"), "n t (three m c) -> three (n m) t c", three=3, m=heads)
        q, k, v = qkv.unbind(0)
        with self.steps.timed("attention"):
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            logits = self._with_positions(logits, q, name)
            if shift:
                mask = self._mask(shift)
                logits = rearrange(logits, "(n m) a b -> n m a b", m=heads) + mask[:, None]
                logits = logits.flatten(0, 1)
            out = rearrange(logits.softmax(dim=-1) @ v, "(n m) t c -> n t (m c)", m=heads)
        with self.steps.timed("qkv and proj"):
            return self._linear(out, f"{name}.proj")

    def _with_positions(self, logits: Tensor, q: Tensor, name: str) -> Tensor:
        size = self.settings.window_size
        at = torch.arange(size)
        tables = []
        for axis in "hwd":
            table = F.interpolate(self._get(f"{name}.rel_pos_{axis}").T[None], 2 * size - 1, mode="linear")[0].T
            tables.append(table[at[:, None] - at[None, :] + size - 1])
        grid = q.view(len(q), size, size, size, -1)
        along_h = torch.einsum("nijkc,iac->nijka", grid, tables[0])
        along_w = torch.einsum("nijkc,jbc->nijkb", grid, tables[1])
        along_d = torch.einsum("nijkc,kec->nijke", grid, tables[2])
        whole = logits.view(len(q), *[size] * 6)
        lr = self._get(f"{name}.lr")
        whole = whole + lr * along_h[..., :, None, None] + lr * along_w[..., None, :, None]
        return (whole + lr * along_d[..., None, None, :]).view_as(logits)

    def _mask(self, shift: int) -> Tensor:
        """(windows, size^3, size^3), which the published checkpoints hold as constants."""
        grid, size = self.settings.grid_size, self.settings.window_size
        end = (torch.arange(grid) >= grid - shift).long()
        ends = end[:, None, None] * 4 + end[None, :, None] * 2 + end[None, None, :]
        windows = rearrange(ends, "(h i) (w j) (d k) -> (h w d) (i j k)", i=size, j=size, k=size)
        return (windows[:, :, None] != windows[:, None, :]) * MASKED

    def _neck(self, x: Tensor, index: int) -> Tensor:
        name = f"image_encoder.neck_3d.{index}"
        y = F.conv3d(x.movedim(-1, 1), self._get(f"{name}.0.weight"))
        y = self._norm(y.movedim(1, -1), f"{name}.1", 1e-6).movedim(-1, 1)
        y = F.conv3d(y, self._get(f"{name}.2.weight"), padding=1)
        return self._norm(y.movedim(1, -1), f"{name}.3", 1e-6).movedim(-1, 1)

    def _prompted(self, feature: Tensor, points: Tensor) -> Tensor:
        place = ((points + 0.5) * 2 / self.settings.patch_size - 1)[..., [0, 2, 1]]
        sampled = F.grid_sample(feature, place[:, None, None], align_corners=False)
        tokens, heard = rearrange(feature, "1 c h w d -> 1 (h w d) c"), rearrange(sampled, "1 c 1 1 n -> 1 n c")
        for index in range(2):
            name, heads = f"prompt_encoder.transformer.layers.{index}", self.settings.prompt_heads
            count = self.settings.num_queries
            q = torch.cat([self._get(f"{name}.global_query"), heard], dim=1)
            q = self._norm(
                q + self._norm(self._heads(q, q, f"{name}.self_attn", heads), f"{name}.norm1", 1e-5),
                f"{name}.norm2",
                1e-5,
            )
            heard, g = q[:, count:], q[:, :count]
            told = self._linear(F.relu(self._linear(g, f"{name}.mlp.lin1")), f"{name}.mlp.lin2")
            g = self._norm(g + told, f"{name}.norm3", 1e-5)
            listened = self._heads(tokens, g, f"{name}.cross_attn_image_to_token", heads)
            tokens = self._norm(tokens + listened, f"{name}.norm4", 1e-5)
        size = self.settings.grid_size
        return rearrange(tokens, "1 (h w d) c -> 1 c h w d", h=size, w=size)

    def _heads(self, query: Tensor, key: Tensor, name: str, heads: int) -> Tensor:
        q, k, v = (
            rearrange(self._linear(x, f"{name}.{part}"), "1 t (m c) -> m t c", m=heads)
            for x, part in ((query, "q_proj"), (key, "k_proj"), (key, "v_proj"))
        )
        out = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        return self._linear(rearrange(out, "m t c -> 1 t (m c)"), f"{name}.out_proj")

    def _decoded(self, features: list[Tensor], patch: Tensor) -> Tensor:
        with self.steps.timed("heads"):
            wide = [self._head(feature, f"head{2 + index}") for index, feature in enumerate(features)]
        with self.steps.timed("fusion"):
            image = F.interpolate(rearrange(patch, "1 1 d h w -> 1 1 h w d"), scale_factor=0.5, mode="trilinear")
            fused = torch.cat([*wide, image], dim=1)
            fused = F.conv3d(fused, self._get("mask_decoder.cls.0.weight"), padding=1)
            fused = F.relu(F.instance_norm(fused))
            logits = F.conv3d(fused, self._get("mask_decoder.cls.3.weight"), padding=1)
        with self.steps.timed("last up-sampling"):
            return _wide(logits).permute(0, 1, 4, 2, 3)

    def _head(self, feature: Tensor, name: str) -> Tensor:
        for layer in (0, 3):
            weight = self._get(f"mask_decoder.mlahead.{name}.{layer}.weight")
            feature = F.relu(F.instance_norm(F.conv3d(feature, weight, padding=1)))
        return _wide(feature)


def _wide(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
