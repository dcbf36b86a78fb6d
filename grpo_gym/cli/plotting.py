"""`evaluate --plot`: one episode as a figure, for environments that have figures."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from grpo_gym.cli.outputs import claim_output
from grpo_gym.evaluation.episodes import ActionFunction, play
from grpo_gym.registration import DESCRIPTORS, descriptor_of
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import ConfigError

FORMATS = ("png", "pdf", "svg")


def check_plot(path: Path) -> None:
    """Refuse a figure that cannot be drawn or written, before any work.

    Raises:
        ConfigError: If the file's format is unknown, matplotlib is missing, or the file cannot be
            written.
    """
    if _format(path) not in FORMATS:
        raise ConfigError(f"--plot must be a .png, .pdf or .svg file, got {path}")
    if find_spec("matplotlib") is None:
        raise ConfigError(
            f"--plot must come with matplotlib, got {path} without it: "
            'pip install "grpo-gym[compare]"'
        )
    claim_output(path, "--plot")


def draw_episode(
    players: Mapping[str, ActionFunction], env_id: str, batch: NativeBatch, seed: int, path: Path
) -> bytes:
    """Draw one episode as each of these policies plays it, as a file in the format of the path.

    The batch has one environment.

    Raises:
        ConfigError: If the environment has no figures.
    """
    figures = _figures(env_id)
    episodes = {name: record_episode(act, env_id, batch, seed) for name, act in players.items()}
    title = f"{env_id}: the episode of seed {seed}"
    content: bytes = figures.draw(episodes, batch.env.config, title, _format(path))
    return content


def record_episode(
    action_function: ActionFunction, env_id: str, batch: NativeBatch, seed: int
) -> list[Any]:
    """Play an episode and record each step in the form that the environment's figures take."""
    snapshot = _figures(env_id).snapshot
    alive = np.ones(1, np.bool_)
    return [snapshot(batch.env) for _ in play(action_function, batch, [seed], alive)]


def _figures(env_id: str) -> Any:
    """The module that draws an environment's episodes."""
    descriptor = descriptor_of(env_id)
    if descriptor is None or descriptor.figures is None:
        known = ", ".join(each.env_id for each in DESCRIPTORS if each.has_figures)
        raise ConfigError(f"--plot must come with one of {known}, got {env_id}")
    return descriptor.figures


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
