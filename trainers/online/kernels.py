"""GRPO one decision at a time, compiled: the mathematics.

A linear softmax policy has one weight vector w (F,) and one row of features an action, x (A, F):
pi = softmax(x w). The gradient of its expected reward is a sum over pairs of actions,
    grad J = sum over a < c of pi_a pi_c (R_a - R_c) (x_a - x_c),
so a group of K actions is worth its pairs, and the group's mean needs no place in it.

Shapes: A actions, F weights, K members of a group, B observations, D observed numbers. Kernels
allocate nothing: what they write into is the caller's.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.randomness import uniform

LEARNING = np.dtype(
    [
        ("learning_rate", "f8"),
        ("exploration", "f8"),
        ("weight_limit", "f8"),
        ("step_limit", "f8"),
        ("importance_weights", "?"),
        ("privileged", "?"),
        ("own_features", "?"),
    ]
)
"""What the kernels read of `OnlineConfig`, and how features are made; see `write_features`."""

# Features count doublings: base-2 logarithms, of which the observation is a share of the largest.
_DOUBLINGS = math.log2(1.0 + 10_000.0)


class Workspace(NamedTuple):
    """What one decision needs.

    Attributes:
        features: x, shape (A, F), float64.
        pi: The policy, shape (A,), float64.
        mixed: What actions are drawn from, shape (A,), float64.
        group: Actions in the order of drawing, shape (K,), int64; the first one is executed.
        rewards: Of the group, shape (K,), float64.
        completion: See `complete_groups`, shape (2^K,), float64.
        gradient: See `estimate_gradient`, shape (F,), float64.
    """

    features: np.ndarray
    pi: np.ndarray
    mixed: np.ndarray
    group: np.ndarray
    rewards: np.ndarray
    completion: np.ndarray
    gradient: np.ndarray


def make_workspace(actions: int, features: int, members: int) -> Workspace:
    """Room for decisions of these sizes."""
    return Workspace(
        np.zeros((actions, features)),
        np.zeros(actions),
        np.zeros(actions),
        np.zeros(members, np.int64),
        np.zeros(members),
        np.zeros(1 << members),
        np.zeros(features),
    )


@inlined
def softmax_policy(weights: np.ndarray, features: np.ndarray, pi: np.ndarray) -> None:
    """Write the policy, softmax(x w).

    Args:
        weights: w, shape (F,), float64.
        features: x, shape (A, F), float64.
        pi: Written, shape (A,), float64.
    """
    largest = -np.inf
    for a in range(features.shape[0]):
        logit = 0.0
        for f in range(features.shape[1]):
            logit += weights[f] * features[a, f]
        pi[a] = logit
        largest = max(largest, logit)
    total = 0.0
    for a in range(pi.shape[0]):
        pi[a] = math.exp(pi[a] - largest)
        total += pi[a]
    for a in range(pi.shape[0]):
        pi[a] /= total


@inlined
def mix_uniform(pi: np.ndarray, exploration: float, mixed: np.ndarray) -> None:
    """Write the policy mixed with the uniform distribution, of weight `exploration`; (A,)."""
    for a in range(pi.shape[0]):
        mixed[a] = (1.0 - exploration) * pi[a] + exploration / pi.shape[0]


@inlined
def sample_group(mixed: np.ndarray, key: np.uint64, first: int, group: np.ndarray) -> None:
    """Draw distinct actions one after another, each from `mixed` over those that are left.

    Args:
        mixed: Probabilities of the first draw, shape (A,), float64, all above 0.
        key: Stream of random numbers.
        first: Index in it of the first number used, of K.
        group: Written, shape (K,), int64, in the order of drawing.
    """
    drawn = 0
    left = 1.0
    for k in range(group.shape[0]):
        coin = uniform(key, first + k) * left
        for a in range(mixed.shape[0]):
            if not (drawn >> a) & 1:
                group[k] = a  # the last one left, should rounding leave the coin above zero
                coin -= mixed[a]
                if coin <= 0.0:
                    break
        drawn |= 1 << group[k]
        left -= mixed[group[k]]


@inlined
def complete_groups(mixed: np.ndarray, group: np.ndarray, completion: np.ndarray) -> None:
    """Write how probable it is that a part of a group is followed by the rest, in any order.

    Args:
        mixed: Probabilities of the first draw, shape (A,), float64.
        group: What was drawn, shape (K,), int64.
        completion: Written, shape (2^K,), float64, by the set of members that are there already
            (bit k: member k); at 0 the probability of the whole group.
    """
    whole = completion.shape[0] - 1
    completion[whole] = 1.0
    for part in range(whole - 1, -1, -1):
        left, following = 1.0, 0.0
        for k in range(group.shape[0]):
            if (part >> k) & 1:
                left -= mixed[group[k]]
            else:
                following += mixed[group[k]] * completion[part | (1 << k)]
        completion[part] = following / left


@inlined
def estimate_gradient(work: Workspace, importance_weights: bool) -> None:
    """Write an unbiased estimate of the gradient of the policy's expected reward.

    A pair counts pi_a pi_c P(group | the pair came first) / P(group). Without importance weights
    it counts 1/K, which is the sum of (R - group mean) grad log pi: the tiny-grpo program.

    Args:
        work: Its features, policy, group, rewards and `completion` are read.
        importance_weights: Whether to correct for how the group was sampled.

    Source: Murthy 1957 and Kool, van Hoof and Welling, ICLR 2020 (the unordered set estimator),
        here of a sum over pairs.
    """
    size = work.group.shape[0]
    work.gradient[:] = 0.0
    for i in range(size):
        for j in range(i + 1, size):
            a, c = work.group[i], work.group[j]
            push = (work.rewards[i] - work.rewards[j]) / size
            if importance_weights:
                probability_ratio = work.completion[(1 << i) | (1 << j)] / work.completion[0]
                push *= size * work.pi[a] * work.pi[c] * probability_ratio
            for f in range(work.gradient.shape[0]):
                work.gradient[f] += push * (work.features[a, f] - work.features[c, f])


@inlined
def shrink_factor(values: np.ndarray, limit: float) -> float:
    """What takes a vector to the nearest one whose norm is at most `limit`."""
    square = 0.0
    for f in range(values.shape[0]):
        square += values[f] * values[f]
    return limit / math.sqrt(square) if square > limit * limit else 1.0


@inlined
def take_step(weights: np.ndarray, gradient: np.ndarray, settings: Any) -> None:
    """Follow the gradient by a limited step, and stay inside the ball of allowed weights."""
    rate = settings.learning_rate
    rate *= shrink_factor(gradient, settings.step_limit / rate)
    for f in range(weights.shape[0]):
        weights[f] += rate * gradient[f]
    factor = shrink_factor(weights, settings.weight_limit)
    for f in range(weights.shape[0]):
        weights[f] *= factor


@inlined
def choose_one(
    weights: np.ndarray, work: Workspace, settings: Any, key: np.uint64, decision: int
) -> None:
    """Draw a group for the features that are there."""
    softmax_policy(weights, work.features, work.pi)
    mix_uniform(work.pi, settings.exploration, work.mixed)
    sample_group(work.mixed, key, decision * work.group.shape[0], work.group)


@inlined
def learn_one(weights: np.ndarray, work: Workspace, settings: Any) -> None:
    """Learn from one decision, whose group and rewards are there.

    `pi` is today's policy, even where `mixed` is that of an earlier moment: an answer that comes
    late corrects the policy as well as a prompt one.
    """
    complete_groups(work.mixed, work.group, work.completion)
    estimate_gradient(work, settings.importance_weights)
    take_step(weights, work.gradient, settings)


@kernel
def policy_kernel(weights: np.ndarray, work: Workspace) -> None:
    """See `softmax_policy`."""
    softmax_policy(weights, work.features, work.pi)


@kernel
def choose_kernel(
    weights: np.ndarray, work: Workspace, settings: np.ndarray, key: np.uint64, decision: int
) -> None:
    """See `choose_one`."""
    choose_one(weights, work, settings[0], key, decision)


@kernel
def learn_kernel(weights: np.ndarray, work: Workspace, settings: np.ndarray) -> None:
    """See `learn_one`; the policy is computed here."""
    softmax_policy(weights, work.features, work.pi)
    learn_one(weights, work, settings[0])


@inlined
def write_features(observation: np.ndarray, own_features: bool, features: np.ndarray) -> None:
    """Make each action's row of features from what is observed.

    With `own_features` these are the server's own entries, in doublings, so that all servers
    share their weights; entries that are the same for all actions cannot matter. Otherwise every
    action has weights of its own for the whole observation: it lies in the action's own block.

    Args:
        observation: Shape (D,), float32.
        own_features: Whether the observation lists features of each action in turn.
        features: Written, shape (A, F), float64, its other blocks left as they are: 0.
    """
    for a in range(features.shape[0]):
        if own_features:
            for f in range(features.shape[1]):
                features[a, f] = _DOUBLINGS * observation[a * features.shape[1] + f]
        else:
            for d in range(observation.shape[0]):
                features[a, a * observation.shape[0] + d] = observation[d]


@kernel
def features_kernel(observations: np.ndarray, own_features: bool, features: np.ndarray) -> None:
    """See `write_features`; observations of shape (B, D), features of shape (B, A, F)."""
    for b in range(observations.shape[0]):
        write_features(observations[b], own_features, features[b])
