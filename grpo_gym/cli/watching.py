"""A policy at play in any environment that can be drawn: in a window, the terminal, or a file."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from grpo_gym.cli.displays import has_display
from grpo_gym.evaluation.episodes import ActionFunction, Evaluable, play
from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.named_policies import baseline_action_function

View = Literal["window", "terminal", "file"]
_MODES: dict[View, str] = {"window": "human", "terminal": "ansi", "file": "rgb_array"}
_WAYS = {
    "human": "a window (--show window)",
    "ansi": "the terminal (--show terminal)",
    "rgb_array": "a file (--record FILE)",
}


@dataclass(frozen=True)
class Watched:
    """An episode that was shown.

    Attributes:
        seed: Its seed.
        total: Its return, undiscounted, of the steps that were shown.
        steps: How many these were.
        is_over: Whether the episode ended with them.
    """

    seed: int
    total: float
    steps: int
    is_over: bool


def make_visible(
    env_id: str, kwargs: dict[str, Any], view: View | None
) -> tuple[gym.Env[Any, Any], View]:
    """Make an environment that can be seen.

    Args:
        env_id: Its id.
        kwargs: Its arguments.
        view: How to see it; None: in a window if there is a display, else in the terminal.

    Returns:
        The environment, and how it is seen.

    Raises:
        ConfigError: If it cannot be drawn like that.
    """
    plain = gym.make(env_id, disable_env_checker=True, **kwargs)
    modes = plain.metadata.get("render_modes") or []
    plain.close()
    if view is None:
        view = "window" if "human" in modes and has_display() else "terminal"
    elif view == "window" and "human" in modes and not has_display():
        raise ConfigError("--show window must come with a display, and there is none: see --record")
    mode = _MODES[view]
    if mode not in modes:
        ways = " or ".join(way for other, way in _WAYS.items() if other in modes)
        remedy = f"it can be drawn to {ways}" if ways else "it cannot be drawn at all"
        raise ConfigError(f"{env_id} cannot be drawn to {_WAYS[mode]}: {remedy}")
    return gym.make(env_id, render_mode=mode, disable_env_checker=True, **kwargs), view


def frames_per_second(env: gym.Env[Any, Any]) -> float:
    """How fast an environment is shown."""
    return float(env.metadata.get("render_fps") or 30.0)


def watch(
    env: gym.Env[Any, Any],
    act: ActionFunction,
    seeds: range,
    most_steps: int,
    show: Callable[[Any], None],
) -> Iterator[Watched]:
    """Play episodes, and show what the environment draws before each action and at the end.

    Args:
        env: Made with a render mode.
        act: Chooses actions.
        seeds: Of the episodes.
        most_steps: Steps of an episode at most.
        show: Takes what `render` returns; environments that draw into windows do so themselves.
    """
    batch = LoopBatch([env])

    def draw() -> None:
        if env.render_mode != "human":
            show(env.render())

    def draw_and_act(*inputs: Any) -> tuple[np.ndarray, Any]:
        draw()
        return act(*inputs)

    for seed in seeds:
        total, steps, is_over = 0.0, 0, False
        for _, step in play(draw_and_act, batch, [seed], np.ones(1, np.bool_)):
            total, steps = total + float(step.rewards[0]), steps + 1
            is_over = bool(step.terminated[0] or step.truncated[0])
            if steps == most_steps:
                break
        draw()
        yield Watched(seed, total, steps, is_over)


def action_function(
    policy: str,
    model: Evaluable | None,
    env_id: str,
    env: gym.Env[Any, Any],
    deterministic: bool,
    seed: int,
) -> ActionFunction:
    """The actions of a model, or of a baseline by its name, in one environment."""
    if model is not None:
        return model.action_function(deterministic, seed)
    descriptor = descriptor_of(env_id)
    if descriptor is None:
        return baseline_action_function(policy, env_id, LoopBatch([env]), seed)
    baseline = descriptor.baselines.make_baseline(policy, env)
    return lambda observations, masks, state, start: baseline.predict(observations, state, start)


def terminal(
    is_live: bool, per_second: float, write: Callable[[str], None]
) -> Callable[[Any], None]:
    """Shows text on the terminal, as fast as the environment is meant to be seen if it is live."""

    def show(frame: Any) -> None:
        write(frame if isinstance(frame, str) else str(frame))
        if is_live:
            time.sleep(1.0 / per_second)

    return show
