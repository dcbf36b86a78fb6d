"""The compiled training loop: a policy learns from each request that it routes.

Shapes: N servers, F weights, D observed numbers, T requests.
"""

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.dynamics import Memory, estimate
from grpo_gym.envs.load_balancer.online import estimated_reward, observe_features
from grpo_gym.envs.load_balancer.stepping import step_one
from grpo_gym.trainers.online.kernels import LearningRule, PolicyArrays, choose, learn


@kernel
def train_kernel(
    arrays: PolicyArrays,
    rule: LearningRule,
    key: np.uint64,
    decision: int,
    memory: Memory,
    privileged: bool,
    observations: np.ndarray,
    rewards: np.ndarray,
    policies: np.ndarray,
) -> None:
    """Choose, estimate, route and learn, once for each entry of `rewards`.

    Args:
        arrays: The policy.
        rule: How it learns.
        key: Stream of random numbers.
        decision: Number of decisions before, which selects the random numbers.
        memory: One load balancer with at least T requests left in its episode.
        privileged: Whether to read rewards of servers not chosen from the simulator.
        observations: Working memory, shape (1, D), float32.
        rewards: Output, shape (T,), float64: the rewards of executed actions.
        policies: Output, shape (T, N), float64: the policy at each decision; or empty.
    """
    memory = Memory(*memory)  # twice as fast as reading the arrays from the argument
    features = arrays.features.reshape((1, *arrays.features.shape))
    for t in range(rewards.shape[0]):
        observe_features(memory, observations, features)
        choose(arrays, rule, key, decision + t)
        if policies.shape[0]:
            for n in range(policies.shape[1]):
                policies[t, n] = arrays.pi[n]
        for k in range(1, arrays.group.shape[0]):
            server = arrays.group[k]
            if privileged:
                arrays.rewards[k], _ = estimate(memory, 0, server)
            else:
                arrays.rewards[k] = estimated_reward(memory, server)
        step_one(memory, 0, arrays.group[0])
        rewards[t] = arrays.rewards[0] = memory.outcomes[0].reward
        learn(arrays, rule)


def settled_at(policies: np.ndarray, begin: int, end: int) -> int:
    """The first decision, from `begin`, after which the most likely server is the same until `end`.

    `policies` is as `train_kernel` records it, shape (T, N); `end` is exclusive.
    """
    likeliest = policies[begin:end].argmax(axis=1)
    other = np.flatnonzero(likeliest != likeliest[-1])
    return begin + (int(other[-1]) + 1 if len(other) else 0)
