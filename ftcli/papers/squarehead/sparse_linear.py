"""A linear layer whose zeros take neither memory nor products, on a CPU."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class SparseLinear(nn.Module):
    """y = W x + b with W in compressed sparse rows (torch's CSR), for inference.

    Args:
        linear: the pruned layer that is replaced.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self.rows = linear.weight.detach().to_sparse_csr()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [..., out] of inputs [..., in]."""
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) == 1:  # a product with a vector needs no transposed copy
            out = torch.mv(self.rows, flat[0])[None]
        else:
            out = (self.rows @ flat.T).T
        return (out if self.bias is None else out + self.bias).view(*x.shape[:-1], -1)
