"""Which algorithms are compared, and what each of them trains with."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.resources import as_file, files
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_gym.settings import (
    ConfigError,
    Count,
    Fraction,
    PositiveFraction,
    check_value,
    checked_dataclass,
    from_mapping,
    load_yaml,
    suggest,
    to_mapping,
)
from grpo_gym.trainers.settings import TrainSettings, default_config

PEERS = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "trpo": ("sb3_contrib", "TRPO"),
    "maskable_ppo": ("sb3_contrib", "MaskablePPO"),
    "recurrent_ppo": ("sb3_contrib", "RecurrentPPO"),
}
"""Algorithms that GRPO is compared with: their package and class."""
ALGORITHMS = ("grpo", *PEERS)

PeerName = Literal["ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo"]

_OURS_TO_SET = (
    "policy",
    "env",
    "policy_kwargs",
    "seed",
    "device",
    "verbose",
    "tensorboard_log",
    "stats_window_size",
    "rollout_buffer_class",
    "rollout_buffer_kwargs",
    "_init_setup_model",
)
"""Keyword arguments of the classes that the comparison gives itself."""
_RANGES = {
    "learning_rate": Field(gt=0),
    "n_steps": Field(ge=1),
    "batch_size": Field(ge=2),
    "n_epochs": Field(ge=1),
    "gamma": Field(gt=0, le=1),
    "gae_lambda": Field(ge=0, le=1),
    "clip_range": Field(gt=0),
    "clip_range_vf": Field(gt=0),
    "ent_coef": Field(ge=0),
    "vf_coef": Field(ge=0),
    "max_grad_norm": Field(gt=0),
    "target_kl": Field(gt=0),
}
"""What those of Stable-Baselines3 must be where it does not say so itself."""


@checked_dataclass
class PeerSettings:
    """What an algorithm of Stable-Baselines3 trains with."""

    env: str
    """Id of the environment."""
    algorithm: PeerName = "ppo"
    """The algorithm; trpo, maskable_ppo and recurrent_ppo are sb3-contrib's."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    training_env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments that replace or join them in training only."""
    tuned: bool = False
    """Whether these settings were searched for, as scripts/tune.py does; the report says so."""
    num_envs: Count = 16
    """Environments that are collected from at once."""
    normalise_observations: bool = False
    """Normalise observations by their running mean and deviation (VecNormalize); evaluations use
    what training has found."""
    normalise_rewards: bool = False
    """Divide rewards by the running deviation of returns in training (VecNormalize)."""
    policy: Literal["mlp", "board"] = "mlp"
    """The kind of policy; "board" is that of GRPO with a critic over its images."""
    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each hidden layer of the `mlp` policy, and of its critic's."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of the `mlp` policy."""
    channels: Count = 32
    """Images of a hidden layer of the `board` policy."""
    blocks: Count = 2
    """Residual blocks of the `board` policy."""
    lstm_width: Count = 256
    """Width of the recurrences of recurrent_ppo (256: sb3-contrib's own)."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """How the learning rate falls, by environment steps."""
    final_learning_rate: Fraction = 0.0
    """Fraction of the learning rate that is left at the end of the linear schedule."""
    final_discount: PositiveFraction | None = None
    """Where `gamma` moves to, evenly by environment steps; None: it stays."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the algorithm's class; its defaults where there are none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", self.env.removeprefix("grpo_gym:"))
        if self.policy == "board" and self.algorithm == "recurrent_ppo":
            raise ConfigError(
                'policy must be "mlp" with recurrent_ppo, got "board": its recurrence reads rows'
            )
        for name in self.settings:
            if name in _OURS_TO_SET:
                raise ConfigError(f"settings[{name!r}] must be left out: the comparison sets it")


Settings = TrainSettings | PeerSettings

_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {"settings": {"n_steps": 128}} for name in ("ppo", "trpo", "maskable_ppo")
}
"""Instead of a file: 16 environments of 128 steps are Stable-Baselines3's own 2,048."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An algorithm and what it trains with.

    Attributes:
        algorithm: One of `ALGORITHMS`.
        settings: Its settings.
        tuned: Whether they were found for this very task.
    """

    algorithm: str
    settings: Settings
    tuned: bool


