"""Playing whole episodes of given seeds.

Episode i of an evaluation has seed `seed + i`, whichever policy plays and however many environments
run side by side, so any two policies are compared on the same episodes.

Shapes: E episodes, B environments, D features of a flattened observation, A choices.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch
from grpo_gym.rollouts.policy_inputs import features_of, masks_of
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.settings import ConfigError

MAX_ENVS = 128
"""Most environments that evaluations play side by side."""


class ActionFunction(Protocol):
    """Chooses actions for B environments: a trained policy or a baseline."""

    def __call__(
        self,
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        episode_start: np.ndarray,
        /,
    ) -> tuple[np.ndarray, Any]:
        """Choose one action for each environment.

        Args:
            observations: Flattened, shape (B, D), float32.
            masks: Legal actions, shape (B, A), bool, or None.
            state: The state that the last call returned; None at first.
            episode_start: Where an episode begins, shape (B,), bool.

        Returns:
            Actions, first axis B, and the state for the next call.
        """


@dataclass(frozen=True)
class Evaluation:
    """Results of E episodes.

    Attributes:
        seed: Seed of the first episode.
        returns: Undiscounted return of each episode, shape (E,), float64.
        lengths: Steps of each episode, shape (E,), int64.
        metrics: Per-episode means of the quantities that the environment reports, shape (E,).
    """

    seed: int
    returns: np.ndarray
    lengths: np.ndarray
    metrics: dict[str, np.ndarray]

    def __repr__(self) -> str:
        low, high = summarise(self.returns).ci95
        return (
            f"<Evaluation of {len(self.returns):,} episodes from seed {self.seed}: mean return "
            f"{self.mean_return:.6g}, 95 % from {low:.6g} to {high:.6g}>"
        )

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(self.returns.mean())

    def difference(self, other: "Evaluation") -> "Evaluation":
        """Each episode's result minus another policy's in the same episode.

        Its mean and its interval are those of the paired difference, whose error is smaller than
        that of either mean where both policies have the same luck in an episode.

        Args:
            other: The other policy's results in these episodes, of an environment with the same
                arguments.

        Raises:
            ConfigError: If these are other episodes.
        """
        own, others = ((each.seed, len(each.returns)) for each in (self, other))
        if own != others:
            raise ConfigError(
                f"other must be of the {own[1]} episodes from seed {own[0]}, got {others[1]} from "
                f"seed {others[0]}: evaluate both with the same episodes and seed"
            )
        with np.errstate(invalid="ignore", over="ignore"):
            metrics = {
                name: values - other.metrics[name]
                for name, values in self.metrics.items()
                if name in other.metrics
            }
            returns, lengths = self.returns - other.returns, self.lengths - other.lengths
        return Evaluation(self.seed, returns, lengths, metrics)

    def summary(self, exact: bool = False) -> dict[str, Any]:
        """Statistics as plain values: `return`, `length`, and `metrics` by name.

        Metrics are those of the episodes that reported them: `reported` counts these.

        Args:
            exact: Whether these are all possible episodes, so that the means have no error.
        """

        def plain(values: np.ndarray) -> dict[str, Any]:
            summary = asdict(summarise(values))
            if exact:
                summary |= {"sem": 0.0, "ci95": [summary["mean"]] * 2}
            return {name: _without_nan(value) for name, value in summary.items()}

        return {
            "return": plain(self.returns),
            "length": plain(self.lengths),
            "metrics": {name: plain(values) for name, values in self.metrics.items()},
            "reported": {
                name: int(np.isfinite(values).sum()) for name, values in self.metrics.items()
            },
        }


class Evaluable:
    """A trained model that can play its environment; a subclass says how in `_act`.

    Attributes:
        env_source: The environment: an id, a made one, or a function that makes one.
        env_kwargs: The environment's arguments.
        observation_space: Of one environment.
        action_space: Of one environment.
    """

    env_source: EnvSource
    env_kwargs: dict[str, Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def __init__(self, seed: int) -> None:
        """Derive the randomness of all samples from a seed."""
        self._seed = seed
        self._calls = itertools.count()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Choose an action, as Stable-Baselines3's models do.

        Args:
            observation: One observation or a batch of them, as the environment gives it.
            state: The state that the last call returned, None at first; a policy without a memory
                passes it through.
            episode_start: Where an episode begins, shape (B,), bool: earlier observations are
                forgotten there.
            deterministic: The most probable action instead of a sample.
            action_masks: Legal actions, shape (A,) or (B, A); sb3-contrib's name.

        Returns:
            An action, or a batch of actions, and the state for the next call.

        Raises:
            ConfigError: If the observation is not in the space or not finite, or a mask allows
                nothing.
            FloatingPointError: If the policy's outputs are not finite.
        """
        features, many = features_of(self.observation_space, observation)
        starts = None if episode_start is None else np.atleast_1d(episode_start).astype(np.bool_)
        masks = None
        if action_masks is not None:
            masks = masks_of(self.action_space, action_masks, len(features))
        generator = None if deterministic else self._rng(Stream.PREDICTION, next(self._calls))
        actions, state = self._act(features, masks, state, starts, generator)
        return (actions if many else actions[0]), state

    def action_function(self, deterministic: bool = True, seed: int = 0) -> ActionFunction:
        """The policy in the form that `evaluate` takes.

        Args:
            deterministic: Whether to take the most probable actions instead of samples.
            seed: Of the samples.
        """
        draws = itertools.count()

        def act(
            observations: np.ndarray, masks: np.ndarray | None, state: Any, start: np.ndarray
        ) -> tuple[np.ndarray, Any]:
            generator = None if deterministic else self._rng(Stream.EVALUATION, seed, next(draws))
            return self._act(observations, masks, state, start, generator)

        return act

    def evaluate(
        self,
        episodes: int = 100,
        *,
        seed: int = 1_000_000,
        deterministic: bool = True,
        warmup: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Play whole episodes of the model's environment.

        Args:
            episodes: Number of episodes.
            seed: Seed of the first; episode i has seed + i.
            deterministic: Whether to take the most probable actions instead of samples.
            warmup: First steps of each episode, which metrics leave out.
            env_kwargs: Replace the model's own.
        """
        kwargs = self.env_kwargs if env_kwargs is None else dict(env_kwargs)
        with closing(make_batch(self.env_source, kwargs, max(1, min(episodes, MAX_ENVS)))) as batch:
            action_function = self.action_function(deterministic, seed)
            return evaluate(action_function, batch, episodes, seed, warmup)

    def _act(
        self,
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        starts: np.ndarray | None,
        generator: np.random.Generator | None,
    ) -> tuple[np.ndarray, Any]:
        """Like an `ActionFunction`: samples by the generator, or the most probable actions."""
        raise NotImplementedError

    def _rng(self, stream: Stream, *key: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, stream, *key))


def evaluate(
    action_function: ActionFunction,
    batch: EnvBatch,
    episodes: int,
    seed: int,
    warmup: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Play episodes of consecutive seeds.

    Args:
        action_function: Chooses actions.
        batch: Environments to play in, any number of them.
        episodes: Number of episodes, E.
        seed: Seed of the first; episode i has seed + i.
        warmup: First steps of each episode, which metrics leave out.
        on_progress: Called with the number of finished episodes after each round.

    Raises:
        ConfigError: If a number is out of range, or an episode does not end.
        EnvError: If an environment fails, or returns what it must not.
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("warmup", warmup, 0)):
        if value < least:
            raise ConfigError(f"{name} must be >= {least}, got {value}")
    if seed + episodes > 2**63:
        raise ConfigError(f"seed must be at most 2^63 - {episodes} episodes, got {seed}")
    size = batch.num_envs
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(episodes))
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(episodes))
    for first in range(0, episodes, size):
        indices = first + np.arange(size)
        seeds = (seed + indices).tolist()
        for t, (alive, step) in enumerate(play(action_function, batch, seeds, indices < episodes)):
            returns[indices[alive]] += step.rewards[alive]
            lengths[indices[alive]] += 1
            with np.errstate(over="ignore", invalid="ignore"):  # such means are not reported
                for name, values in step.infos.items():
                    counted = alive & ~np.isnan(values) & (t >= warmup)
                    sums[name][indices[counted]] += values[counted]
                    counts[name][indices[counted]] += 1
        if on_progress is not None:
            on_progress(min(first + size, episodes))
    with np.errstate(invalid="ignore", over="ignore"):
        metrics = {name: sums[name] / counts[name] for name in sorted(sums)}
    return Evaluation(seed, returns, lengths, metrics)


def play(
    action_function: ActionFunction, batch: EnvBatch, seeds: Sequence[int], alive: np.ndarray
) -> Iterator[tuple[np.ndarray, BatchStep]]:
    """Play one episode, from its own seed, in each of the environments that are alive (B,).

    Yields:
        Which environments were stepped, shape (B,), bool, and the step.

    Raises:
        ConfigError: If an episode does not end.
    """
    observations, masks = batch.reset(seeds)
    state, start = None, np.ones(batch.num_envs, np.bool_)
    length = 0
    while alive.any():
        batch.check_ending(length)
        actions, state = action_function(observations, masks, state, start)
        step = batch.step(actions, alive)
        yield alive, step
        alive = alive & ~(step.terminated | step.truncated)
        observations, masks = step.observations, step.action_masks
        start = np.zeros(batch.num_envs, np.bool_)
        length += 1


def described(model: Evaluable) -> str:
    """A model's environment and its arguments, for a `repr`."""
    source = model.env_source
    if isinstance(source, gym.Env):
        source = str(source)
    elif not isinstance(source, str):
        source = getattr(source, "__name__", repr(source))
    return "".join([source, *(f", {name}={value!r}" for name, value in model.env_kwargs.items())])


def evaluate_policy(model: Any, **arguments: Any) -> Evaluation:
    """Evaluate a trained model; the same as `model.evaluate(...)`."""
    evaluation: Evaluation = model.evaluate(**arguments)
    return evaluation


def _without_nan(value: float | Sequence[float]) -> Any:
    """A number or a list of them for JSON, which has no NaN: None in its place."""
    if isinstance(value, Sequence):
        return [_without_nan(each) for each in value]
    return value if math.isfinite(value) else None
