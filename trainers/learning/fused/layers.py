"""Feed-forward layers, forwards and backwards.

Shapes: M rows of a shard; I inputs and W outputs of a layer; N numbers of all layers: of each its
weights (W, I), then its biases (W,).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.trainers.learning.fused import kernels

# Not all builds of torch have it, and it is no promise of theirs. Where it is, large products take
# 0.6 of the time that `torch.mm` takes, which does without AVX-512 on some processors.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
_LARGE = 2_500_000
"""Multiplications from which on that one is faster: each call has a cost of its own."""
_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.SiLU)


def is_plain(network: nn.Module) -> bool:
    """Whether a network consists of linear layers and one kind of known activations in turn."""
    layers = list(network.children())
    linear, between = layers[::2], {type(layer) for layer in layers[1::2]}
    return (
        type(network) is nn.Sequential
        and len(layers) % 2 == 1
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        and len(between) <= 1
        and between <= set(_ACTIVATIONS)
    )


class Layers:
    """Linear layers with an activation between them, but none after the last.

    Attributes:
        biases: Of each layer, shape (W,): views of the vector of all weights.
        bias_gradients: Likewise of the vector of all gradients.
    """

    def __init__(self, network: nn.Sequential, weights: Tensor, gradient: Tensor) -> None:
        """Read weights from one vector (N,), which may change, and write gradients to another."""
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        self._activation = type(network[1]) if len(network) > 1 else None
        shapes = [shape for layer in layers for shape in (layer.weight.shape, layer.bias.shape)]
        self._weights, biases = _cut(weights, shapes)
        self._gradients, bias_gradients = _cut(gradient, shapes)
        self.biases = [each.numpy() for each in biases]
        self.bias_gradients = [each.numpy() for each in bias_gradients]

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs without the last layer's bias, shape (M, W), of inputs (M, I)."""
        self._inputs = [inputs]
        self._gates: list[np.ndarray] = []
        for weights, bias in zip(self._weights[:-1], self.biases[:-1], strict=True):
            values = product(self._inputs[-1], weights)
            self._activate(values, bias)
            self._inputs.append(values)
        return product(self._inputs[-1], self._weights[-1])

    def backward(self, slopes: Tensor) -> None:
        """Write all gradients but the last bias's, for the loss's slopes by outputs (M, W)."""
        for number in reversed(range(len(self._weights))):
            inputs = self._inputs[number]
            torch.mm(slopes.t(), inputs, out=self._gradients[number])
            if number > 0:
                slopes = product(slopes, self._weights[number].t())
                self._deactivate(slopes.numpy(), inputs.numpy(), number - 1)

    def _activate(self, values: Tensor, bias: np.ndarray) -> None:
        numbers = values.numpy()
        if self._activation is nn.ReLU:
            kernels.add_bias_relu(numbers, bias)
            return
        kernels.add_bias(numbers, bias)
        if self._activation is nn.Tanh:  # by NumPy in a tenth of torch's time
            np.tanh(numbers, out=numbers)
        else:
            gates = torch.sigmoid(values)
            self._gates.append(gates.numpy())
            values *= gates

    def _deactivate(self, slopes: np.ndarray, values: np.ndarray, number: int) -> None:
        bias_gradient = self.bias_gradients[number]
        if self._activation is nn.ReLU:
            kernels.through_relu(slopes, values, bias_gradient)
        elif self._activation is nn.Tanh:
            kernels.through_tanh(slopes, values, bias_gradient)
        else:
            kernels.through_silu(slopes, values, bias_gradient, self._gates[number])


def product(rows: Tensor, weights: Tensor) -> Tensor:
    """The product of rows (M, I) and weights (W, I), shape (M, W)."""
    large = rows.shape[0] * weights.numel() >= _LARGE
    if _HAS_ONEDNN and large and rows.is_contiguous():  # others may take a thousand times as long
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")
        return found
    return torch.mm(rows, weights.t())


def _cut(vector: Tensor, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], list[Tensor]]:
    """Views of weights and of biases."""
    parts = vector.split([shape.numel() for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return views[::2], views[1::2]
