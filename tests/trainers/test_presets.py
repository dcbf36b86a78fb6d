"""Each preset's loss and gradient against its paper's formula in plain Python, and a short run.

The reference knows numbers and lists only: a policy is a table of scores by state and action.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.policies.network import Policy
from grpo_gym.policies.options import PolicyOptions
from grpo_gym.rollouts.rollout import Episodes, GroupedRollout
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.batch import training_batch
from grpo_gym.trainers.learning.estimate import estimate_advantages
from grpo_gym.trainers.learning.loss import policy_loss
from grpo_gym.trainers.presets import PRESETS, make_config
from probe_envs import Recall

Table = list[list[float]]
Episode = list[tuple[int, int, float]]
"""State, action and reward of each step."""
Numbers = list[list[list[float]]]
"""By group, member, step."""

GROUPS: list[list[Episode]] = [
    [[(0, 1, 1.0), (1, 0, 0.0), (0, 2, 2.0)], [(0, 0, 0.5)], [(0, 2, 0.0), (1, 1, 1.0)]],
    [
        [(1, 0, 0.0), (2, 2, -1.0)],
        [(1, 1, 1.0), (2, 0, 2.0), (0, 0, 0.0)],
        [(1, 2, 0.5), (0, 1, 0.5), (2, 1, 4.0)],
    ],
    [[(0, a, 1.0), (1, 2, 1.0)] for a in range(3)],  # nothing to compare
]
OLD: Table = [[0.1, -0.3, 0.4], [0.5, 0.0, -0.2], [-0.4, 0.3, 0.2]]
NEW: Table = [[0.9, -0.6, 0.1], [0.2, 0.6, -0.3], [-1.1, 0.6, 0.2]]
REFERENCE: Table = [[0.3, 0.2, -0.1], [0.0, 0.4, -0.7], [0.2, -0.3, 0.6]]


# What all variants are made of


def log_pi(table: Table, state: int, action: int) -> float:
    return table[state][action] - math.log(sum(math.exp(score) for score in table[state]))


def ratio_of(new: Table, step: tuple[int, int, float]) -> float:
    return math.exp(log_pi(new, *step[:2]) - log_pi(OLD, *step[:2]))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def std(values: list[float]) -> float:
    return mean([(v - mean(values)) ** 2 for v in values]) ** 0.5


def outcomes(group: list[Episode]) -> list[float]:
    return [sum(reward for _, _, reward in episode) for episode in group]


def to_go(episode: Episode, discount: float) -> list[float]:
    return [
        sum(discount ** (s - t) * episode[s][2] for s in range(t, len(episode)))
        for t in range(len(episode))
    ]


def spread(values: list[list[float]]) -> Numbers:
    """One number a member, for each of its steps."""
    return [
        [[v] * len(e) for v, e in zip(vs, group, strict=True)]
        for vs, group in zip(values, GROUPS, strict=True)
    ]


def normalised() -> Numbers:
    return spread(
        [[(r - mean(outcomes(g))) / (std(outcomes(g)) + 1e-8) for r in outcomes(g)] for g in GROUPS]
    )


def centred() -> Numbers:
    return spread([[r - mean(outcomes(g)) for r in outcomes(g)] for g in GROUPS])


def leave_one_out() -> Numbers:
    rows = []
    for group in GROUPS:
        r = outcomes(group)
        rows.append([r[k] - mean(r[:k] + r[k + 1 :]) for k in range(len(r))])
    return spread(rows)


def divided(advantages: Numbers, deviation: float) -> Numbers:
    return [[[a / deviation for a in row] for row in rows] for rows in advantages]


def over_batch_of_members(advantages: Numbers) -> Numbers:
    return divided(advantages, std([row[0] for rows in advantages for row in rows]))


def over_batch_of_steps(advantages: Numbers) -> Numbers:
    squares = [a * a for rows in advantages for row in rows for a in row]
    return divided(advantages, mean(squares) ** 0.5)


def time_steps(statistic: Callable[[list[float]], float], alive: bool) -> Numbers:
    """Returns minus the group's mean at the same time, divided by the living's statistic of that.

    Unless only the living count (`alive`), the mean of all living members of the batch stands in
    for a member that has ended.
    """
    returns = [[to_go(episode, 0.99) for episode in group] for group in GROUPS]
    result = []
    for group in returns:
        rows: list[list[float]] = [[] for _ in group]
        for t in range(max(map(len, group))):
            living = [row[t] for row in group if t < len(row)]
            typical = mean([row[t] for rows in returns for row in rows if t < len(row)])
            ended = [] if alive else [typical] * (len(group) - len(living))
            baseline = mean(living + ended)
            divisor = statistic([value - baseline for value in living])
            for row, of_member in zip(group, rows, strict=True):
                if t < len(row):
                    of_member.append((row[t] - baseline) / divisor)
        result.append(rows)
    return result


def one(_: list[float]) -> float:
    return 1.0


def root_mean_square(values: list[float]) -> float:
    return mean([value**2 for value in values]) ** 0.5 + 1e-8


def whitened() -> Numbers:
    returns = [[to_go(episode, 0.99) for episode in group] for group in GROUPS]
    flat = [v for rows in returns for row in rows for v in row]
    return [[[(v - mean(flat)) / std(flat) for v in row] for row in rows] for rows in returns]


def with_anchors() -> Numbers:
    result = normalised()
    for g, group in enumerate(GROUPS):
        visits: dict[int, list[float]] = {}
        for episode in group:
            for (state, _, _), value in zip(episode, to_go(episode, 0.95), strict=True):
                visits.setdefault(state, []).append(value)
        for k, episode in enumerate(group):
            for t, (state, _, _) in enumerate(episode):
                seen = visits[state]
                deviation = std(seen) + 1e-8
                result[g][k][t] += (to_go(episode, 0.95)[t] - mean(seen)) / deviation
    return result


# The surrogates, of one step


def clip(low: float, high: float) -> Callable[[float, float], float]:
    return lambda rho, a: min(rho * a, min(max(rho, low), high) * a)


def k3(new: Table, step: tuple[int, int, float]) -> float:
    d = log_pi(new, *step[:2]) - log_pi(REFERENCE, *step[:2])
    return math.exp(-d) + d - 1.0


# How steps are added up


def total(
    term: Callable[[int, int, int], float], weight: str, groups: tuple[int, ...] = (0, 1)
) -> float:
    """Weighted sum of term(group, member, step) over the groups that take part."""
    steps = sum(len(e) for g in groups for e in GROUPS[g])
    members = sum(len(GROUPS[g]) for g in groups)
    longest = max(len(e) for group in GROUPS for e in group)
    result = 0.0
    for g in groups:
        in_group = sum(len(e) for e in GROUPS[g])
        for k, episode in enumerate(GROUPS[g]):
            share = {
                "step": 1.0 / steps,
                "sequence": 1.0 / (members * len(episode)),
                "group": 1.0 / (len(groups) * in_group),
                "constant": 1.0 / (members * longest),
            }[weight]
            result += share * sum(term(g, k, t) for t in range(len(episode)))
    return result


def per_step_ratio(
    advantages: Numbers, surrogate: Callable[[float, float], float], weight: str, **options: Any
) -> Callable[[Table, Table], float]:
    def loss(new: Table, _: Table) -> float:
        def term(g: int, k: int, t: int) -> float:
            return surrogate(ratio_of(new, GROUPS[g][k][t]), advantages[g][k][t])

        return -total(term, weight, **options)

    return loss


def grpo(new: Table, _: Table) -> float:
    advantages, clipped = normalised(), clip(0.8, 1.2)

    def term(g: int, k: int, t: int) -> float:
        step = GROUPS[g][k][t]
        return clipped(ratio_of(new, step), advantages[g][k][t]) - 0.04 * k3(new, step)

    return -total(term, "sequence")


def rloo(new: Table, _: Table) -> float:
    advantages = leave_one_out()
    return -total(lambda g, k, t: advantages[g][k][t] * log_pi(new, *GROUPS[g][k][t][:2]), "step")


def chapter(new: Table, _: Table) -> float:
    """Per time step; with the exact KL(new, old) and the exact entropy of each state."""
    advantages = time_steps(root_mean_square, alive=False)
    clipped = clip(0.8, 1.2)

    def term(g: int, k: int, t: int) -> float:
        step = GROUPS[g][k][t]
        logs = [(log_pi(new, step[0], a), log_pi(OLD, step[0], a)) for a in range(3)]
        divergence = sum(math.exp(mine) * (mine - old) for mine, old in logs)
        entropy = -sum(math.exp(mine) * mine for mine, _ in logs)
        surrogate = clipped(ratio_of(new, step), advantages[g][k][t])
        return surrogate - 0.1 * divergence + 0.01 * entropy

    return -total(term, "step")


def gspo(new: Table, _: Table) -> float:
    advantages, clipped = normalised(), clip(1.0 - 3e-4, 1.0 + 4e-4)

    def term(g: int, k: int, t: int) -> float:
        rho = math.prod(ratio_of(new, step) for step in GROUPS[g][k]) ** (1 / len(GROUPS[g][k]))
        return clipped(rho, advantages[g][k][t])

    return -total(term, "sequence")


def tic(new: Table, _: Table) -> float:
    advantages = normalised()

    def term(g: int, k: int, t: int) -> float:
        rho = math.prod(ratio_of(new, step) for step in GROUPS[g][k])
        return min(rho, 1.2) * advantages[g][k][t]

    return -total(term, "sequence")


def cispo(new: Table, frozen: Table) -> float:
    advantages = normalised()

    def term(g: int, k: int, t: int) -> float:
        step = GROUPS[g][k][t]
        return min(ratio_of(frozen, step), 1.28) * advantages[g][k][t] * log_pi(new, *step[:2])

    return -total(term, "step")


def default_advantages() -> Numbers:
    return over_batch_of_steps(time_steps(one, alive=False))


def unclipped(rho: float, a: float) -> float:
    return rho * a


LOSSES: dict[str, Callable[[Table, Table], float]] = {
    "default": per_step_ratio(default_advantages(), clip(0.8, 1.28), "step"),
    "grpo": grpo,
    "dr_grpo": per_step_ratio(centred(), clip(0.8, 1.2), "constant"),
    "rloo": rloo,
    "loop": per_step_ratio(leave_one_out(), clip(1 / 1.1, 1.1), "step"),
    "dapo": per_step_ratio(normalised(), clip(0.8, 1.28), "step"),
    "magistral": per_step_ratio(over_batch_of_members(centred()), clip(0.8, 1.28), "group"),
    "lite_ppo": per_step_ratio(over_batch_of_members(centred()), clip(0.8, 1.2), "step"),
    "reinforce_pp": per_step_ratio(whitened(), clip(0.8, 1.2), "step", groups=(0, 1, 2)),
    "gspo": gspo,
    "tic": tic,
    "cispo": cispo,
    "gpg_time": per_step_ratio(time_steps(one, alive=True), clip(0.8, 1.2), "step"),
    "gr2po": per_step_ratio(
        time_steps(root_mean_square, alive=False),
        clip(0.8, 1.2),
        "step",
    ),
    "gigpo": per_step_ratio(with_anchors(), clip(0.8, 1.2), "step"),
    "vine": per_step_ratio(default_advantages(), clip(0.8, 1.28), "step"),
    "trust_region": per_step_ratio(default_advantages(), unclipped, "step"),
    "chapter": chapter,
}


def slope(loss: Callable[[Table, Table], float], new: Table) -> torch.Tensor:
    """Central differences in every score; what is held constant stays where `new` was."""
    result = torch.zeros(3, 3, dtype=torch.float64)
    for s in range(3):
        for a in range(3):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [list(row) for row in new]
                moved[s][a] += step
                ends.append(loss(moved, new))
            result[s, a] = (ends[0] - ends[1]) / 2e-6
    return result


# The same through our functions


def tabular(table: Table) -> Policy:
    """A linear policy on one-hot states with these scores."""
    space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
    options = PolicyOptions(normalise_observations=False)
    policy = Policy(space, gym.spaces.Discrete(3), options).double()
    layer: Any = policy.network[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(table, dtype=torch.float64).T)
    return policy


def as_rollout() -> GroupedRollout:
    shape = (3, 3, 3)
    observations = torch.zeros(*shape, 3, dtype=torch.float64)
    actions = torch.zeros(*shape, 1, dtype=torch.int64)
    rewards = torch.zeros(shape, dtype=torch.float64)
    alive = torch.zeros(shape, dtype=torch.bool)
    for g, group in enumerate(GROUPS):
        for k, episode in enumerate(group):
            for t, (state, action, reward) in enumerate(episode):
                observations[t, g, k, state] = 1.0
                actions[t, g, k, 0] = action
                rewards[t, g, k] = reward
                alive[t, g, k] = True
    policy = tabular(OLD)
    with torch.no_grad():
        outputs = policy(observations)
        log_probs = policy.distribution(outputs).log_prob(actions)
    nothing = torch.zeros(0)
    episodes = Episodes(nothing, nothing, nothing)
    return GroupedRollout(
        observations, actions, log_probs, outputs, rewards, alive, alive, None, episodes, {}, {},
        torch.zeros(rewards.shape[1], dtype=torch.int64),
    )  # fmt: skip


def estimate(rollout: GroupedRollout, config: GRPOConfig) -> torch.Tensor:
    return estimate_advantages(rollout, config, config.discount, rollout.observations).advantages


def ours(config: GRPOConfig, table: Table) -> tuple[float, torch.Tensor]:
    """Loss and its gradient in the scores."""
    rollout, policy = as_rollout(), tabular(table)
    advantages = estimate(rollout, config)
    batch = training_batch(rollout, advantages, config)
    if config.update == "trust_region":
        config = replace(config, objective="unclipped")  # as the trust region does
    reference = None if config.kl_reference == "collection" else tabular(REFERENCE)
    loss = policy_loss(policy, batch, reference, config).total
    loss.backward()
    layer: Any = policy.network[0]
    return float(loss.detach()), layer.weight.grad.T


@pytest.mark.parametrize("table", [OLD, NEW], ids=["ratio 1", "moved"])
@pytest.mark.parametrize("preset", PRESETS)
def test_loss_and_gradient_are_those_of_the_paper(preset: str, table: Table) -> None:
    value, gradient = ours(make_config(preset), table)
    assert value == pytest.approx(LOSSES[preset](table, table), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, slope(LOSSES[preset], table), atol=2e-6, rtol=1e-4)
    assert float(gradient.abs().max()) > 1e-3


def test_the_two_cases_tell_the_formulas_apart() -> None:
    """Else agreement would show little: every pair differs, but for what differs elsewhere."""
    found = {name: ours(make_config(name), NEW) for name in PRESETS}
    alike = {
        (a, b)
        for a in found
        for b in found
        if a < b and torch.allclose(found[a][1], found[b][1], rtol=1e-3)
    }
    assert alike == {("default", "vine")}
    ratios = [ratio_of(NEW, step) for group in GROUPS for episode in group for step in episode]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.28


def test_small_advantages_are_dropped_by_loop() -> None:
    """The middle member's return is its group's mean, so that only the others count."""
    config = make_config("loop")
    rollout = as_rollout()
    rewards = rollout.rewards.clone()
    rewards[:, 0] = 0.0
    rewards[0, 0] = torch.tensor([3.0, 2.0, 1.004], dtype=torch.float64)
    changed = replace(rollout, rewards=rewards)
    advantages = estimate(changed, config)
    batch = training_batch(changed, advantages, config)
    assert len(batch) == 3 + 2 + 8  # the member of one step is left out: -0.002
    assert float(batch.weights.sum()) == pytest.approx(1.0)


# Short runs

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "CartPole-v1": (
        "CartPole-v1",
        {"max_episode_steps": 60, "branch_every": 15, "branch_lookahead": 25},
    ),
    "probe": (Recall, {"branch_every": 2}),
}


@pytest.mark.parametrize("world", RUNS)
@pytest.mark.parametrize("preset", PRESETS)
def test_two_iterations(preset: str, world: str) -> None:
    env, options = RUNS[world]
    model = GRPO("mlp", env, preset=preset, **SMALL, **options)
    digests = {model.weights_sha256()}
    for _ in range(2):
        stats = model.train_iteration()
        assert stats.update is not None
        values = [stats.update.loss, stats.update.kl, stats.update.gradient_norm]
        assert all(map(math.isfinite, values))
        digests.add(model.weights_sha256())
    assert len(digests) == 3
    assert all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())


def test_an_unknown_preset_suggests_the_nearest() -> None:
    for name, wanted in (("reinforce++", "reinforce_pp"), ("tic_grpo", "tic"), ("GSPO", "gspo")):
        with pytest.raises(ConfigError, match=rf"preset must be a known name, .*{wanted}"):
            make_config(name)
