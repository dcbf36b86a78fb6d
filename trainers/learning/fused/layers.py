"""Feed-forward layers, forwards and backwards, in memory that is used again for every shard.

Shapes: M rows of a shard; I inputs and W outputs of a layer; N numbers of all layers: of each its
weights (W, I), then its biases (W,).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.trainers.learning.fused import kernels

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


class Memory:
    """Arrays by name, each as large as was ever asked for; what is in them is lost."""

    def __init__(self) -> None:
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, width: int) -> Tensor:
        """The array of this name, shape (rows, width), float32."""
        array = self._arrays.get(name)
        if array is None or array.numel() < rows * width:
            array = self._arrays[name] = torch.empty(rows * width)
        return array[: rows * width].view(rows, width)


class Layers:
    """Linear layers with an activation between them, but none after the last.

    Attributes:
        activation: The kind of module between them; None if there is one layer only.
        weights: Of each layer, shape (W, I): views of the vector of all weights.
        biases: Of each layer, shape (W,), likewise.
        weight_gradients: Views of the vector of all gradients.
        bias_gradients: Likewise.
    """

    def __init__(self, network: nn.Sequential, weights: Tensor, gradient: Tensor) -> None:
        """Read weights from one vector (N,), which may change, and write gradients to another."""
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        self.activation = type(network[1]) if len(network) > 1 else None
        shapes = [shape for layer in layers for shape in (layer.weight.shape, layer.bias.shape)]
        self.weights, biases = _cut(weights, shapes)
        self.weight_gradients, bias_gradients = _cut(gradient, shapes)
        self.biases = [each.numpy() for each in biases]
        self.bias_gradients = [each.numpy() for each in bias_gradients]


class Pass:
    """The way of M rows through layers and back.

    Attributes:
        outputs: Of the last layer, without its bias, shape (M, W).
        slopes: Of the loss by these outputs, shape (M, W); to be written before `backward`.
    """

    def __init__(self, layers: Layers, inputs: Tensor, memory: Memory) -> None:
        """Prepare for inputs (M, I), which change between calls."""
        self._layers = layers
        widths = [weights.shape[0] for weights in layers.weights]

        def arrays(name: str) -> list[Tensor]:
            names = [f"{name} {number}" for number in range(len(widths))]
            return list(map(memory.take, names, [inputs.shape[0]] * len(widths), widths))

        # Whatever is a view is made here: each takes as long as a small operation.
        *self._hidden, self.outputs = arrays("values")
        *self._hidden_slopes, self.slopes = arrays("slopes")
        self._gates = arrays("gates") if layers.activation is nn.SiLU else []
        self._inputs = [inputs, *self._hidden]
        self._weights = [weights.t() for weights in layers.weights]
        self._slopes = [slopes.t() for slopes in (*self._hidden_slopes, self.slopes)]

    def forward(self) -> None:
        """Compute the outputs."""
        for number, hidden in enumerate(self._hidden):
            torch.mm(self._inputs[number], self._weights[number], out=hidden)
            self._activate(number)
        torch.mm(self._inputs[-1], self._weights[-1], out=self.outputs)

    def backward(self) -> None:
        """Write all gradients but that of the last bias."""
        weights, gradients = self._layers.weights, self._layers.weight_gradients
        slopes = self.slopes
        for number in reversed(range(len(weights))):
            torch.mm(self._slopes[number], self._inputs[number], out=gradients[number])
            if number > 0:
                torch.mm(slopes, weights[number], out=self._hidden_slopes[number - 1])
                slopes = self._hidden_slopes[number - 1]
                self._deactivate(number - 1)

    def _activate(self, number: int) -> None:
        hidden, bias = self._hidden[number].numpy(), self._layers.biases[number]
        if self._layers.activation is nn.ReLU:
            kernels.add_bias_relu(hidden, bias)
            return
        kernels.add_bias(hidden, bias)
        if self._layers.activation is nn.Tanh:  # by NumPy in a tenth of torch's time
            np.tanh(hidden, out=hidden)
        else:
            torch.sigmoid(self._hidden[number], out=self._gates[number])
            self._hidden[number] *= self._gates[number]

    def _deactivate(self, number: int) -> None:
        slopes, hidden = self._hidden_slopes[number].numpy(), self._hidden[number].numpy()
        bias_gradient = self._layers.bias_gradients[number]
        if self._layers.activation is nn.ReLU:
            kernels.through_relu(slopes, hidden, bias_gradient)
        elif self._layers.activation is nn.Tanh:
            kernels.through_tanh(slopes, hidden, bias_gradient)
        else:
            kernels.through_silu(slopes, hidden, bias_gradient, self._gates[number].numpy())


def _cut(vector: Tensor, shapes: Sequence[torch.Size]) -> tuple[list[Tensor], list[Tensor]]:
    """Views of weights and of biases."""
    parts = vector.split([shape.numel() for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return views[::2], views[1::2]
