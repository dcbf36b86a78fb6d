"""The networks of `linear`, `mlp` and `servers` in NumPy, with their normalisers.

Each has the arithmetic of its twin in `grpo_gym.policies`, in float32. Its weights are checked when
it is made, so that a forged file cannot make it read beyond them.

Shapes: B observations, D features of all H frames; P outputs; N servers, F features of a server and
S shared ones of a frame; W width.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

Weights = Mapping[str, np.ndarray]

_CLIP = 10.0
"""Bound of normalised features, as in `policies.normaliser`."""
_ABSENT = -1.0
_ABSENT_SCORE = -1e4
"""Of a server that is not there: as in `policies.servers`."""


class Network(Protocol):
    """From observations to a head's network outputs."""

    any_size: bool

    def __call__(self, features: np.ndarray, /) -> np.ndarray:
        """Outputs (B, P), float32, for features (B, D), float32 or float64."""


class FeedForward:
    """Linear layers with an activation between them; `linear` is one layer.

    Attributes:
        inputs: Width of the input.
        outputs: Width of the output.
    """

    any_size = False

    def __init__(self, weights: Weights, prefix: str, activation: str) -> None:
        """Find the layers `prefix`.0, `prefix`.2 and so on.

        Raises:
            ValueError: If they do not fit together.
        """
        count = sum(name.startswith(f"{prefix}.") and name.endswith(".weight") for name in weights)
        if count == 0:
            raise ValueError(f"{prefix} must have a layer")
        self._layers = []
        self._activation = _ACTIVATIONS[activation]
        width = None
        for layer in range(count):
            weight = _matrix(weights, f"{prefix}.{2 * layer}.weight", width)
            width = weight.shape[0]
            bias = vector(weights, f"{prefix}.{2 * layer}.bias", width)
            self._layers.append((np.ascontiguousarray(weight.T), bias))
        self.inputs = self._layers[0][0].shape[0]
        self.outputs = self._layers[-1][0].shape[1]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Outputs, shape (M, outputs), for features (M, inputs), float32."""
        hidden = features
        for number, (weight, bias) in enumerate(self._layers):
            if number:
                hidden = self._activation(hidden)
            hidden = hidden @ weight
            hidden += bias
        return hidden


class PlainNetwork:
    """`linear` and `mlp`: normalised features through linear layers."""

    any_size = False

    def __init__(self, weights: Weights, size: int, activation: str) -> None:
        """Build it for D features.

        Raises:
            ValueError: If the weights do not fit.
        """
        self._layers = FeedForward(weights, "network", activation)
        self._normaliser = _normaliser(weights, size)
        if self._layers.inputs != size:
            raise ValueError(f"network must take {size} features, got {self._layers.inputs}")
        self.outputs = self._layers.outputs

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Outputs, shape (B, P), for features (B, D)."""
        if self._normaliser is not None:
            features = self._normaliser(features)
        return self._layers(features.astype(np.float32, copy=False))


class ServersNetwork:
    """`servers`: the same weights score every server, given a summary of all of them."""

    any_size = True

    def __init__(self, weights: Weights, features: int, shared: int, frames: int) -> None:
        """Build it for rows of F features, S shared ones, and H frames.

        Raises:
            ValueError: If the weights do not fit.
        """
        self._encoder = FeedForward(weights, "encoder", "relu")
        self._network = FeedForward(weights, "network", "relu")
        self._normaliser = _normaliser(weights, features + shared)
        self._features, self._shared, self._frames = features, shared, frames
        width = self._encoder.outputs
        expected = frames * (features + shared), 2 * width, width
        found = self._encoder.inputs, self._network.inputs, self._network.outputs
        if found != expected:
            raise ValueError(f"layers must have the widths {expected}, got {found}")

    def servers(self, size: int) -> int | None:
        """How many servers a frame of so many features has; None if there is no such frame."""
        servers, left = divmod(size - self._shared, self._features)
        return servers if servers > 0 and left == 0 else None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores, shape (B, N), for features (B, D)."""
        frames = features.reshape(len(features), self._frames, -1)
        stop = frames.shape[2] - self._shared
        rows = frames[:, :, :stop].reshape(len(features), self._frames, -1, self._features)
        shared = frames[:, :, stop:]
        present = (rows != _ABSENT).any(axis=-1)
        if self._normaliser is not None:
            normalised = self._normaliser(rows, slice(self._features))
            rows = np.where(present[..., None], normalised, rows)
            shared = self._normaliser(shared, slice(self._features, None))
        return self._scores(rows, shared, present[:, -1])

    def _scores(self, rows: np.ndarray, shared: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Scores of servers by normalised rows (B, H, N, F) and shared features (B, H, S)."""
        count, _, servers, _ = rows.shape
        of_server = rows.transpose(0, 2, 1, 3).reshape(count * servers, -1)
        of_all = shared.reshape(count, -1).repeat(servers, axis=0)
        inputs = np.concatenate([of_server, of_all], axis=1).astype(np.float32, copy=False)
        hidden = np.maximum(self._encoder(inputs), 0.0).reshape(count, servers, -1)
        # Hidden features are >= 0, so the zeros of absent servers change neither sum nor maximum.
        hidden *= present[..., None]
        found = np.maximum(present.sum(axis=1, keepdims=True), 1).astype(np.float32)
        summary = np.concatenate([hidden.sum(axis=1) / found, hidden.max(axis=1)], axis=1)
        scores = (hidden @ self._network(summary)[..., None])[..., 0]
        return np.where(present, scores, np.float32(_ABSENT_SCORE))


class _Normaliser:
    """Standardises features by the statistics of training."""

    def __init__(self, weights: Weights, size: int) -> None:
        self._shift = vector(weights, "normaliser.shift", size)
        self._scale = vector(weights, "normaliser.scale", size)
        mean = vector(weights, "normaliser.mean", size, np.float64)
        # Of large numbers float32 would lose what changes before the rest is subtracted.
        self._wide_shift = np.where(self._shift == 0.0, 0.0, mean)

    def __call__(self, features: np.ndarray, which: slice = slice(None)) -> np.ndarray:
        shift = self._wide_shift if features.dtype == np.float64 else self._shift
        scaled = (features - shift[which]) * self._scale[which]
        return np.clip(scaled, -_CLIP, _CLIP, out=scaled)


def _normaliser(weights: Weights, size: int) -> _Normaliser | None:
    return _Normaliser(weights, size) if "normaliser.shift" in weights else None


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


def _silu(hidden: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # the quotient is then 0, as it should be
        return hidden / (1.0 + np.exp(-hidden))


def _relu(hidden: np.ndarray) -> np.ndarray:
    return np.maximum(hidden, 0.0)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": _relu,
    "silu": _silu,
}
