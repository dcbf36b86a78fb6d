"""The contenders of a comparison: algorithms with the settings that they train with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_gym.settings import ConfigError, from_mapping, load_yaml, to_mapping
from grpo_gym.trainers.comparison.settings import (
    OURS,
    SB3Settings,
    check_algorithm,
    keyword_arguments,
)
from grpo_gym.trainers.comparison.training import GRPOTraining, Training
from grpo_gym.trainers.settings import TrainSettings, settings_from_task
from grpo_gym.trainers.shipped import default_config, shipped_config, task_names

_DEFAULTS = {name: {"settings": {"n_steps": 128}} for name in ("ppo", "trpo", "maskable_ppo")}
"""Used without a file: 16 environments of 128 steps are Stable-Baselines3's own 2,048."""

Settings = TrainSettings | SB3Settings


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Settings of an algorithm, and whether they are tuned for the task."""

    settings: Settings
    tuned: bool
    from_task: Mapping[str, Any] = field(default_factory=dict)
    """Settings of GRPO that were taken from the task, because nothing else chose any."""

    @property
    def algorithm(self) -> str:
        """One of `ALGORITHMS`."""
        return OURS if isinstance(self.settings, TrainSettings) else self.settings.algorithm

    def trained_for(self, total_steps: int) -> "Contender":
        """The contender for so many steps: GRPO takes settings from the task if it is not tuned.

        Raises:
            ConfigError: If the environment cannot be made.
        """
        settings = self.settings
        if self.tuned or not isinstance(settings, TrainSettings):
            return self
        settings = replace(settings, total_steps=total_steps)
        found = settings_from_task(settings, ())
        grpo = replace(settings.grpo, **found)
        return replace(self, settings=replace(settings, grpo=grpo), from_task=found)

    def new_training(self, seed: int) -> Training:
        """The algorithm before training.

        Raises:
            ConfigError: If it cannot play the environment, or not with these settings.
        """
        if isinstance(self.settings, TrainSettings):
            return GRPOTraining(self.settings, seed)
        from grpo_gym.trainers.comparison.sb3_training import SB3Training  # of the extra `compare`

        return SB3Training(self.settings, seed)

    def describe(self) -> dict[str, Any]:
        """Everything that decides a training but its seed and number of steps, as plain values."""
        settings = self.settings
        if isinstance(settings, TrainSettings):
            values = to_mapping(settings)
            values["grpo"].pop("seed")
            keys = ("env_kwargs", "training_env_kwargs", "policy", "policy_kwargs", "grpo")
            return {key: values[key] for key in keys}
        values = to_mapping(replace(settings, settings=keyword_arguments(settings)))
        unused = {"env", "algorithm", "tuned"}
        if settings.policy != "mlp":
            unused |= {"hidden_sizes", "activation"}
        if settings.policy != "board":
            unused |= {"channels", "blocks"}
        if settings.algorithm != "recurrent_ppo":
            unused.add("lstm_width")
        return {key: value for key, value in values.items() if key not in unused}

    def completed(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """A stored description, with the defaults of settings that did not exist at its time."""
        settings = self.settings
        default: Settings
        if isinstance(settings, TrainSettings):
            default = TrainSettings(env=settings.env)
        else:
            default = SB3Settings(
                env=settings.env, algorithm=settings.algorithm, policy=settings.policy
            )
        return _filled(described, replace(self, settings=default).describe())


def find_contender(
    algorithm: str, env: str, env_kwargs: Mapping[str, Any], file: str | None = None
) -> Contender:
    """An algorithm with the settings of a file, with the shipped settings, or with defaults.

    Each of `env_kwargs` overrides the file's argument of that name; with another preset of the
    environment, the file's own arguments are ignored.

    Raises:
        ConfigError: If a setting is unknown or invalid, or the file is for another environment.
    """
    check_algorithm(algorithm)
    env = env.removeprefix("grpo_gym:")
    values = _shipped(algorithm, env, env_kwargs) if file is None else load_yaml(file)
    source = file or f"shipped settings of {algorithm} for {env}"
    settings = _read(algorithm, {"env": env, **(values or _DEFAULTS.get(algorithm, {}))}, source)
    own_preset, preset = settings.env_kwargs.get("preset"), env_kwargs.get("preset")
    same_task = own_preset == preset
    if settings.env != env or (file is not None and not same_task):
        raise ConfigError(
            f"{source} must be for {env} with preset {preset}, got {settings.env} with "
            f"{own_preset}: choose the task with --env and --env-kwargs preset=..."
        )
    settings = replace(
        settings,
        env_kwargs={**(settings.env_kwargs if same_task else {}), **env_kwargs},
        training_env_kwargs=settings.training_env_kwargs if same_task else {},
    )
    tuned = bool(values) and same_task
    if isinstance(settings, SB3Settings):
        keyword_arguments(settings)
        tuned = tuned and settings.tuned
    return Contender(settings=settings, tuned=tuned)


def _shipped(algorithm: str, env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings for an environment and its preset; empty if there are none."""
    names = [f"comparison/{algorithm}/{name}" for name in task_names(env, env_kwargs)]
    if algorithm != OURS:
        return shipped_config(*names)
    # For short trainings on exactly this task, or else for every training.
    return shipped_config(names[0]) or default_config(env, env_kwargs)


def _read(algorithm: str, values: Mapping[str, Any], source: str) -> Settings:
    settings: Settings
    if algorithm == OURS:
        settings = from_mapping(TrainSettings, values, source)
        found: str = settings.algo
    else:
        settings = from_mapping(SB3Settings, {"algorithm": algorithm, **values}, source)
        found = settings.algorithm
    if found != algorithm:
        raise ConfigError(f"{source}: algorithm must be {algorithm}, got {found}")
    return settings


def _filled(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**defaults, **stored}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(stored.get(name), Mapping):
            filled[name] = _filled(stored[name], value)
    return filled
