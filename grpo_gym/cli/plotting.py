"""`evaluate --plot`: one episode as a figure, where an environment has figures."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.cli.failures import check_writable
from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.registration import DESCRIPTORS, descriptor_of
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.settings import ConfigError

FORMATS = ("png", "pdf", "svg")


def check_plot(path: Path) -> None:
    """Refuse a figure that cannot be drawn or written, before any work.

    Raises:
        ConfigError: If the file's format is unknown, matplotlib is missing, or it cannot be
            written.
    """
    if _format(path) not in FORMATS:
        raise ConfigError(f"--plot must be a .png, .pdf or .svg file, got {path}")
    if find_spec("matplotlib") is None:
        raise ConfigError(
            f"--plot must come with matplotlib, got {path} without it: "
            'pip install "grpo-gym[compare]"'
        )
    check_writable(path, "--plot")


def check_figures(env_id: str) -> None:
    """Refuse an environment that has no figures.

    Raises:
        ConfigError: If it has none.
    """
    if _figures(env_id) is None:
        known = ", ".join(each.env_id for each in DESCRIPTORS if each.figures_module is not None)
        raise ConfigError(f"--plot must come with one of {known}, got {env_id}")


def record_episode(
    action_function: ActionFunction, env_id: str, batch: EnvBatch, seed: int
) -> list[Any]:
    """Play an episode and note each step as the environment's figures show it.

    Args:
        action_function: Who plays.
        env_id: An environment that has figures.
        batch: One environment of that id.
        seed: Of the episode.
    """
    env: Any = getattr(batch, "env")  # noqa: B009 -- environments that have figures are native
    snapshot = _figures(env_id).snapshot
    observations, masks = batch.reset([seed])
    state: Any = None
    start, alive = np.ones(1, np.bool_), np.ones(1, np.bool_)
    steps = []
    while alive[0]:
        actions, state = action_function(observations, masks, state, start)
        step = batch.step(actions, alive)
        steps.append(snapshot(env))
        observations, masks = step.observations, step.action_masks
        alive = ~(step.terminated | step.truncated)
        start = np.zeros(1, np.bool_)
    return steps


def draw_episodes(
    episodes: Mapping[str, list[Any]], env_id: str, batch: EnvBatch, seed: int, path: Path
) -> bytes:
    """The figure's file.

    Args:
        episodes: What `record_episode` gave, by policy.
        env_id: The environment's id.
        batch: One environment of that id.
        seed: Of the episode.
        path: Tells the format.
    """
    config: Any = getattr(batch, "env").config  # noqa: B009 -- see record_episode
    title = f"{env_id}: the episode of seed {seed}"
    content: bytes = _figures(env_id).draw(episodes, config, title, _format(path))
    return content


def _figures(env_id: str) -> Any:
    descriptor = descriptor_of(env_id)
    return None if descriptor is None else descriptor.figures


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
