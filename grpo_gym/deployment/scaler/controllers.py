"""What scales: a baseline or a trained policy, each with the cluster as it is to see it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from grpo_gym.envs.arguments import merge_env_kwargs
from grpo_gym.envs.autoscaler.baselines import BASELINES
from grpo_gym.envs.autoscaler.descriptor import DESCRIPTOR
from grpo_gym.envs.autoscaler.env import TASK
from grpo_gym.envs.autoscaler.measured import MeasuredCluster
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig, make_config
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.inference.policy_files import find_policy_file
from grpo_gym.settings import ConfigError, suggest

STEP, COOLDOWN = "step", "cooldown"
"""What a reading has beside measurements: see `MeasuredCluster.measure`."""
Reading = Mapping[str, float]
_MOST_MISSED = 60

_REAL_BASELINES = tuple(name for name, each in BASELINES.items() if not each.privileged)


class Predictor(Protocol):
    """A baseline, or a policy without torch."""

    def predict(self, observation: Any, state: Any = None) -> tuple[np.ndarray, Any]:
        """An action, and the state for the next call."""


class Controller:
    """Turns readings into numbers of replicas, and remembers what its policy remembers.

    Attributes:
        name: Of its policy.
        config: The environment in which its policy acts.
    """

    def __init__(self, name: str, predictor: Predictor, cluster: MeasuredCluster) -> None:
        """Join a policy and its cluster."""
        self.name = name
        self.config = cluster.config
        self._predictor = predictor
        self._cluster = cluster
        self._state: Any = None
        self._step: int | None = None

    def __call__(self, reading: Reading) -> dict[str, int]:
        """Decide.

        Steps without a reading are taken to have been like this one, as forecasts need every step
        of a day; after many of them, the policy begins anew.

        Returns:
            `change`, the replicas to add, and `replicas`, how many there are to be then.

        Raises:
            ValueError: If a measurement is not plausible.
        """
        cluster, step = self._cluster, int(reading[STEP])
        for each in range(step - self._missed(step), step + 1):
            cluster.measure(reading, each, int(reading[COOLDOWN]))
            action = self._act(cluster.observation())
        self._step = step
        change = cluster.change(action)
        return {"change": change, "replicas": cluster.total + change}

    def _missed(self, step: int) -> int:
        """How many steps before this one had no reading and are to be made up for."""
        if self._step is None:
            return 0
        passed = (step - self._step) % (7 * self.config.steps_per_day)
        if passed <= _MOST_MISSED + 1:
            return max(0, passed - 1)
        self._cluster.forget()
        self._state = None
        return 0

    def _act(self, observation: Any) -> int:
        masks = {}
        if isinstance(self._predictor, NumpyPolicy) and self.config.constraints:
            masks = {"action_masks": self._cluster.action_mask()}
        action, self._state = self._predictor.predict(observation, self._state, **masks)
        return int(action)


def make_policy(policy: str, env_kwargs: Mapping[str, Any]) -> Controller:
    """The controller of a policy.

    Args:
        policy: A baseline of `AutoScaler-v0`, an exported .safetensors file, a checkpoint, or a
            run's folder.
        env_kwargs: Arguments of the environment, over those that a policy was trained with.

    Raises:
        ConfigError: If there is no such policy, it is of another environment, or it does not fit.
        CheckpointError: If a file is damaged, or not ours.
    """
    if policy in BASELINES:
        return make_baseline("policy", policy, make_config(**env_kwargs))
    trained = NumpyPolicy.load(find_policy_file(policy, hint=suggest(policy, _REAL_BASELINES)))
    if (env_id := trained.card["env_id"]) != DESCRIPTOR.env_id:
        raise ConfigError(f"policy must be one of {DESCRIPTOR.env_id}, got one of {env_id}")
    config = make_config(**merge_env_kwargs(trained.card["env_kwargs"], env_kwargs))
    cluster = MeasuredCluster(config)
    for name in ("observation_space", "action_space"):
        here, learnt = getattr(TASK, name)(config), getattr(trained, name)
        if here != learnt:
            raise ConfigError(
                f"policy must have the {name} {here} of these env_kwargs, got {learnt}: leave out "
                "those that change what it sees or does"
            )
    return Controller(policy, trained, cluster)


def make_baseline(role: str, name: str, config: AutoScalerConfig) -> Controller:
    """The controller of a baseline, on its own terms.

    Args:
        role: What it is, for errors.
        name: Of the baseline.
        config: Of the environment.

    Raises:
        ConfigError: If there is no such baseline, or it knows the future.
    """
    if name not in _REAL_BASELINES:
        raise ConfigError(
            f"{role} must be one of {', '.join(_REAL_BASELINES)}, got {name!r}"
            + (", which knows the future demand" if name in BASELINES else "")
        )
    # To the number that it wants, without the limits of an agent's actions.
    cluster = MeasuredCluster(replace(config, action="replicas", constraints=False))
    return Controller(name, BASELINES[name](cluster), cluster)
