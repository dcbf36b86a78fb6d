"""Settings that a training of an environment of others takes from the task, unless they are given.

The rule, with L the limit of an episode's steps:

- An iteration that meets the limit takes a hundredth of the training's steps, and at least 12,800,
  or 4,000 with continuous actions, whose rewards are seldom sparse. Divided by L that makes B
  environments, between 8 and 128, in groups of 8, or of 16 from 32 on. Without a limit the groups
  stay as they are.
- If 8 environments leave fewer than 50 iterations, training episodes are cut so that there are 50,
  at 200 steps at least.
- Observations of up to 512 numbers are compared: baseline "auto", with GAE(0.95).
- Continuous actions get smaller and more steps of the optimiser: 8 epochs of minibatches of 128
  steps, and at least 4 of them, at a learning rate of 0.0007.

For our own environments the plain defaults are used, which were found on them. Imports no torch.
"""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from grpo_gym.registration import descriptor_of

_ITERATIONS = 100
_LEAST_STEPS, _LEAST_STEPS_CONTINUOUS = 12_800, 4000
_FEWEST_MEMBERS, _MOST_MEMBERS = 8, 128
_LARGER_GROUPS_FROM = 32
FEWEST_ITERATIONS = 50
"""Iterations with which a training gets somewhere."""
_SHORTEST_CUT = 200
_MOST_NUMBERS = 512
_RELATED: tuple[frozenset[str], ...] = (
    frozenset({"num_groups", "group_size"}),
    frozenset({"num_minibatches", "minibatch_size", "minibatches"}),
    frozenset({"baseline", "gae_lambda", "returns", "learned_baseline", "center", "refill_rounds"}),
)
"""Settings that are left alone together if one of them is given."""
_CONTINUOUS: dict[str, Any] = {
    "learning_rate": 7.0e-4,
    "epochs": 8,
    "num_minibatches": 4,
    "minibatch_size": 128,
}


@dataclass(frozen=True)
class Task:
    """What the settings depend on.

    Attributes:
        observation_size: Numbers of an observation as the network sees it, D.
        is_continuous: Whether actions are Box.
        longest_episode: Most steps of an episode, L; None if nothing limits it.
    """

    observation_size: int
    is_continuous: bool
    longest_episode: int | None


def task_of(env_id: str, env_kwargs: Mapping[str, Any]) -> Task | None:
    """The task of an environment by its id; None for ours, or if it cannot be made alone."""
    if descriptor_of(env_id) is not None:
        return None
    try:
        with closing(gym.make(env_id, **env_kwargs)) as env:
            size = spaces.flatdim(env.observation_space)
            limit = None if env.spec is None else env.spec.max_episode_steps
            return Task(size, isinstance(env.action_space, spaces.Box), limit)
    except Exception:  # an environment may raise anything; training will say what is wrong
        return None


def task_settings(task: Task, total_steps: int, given: Collection[str]) -> dict[str, Any]:
    """The settings of `GRPOConfig` that a task decides, without those that are given.

    Args:
        task: The task.
        total_steps: Environment steps of the training.
        given: Names of settings that the user, a file or a preset has set.
    """
    found: dict[str, Any] = {}
    if task.longest_episode is not None:
        least = _LEAST_STEPS_CONTINUOUS if task.is_continuous else _LEAST_STEPS
        steps = max(least, total_steps // _ITERATIONS)
        found.update(_sizes(task.longest_episode, steps, total_steps))
    if task.observation_size <= _MOST_NUMBERS:
        found.update(baseline="auto", gae_lambda=0.95)
    if task.is_continuous:
        found.update(_CONTINUOUS)
    for related in _RELATED:
        if not related.isdisjoint(given):
            found = {name: value for name, value in found.items() if name not in related}
    return {name: value for name, value in found.items() if name not in given}


def in_words(settings: Mapping[str, Any]) -> str:
    """One line for the user."""
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"settings from the task: {listed}"


def _sizes(longest: int, steps: int, total_steps: int) -> dict[str, Any]:
    members = min(max(steps // longest, _FEWEST_MEMBERS), _MOST_MEMBERS)
    group_size = 16 if members >= _LARGER_GROUPS_FROM else 8
    num_groups = members // group_size
    sizes: dict[str, Any] = {"num_groups": num_groups, "group_size": group_size}
    cut = max(total_steps // (FEWEST_ITERATIONS * _FEWEST_MEMBERS), _SHORTEST_CUT)
    if num_groups * group_size == _FEWEST_MEMBERS and cut < longest:
        sizes["max_episode_steps"] = cut
    return sizes
