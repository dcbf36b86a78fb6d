"""The settings that ship: files of `configs/` by the names of tasks."""

from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Any

from grpo_gym.settings import load_yaml


def task_names(env: str, env_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names for files about a task: with its preset, if it has one, then without."""
    name = env.removeprefix("grpo_gym:").replace("/", "-").replace(":", "-")
    preset = env_kwargs.get("preset")
    return (name,) if preset is None else (f"{name}-{preset}", name)


def shipped_config(*names: str) -> dict[str, Any]:
    """The first of these files of `configs/` that exists; empty if none does."""
    for name in names:
        resource = files("grpo_gym.configs").joinpath(f"{name}.yaml")
        if resource.is_file():
            with as_file(resource) as path:
                return load_yaml(path)
    return {}


def default_config(env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings for an environment and its preset; empty if there are none."""
    return shipped_config(*task_names(env, env_kwargs))
