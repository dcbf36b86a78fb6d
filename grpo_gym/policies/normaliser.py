"""Running normalisation of observations, saved with the policy.

The statistics are fixed while a rollout is collected and learned from, and change between
iterations: otherwise the policy that is updated would not be the one that acted.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from grpo_gym.policies.moments import add_rows


class Statistics(nn.Module):
    """A module whose buffers of type float64 stay on the CPU, wherever the others are.

    Those are statistics: not all devices have float64, and on none but the CPU do sums have the
    same bits everywhere.
    """

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        buffers = dict(self._buffers)
        kept = {
            name: buffer
            for name, buffer in buffers.items()
            if buffer is not None and buffer.dtype == torch.float64
        }
        for name in kept:
            del self._buffers[name]
        super()._apply(fn, recurse)
        moved: dict[str, Any] = {**self._buffers, **kept}
        self._buffers.clear()
        self._buffers.update({name: moved[name] for name in buffers})
        return self


class RunningNormaliser(Statistics):
    """Standardises features by the mean and deviation of all observations so far.

    Attributes:
        clip: Bound of normalised features.
        count: Number of observations seen, shape (), float64.
        mean: Shape (D,), float64.
        sum_of_squares: Of deviations from the mean, shape (D,), float64.
    """

    count: Tensor
    mean: Tensor
    sum_of_squares: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, clip: float = 10.0) -> None:
        """Start without observations of `size` features, which leaves features unchanged."""
        super().__init__()
        self.clip = clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("sum_of_squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, observations: Tensor) -> Tensor:
        """Normalise observations, shape (..., D), float32 or float64."""
        shifted = observations - self.shift_of(observations)
        return (shifted * self.scale).clamp(-self.clip, self.clip)

    def shift_of(self, observations: Tensor) -> Tensor:
        """What to subtract from observations, shape (D,), in their precision."""
        if observations.dtype != torch.float64:
            return self.shift
        return torch.where(self.shift == 0.0, 0.0, self.mean.to(self.shift.device))

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Add observations, shape (M, D), float32 or float64, to the statistics."""
        if len(observations) == 0:
            return
        rows = observations.cpu().contiguous().numpy()
        sums = self.mean.numpy(), self.sum_of_squares.numpy()
        self.count.fill_(add_rows(rows, float(self.count), *sums))
        deviation = (self.sum_of_squares / self.count).sqrt()
        # A constant feature is left unscaled: dividing by almost zero would amplify noise.
        usable = deviation > 1e-6
        shift = torch.where(usable, self.mean, 0.0)
        scale = torch.where(usable, 1.0 / deviation.clamp_min(1e-6), 1.0)
        self.shift.copy_(shift.to(self.shift.dtype))
        self.scale.copy_(scale.to(self.scale.dtype))
