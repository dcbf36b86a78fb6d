"""The networks of `linear`, `mlp` and `servers` in NumPy, with their normalisers.

Each has the arithmetic of its twin in `grpo_gym.policies`, in float32. Its weights are checked when
it is made, so that a forged file cannot make it read beyond them.

Shapes: B observations, D features of all H frames; P outputs; N servers, F features of a server and
S shared ones of a frame; W width.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from grpo_gym.inference.kernels import ACTIVATIONS, run_layers, score_servers

Weights = Mapping[str, np.ndarray]

_CLIP = 10.0
"""Bound of normalised features, as in `policies.normaliser`."""


class Network(Protocol):
    """From observations to a head's network outputs."""

    def __call__(self, features: np.ndarray, /) -> np.ndarray:
        """Outputs (B, P), float32, for features (B, D), float32 or float64."""


class PlainNetwork:
    """`linear` and `mlp`: normalised features through linear layers.

    Attributes:
        outputs: P.
    """

    def __init__(self, weights: Weights, size: int, activation: str) -> None:
        """Build it for D features.

        Raises:
            ValueError: If the weights do not fit.
        """
        self._sizes, self._layers = _packed(weights, "network")
        if self._sizes[0] != size:
            raise ValueError(f"network must take {size} features, got {self._sizes[0]}")
        self._normaliser = _Normaliser(weights, size)
        self._activation = ACTIVATIONS.index(activation)
        self._scratch = int(self._sizes.sum())
        self.outputs = int(self._sizes[-1])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Outputs, shape (B, P), for features (B, D)."""
        outputs = np.empty((len(features), self.outputs), np.float32)
        values = np.empty(self._scratch, np.float32)
        run_layers(features, *self._normaliser.of(features), self._sizes, self._layers,
                   self._activation, values, outputs)  # fmt: skip
        return outputs


class ServersNetwork:
    """`servers`: the same weights score every server, given a summary of all of them."""

    def __init__(self, weights: Weights, features: int, shared: int, frames: int) -> None:
        """Build it for rows of F features, S shared ones, and H frames.

        Raises:
            ValueError: If the weights do not fit.
        """
        if features < 1 or shared < 0:
            raise ValueError("a server must have features, and shared ones must be >= 0")
        encoder, self._encoder = _packed(weights, "encoder")
        network, self._network = _packed(weights, "network")
        self._width = width = int(network[-1])
        self._inputs = frames * (features + shared)
        expected = [self._inputs, width, width], [2 * width, width, width]
        if (encoder.tolist(), network.tolist()) != expected:
            raise ValueError(f"layers must have the widths {expected}, got {encoder}, {network}")
        self._normaliser = _Normaliser(weights, features + shared)
        self._features, self._shared, self._frames = features, shared, frames

    def servers(self, size: int) -> int | None:
        """How many servers a frame of so many features has; None if there is no such frame."""
        servers, left = divmod(size - self._shared, self._features)
        return servers if servers > 0 and left == 0 else None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores, shape (B, N), for features (B, D) of whole rows."""
        servers = (features.shape[1] // self._frames - self._shared) // self._features
        scores = np.empty((len(features), servers), np.float32)
        values = np.empty(self._inputs + (servers + 5) * self._width, np.float32)
        score_servers(features, self._frames, self._features, self._shared,
                      *self._normaliser.of(features), self._width, self._encoder, self._network,
                      values, scores)  # fmt: skip
        return scores


class _Normaliser:
    """What standardises features: the statistics of training, or nothing."""

    def __init__(self, weights: Weights, size: int) -> None:
        if "normaliser.shift" not in weights:
            shift, scale = np.zeros(size, np.float32), np.ones(size, np.float32)
            self._narrow = shift, scale, np.float32(np.inf)
            self._wide = shift.astype(np.float64), scale, np.float32(np.inf)
            return
        # Copies, as what is read from a file may be read-only, which is another type for kernels.
        shift = vector(weights, "normaliser.shift", size).copy()
        scale = vector(weights, "normaliser.scale", size).copy()
        mean = vector(weights, "normaliser.mean", size, np.float64)
        self._narrow = shift, scale, np.float32(_CLIP)
        # Of large numbers float32 would lose what changes before the rest is subtracted.
        self._wide = np.where(shift == 0.0, 0.0, mean), scale, np.float32(_CLIP)

    def of(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """What to subtract from features, to multiply them by, and their bound afterwards."""
        return self._wide if features.dtype == np.float64 else self._narrow


def _packed(weights: Weights, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """The widths of the layers `prefix`.0, `prefix`.2 and so on, and their weights in one array.

    Raises:
        ValueError: If they do not fit together.
    """
    count = sum(name.startswith(f"{prefix}.") and name.endswith(".weight") for name in weights)
    sizes: list[int] = []
    parts: list[np.ndarray] = []
    for layer in range(count):
        weight = _matrix(weights, f"{prefix}.{2 * layer}.weight", sizes[-1] if sizes else None)
        sizes = sizes or [weight.shape[1]]
        sizes.append(weight.shape[0])
        parts += [weight.T.ravel(), vector(weights, f"{prefix}.{2 * layer}.bias", sizes[-1])]
    if not parts:
        raise ValueError(f"{prefix} must have a layer")
    return np.array(sizes, np.int64), np.concatenate(parts)


def _matrix(weights: Weights, name: str, inputs: int | None) -> np.ndarray:
    weight = _array(weights, name, np.float32)
    if weight.ndim != 2 or inputs not in (None, weight.shape[1]):
        raise ValueError(f"{name} must take {inputs or 'some'} inputs, got shape {weight.shape}")
    return weight


def vector(weights: Weights, name: str, size: int, dtype: Any = np.float32) -> np.ndarray:
    """Weights of this name, shape (size,).

    Raises:
        ValueError: If they are missing, of another shape or type, or not finite.
    """
    vector = _array(weights, name, dtype)
    if vector.shape != (size,):
        raise ValueError(f"{name} must have shape {(size,)}, got {vector.shape}")
    return vector


def _array(weights: Weights, name: str, dtype: Any) -> np.ndarray:
    if name not in weights:
        raise ValueError(f"{name} is missing")
    array = weights[name]
    if array.dtype != dtype or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, of type {np.dtype(dtype)}, got {array.dtype}")
    return array
