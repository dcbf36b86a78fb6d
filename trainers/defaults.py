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
  steps, and at least 4 of them, at a learning rate of 0.0007. No epoch follows one whose KL
  divergence exceeds 0.02: without that bound Walker2d-v5 learned to walk, and then to stand.

For our own environments the plain defaults are used, which were found on them. Imports no torch.
"""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.vector_batch import VectorBatch

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
    "target_kl": 0.02,
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


def task_of(env: EnvSource, env_kwargs: Mapping[str, Any], frame_history: int) -> Task | None:
    """The task of an environment of others; None for ours.

    Args:
        env: What makes one.
        env_kwargs: Its arguments; only with an id.
        frame_history: Observations that the network sees at once, H.

    Raises:
        ConfigError: If the environment cannot be made.
    """
    with closing(make_batch(env, env_kwargs, 1)) as one:
        if isinstance(one, NativeBatch):
            return None
        return Task(
            frame_history * one.rows.num_features,
            isinstance(one.single_action_space, spaces.Box),
            # A vector environment keeps its number of environments.
            longest_episode(one) if isinstance(one, SeparateBatch) else None,
        )


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


def longest_episode(batch: EnvBatch) -> int | None:
    """Most steps of an episode, T; None if nothing limits it."""
    limits: list[int | None] = []
    if isinstance(batch, NativeBatch):
        env = batch.env.unwrapped
        descriptor = descriptor_of(batch.name)
        limits = [env.max_episode_steps]
        if descriptor is not None:
            limits.append(descriptor.episode_length(env.config))
    elif isinstance(batch, SeparateBatch):
        found = [layer for layer in batch.layers if isinstance(layer, TimeLimit)]
        limits = [layer._max_episode_steps for layer in found]
    elif isinstance(batch, VectorBatch):
        limits = [batch.max_episode_steps]
    return min((limit for limit in limits if limit is not None), default=None)


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
