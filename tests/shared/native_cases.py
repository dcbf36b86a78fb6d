"""The native environments as the tests in tests/envs/test_native_*.py try them.

A new environment joins every one of those tests with a few entries in `_SETTINGS`, and its
`_FOREIGN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.registration import DESCRIPTORS

_FAULTS: dict[str, Any] = {"mean_time_to_failure_ms": 150.0, "infos": "full"}
_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "LoadBalancer-v0": {
        "flaky": {"episode_length": 19, "utilisation": 1.2, **_FAULTS},
        "down, stale": {
            **_FAULTS, "episode_length": 23, "mean_time_to_recovery_ms": 100.0,
            "fault_mix": {"down": 1.0}, "recovery_ramp_ms": 60.0, "staleness_ms": 30.0,
        },
        "stale, sizes": {
            **_FAULTS, "episode_length": 23, "staleness_ms": 40.0, "observe_size": True,
        },
        "park": {
            "preset": "park", "num_servers": 4, "episode_length": 17, "utilisation": 2.0,
            "infos": "full",
        },
        "tiny-grpo": {
            "preset": "tiny-grpo", "episode_length": 19, "load_decay": 0.99, "infos": "full",
            "fault_schedule": ((0, "slow", 5, 12),),
        },
        "fleets": {
            **_FAULTS, "preset": "fleets", "max_servers": 5, "episode_length": 19, "retry": True,
            "num_balancers": 2, "workers": "choice 1 2", "timeout_ms": "uniform 30 60",
            "connection_limit": {"one_of": [None, 3]}, "error_rates": 0.1,
        },
        "workers": {
            **_FAULTS, "episode_length": 19, "workers": (1, 3, 2, 1), "observe_weights": True,
            "utilisation": 1.5, "max_servers": 6,
        },
    },
    "Battleship-v0": {
        "microgrpo": {"preset": "microgrpo-5x5", "reward": "hits"},
        "announced": {"board_size": (3, 5), "fleet": (3, 2, 1), "observation": "planes_density"},
        "repeats": {"board_size": (3, 4), "fleet": (3, 2), "repeat_penalty": 0.5},
        "no masks": {
            "board_size": 4, "fleet": (3, 2), "mask_repeats": False, "observation": "flat",
        },
        "no touch": {
            "board_size": (4, 5), "fleet": (2, 2, 1), "allow_touch": False, "reward": "hits",
        },
        "flat": {"board_size": (2, 6), "fleet": (4, 3), "observation": "flat"},
    },
    "AutoScaler-v0": {
        "scaling": {"episode_steps": 9, "start_up_steps": 3},
        "history": {"episode_steps": 7, "history": 4, "action": "scaling_config"},
        "flat": {
            "episode_steps": 8, "action": "flat", "random_start": True, "constraints": False,
            "reward": "dollars", "retry_share": 0.5,
        },
        "multi": {
            "episode_steps": 11, "action": "multi", "history": 3, "random_start": True,
            "start_up_steps": 0,
        },
        "overloaded": {
            "preset": "flash-crowd", "action": "replicas", "constraints": False,
            "bursts_per_day": 300, "episode_steps": 10, "max_replicas": 30,
        },
        "weekly": {"preset": "weekly", "episode_steps": 6, "random_start": True},
    },
}  # fmt: skip
_FOREIGN: dict[str, list[dict[str, Any]]] = {
    "LoadBalancer-v0": [{"episode_length": 20}, {"num_servers": 5}],
    "Battleship-v0": [{"board_size": (4, 5)}, {"fleet": (3, 2)}],
    "AutoScaler-v0": [{"start_up_steps": 5}, {"history": 2}, {"episode_steps": 50}],
}
"""Settings of environments that states of others do not fit."""


@dataclass(frozen=True)
class NativeCase:
    """One configuration of a native environment."""

    env_id: str
    settings: dict[str, Any]

    def single(self, **more: Any) -> Any:
        return gym.make(
            self.env_id, disable_env_checker=True, **{**self.settings, **more}
        ).unwrapped

    def vector(self, num_envs: int, **more: Any) -> Any:
        return gym.make_vec(self.env_id, num_envs=num_envs, **{**self.settings, **more}).unwrapped

    def foreign(self) -> list[Any]:
        return [gym.make(self.env_id, **settings).unwrapped for settings in _FOREIGN[self.env_id]]


CASES = {
    f"{env_id} {name}": NativeCase(env_id, settings)
    for env_id, all_settings in _SETTINGS.items()
    for name, settings in all_settings.items()
}
"""Short episodes with everything that an environment can do."""
DEFAULTS = {each.env_id: NativeCase(each.env_id, {}) for each in DESCRIPTORS}
"""Every native environment as it is made by default."""


def pair(
    case: NativeCase, num_envs: int, mode: AutoresetMode, limit: int | None = None
) -> tuple[Any, SyncVectorEnv]:
    """A native vector environment, and single ones behind Gymnasium's own."""
    vector = case.vector(num_envs, autoreset_mode=mode, max_episode_steps=limit)
    makers = [partial(_limited, case, limit)] * num_envs
    return vector, SyncVectorEnv(makers, autoreset_mode=mode)


