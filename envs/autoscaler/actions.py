"""Actions as numbers and as choices of three components, and masks of the safe ones.

The components are a change of the number of replicas (7 choices), a change of configuration (7)
and a share of traffic (11). The kinds of actions "scaling", "scaling_config" and "flat" number the
combinations of the first one, two or three, the last component changing fastest; "multi" is all
three as a vector. "replicas" and "target" have no components: they set the number of replicas, or
their utilisation.

Shapes: B environments, A choices.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler import records
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import CONFIGURATION, SCALING, SHARES, TARGETS_PERCENT
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.settings import ConfigError, suggest

COMPONENTS = (len(SCALING), len(CONFIGURATION), SHARES)
"""Choices of each component."""
NO_CHANGE = SCALING.index(0)
"""The choice of the first component that keeps the number of replicas."""
NO_CONFIGURATION = CONFIGURATION.index("none")
"""The choice of the second component that keeps the configuration."""
ALL_TRAFFIC = SHARES - 1
"""The choice of the third component that keeps all traffic in the own region."""
EXACT = 1e-9
"""Tolerance for rounding errors when a number of replicas is rounded up or down."""

_PARTS = {"scaling": 1, "scaling_config": 2, "flat": 3, "multi": 3}
_CHANGES = np.array(SCALING)
_TARGETS = 0.01 * np.array(TARGETS_PERCENT)
_LADDERS = (records.BATCH_SIZES, records.TIMEOUTS_S, records.CONCURRENCIES)
_TOPS = np.array([len(ladder) - 1 for ladder in _LADDERS])
_CONFIGURATIONS = len(CONFIGURATION)


def encode(kind: str, choices: Any) -> np.ndarray:
    """Turn choices of all three components into actions.

    Args:
        kind: "scaling", "scaling_config", "flat" or "multi".
        choices: Shape (..., 3), int; components that the kind does not have are ignored.

    Returns:
        Shape (...), or (..., 3) for "multi", int64.

    Raises:
        ConfigError: If the kind is unknown or a choice out of range.
    """
    parts = _parts(kind)
    choices = np.asarray(choices, np.int64)
    if choices.shape[-1:] != (3,) or (choices < 0).any() or (choices >= COMPONENTS).any():
        raise ConfigError(f"choices must be (..., 3) from 0 and below {COMPONENTS}, got {choices}")
    if kind == "multi":
        return choices.copy()
    columns = tuple(choices[..., part] for part in range(parts))
    return np.asarray(np.ravel_multi_index(columns, COMPONENTS[:parts]))


def decode(kind: str, actions: Any) -> np.ndarray:
    """Turn actions into choices of all three components; the inverse of `encode`.

    Args:
        kind: "scaling", "scaling_config", "flat" or "multi".
        actions: Shape (...), or (..., 3) for "multi", int.

    Returns:
        Shape (..., 3), int64; components that the kind does not have change nothing.

    Raises:
        ConfigError: If the kind is unknown or an action out of range.
    """
    parts = _parts(kind)
    actions = np.asarray(actions, np.int64)
    if kind == "multi":
        return encode("multi", actions)
    count = math.prod(COMPONENTS[:parts])
    if (actions < 0).any() or (actions >= count).any():
        raise ConfigError(f"actions must be from 0 to {count - 1} for {kind!r}, got {actions}")
    choices = np.full((*actions.shape, 3), (NO_CHANGE, NO_CONFIGURATION, ALL_TRAFFIC), np.int64)
    choices[..., :parts] = np.stack(np.unravel_index(actions, COMPONENTS[:parts]), axis=-1)
    return choices


def count_choices(config: AutoScalerConfig) -> int:
    """Length of an action mask, A."""
    if config.action == "replicas":
        return config.max_replicas - config.min_replicas + 1
    if config.action == "target":
        return len(TARGETS_PERCENT)
    if config.action == "multi":
        return sum(COMPONENTS)
    return math.prod(COMPONENTS[: _PARTS[config.action]])


def _parts(kind: str) -> int:
    if kind not in _PARTS:
        raise ConfigError(f"kind must be made of components, got {kind!r}.{suggest(kind, _PARTS)}")
    return _PARTS[kind]


@inlined
def needed_replicas(requests_per_s: float, utilisation: float, cluster: Any, p: Any) -> int:
    """Compute how many replicas have this utilisation, within the limits on their number."""
    capacity = utilisation * replica_capacity(cluster, p)
    # Clipped before the conversion, so that the quotient always fits an integer.
    needed = math.ceil(min(requests_per_s / capacity - EXACT, float(p.max_replicas)))
    return max(int(needed), p.min_replicas)


@inlined
def wanted(action: int, requests_per_s: float, cluster: Any, p: Any) -> tuple[int, int, int]:
    """Return the replicas that an action adds, and its choices of the other two components.

    Actions of "multi" are numbered like those of "flat" here. "target" scales for the requests of
    the last step.
    """
    total = cluster.running + cluster.pending
    if p.action == records.TARGET:
        needed = needed_replicas(requests_per_s, _TARGETS[action], cluster, p)
        return needed - total, NO_CONFIGURATION, ALL_TRAFFIC
    if p.action == records.REPLICAS:
        return p.min_replicas + action - total, NO_CONFIGURATION, ALL_TRAFFIC
    if p.action == records.SCALING_ONLY:
        return _CHANGES[action], NO_CONFIGURATION, ALL_TRAFFIC
    if p.action == records.SCALING_CONFIG:
        return _CHANGES[action // _CONFIGURATIONS], action % _CONFIGURATIONS, ALL_TRAFFIC
    pair = action // SHARES
    return _CHANGES[pair // _CONFIGURATIONS], pair % _CONFIGURATIONS, action % SHARES


@inlined
def allowed_changes(cluster: Any, p: Any) -> tuple[int, int]:
    """The fewest and the most replicas that may be added now; both may be 0."""
    total = cluster.running + cluster.pending
    fewest, most = p.min_replicas - total, p.max_replicas - total
    if p.constraints:
        largest = max(int(p.largest_change_share * total), p.largest_change_replicas)
        if cluster.cooldown > 0:
            largest = 0
        fewest, most = max(fewest, -largest), min(most, largest)
    return fewest, most


@inlined
def configuration_allowed(choice: int, cluster: Any) -> bool:
    """Whether a change of configuration stays on its ladder."""
    if choice == NO_CONFIGURATION:
        return True
    part = choice // 2
    position = cluster.concurrency
    if part < 2:
        position = cluster.timeout if part else cluster.batch
    return position < _TOPS[part] if choice % 2 else position > 0


@inlined
def configure(choice: int, cluster: Any) -> None:
    """Move one step on a ladder; beyond its ends nothing happens."""
    if choice == NO_CONFIGURATION or not configuration_allowed(choice, cluster):
        return
    move = 1 if choice % 2 else -1
    if choice // 2 == 0:
        cluster.batch += move
    elif choice // 2 == 1:
        cluster.timeout += move
    else:
        cluster.concurrency += move


@kernel
def change_kernel(
    actions: np.ndarray,
    metrics: np.ndarray,
    clusters: np.ndarray,
    parameters: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the replicas that actions add, as far as that is allowed.

    Args:
        actions: Shape (B,), int64; those of "multi" numbered like those of "flat".
        metrics: `METRIC` records of the last step, shape (B,).
        clusters: `CLUSTER` records, shape (B,).
        parameters: From `kernel_parameters`.
        out: Written, shape (B,), int64.
    """
    p = parameters[0]
    for b in range(out.shape[0]):
        change, _, _ = wanted(actions[b], metrics[b].requests_per_s, clusters[b], p)
        fewest, most = allowed_changes(clusters[b], p)
        out[b] = min(max(change, fewest), most)


