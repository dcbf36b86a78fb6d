"""Playing whole episodes on given seeds, and what they came to.

Episode i of an evaluation is that of seed `seed + i`, whoever plays it and however many
environments run side by side, so any two policies are compared on the same episodes.

Shapes: E episodes, B environments, D features.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from grpo_gym.evaluation.statistics import Summary, summarise
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.settings.config import ConfigError


class ActionFunction(Protocol):
    """Whoever chooses actions: a trained policy or a baseline."""

    def __call__(
        self,
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        episode_start: np.ndarray,
        /,
    ) -> tuple[np.ndarray, Any]:
        """Actions, first axis B, and the state for the next call.

        Args:
            observations: Flattened, shape (B, D), float32.
            masks: Legal actions, shape (B, A), bool, or None.
            state: What the last call returned; None at first.
            episode_start: Shape (B,), bool.
        """


@dataclass(frozen=True)
class Evaluation:
    """What E episodes came to.

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

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(self.returns.mean())

    def summary(self, exact: bool = False) -> dict[str, Any]:
        """Statistics as plain values: `return`, `length`, and `metrics` by name.

        Args:
            exact: Whether these are all episodes there are, so that the means have no error.
        """

        def plain(values: np.ndarray) -> dict[str, Any]:
            summary = summarise(values)
            if exact:
                summary = replace(summary, sem=0.0, ci95=(summary.mean, summary.mean))
            return _plain(summary)

        return {
            "return": plain(self.returns),
            "length": plain(self.lengths),
            "metrics": {name: plain(values) for name, values in self.metrics.items()},
        }


class Evaluable:
    """A trained model, whatever it learned with, that can play its environment.

    Attributes:
        env_source: The environment: an id, a made one, or a function that makes one.
        env_kwargs: The environment's arguments.
    """

    env_source: EnvSource
    env_kwargs: dict[str, Any]

    def action_function(self, deterministic: bool = True, seed: int = 0) -> ActionFunction:
        """The policy as `evaluate` takes it.

        Args:
            deterministic: The most probable actions instead of samples.
            seed: Decides samples.
        """
        raise NotImplementedError

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
            episodes: How many.
            seed: Seed of the first; episode i has seed + i.
            deterministic: The most probable actions instead of samples.
            warmup: First steps of each episode left out of the metrics.
            env_kwargs: Instead of the model's own.
        """
        kwargs = self.env_kwargs if env_kwargs is None else dict(env_kwargs)
        batch = make_batch(self.env_source, kwargs, max(1, min(episodes, 128)))
        try:
            return evaluate(
                self.action_function(deterministic, seed), batch, episodes, seed, warmup
            )
        finally:
            batch.close()


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
        batch: Environments to play in, as many as there are.
        episodes: How many, E.
        seed: Seed of the first.
        warmup: First steps of each episode that are left out of the metrics.
        on_progress: Called with the number of finished episodes after each round.

    Raises:
        ConfigError: If a number makes no sense, or an episode does not end.
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("warmup", warmup, 0)):
        if value < least:
            raise ConfigError(f"{name} must be >= {least}, got {value}")
    rounds = []
    for first in range(0, episodes, batch.num_envs):
        count = min(batch.num_envs, episodes - first)
        rounds.append(_play_round(action_function, batch, count, seed + first, warmup))
        if on_progress is not None:
            on_progress(first + count)
    names = sorted(set.union(*(set(metrics) for _, _, metrics in rounds)))
    return Evaluation(
        seed=seed,
        returns=np.concatenate([returns for returns, _, _ in rounds]),
        lengths=np.concatenate([lengths for _, lengths, _ in rounds]),
        metrics={
            name: np.concatenate([m.get(name, np.full(len(r), np.nan)) for r, _, m in rounds])
            for name in names
        },
    )


def evaluate_policy(model: Any, **arguments: Any) -> Evaluation:
    """Evaluate a trained model; the same as `model.evaluate(...)`."""
    evaluation: Evaluation = model.evaluate(**arguments)
    return evaluation


def _play_round(
    action_function: ActionFunction, batch: EnvBatch, count: int, seed: int, warmup: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """One episode in each of the first `count` environments: returns, lengths, metrics."""
    observations, masks = batch.reset(range(seed, seed + batch.num_envs))
    alive = np.arange(batch.num_envs) < count
    returns = np.zeros(batch.num_envs)
    lengths = np.zeros(batch.num_envs, np.int64)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    state: Any = None
    start = np.ones(batch.num_envs, np.bool_)
    while alive.any():
        batch.check_ending(int(lengths.max()))
        actions, state = action_function(observations, masks, state, start)
        step = batch.step(actions, alive)
        returns += np.where(alive, step.rewards, 0.0)
        lengths += alive
        for name, values in step.infos.items():
            counted = alive & np.isfinite(values) & (lengths > warmup)
            if name not in sums:
                sums[name], counts[name] = np.zeros(batch.num_envs), np.zeros(batch.num_envs)
            sums[name] += np.where(counted, values, 0.0)
            counts[name] += counted
        alive = alive & ~(step.terminated | step.truncated)
        observations, masks = step.observations, step.action_masks
        start = np.zeros(batch.num_envs, np.bool_)
    with np.errstate(invalid="ignore"):
        metrics = {name: (sums[name] / counts[name])[:count] for name in sums}
    return returns[:count], lengths[:count], metrics


def _plain(summary: Summary) -> dict[str, Any]:
    values = {
        name: [_number(v) for v in value] if isinstance(value, tuple) else _number(value)
        for name, value in asdict(summary).items()
    }
    return values


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
