"""The spatial adapter: the small trained layer that lets a frozen 2D block see neighbours in 3D."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SpatialAdapter(nn.Module):
    """Down-projection, depth-wise 3x3x3 convolution over the token grid, up-projection, residual (arXiv 2306.13465,
    Fig. 2).

    A ReLU follows each of the three, the last one included: an adapter can only add.
    """

    def __init__(self, dim: int, adapter_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, adapter_dim)
        self.conv = nn.Conv3d(adapter_dim, adapter_dim, kernel_size=3, padding=1, groups=adapter_dim)
        self.linear2 = nn.Linear(adapter_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, d, C) to the same shape."""
        y = F.relu(self.linear1(x)).movedim(-1, 1)
        y = F.relu(self.conv(y)).movedim(1, -1)
        return x + F.relu(self.linear2(y))
