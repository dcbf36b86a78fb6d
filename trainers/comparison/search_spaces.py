"""The search space of each algorithm, and settings with values from it.

The spaces are small tables, about equally wide for all algorithms.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import Box, Space
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from grpo_gym.settings import from_mapping, parse_value, to_mapping
from grpo_gym.trainers.comparison.contenders import Contender, Settings
from grpo_gym.trainers.comparison.settings import SB3Settings, keyword_arguments
from grpo_gym.trainers.settings import TrainSettings

Table = Mapping[str, tuple[Any, ...] | FloatDistribution]

_FEWEST_ITERATIONS = 4
"""Of a trial, unless the settings given at the start take fewer."""
_LEARNING_RATES = FloatDistribution(1e-4, 1e-2, log=True)
_DISCOUNTS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
_GAE_LAMBDAS = (0.8, 0.9, 0.95, 0.98, 1.0)
_LOG_STDS = (-2.0, -1.0, -0.5, 0.0, 0.4)  # within the default of log_std_bounds
_WIDTHS = ([64, 64], [128, 128], [256, 256])
_ACTIVATIONS = ("tanh", "relu")
_ENTROPY = (0.0, 0.0001, 0.001, 0.01)
_SCHEDULES = ("constant", "linear")
_VALUE_LOSS = (0.25, 0.5, 1.0)
_LONG_ROLLOUTS = (16, 32, 64, 128, 256, 512, 1024)
_ON_POLICY: Table = {
    "num_envs": (8, 16, 32, 64, 128, 256),
    "normalise_observations": (False, True),
    "normalise_rewards": (False, True),
    "activation": _ACTIVATIONS,
    "hidden_sizes": _WIDTHS,
    "initial_log_std": _LOG_STDS,
    "settings.gamma": _DISCOUNTS,
    "settings.gae_lambda": _GAE_LAMBDAS,
}
_PPO: Table = {
    **_ON_POLICY,
    "learning_rate_schedule": _SCHEDULES,
    "settings.n_steps": _LONG_ROLLOUTS,
    "settings.batch_size": (64, 128, 256, 512, 1024, 2048),
    "settings.n_epochs": (3, 4, 5, 10, 20),
    "settings.learning_rate": _LEARNING_RATES,
    "settings.clip_range": (0.1, 0.2, 0.3),
    "settings.ent_coef": _ENTROPY,
    "settings.vf_coef": _VALUE_LOSS,
}
SPACES: dict[str, Table] = {
    "grpo": {
        "grpo.num_groups": (2, 4, 8, 16, 32),
        "grpo.group_size": (8, 16, 32, 64),
        "grpo.max_episode_steps": (None, 100, 200, 400),
        "grpo.discount": _DISCOUNTS,
        "grpo.gae_lambda": _GAE_LAMBDAS,
        "grpo.learning_rate": _LEARNING_RATES,
        "grpo.final_learning_rate": (0.0, 0.02, 0.05, 0.2, 1.0),
        "grpo.num_minibatches": (4, 8, 16, 32),
        "grpo.epochs": (1, 2, 3, 4, 6),
        "grpo.entropy_coefficient": _ENTROPY,
        "grpo.activation": _ACTIVATIONS,
        "grpo.hidden_sizes": _WIDTHS,
        "grpo.initial_log_std": _LOG_STDS,
    },
    "ppo": _PPO,
    "maskable_ppo": _PPO,
    "recurrent_ppo": {**_PPO, "lstm_width": (32, 64, 128, 256)},
    "a2c": {
        **_ON_POLICY,
        "learning_rate_schedule": _SCHEDULES,
        "settings.n_steps": (5, 8, 16, 32, 64),
        "settings.learning_rate": _LEARNING_RATES,
        "settings.ent_coef": _ENTROPY,
        "settings.vf_coef": _VALUE_LOSS,
        "settings.use_rms_prop": (True, False),
        "settings.normalize_advantage": (False, True),
    },
    "trpo": {
        **_ON_POLICY,
        "settings.n_steps": _LONG_ROLLOUTS,
        "settings.batch_size": (64, 128, 256, 512),
        "settings.n_critic_updates": (5, 10, 20),
        "settings.learning_rate": _LEARNING_RATES,
        "settings.target_kl": (0.003, 0.01, 0.03),
        "settings.cg_damping": (0.01, 0.1),
    },
}
"""Values to choose from, by algorithm and by the place of each in its settings."""


@dataclass(frozen=True)
class Interface:
    """The spaces of a task's environment: some settings have an effect in some spaces only."""

    observations: Space[Any]
    actions: Space[Any]


