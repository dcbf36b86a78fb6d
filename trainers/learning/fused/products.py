"""The matrix products of layers.

Large ones are made by oneDNN where torch has it, in 0.6 of the time of `torch.mm`, which does
without AVX-512 on some processors. The operation is no promise of torch's, so that any other build
does without. It is a thousand times slower for what does not lie in memory as expected.

Shapes: M rows; I inputs and W outputs of a layer.
"""

import torch
from torch import Tensor

from grpo_gym.trainers.learning.fused import kernels

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
_LARGE = 2_500_000
"""Multiplications from which on it is faster: each call has a cost of its own."""


def product(rows: Tensor, weights: Tensor) -> Tensor:
    """Rows (M, I) by weights (W, I), shape (M, W)."""
    if _by_onednn(rows, weights.shape[0]):
        return _multiplied(rows, weights)
    return torch.mm(rows, weights.t())


def outer_product(slopes: Tensor, inputs: Tensor, out: Tensor) -> None:
    """Write the sum over rows of slopes (M, W) by inputs (M, I), shape (W, I)."""
    if _by_onednn(inputs, slopes.shape[1]):
        transposed = torch.empty(slopes.shape[1], slopes.shape[0])
        kernels.transpose(slopes.numpy(), transposed.numpy())
        out.copy_(_multiplied(transposed, inputs.t()))
    else:
        torch.mm(slopes.t(), inputs, out=out)


def _by_onednn(rows: Tensor, outputs: int) -> bool:
    return _HAS_ONEDNN and rows.numel() * outputs >= _LARGE and rows.is_contiguous()


def _multiplied(rows: Tensor, weights: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")
    return product