def _limited(case: NativeCase, limit: int | None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = case.single()
    return env if limit is None else gym.wrappers.TimeLimit(env, limit)


def some_actions(env: Any, rng: np.random.Generator) -> np.ndarray:
    """Random actions of a vector environment, nine in ten of them allowed by the masks."""
    space, num_envs = env.single_action_space, env.num_envs
    counts = np.atleast_1d(space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else space.n)
    anywhere = rng.integers(counts, size=(num_envs, len(counts)))
    scores = rng.random((num_envs, counts.sum()))
    if hasattr(env, "action_masks"):
        scores = np.where(env.action_masks(), scores, -1.0)
    parts = np.split(scores, np.cumsum(counts)[:-1], axis=1)
    allowed = np.stack([part.argmax(axis=1) for part in parts], axis=1)
    actions = np.where(rng.random((num_envs, 1)) < 0.1, anywhere, allowed)
    return actions.reshape(num_envs, *space.shape)


def trace_of(env: Any, b: int = 0) -> bytes:
    """Everything that environment b drew at its reset."""
    names = env.simulator.trace_names or ("layouts",)
    state = env.simulator.get_state(np.array([b]))
    return b"".join(state[name].tobytes() for name in names)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal values, dtypes and masks; of infos, those that the masks mark as present."""
    if isinstance(expected, tuple | list):
        for index, (left, right) in enumerate(zip(found, expected, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    elif isinstance(expected, Mapping):
        _assert_same_mapping(found, expected, where)
    else:
        left, right = np.asarray(found), np.asarray(expected)
        assert left.dtype == right.dtype, where
        # Bytes first: `assert_array_equal` would take nearly all of the time of these tests.
        if left.dtype == object or left.shape != right.shape or left.tobytes() != right.tobytes():
            np.testing.assert_array_equal(left, right, err_msg=where)


def _assert_same_mapping(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    assert set(expected) <= set(found), where
    for name in set(found) - set(expected):  # absent in every environment
        assert not found[f"_{name.removeprefix('_')}"].any(), f"{where}/{name}"
    for name, values in expected.items():
        mask = expected.get(f"_{name}")
        if mask is None or isinstance(values, Mapping):
            assert_same(found[name], values, f"{where}/{name}")
            continue
        assert (found[name].shape, found[name].dtype) == (values.shape, values.dtype), where
        if values.dtype != object:
            assert_same(found[name][mask], values[mask], f"{where}/{name}")
            continue
        for b, present in enumerate(mask):
            if present:
                assert_same(found[name][b], values[b], f"{where}/{name}[{b}]")
            else:
                assert found[name][b] is None, where