def require(modules: Sequence[str], extra: str) -> None:
    """Refuse to begin without what is needed later.

    Raises:
        ConfigError: If one of the modules is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ConfigError(
                f'{module} must be installed for this: pip install "grpo-gym[{extra}]"'
            )


def check_algorithm(algorithm: str) -> None:
    """Refuse an algorithm that is unknown or not installed.

    Raises:
        ConfigError: If it is.
    """
    if algorithm not in ALGORITHMS:
        hint = suggest(algorithm, ALGORITHMS)
        raise ConfigError(f"algorithm must be a known name, got {algorithm!r}.{hint}")
    if algorithm in PEERS:
        require(("stable_baselines3", "sb3_contrib"), "compare")


def find_contender(
    algorithm: str, env: str, env_kwargs: Mapping[str, Any], file: str | None = None
) -> Contender:
    """An algorithm with the settings of a file, of the shipped one, or with defaults.

    Arguments of the environment stand over the file's, one by one; another preset of the
    environment has nothing of them.

    Args:
        algorithm: One of `ALGORITHMS`.
        env: The environment's id.
        env_kwargs: Its arguments.
        file: A settings file instead of the shipped one.

    Raises:
        ConfigError: If something is unknown, makes no sense, or is for another environment.
    """
    check_algorithm(algorithm)
    env = env.removeprefix("grpo_gym:")
    values = _shipped(algorithm, env, env_kwargs) if file is None else load_yaml(file)
    source = file or f"shipped settings of {algorithm} for {env}"
    settings = _read(algorithm, {"env": env, **(values or _DEFAULTS.get(algorithm, {}))}, source)
    exact = settings.env_kwargs.get("preset") == env_kwargs.get("preset")
    if settings.env != env or not (exact or file is None):
        raise ConfigError(
            f"{source}: it must be for {env} with preset {env_kwargs.get('preset')}, got "
            f"{settings.env} with {settings.env_kwargs.get('preset')}: --env and --env-kwargs "
            "preset=... say what is compared"
        )
    settings = replace(
        settings,
        env_kwargs={**(settings.env_kwargs if exact else {}), **env_kwargs},
        training_env_kwargs=settings.training_env_kwargs if exact else {},
    )
    searched = True
    if isinstance(settings, PeerSettings):
        searched = settings.tuned
        keyword_arguments(settings)
    tuned = bool(values) and exact and searched
    return Contender(algorithm=algorithm, settings=settings, tuned=tuned)


def keyword_arguments(settings: PeerSettings) -> dict[str, Any]:
    """All keyword arguments of the algorithm's class, its defaults among them.

    Raises:
        ConfigError: If one is unknown or makes no sense, or minibatches do not divide a rollout.
    """
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(
            algorithm_class(settings.algorithm)
        ).parameters.items()
        if name not in _OURS_TO_SET
    }
    for name in settings.settings:
        if name not in known:
            raise ConfigError(
                f"settings[{name!r}] is not an argument of {PEERS[settings.algorithm][1]}."
                f"{suggest(str(name), known)}"
            )
    values = {**known, **settings.settings}
    checked = {name: _checked(name, value, known[name]) for name, value in values.items()}
    rollout = settings.num_envs * checked["n_steps"]
    batch_size = checked.get("batch_size", rollout)
    if rollout < 2 or rollout % batch_size:
        raise ConfigError(
            f"settings['batch_size'] must divide num_envs * n_steps = {rollout}, got {batch_size}: "
            "the last minibatch would be smaller"
        )
    return checked


def algorithm_class(algorithm: str) -> Any:
    """The class of a peer.

    Raises:
        ConfigError: If it is unknown or not installed.
    """
    check_algorithm(algorithm)
    package, name = PEERS[algorithm]
    return getattr(import_module(package), name)


def describe(settings: Settings) -> dict[str, Any]:
    """All that decides what is trained, but for the seed and the number of steps."""
    if isinstance(settings, PeerSettings):
        values = to_mapping(replace(settings, settings=keyword_arguments(settings)))
        left_out = {"env", "algorithm", "tuned", *_unused_fields(settings)}
        return {name: value for name, value in values.items() if name not in left_out}
    values = to_mapping(settings)
    values["grpo"].pop("seed")
    names = ("env_kwargs", "training_env_kwargs", "policy", "grpo")
    return {name: values[name] for name in names}


def _shipped(algorithm: str, env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings for an environment and its preset; empty if there are none.

    Ours are those for short trainings where there are such, and else those of every training.
    """
    name = env.replace("/", "-").replace(":", "-")
    preset = env_kwargs.get("preset")
    exact = name if preset is None else f"{name}-{preset}"
    folder = files("grpo_gym.configs") / "comparison" / algorithm
    for candidate in (exact,) if algorithm == "grpo" else (exact, name):
        entry = folder / f"{candidate}.yaml"
        if entry.is_file():
            with as_file(entry) as path:
                return load_yaml(path)
    return default_config(env, env_kwargs) if algorithm == "grpo" else {}


def _read(algorithm: str, values: Mapping[str, Any], source: str) -> Settings:
    if algorithm != "grpo":
        peer = from_mapping(PeerSettings, {"algorithm": algorithm, **values}, source)
        if peer.algorithm != algorithm:
            raise ConfigError(f"{source}: algorithm must be {algorithm}, got {peer.algorithm}")
        return peer
    settings = from_mapping(TrainSettings, values, source)
    if settings.algo != "grpo":
        raise ConfigError(f"{source}: algo must be grpo, got {settings.algo}")
    return settings


def _checked(name: str, value: Any, default: Any) -> Any:
    """A keyword argument as the kind of its default, within its range."""
    kind: Any = float if default is None or name == "target_kl" else type(default)
    annotation: Any = Annotated[kind, _RANGES[name]] if name in _RANGES else kind
    optional = annotation | None if default is None else annotation
    return check_value(f"settings[{name!r}]", value, optional)


def _unused_fields(settings: PeerSettings) -> set[str]:
    """Fields that say nothing about this algorithm and policy."""
    mlp, board = {"hidden_sizes", "activation"}, {"channels", "blocks"}
    unused = board if settings.policy == "mlp" else mlp
    return unused if settings.algorithm == "recurrent_ppo" else {*unused, "lstm_width"}