def search_space(contender: Contender, interface: Interface) -> dict[str, BaseDistribution]:
    """Optuna's distributions by place, each widened to include the contender's own value.

    Args:
        contender: The algorithm and its settings.
        interface: The spaces of its environment.
    """
    return {
        place: _widened(SPACES[contender.algorithm][place], value)
        for place, value in _own_values(contender, interface).items()
    }


def first_parameters(contender: Contender, interface: Interface) -> dict[str, Any]:
    """The contender's own values as parameters of a trial.

    Args:
        contender: The algorithm and its settings.
        interface: The spaces of its environment.
    """
    space = SPACES[contender.algorithm]
    return {
        place: float(value) if isinstance(space[place], FloatDistribution) else _as_text(value)
        for place, value in _own_values(contender, interface).items()
    }


def values_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values by place, from the parameters of a trial."""
    return {
        place: parse_value(parameter) if isinstance(parameter, str) else parameter
        for place, parameter in parameters.items()
    }


def with_values(
    settings: Settings,
    values: Mapping[str, Any],
    total_steps: int,
    episode_steps: int | None = None,
) -> Settings:
    """Settings with new values by place, such as "settings.gamma", adjusted to fit together.

    Every algorithm takes at least four iterations for `total_steps`; GRPO, if episodes have at most
    `episode_steps`.
    """
    changed = to_mapping(settings)
    for place, value in values.items():
        *parent, name = place.split(".")
        (changed[parent[0]] if parent else changed)[name] = value
    if isinstance(settings, TrainSettings):
        grpo, own = changed["grpo"], settings.grpo
        if episode_steps is not None and grpo != to_mapping(own):
            steps = min(episode_steps, grpo["max_episode_steps"] or episode_steps)
            most = max(total_steps // (_FEWEST_ITERATIONS * steps), 2)
            grpo["group_size"] = min(grpo["group_size"], most)
            grpo["num_groups"] = min(grpo["num_groups"], max(most // grpo["group_size"], 1))
        return from_mapping(TrainSettings, changed, "search")
    keywords = changed["settings"]
    if "settings.n_steps" in values:
        most = max(total_steps // (_FEWEST_ITERATIONS * changed["num_envs"]), 2)
        power_of_two = 1 << (most.bit_length() - 1)  # so that minibatches can divide it
        keywords["n_steps"] = min(keywords["n_steps"], power_of_two)
    if "settings.batch_size" in values:
        rollout = keywords["n_steps"] * changed["num_envs"]
        keywords["batch_size"] = max(math.gcd(keywords["batch_size"], rollout), 2)
    return from_mapping(SB3Settings, changed, "search")


def _own_values(contender: Contender, interface: Interface) -> dict[str, Any]:
    """The contender's own value of everything that its policy uses, by place."""
    mapping = to_mapping(contender.settings)
    if isinstance(contender.settings, SB3Settings):
        mapping["settings"] = keyword_arguments(contender.settings)
    unused = set() if contender.settings.policy == "mlp" else {"activation", "hidden_sizes"}
    if mapping.get("grpo", {}).get("baseline") not in ("state", "auto"):
        unused.add("grpo.gae_lambda")
    if not isinstance(interface.actions, Box):
        unused.add("initial_log_std")
    if contender.settings.policy != "mlp" or not isinstance(interface.observations, Box):
        unused.add("normalise_observations")
    values = {}
    for place in SPACES[contender.algorithm]:
        *parent, name = place.split(".")
        if unused.isdisjoint((place, name)):
            values[place] = (mapping[parent[0]] if parent else mapping)[name]
    return values


def _widened(space: tuple[Any, ...] | FloatDistribution, value: Any) -> BaseDistribution:
    if isinstance(space, FloatDistribution):
        low, high = min(space.low, value), max(space.high, value)
        return FloatDistribution(low, high, log=low > 0.0)
    # Choices are text, because optuna knows no lists.
    return CategoricalDistribution(list(dict.fromkeys(map(_as_text, [*space, value]))))


def _as_text(value: Any) -> str:
    """A value as `parse_value` reads it."""
    return "null" if value is None else str(value)
