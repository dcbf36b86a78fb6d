"""GRPO from single decisions, compiled: the mathematics of a linear softmax policy.

One weight vector w (F,) scores one row of features per action, x (A, F): pi = softmax(x w). The
gradient of the expected reward is a sum over pairs of actions,
    grad J = sum over a < c of pi_a pi_c (R_a - R_c) (x_a - x_c),
so a group of K actions contributes its pairs, and the group's mean reward cancels.

Shapes: A actions, F weights, K members of a group. Kernels write only to their arguments and
allocate nothing.
"""

import math
from typing import NamedTuple

import numpy as np

from grpo_gym.envs.kernels import inlined
from grpo_gym.envs.randomness import uniform


class LearningRule(NamedTuple):
    """The settings that kernels read; see `OnlineConfig`. A limit may be infinite."""

    learning_rate: float
    exploration: float
    weight_limit: float
    step_limit: float
    importance_weights: bool


class PolicyArrays(NamedTuple):
    """The weights of a policy, and the decision it is making.

    Attributes:
        weights: w, shape (F,), float64.
        features: x, shape (A, F), float64.
        pi: The policy, shape (A,), float64.
        mixed: Probabilities of the first draw: `pi` mixed with the uniform distribution, shape
            (A,), float64, all above 0.
        group: Actions in the order of drawing, shape (K,), int64; the first one is executed.
        rewards: Rewards of the group, shape (K,), float64.
        completion: Written by `complete_groups`, shape (2^K,), float64.
        gradient: Written by `estimate_gradient`, shape (F,), float64.
    """

    weights: np.ndarray
    features: np.ndarray
    pi: np.ndarray
    mixed: np.ndarray
    group: np.ndarray
    rewards: np.ndarray
    completion: np.ndarray
    gradient: np.ndarray


@inlined
def softmax_policy(arrays: PolicyArrays) -> None:
    """Write pi = softmax(x w)."""
    weights, features, pi = arrays.weights, arrays.features, arrays.pi
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
def sample_group(arrays: PolicyArrays, key: np.uint64, first: int) -> None:
    """Draw a group of distinct actions one by one, each from `mixed` over the actions left.

    Uses K random numbers of the stream `key`, from index `first` on.
    """
    mixed, group = arrays.mixed, arrays.group
    drawn = 0
    left = 1.0
    for k in range(group.shape[0]):
        coin = uniform(key, first + k) * left
        for a in range(mixed.shape[0]):
            if not (drawn >> a) & 1:
                group[k] = a  # stays the last action left if rounding keeps the coin above zero
                coin -= mixed[a]
                if coin <= 0.0:
                    break
        drawn |= 1 << group[k]
        left -= mixed[group[k]]


@inlined
def complete_groups(arrays: PolicyArrays) -> None:
    """Write the probability that the rest of the group follows a part of it, in any order.

    `completion` is indexed by the set of members drawn so far (bit k: member k), so entry 0 is
    the probability of the whole group.
    """
    mixed, group, completion = arrays.mixed, arrays.group, arrays.completion
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
def estimate_gradient(arrays: PolicyArrays, importance_weights: bool) -> None:
    """Write an unbiased estimate of the gradient of the policy's expected reward.

    A pair has weight pi_a pi_c P(group | the pair came first) / P(group). Without importance
    weights it has weight 1/K, which gives the sum of (R - group mean) grad log pi: the update of
    the tiny-grpo program.

    Source: the unordered set estimator of Murthy 1957 and Kool, van Hoof and Welling, ICLR 2020,
        here of a sum over pairs.
    """
    features, pi, group, rewards = arrays.features, arrays.pi, arrays.group, arrays.rewards
    size = group.shape[0]
    arrays.gradient[:] = 0.0
    for i in range(size):
        for j in range(i + 1, size):
            a, c = group[i], group[j]
            push = (rewards[i] - rewards[j]) / size
            if importance_weights:
                probability_ratio = arrays.completion[(1 << i) | (1 << j)] / arrays.completion[0]
                push *= size * pi[a] * pi[c] * probability_ratio
            for f in range(arrays.gradient.shape[0]):
                arrays.gradient[f] += push * (features[a, f] - features[c, f])


@inlined
def shrink_factor(values: np.ndarray, limit: float) -> float:
    """The factor that scales a vector down to a norm of `limit`; 1 if its norm is smaller."""
    square = 0.0
    for f in range(values.shape[0]):
        square += values[f] * values[f]
    return limit / math.sqrt(square) if square > limit * limit else 1.0


@inlined
def take_step(weights: np.ndarray, gradient: np.ndarray, rule: LearningRule) -> None:
    """Follow the gradient by a limited step, then project onto the ball of allowed weights."""
    rate = rule.learning_rate
    rate *= shrink_factor(gradient, rule.step_limit / rate)
    for f in range(weights.shape[0]):
        weights[f] += rate * gradient[f]
    factor = shrink_factor(weights, rule.weight_limit)
    for f in range(weights.shape[0]):
        weights[f] *= factor


@inlined
def choose(arrays: PolicyArrays, rule: LearningRule, key: np.uint64, decision: int) -> None:
    """Draw a group for `features`; `decision` selects the random numbers."""
    softmax_policy(arrays)
    actions = arrays.pi.shape[0]
    for a in range(actions):
        arrays.mixed[a] = (1.0 - rule.exploration) * arrays.pi[a] + rule.exploration / actions
    sample_group(arrays, key, decision * arrays.group.shape[0])


@inlined
def learn(arrays: PolicyArrays, rule: LearningRule) -> None:
    """Update the weights from the rewards of a group.

    `pi` is the policy of the present weights, whereas `mixed` may be that of an earlier policy:
    late rewards give an unbiased update, too.
    """
    complete_groups(arrays)
    estimate_gradient(arrays, rule.importance_weights)
    take_step(arrays.weights, arrays.gradient, rule)
