"""Actions as numbers, as three choices, and which of them are safe.

An action is a choice of a change of replicas (7), of a change of configuration (7) and of a share
of traffic (11). A kind of actions takes the first one, two or three of them; all but "multi" as
one number, the last component changing fastest. "replicas" and "target" are apart: they say how
many replicas there are to be, or how busy.

Shapes: B environments, A choices.
"""

import math
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import (
    BATCH_SIZES,
    CONCURRENCIES,
    CONFIGURATION,
    FLAT,
    MULTI,
    REPLICAS,
    SCALING,
    SCALING_CONFIG,
    SCALING_ONLY,
    SHARES,
    TARGET,
    TARGETS_PERCENT,
    TIMEOUTS_S,
)
from grpo_gym.envs.autoscaler.service import replica_capacity
from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.settings.config import ConfigError, suggest

COMPONENTS = (len(SCALING), len(CONFIGURATION), SHARES)
"""Choices of each component."""
NO_CHANGE = SCALING.index(0)
"""The choice of the first component that keeps the number of replicas."""
NO_CONFIGURATION = CONFIGURATION.index("none")
"""The choice of the second component that keeps the configuration."""
ALL_TRAFFIC = SHARES - 1
"""The choice of the third component that keeps all traffic in the own region."""
EXACT = 1e-9
"""By how much rounding errors may make a number of replicas exceed what it is."""

_PARTS = {"scaling": 1, "scaling_config": 2, "flat": 3, "multi": 3}
_CHANGES = np.array(SCALING)
_TARGETS = 0.01 * np.array(TARGETS_PERCENT)
_HIGHEST = np.array([len(BATCH_SIZES) - 1, len(TIMEOUTS_S) - 1, len(CONCURRENCIES) - 1])
_SCALINGS, _CONFIGURATIONS = len(SCALING), len(CONFIGURATION)


def encode(kind: str, choices: Any) -> np.ndarray:
    """Actions of a kind from choices of all three components.

    Args:
        kind: "scaling", "scaling_config", "flat" or "multi".
        choices: Shape (..., 3), int; what the kind has no room for is left out.

    Returns:
        Shape (...), or (..., 3) for "multi", int64.

    Raises:
        ConfigError: If the kind is unknown, or a choice is none.
    """
    parts = _parts(kind)
    choices = np.asarray(choices, np.int64)
    if choices.shape[-1:] != (3,) or (choices < 0).any() or (choices >= COMPONENTS).any():
        raise ConfigError(f"choices must be (..., 3) from 0 and below {COMPONENTS}, got {choices}")
    if kind == "multi":
        return choices.copy()
    number = choices[..., 0].copy()
    for part in range(1, parts):
        number = number * COMPONENTS[part] + choices[..., part]
    return number


def decode(kind: str, actions: Any) -> np.ndarray:
    """Choices of all three components from actions of a kind; the inverse of `encode`.

    Args:
        kind: "scaling", "scaling_config", "flat" or "multi".
        actions: Shape (...), or (..., 3) for "multi", int.

    Returns:
        Shape (..., 3), int64; components that the kind does not have change nothing.

    Raises:
        ConfigError: If the kind is unknown, or an action is none.
    """
    parts = _parts(kind)
    actions = np.asarray(actions, np.int64)
    if kind == "multi":
        return encode("multi", actions)
    count = int(np.prod(COMPONENTS[:parts]))
    if (actions < 0).any() or (actions >= count).any():
        raise ConfigError(f"actions must be from 0 to {count - 1} for {kind!r}, got {actions}")
    columns = np.unravel_index(actions, COMPONENTS[:parts])
    neutral = (NO_CHANGE, NO_CONFIGURATION, ALL_TRAFFIC)[parts:]
    rest = [np.full_like(actions, choice) for choice in neutral]
    return np.stack([*columns, *rest], axis=-1).astype(np.int64)


