"""The arithmetic of networks as kernels: a decision takes microseconds.

All numbers are float32; sums run in the order of the inputs. Layers are packed side by side in one
array: of each the weights, row by row of inputs, then the biases.

Shapes: B observations, D features of all H frames, P outputs; N servers, F features of a server and
S shared ones of a frame; I inputs and W width of the encoder; A choices.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from grpo_gym.storage.compiled import compiled

Function = TypeVar("Function", bound=Callable[..., Any])

ACTIVATIONS = ("tanh", "relu", "silu")
ABSENT = np.float32(-1.0)
_ABSENT_SCORE = np.float32(-1e4)
"""Of a server that is not there: as in `policies.servers`."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_TANH, _RELU = 0, 1


def _kernel(function: Function) -> Function:
    return compiled(function, Path(__file__).resolve().parent, nogil=True)


def _inlined(function: Function) -> Function:
    return compiled(function, Path(__file__).resolve().parent, inline="always")


@_inlined
def _layer(values: Any, source: int, inputs: int, target: int, outputs: int, weights: Any,
           start: int) -> None:  # fmt: skip
    """One linear layer from values[source:] to values[target:]."""
    for j in range(outputs):
        values[target + j] = weights[start + inputs * outputs + j]
    for i in range(inputs):
        value = values[source + i]
        row = start + i * outputs
        for j in range(outputs):
            values[target + j] += value * weights[row + j]


@_inlined
def _activate(values: Any, start: int, count: int, activation: int) -> None:
    for j in range(start, start + count):
        value = values[j]
        if activation == _RELU:
            values[j] = max(value, _ZERO)
        elif activation == _TANH:
            values[j] = math.tanh(value)
        else:
            values[j] = value / (_ONE + math.exp(-value))


@_inlined
def _normalised(value: Any, shift: Any, scale: Any, clip: Any) -> Any:
    return min(max((value - shift) * scale, -clip), clip)


@_kernel
def run_layers(features: Any, shift: Any, scale: Any, clip: Any, sizes: Any, weights: Any,
               activation: int, values: Any, outputs: Any) -> None:  # fmt: skip
    """Normalised features through linear layers with an activation between them.

    Args:
        features: Shape (B, D), float32 or float64.
        shift: Of the normaliser, shape (D,), of the features' type.
        scale: Of the normaliser, shape (D,).
        clip: Bound of normalised features.
        sizes: Widths of the input and of each layer, int64.
        weights: The layers, packed.
        activation: Its place in `ACTIVATIONS`.
        values: Scratch, of as many numbers as all sizes together.
        outputs: Written, shape (B, P).
    """
    for b in range(len(features)):
        for i in range(sizes[0]):
            values[i] = _normalised(features[b, i], shift[i], scale[i], clip)
        source, start = 0, 0
        for layer in range(len(sizes) - 1):
            inputs, width = sizes[layer], sizes[layer + 1]
            target = source + inputs
            if layer > 0:
                _activate(values, source, inputs, activation)
            _layer(values, source, inputs, target, width, weights, start)
            source = target
            start += inputs * width + width
        for j in range(outputs.shape[1]):
            outputs[b, j] = values[source + j]


@_kernel
def score_servers(features: Any, frames: int, own: int, shared: int, shift: Any, scale: Any,
                  clip: Any, width: int, encoder: Any, network: Any, values: Any,
                  scores: Any) -> None:  # fmt: skip
    """Scores of servers.

    Args:
        features: Shape (B, D), float32 or float64.
        frames: H.
        own: F.
        shared: S.
        shift: Of the normaliser, shape (F + S,), of the features' type.
        scale: Of the normaliser, shape (F + S,).
        clip: Bound of normalised features.
        width: W.
        encoder: Two layers from I = H * (F + S) to W each, packed.
        network: Two layers from 2 * W to W each, packed.
        values: Scratch, of I + (N + 5) * W numbers.
        scores: Written, shape (B, N).
    """
    servers = scores.shape[1]
    size = servers * own + shared
    inputs = frames * (own + shared)
    second = inputs * width + width
    first_hidden = inputs
    mean = inputs + width
    largest = mean + width
    middle = largest + width
    weights = middle + width
    hidden = weights + width
    for b in range(len(features)):
        for h in range(frames):
            for s in range(shared):
                values[frames * own + h * shared + s] = _normalised(
                    features[b, h * size + servers * own + s], shift[own + s], scale[own + s], clip
                )
        for w in range(2 * width):
            values[mean + w] = _ZERO
        found = 0
        for n in range(servers):
            present = False
            for h in range(frames):
                row = h * size + n * own
                present = False
                for f in range(own):
                    present = present or features[b, row + f] != ABSENT
                for f in range(own):
                    value = features[b, row + f]
                    if present:
                        value = _normalised(value, shift[f], scale[f], clip)
                    values[h * own + f] = value
            if not present:  # in the newest frame
                scores[b, n] = _ABSENT_SCORE
                continue
            scores[b, n] = _ZERO
            found += 1
            target = hidden + n * width
            _layer(values, 0, inputs, first_hidden, width, encoder, 0)
            _activate(values, first_hidden, width, _RELU)
            _layer(values, first_hidden, width, target, width, encoder, second)
            _activate(values, target, width, _RELU)
            for w in range(width):
                values[mean + w] += values[target + w]
                values[largest + w] = max(values[largest + w], values[target + w])
        count = np.float32(max(found, 1))
        for w in range(width):
            values[mean + w] /= count
        _layer(values, mean, 2 * width, middle, width, network, 0)
        _activate(values, middle, width, _RELU)
        _layer(values, middle, width, weights, width, network, 2 * width * width + width)
        for n in range(servers):
            if scores[b, n] != _ABSENT_SCORE:
                score = _ZERO
                for w in range(width):
                    score += values[hidden + n * width + w] * values[weights + w]
                scores[b, n] = score


@_kernel
def log_softmax(logits: Any, allowed: Any, log_probs: Any) -> bool:
    """Log-probabilities of choices; whether each observation has a legal one.

    Args:
        logits: Shape (B, A).
        allowed: Legal choices, shape (B, A), bool, or of no rows if all are.
        log_probs: Written, shape (B, A); -inf where a choice is not legal.
    """
    masked = len(allowed) > 0
    for b in range(len(logits)):
        best = np.float32(-np.inf)
        for a in range(logits.shape[1]):
            if not masked or allowed[b, a]:
                best = max(best, logits[b, a])
        if best == -np.inf:
            return False
        total = _ZERO
        for a in range(logits.shape[1]):
            if not masked or allowed[b, a]:
                log_probs[b, a] = logits[b, a] - best
                total += math.exp(log_probs[b, a])
            else:
                log_probs[b, a] = np.float32(-np.inf)
        log_total = math.log(total)
        for a in range(logits.shape[1]):
            log_probs[b, a] -= log_total
    return True
