"""Muon for the weight matrices of a network, AdamW for the rest, behind the interface of one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes the update of each matrix orthogonal; the
scale that lets both share a step size is that of Moonlight (Liu et al. 2025, arXiv 2502.16982). A convolution's weight
is the matrix (out, in * kernel voxels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

# Smaller matrices, such as a last layer or a table of two embeddings, are left to AdamW.
SMALLEST_SIDE = 16


class MuonWithAdamW:
    """Steps of parameters that keep their storage; both optimisers follow the learning rate of `param_groups`."""

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._matrices = [p for p in self._parameters if min(len(p), p[0].numel()) >= SMALLEST_SIDE]
        # PyTorch's Muon takes nothing but matrices: it is given views that share the storage of the weights.
        self._views = [nn.Parameter(p.data.view(len(p), -1)) for p in self._matrices]
        are_matrices = {id(p) for p in self._matrices}
        rest = [p for p in self._parameters if id(p) not in are_matrices]
        self._muon = torch.optim.Muon(
            self._views, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(rest, lr=learning_rate, weight_decay=weight_decay)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, whose "lr" may be changed in place."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take one step down the gradients that are there."""
        for parameter, view in zip(self._matrices, self._views, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        self._muon.step()
        self._adamw.step()
        for view in self._views:
            view.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to take the same steps."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned for the same parameters."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
