"""Kernels of the network of `servers`: what lies between its matrix products.

Shapes: M steps; N servers, L of the M * N present; H frames of F features of a server and S shared
ones; I = H * (F + S) inputs; W width.
"""

from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from grpo_gym.storage.compiled import compiled

Function = TypeVar("Function", bound=Any)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def _kernel(function: Function, **options: Any) -> Function:
    return compiled(function, Path(__file__).resolve().parent, nogil=True, **options)


@_kernel
def lay_out(packed: Any, frames: int, servers: int, own: int, shared: int, inputs: Any,
            members: Any) -> int:  # fmt: skip
    """The encoder's inputs, of the servers that are present.

    Args:
        packed: Features, then which servers are present, shape (M, H * (N * F + S) + N).
        frames: H.
        servers: N.
        own: F.
        shared: S.
        inputs: Written, shape (M * N, I); the first L rows.
        members: Written, shape (M * N,), int64: the step times N plus the server.

    Returns:
        L.
    """
    size = servers * own + shared
    found = 0
    for m in range(packed.shape[0]):
        for n in range(servers):
            if packed[m, frames * size + n] == _ZERO:
                continue
            for h in range(frames):
                for f in range(own):
                    inputs[found, h * own + f] = packed[m, h * size + n * own + f]
                for s in range(shared):
                    inputs[found, frames * own + h * shared + s] = packed[
                        m, h * size + servers * own + s
                    ]
            members[found] = m * servers + n
            found += 1
    return found


@_kernel
def summarise(hidden: Any, members: Any, servers: int, summary: Any, counts: Any) -> None:
    """Mean and maximum over servers.

    Args:
        hidden: At least 0, shape (L, W).
        members: Shape (L,), int64.
        servers: N.
        summary: Zeros; becomes mean and maximum side by side, shape (M, 2 W).
        counts: Zeros; becomes the number of servers, at least 1, shape (M,).
    """
    width = hidden.shape[1]
    for i in range(len(members)):
        m = members[i] // servers
        counts[m] += _ONE
        for w in range(width):
            value = hidden[i, w]
            summary[m, w] += value
            summary[m, width + w] = max(summary[m, width + w], value)
    for m in range(len(counts)):
        counts[m] = max(counts[m], _ONE)
        for w in range(width):
            summary[m, w] /= counts[m]


@partial(_kernel, fastmath={"reassoc"})  # a sum in one order takes several times as long
def score(hidden: Any, members: Any, weights: Any, scores: Any) -> None:
    """Write the scores (M, N) of servers that are present: hidden (L, W) by weights (M, W)."""
    servers = scores.shape[1]
    for i in range(len(members)):
        m, n = members[i] // servers, members[i] % servers
        total = _ZERO
        for w in range(hidden.shape[1]):
            total += hidden[i, w] * weights[m, w]
        scores[m, n] = total


@_kernel
def by_weights(hidden: Any, members: Any, by_scores: Any, slopes: Any) -> None:
    """Add the loss's slopes by weights (M, W), for those by scores (M, N)."""
    servers = by_scores.shape[1]
    for i in range(len(members)):
        m, n = members[i] // servers, members[i] % servers
        for w in range(hidden.shape[1]):
            slopes[m, w] += by_scores[m, n] * hidden[i, w]


@_kernel
def by_hidden(hidden: Any, members: Any, by_scores: Any, weights: Any, summary: Any, counts: Any,
              by_summary: Any, ties: Any, slopes: Any) -> None:  # fmt: skip
    """The loss's slopes by hidden features; equal largest ones share that of the maximum.

    Args:
        hidden: Shape (L, W).
        members: Shape (L,), int64.
        by_scores: The loss's slopes by scores, shape (M, N).
        weights: Shape (M, W).
        summary: Mean and maximum, shape (M, 2 W).
        counts: Shape (M,).
        by_summary: The loss's slopes by the summary, shape (M, 2 W).
        ties: Zeros, shape (M, W), changed.
        slopes: Written, shape (L, W).
    """
    servers, width = by_scores.shape[1], hidden.shape[1]
    for i in range(len(members)):
        m = members[i] // servers
        for w in range(width):
            ties[m, w] += _ONE if hidden[i, w] == summary[m, width + w] else _ZERO
    for i in range(len(members)):
        m, n = members[i] // servers, members[i] % servers
        for w in range(width):
            slope = by_scores[m, n] * weights[m, w] + by_summary[m, w] / counts[m]
            if hidden[i, w] == summary[m, width + w]:
                slope += by_summary[m, width + w] / ties[m, w]
            slopes[i, w] = slope
