"""Which algorithms are compared, and the settings of those of Stable-Baselines3."""

import inspect
from collections.abc import Sequence
from dataclasses import field
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    EnvId,
    Flag,
    Fraction,
    Integer,
    Number,
    PositiveFraction,
    check_value,
    checked_dataclass,
    suggest,
)

SB3_CLASSES = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "trpo": ("sb3_contrib", "TRPO"),
    "maskable_ppo": ("sb3_contrib", "MaskablePPO"),
    "recurrent_ppo": ("sb3_contrib", "RecurrentPPO"),
}
"""Package and class of each algorithm that GRPO is compared with."""
OURS = "grpo"
"""The algorithm that the others are compared with."""
ALGORITHMS = (OURS, *SB3_CLASSES)

_RESERVED = (
    *("policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log"),
    *("stats_window_size", "rollout_buffer_class", "rollout_buffer_kwargs", "_init_setup_model"),
)
"""Keyword arguments of the classes that the comparison itself passes."""
_POSITIVE = Field(gt=0)
_RANGES = {
    "learning_rate": _POSITIVE,
    "n_steps": Field(ge=1),
    "batch_size": Field(ge=2),
    "n_epochs": Field(ge=1),
    "gamma": Field(gt=0, le=1),
    "gae_lambda": Field(ge=0, le=1),
    "clip_range": _POSITIVE,
    "clip_range_vf": _POSITIVE,
    "ent_coef": Field(ge=0),
    "vf_coef": Field(ge=0),
    "max_grad_norm": _POSITIVE,
    "target_kl": _POSITIVE,
}
"""Ranges of keyword arguments that Stable-Baselines3 does not check itself."""


@checked_dataclass
class SB3Settings:
    """Settings of an algorithm of Stable-Baselines3."""

    env: EnvId
    """Id of the environment."""
    algorithm: Literal["ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo"] = "ppo"
    """The algorithm; trpo, maskable_ppo and recurrent_ppo are sb3-contrib's."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    training_env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments in training only; they override `env_kwargs`."""
    tuned: Flag = False
    """Whether these settings come from a search such as scripts/tune.py; the report says so."""
    num_envs: Count = 16
    """Number of parallel environments."""
    normalise_observations: Flag = False
    """Normalise observations by their running mean and standard deviation (VecNormalize);
    evaluations use the statistics of training."""
    normalise_rewards: Flag = False
    """Divide rewards by the running standard deviation of returns in training (VecNormalize)."""
    policy: Literal["mlp", "cnn", "board"] = "mlp"
    """The kind of policy; "cnn" is Stable-Baselines3's for images of at least 36 x 36 pixels,
    "board" is GRPO's, with a critic over its channels."""
    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each hidden layer of the `mlp` policy, and of its critic's."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of the `mlp` policy."""
    initial_log_std: Number = 0.0
    """Initial log standard deviation of Box actions."""
    orthogonal_weights: Flag = True
    """Whether the `mlp` and `cnn` policies begin with orthogonal weights."""
    channels: Count = 32
    """Channels of the hidden layers of the `board` policy."""
    blocks: Count = 2
    """Residual blocks of the `board` policy."""
    lstm_width: Count = 256
    """Width of the LSTM layers of recurrent_ppo (256: sb3-contrib's default)."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """How the learning rate changes over environment steps."""
    final_learning_rate: Fraction = 0.0
    """Fraction of the learning rate that is left at the end of the linear schedule."""
    final_discount: PositiveFraction | None = None
    """Value that `gamma` approaches linearly over environment steps; None keeps it constant."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the algorithm's class; its defaults otherwise."""

    def __post_init__(self) -> None:
        if self.policy == "board" and self.algorithm == "recurrent_ppo":
            raise ConfigError(
                'policy must be "mlp" or "cnn" with recurrent_ppo, got "board": it has no LSTM'
            )
        for name in self.settings:
            if name in _RESERVED:
                raise ConfigError(f"settings[{name!r}] must be left out: the comparison sets it")


def require(modules: Sequence[str], extra: str) -> None:
    """Refuse to begin without optional packages.

    Raises:
        ConfigError: If one of the modules is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ConfigError(f'{module} must be installed: pip install "grpo-gym[{extra}]"')


def check_algorithm(algorithm: str) -> None:
    """Refuse an algorithm that is unknown or not installed.

    Raises:
        ConfigError: If it is.
    """
    if algorithm not in ALGORITHMS:
        hint = suggest(algorithm, ALGORITHMS)
        raise ConfigError(f"algorithm must be a known name, got {algorithm!r}.{hint}")
    if algorithm in SB3_CLASSES:
        require(("stable_baselines3", "sb3_contrib"), "compare")


def keyword_arguments(settings: SB3Settings) -> dict[str, Any]:
    """All keyword arguments of the algorithm's class, including defaults.

    Raises:
        ConfigError: If one is unknown or invalid, or minibatches do not divide a rollout.
    """
    parameters = inspect.signature(algorithm_class(settings.algorithm)).parameters
    known = {name: each.default for name, each in parameters.items() if name not in _RESERVED}
    for name in settings.settings:
        if name not in known:
            raise ConfigError(
                f"settings[{name!r}] is not an argument of {SB3_CLASSES[settings.algorithm][1]}."
                f"{suggest(str(name), known)}"
            )
    checked = {
        name: _check_keyword(name, settings.settings.get(name, default), default)
        for name, default in known.items()
    }
    rollout = settings.num_envs * checked["n_steps"]
    batch_size = checked.get("batch_size", rollout)
    if rollout < 2 or rollout % batch_size:
        raise ConfigError(
            f"settings['batch_size'] must divide num_envs * n_steps = {rollout}, got {batch_size}: "
            "the last minibatch would be smaller"
        )
    return checked


def algorithm_class(algorithm: str) -> Any:
    """The class of an algorithm of Stable-Baselines3.

    Raises:
        ConfigError: If it is unknown or not installed.
    """
    check_algorithm(algorithm)
    package, name = SB3_CLASSES[algorithm]
    return getattr(import_module(package), name)


def _check_keyword(name: str, value: Any, default: Any) -> Any:
    """A keyword argument converted to the type of its default, and within its range."""
    kind = float if default is None or name == "target_kl" else type(default)
    annotation: Any = {bool: Flag, int: Integer, float: Number}.get(kind, kind)
    if name in _RANGES:
        annotation = Annotated[annotation, _RANGES[name]]
    if default is None:
        annotation = annotation | None
    return check_value(f"settings[{name!r}]", value, annotation)
