"""The numbers of several parameters as one vector, shape (N,), in order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def as_vector(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all numbers of some tensors."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], numbers: Tensor) -> None:
    """Copy N numbers into the parameters."""
    parts = numbers.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))


def clip_norm(vector: Tensor, largest: float) -> Tensor:
    """Shorten a vector in place to this norm at most; returns the norm it had, shape ()."""
    norm = torch.linalg.vector_norm(vector)
    vector *= (largest / (norm + 1e-6)).clamp(max=1.0)
    return norm
