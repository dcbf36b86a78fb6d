"""Feed-forward layers, forwards and backwards.

Shapes: M rows of a shard; I inputs and W outputs of a layer.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from grpo_gym.policies.network import Policy
from grpo_gym.policies.normaliser import RunningNormaliser
from grpo_gym.trainers.learning.fused import kernels
from grpo_gym.trainers.learning.fused.products import outer_product, product

Views = Mapping[Tensor, Tensor]
"""The part of a vector of all numbers that is a parameter's, with its shape."""

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
    """Linear layers with an activation between them, but none after the last."""

    def __init__(self, network: nn.Sequential, weights: Views, gradient: Views) -> None:
        """Read weights from views of them, which may change, and write gradients to others."""
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        self._activation = type(network[1]) if len(network) > 1 else None
        self._weights = [weights[layer.weight] for layer in layers]
        self._transposed = [each.t() for each in self._weights]
        self._biases = [weights[layer.bias].numpy() for layer in layers]
        self._gradients = [gradient[layer.weight] for layer in layers]
        self._bias_gradients = [gradient[layer.bias].numpy() for layer in layers]

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs, shape (M, W), of inputs (M, I)."""
        self._inputs = [inputs]
        self._gates: list[np.ndarray] = []
        for weights, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            values = product(self._inputs[-1], weights)
            self._activate(values, bias)
            self._inputs.append(values)
        outputs = product(self._inputs[-1], self._weights[-1])
        kernels.add_bias(outputs.numpy(), self._biases[-1])
        return outputs

    def backward(self, slopes: Tensor) -> Tensor:
        """Write all gradients, for the loss's slopes by outputs (M, W).

        Returns:
            The slopes by the first layer's outputs.
        """
        kernels.sum_rows(slopes.numpy(), self._bias_gradients[-1])
        for number in reversed(range(len(self._weights))):
            inputs = self._inputs[number]
            outer_product(slopes, inputs, self._gradients[number])
            if number > 0:
                slopes = product(slopes, self._transposed[number])
                self._deactivate(slopes.numpy(), inputs.numpy(), number - 1)
        return slopes

    def slopes_by_inputs(self, slopes: Tensor) -> Tensor:
        """The loss's slopes by inputs (M, I), for what `backward` returned."""
        return product(slopes, self._transposed[0])

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
        bias_gradient = self._bias_gradients[number]
        if self._activation is nn.ReLU:
            kernels.through_relu(slopes, values, bias_gradient)
        elif self._activation is nn.Tanh:
            kernels.through_tanh(slopes, values, bias_gradient)
        else:
            kernels.through_silu(slopes, values, bias_gradient, self._gates[number])


class FeedForward(Layers):
    """The network of `linear` and `mlp`, from features to logits.

    Attributes:
        width: Features, D.
    """

    def __init__(self, policy: Policy, weights: Views, gradient: Views) -> None:
        """See `Layers`."""
        super().__init__(policy.network, weights, gradient)
        self.width = policy.observation_size
        self._features = policy.features
        self._normaliser: tuple[np.ndarray, np.ndarray, np.float32] | None = None
        if type(policy.normaliser) is RunningNormaliser:  # and no other kind, or a user's own
            shift, scale = policy.normaliser.shift.numpy(), policy.normaliser.scale.numpy()
            self._normaliser = shift, scale, np.float32(policy.normaliser.clip)

    def pack(self, observations: Tensor) -> Tensor:
        """Observations as the network sees them, shape (M, D)."""
        if self._normaliser is None or observations.dtype != torch.float32:
            return self._features(observations)
        rows = observations.numpy()
        features = np.empty_like(rows)
        kernels.normalise(rows, *self._normaliser, features)
        return torch.from_numpy(features)

    @staticmethod
    def covers(policy: Policy) -> bool:
        """Whether the network is still as it was made."""
        return is_plain(policy.network)
