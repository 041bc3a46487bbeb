"""The prompt encoder (lib.network.prompt_encoder) with its image attention folded: ten queries are so few that what the
image's tokens hear from them is two thin linear layers, made anew for each prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.network.fast.dense import product
from lib.network.prompt_encoder import PromptEncoder, PromptLayer


class FastPromptEncoder:
    """Always in single precision; it takes little time."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder

    def __call__(self, feature: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """feature (1, C, h, w, d), channels-last, and a prompt as for `PromptEncoder`; returns tokens (T, C)."""
        points = self.encoder.points(feature, point_coords, point_labels)
        tokens = feature[0].permute(1, 2, 3, 0).flatten(0, 2)
        for layer in self.encoder.transformer.layers:
            assert isinstance(layer, PromptLayer)
            queries, points = layer.listen(points)
            heard = _heard(tokens, layer, queries[0])
            heard += tokens
            tokens = F.layer_norm(heard, heard.shape[1:], layer.norm4.weight, layer.norm4.bias, layer.norm4.eps)
        return tokens


def _heard(tokens: Tensor, layer: PromptLayer, queries: Tensor) -> Tensor:
    """`layer.cross_attn_image_to_token` of tokens (T, C) that listen to queries (Q, C).

    The logits of head m, (tokens Wq_m + bq_m) (keys_m)^T, are tokens times Wq_m keys_m^T; the output is the
    probabilities times values_m Wo_m.
    """
    attention = layer.cross_attn_image_to_token
    heads, count = attention.num_heads, len(queries)
    keys = attention.k_proj(queries).view(count, heads, -1)
    values = attention.v_proj(queries).view(count, heads, -1)
    scale = keys.shape[-1] ** -0.5
    into = attention.q_proj.weight.view(heads, -1, tokens.shape[1])
    # By query first and head second, so that the softmax runs over the slow axis, which is much faster.
    weight = torch.einsum("qmc,mct->qmt", keys, into).flatten(0, 1) * scale
    bias = torch.einsum("qmc,mc->qm", keys, attention.q_proj.bias.view(heads, -1)).flatten() * scale
    shares = (product(tokens, weight) + bias).view(-1, count, heads).softmax(1)
    out_of = attention.out_proj.weight.view(-1, heads, values.shape[-1])
    told = torch.einsum("qmc,omc->oqm", values, out_of).flatten(1)
    heard: Tensor = product(shares.view(len(tokens), -1), told) + attention.out_proj.bias
    return heard