def count_choices(config: AutoScalerConfig) -> int:
    """Length of an action mask, A."""
    if config.action == "replicas":
        return config.max_replicas - config.min_replicas + 1
    if config.action == "target":
        return len(TARGETS_PERCENT)
    if config.action == "multi":
        return sum(COMPONENTS)
    return int(np.prod(COMPONENTS[: _PARTS[config.action]]))


def _parts(kind: str) -> int:
    if kind not in _PARTS:
        raise ConfigError(f"kind must be made of components, got {kind!r}.{suggest(kind, _PARTS)}")
    return _PARTS[kind]


@inlined
def needed_replicas(requests_per_s: float, utilisation: float, cluster: Any, p: Any) -> int:
    """Replicas that so many requests keep this busy, within the limits on their number."""
    capacity = utilisation * replica_capacity(cluster, p)
    # Compared before it becomes an integer, which has a largest one.
    needed = math.ceil(min(requests_per_s / capacity - EXACT, float(p.max_replicas)))
    return max(int(needed), p.min_replicas)


@inlined
def wanted_change(action: int, cluster: Any, metrics: Any, p: Any) -> int:
    """Replicas that an action asks to add; `metrics` are those of the last step."""
    if p.action == TARGET:
        needed = needed_replicas(metrics.requests_per_s, _TARGETS[action], cluster, p)
        return needed - (cluster.running + cluster.pending)
    if p.action == REPLICAS:
        return p.min_replicas + action - (cluster.running + cluster.pending)
    if p.action == SCALING_ONLY:
        return _CHANGES[action]
    if p.action == SCALING_CONFIG:
        return _CHANGES[action // _CONFIGURATIONS]
    return _CHANGES[action // (_CONFIGURATIONS * SHARES)]


@inlined
def wanted_configuration(action: int, p: Any) -> tuple[int, int]:
    """The choices of the second and third component; "multi" is numbered like "flat" here."""
    if p.action == SCALING_CONFIG:
        return action % _CONFIGURATIONS, ALL_TRAFFIC
    if p.action == FLAT or p.action == MULTI:
        return action // SHARES % _CONFIGURATIONS, action % SHARES
    return NO_CONFIGURATION, ALL_TRAFFIC


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
def _position(cluster: Any, part: int) -> int:
    if part == 0:
        return cluster.batch
    return cluster.timeout if part == 1 else cluster.concurrency


@inlined
def configuration_allowed(choice: int, cluster: Any) -> bool:
    """Whether a change of configuration stays on its ladder."""
    if choice == NO_CONFIGURATION:
        return True
    part = choice // 2
    position = _position(cluster, part)
    return position < _HIGHEST[part] if choice % 2 else position > 0


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
def mask_kernel(clusters: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Safe actions as 1, others as 0.

    Args:
        clusters: `CLUSTER` records, shape (B,).
        parameters: One `PARAMETERS` record, shape (1,).
        out: Written, shape (B, A), int8; for "multi" the three components side by side.
    """
    p = parameters[0]
    for b in range(out.shape[0]):
        cluster = clusters[b]
        fewest, most = allowed_changes(cluster, p)
        if p.action == TARGET:
            out[b, :] = 1  # what is not allowed is clipped
        elif p.action == REPLICAS:
            first = cluster.running + cluster.pending - p.min_replicas
            for target in range(out.shape[1]):
                out[b, target] = fewest <= target - first <= most
        elif p.action == MULTI:
            for i in range(_SCALINGS):
                out[b, i] = fewest <= _CHANGES[i] <= most
            for i in range(_CONFIGURATIONS):
                out[b, _SCALINGS + i] = configuration_allowed(i, cluster)
            for i in range(SHARES):
                out[b, _SCALINGS + _CONFIGURATIONS + i] = 1
        else:
            configurations = 1 if p.action == SCALING_ONLY else _CONFIGURATIONS
            shares = SHARES if p.action == FLAT else 1
            at = 0
            for i in range(_SCALINGS):
                scales = fewest <= _CHANGES[i] <= most
                for j in range(configurations):
                    legal = scales
                    if configurations > 1:
                        legal = scales and configuration_allowed(j, cluster)
                    for _ in range(shares):
                        out[b, at] = legal
                        at += 1
