"""What a policy would earn, estimated from a log of other choices: off-policy evaluation.

Each row of the log is an observation x, an action a that was chosen with the known probability p,
and its reward r. With pi the policy to be estimated and w = pi(a | x) / p its importance weight:

    inverse propensity   mean(w r)                     no bias, large variance
    self-normalised      sum(w r) / sum(w)             small bias, within the range of rewards
    doubly robust        mean(sum_a pi(a | x) q(x, a) + w (r - q(x, a)))
                         no bias whatever the reward model q is; the better q, the less variance

q is a ridge regression for each action, fitted on other rows than it is used for. Intervals come
from a bootstrap of blocks of consecutive rows, as rewards of requests that follow each other are
correlated.

All of them take rows for independent rounds of a bandit: that an action changes the reward of its
own row only. Where it also changes what later rows see, such as queues, they are biased, by as
much as the policy would change those. See docs/how_to/deployment.md.

Source: Horvitz and Thompson (1952); Swaminathan and Joachims (2015, self-normalised); Dudik,
Langford and Li (2011, arXiv 1103.4601, doubly robust); Kish (1965, effective sample size);
Carlstein (1986, blocks). The library obp has the same estimators and needs torch, pandas,
scikit-learn and matplotlib; its newest wheel that installs is of 2021. On one log its numbers are
the same to fifteen digits.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from grpo_gym.deployment.shadow_log import LoggedRows
from grpo_gym.evaluation.statistics import bootstrap_interval
from grpo_gym.settings import ConfigError, Number, check_value

MinimumRows = Annotated[Number, Field(ge=30)]
"""With fewer, a resample of the bootstrap may have no weight at all."""
MINIMUM_EFFECTIVE_ROWS = 100.0
"""Effective sample size below which there is no estimate."""
_BLOCKS = 100
_FOLDS = 5
_RIDGE = 1.0
_WEIGHT_DEVIATIONS = 4.0
"""Standard errors that the mean weight may differ from 1, which it must be in expectation."""


@dataclass(frozen=True)
class Estimate:
    """A mean reward and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """What a log says of a policy."""

    rows: int
    """Rows of the log."""
    effective_rows: float
    """Kish's effective sample size: rows that would say as much if all weights were equal."""
    mean_weight: float
    """Mean importance weight; about 1 if the log has all actions that the policy takes."""
    logged: Estimate
    """Mean reward of what was done."""
    refusal: str
    """Why there is no estimate; empty if there is one."""
    inverse_propensity: Estimate | None
    self_normalised: Estimate | None
    doubly_robust: Estimate | None


def estimate(
    log: LoggedRows,
    policy: np.ndarray | None = None,
    minimum_effective_rows: float = MINIMUM_EFFECTIVE_ROWS,
) -> Estimates:
    """Estimate the mean reward of a policy.

    Args:
        log: n rows.
        policy: Its probabilities of all A actions, (n, A); None: those in the log.
        minimum_effective_rows: Effective sample size below which the answer is a refusal, >= 30.

    Raises:
        ConfigError: If no probabilities are known, they are of another shape, or the minimum is
            too small.
    """
    check_value("minimum_effective_rows", minimum_effective_rows, MinimumRows)
    policy = log.policy if policy is None else policy
    if policy is None:
        raise ConfigError(
            'the log must have the policy\'s probabilities, got rows without "policy": name a '
            "policy to ask"
        )
    if policy.shape[:1] != (len(log),) or log.actions.max() >= policy.shape[1]:
        raise ConfigError(
            f"policy must have {len(log)} rows and the actions 0 to {log.actions.max()}, got the "
            f"shape {policy.shape}"
        )
    rows = np.arange(len(log))
    weights = policy[rows, log.actions] / log.propensities
    total = float(weights.sum())
    effective = total**2 / float((weights**2).sum()) if total > 0.0 else 0.0
    blocks = _blocks(len(log))
    refusal = _refusal(weights, effective, minimum_effective_rows, blocks)
    rewards = log.rewards
    known = not refusal
    return Estimates(
        rows=len(log),
        effective_rows=effective,
        mean_weight=total / len(log),
        logged=_ratio(rewards, np.ones(len(log)), blocks),
        refusal=refusal,
        inverse_propensity=_ratio(weights * rewards, np.ones(len(log)), blocks) if known else None,
        self_normalised=_ratio(weights * rewards, weights, blocks) if known else None,
        doubly_robust=_doubly_robust(log, policy, weights, blocks) if known else None,
    )


def _refusal(weights: np.ndarray, effective: float, minimum: float, blocks: np.ndarray) -> str:
    rows = len(weights)
    if effective < minimum:
        return (
            f"not enough overlap: effective sample size {effective:.0f} of {rows:,} rows, at least "
            f"{minimum:g} needed. Log more rows, or more random choices"
        )
    mean = float(weights.mean())
    sums, sizes = np.bincount(blocks, weights), np.bincount(blocks)
    error = math.sqrt(float(np.square(sums - mean * sizes).sum())) / rows
    if abs(mean - 1.0) > _WEIGHT_DEVIATIONS * error + 0.01:
        return (
            f"not enough overlap: the weights' mean must be 1, got {mean:.3f} +- {error:.3f}. The "
            "log lacks actions that the policy takes, or its propensities are wrong: let all "
            "actions be chosen at random now and then"
        )
    return ""


def _doubly_robust(
    log: LoggedRows, policy: np.ndarray, weights: np.ndarray, blocks: np.ndarray
) -> Estimate:
    predicted = reward_model(log, policy.shape[1])
    taken = predicted[np.arange(len(log)), log.actions]
    terms = (policy * predicted).sum(axis=1) + weights * (log.rewards - taken)
    return _ratio(terms, np.ones(len(log)), blocks)


def reward_model(log: LoggedRows, actions: int) -> np.ndarray:
    """Expected rewards of every row and action, (n, A), fitted on other blocks than the row's."""
    predicted = np.empty((len(log), actions))
    features = np.ones((len(log), 1))
    if log.observations is not None:
        scale = log.observations.std(axis=0)
        usable = scale > 0.0
        centred = log.observations[:, usable] - log.observations[:, usable].mean(axis=0)
        features = np.hstack([features, centred / scale[usable]])
    folds = _blocks(len(log)) % _FOLDS
    for fold in range(_FOLDS):
        mine, others = folds == fold, folds != fold
        mean = log.rewards[others].mean() if others.any() else 0.0
        for action in range(actions):
            fitted = others & (log.actions == action)
            coefficients = _ridge(features[fitted], log.rewards[fitted] - mean)
            predicted[mine, action] = mean + features[mine] @ coefficients
    return predicted


def _ridge(features: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    penalty = _RIDGE * np.eye(features.shape[1])
    solved: np.ndarray = np.linalg.solve(features.T @ features + penalty, features.T @ rewards)
    return solved


def _blocks(rows: int) -> np.ndarray:
    """Number of each row's block of consecutive rows, (n,)."""
    return np.arange(rows) * min(_BLOCKS, rows) // rows


def _ratio(numerators: np.ndarray, denominators: np.ndarray, blocks: np.ndarray) -> Estimate:
    """Sum by sum of two columns, and its bootstrap over blocks of rows."""
    sums = np.stack([np.bincount(blocks, numerators), np.bincount(blocks, denominators)], axis=1)

    def ratio(resampled: np.ndarray) -> np.ndarray:
        total = resampled.sum(axis=-2)
        return np.asarray(total[..., 0] / total[..., 1])

    low, high = bootstrap_interval(sums, ratio)
    return Estimate(float(numerators.sum() / denominators.sum()), low, high)