@kernel
def mask_kernel(clusters: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Write safe actions as 1, others as 0.

    Args:
        clusters: `CLUSTER` records, shape (B,).
        parameters: From `kernel_parameters`.
        out: Written, shape (B, A), int8; for "multi" the three components side by side.
    """
    p = parameters[0]
    for b in range(out.shape[0]):
        cluster = clusters[b]
        fewest, most = allowed_changes(cluster, p)
        if p.action == records.TARGET:  # a target is clipped to what is allowed
            out[b, :] = 1
        elif p.action == records.REPLICAS:
            least = p.min_replicas - cluster.running - cluster.pending
            for action in range(out.shape[1]):
                out[b, action] = fewest <= least + action <= most
        elif p.action == records.MULTI:
            out[b, :] = 1
            for i in range(len(_CHANGES)):
                out[b, i] = fewest <= _CHANGES[i] <= most
            for i in range(_CONFIGURATIONS):
                out[b, len(_CHANGES) + i] = configuration_allowed(i, cluster)
        else:
            first = NO_CONFIGURATION if p.action == records.SCALING_ONLY else 0
            shares = SHARES if p.action == records.FLAT else 1
            at = 0
            for i in range(len(_CHANGES)):
                change_allowed = fewest <= _CHANGES[i] <= most
                for configuration in range(first, _CONFIGURATIONS):
                    safe = change_allowed and configuration_allowed(configuration, cluster)
                    for action in range(at, at + shares):
                        out[b, action] = safe
                    at += shares
