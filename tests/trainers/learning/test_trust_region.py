import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from grpo_gym.policies.distributions import Categorical, Gaussian
from grpo_gym.policies.network import MLPPolicy
from grpo_gym.policies.options import MLPOptions
from grpo_gym.trainers.learning.trust_region import (
    TrustRegionStep,
    conjugate_gradient,
    fisher_product,
    trust_region_step,
)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def normals(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def positive_definite(seed: int, size: int) -> Tensor:
    root = normals(seed, size, size)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def step(
    parameters: Sequence[nn.Parameter],
    surrogate: Callable[[], Tensor],
    divergence: Callable[[], Tensor],
    **options: Any,
) -> TrustRegionStep:
    defaults = {"max_kl": 0.01, "damping": 0.0, "conjugate_gradient_iterations": 20}
    return trust_region_step(
        parameters,
        lambda _: surrogate(),
        lambda _: divergence(),
        **{**defaults, "backtracks": 10, **options},
    )


def matrix(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)


# Conjugate gradient


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_conjugate_gradient_solves_a_system_in_as_many_iterations_as_it_has_unknowns(
    size: int,
) -> None:
    system, target = positive_definite(size, size), normals(99, size)
    wanted = torch.linalg.solve(system, target)
    solution = conjugate_gradient(lambda v: system @ v, target, size, tolerance=0.0)
    torch.testing.assert_close(solution, wanted, atol=1e-7, rtol=1e-6)
    if size > 1:
        short = conjugate_gradient(lambda v: system @ v, target, size - 1, tolerance=0.0)
        assert float((short - wanted).norm() / wanted.norm()) > 1e-3


def test_conjugate_gradient_does_not_depend_on_the_scale_of_its_target() -> None:
    """Neither the tolerance nor the dot products: 1e-20 and 1e25, squared, are not float32."""
    system, target = positive_definite(1, 6).float(), normals(2, 6).float()
    wanted = conjugate_gradient(lambda v: system @ v, target, 6)
    for scale in (1e-20, 1e25):
        solution = conjugate_gradient(lambda v: system @ v, scale * target, 6)
        assert solution.dtype == torch.float32
        torch.testing.assert_close(solution / scale, wanted, atol=1e-3, rtol=1e-3)


def test_conjugate_gradient_stops_when_it_is_done() -> None:
    calls = []

    def product(vector: Tensor) -> Tensor:
        calls.append(vector)
        return 2.0 * vector

    torch.testing.assert_close(conjugate_gradient(product, torch.ones(3), 9), torch.full((3,), 0.5))
    assert len(calls) == 1
    assert conjugate_gradient(product, torch.zeros(3), 9).tolist() == [0.0] * 3
    assert len(calls) == 1


def test_conjugate_gradient_stops_where_there_is_no_positive_curvature() -> None:
    assert conjugate_gradient(lambda v: -v, torch.ones(3), 9).tolist() == [0.0] * 3
    assert conjugate_gradient(torch.zeros_like, torch.ones(3), 9).tolist() == [0.0] * 3


# Fisher matrices in closed form


@pytest.mark.parametrize("allowed", [[True] * 4, [True, False, True, True]])
def test_fisher_of_a_softmax_bandit(allowed: list[bool]) -> None:
    logits, mask = parameter(0.3, -1.2, 0.8, 0.1), torch.tensor([allowed])
    new = Categorical(logits[None], mask)
    old = Categorical(logits.detach()[None], mask)
    p = old.log_probs[0].exp()
    fisher = torch.diag(p) - torch.outer(p, p)
    found = matrix(fisher_product(lambda _: old.kl(new).mean(), [logits], 0.0), 4)
    torch.testing.assert_close(found, fisher)
    damped = matrix(fisher_product(lambda _: old.kl(new).mean(), [logits], 0.3), 4)
    torch.testing.assert_close(damped, fisher + 0.3 * torch.eye(4, dtype=torch.float64))


def test_fisher_of_a_gaussian() -> None:
    """1 / variance for each mean, 2 for each log standard deviation, nothing between them."""
    mean, log_std = parameter(0.4, -2.0), parameter(-0.7, 0.2)
    old = Gaussian(mean.detach(), log_std.detach())
    divergence = old.kl(Gaussian(mean, log_std))
    wanted = torch.cat([(-2.0 * log_std.detach()).exp(), torch.tensor([2.0, 2.0])])
    found = matrix(fisher_product(lambda _: divergence, [mean, log_std], 0.0), 4)
    torch.testing.assert_close(found, torch.diag(wanted))


def test_fisher_of_a_network_is_the_covariance_of_its_scores() -> None:
    """E[score score^T], enumerated: neither KL nor second derivatives."""
    policy = make_policy(spaces.Discrete(3), seed=0).double()
    observations, parameters = normals(1, 5, 3), list(policy.parameters())
    with torch.no_grad():
        old = policy.distribution(policy(observations))
    divergence = old.kl(policy.distribution(policy(observations))).mean()
    size = sum(p.numel() for p in parameters)
    fisher = torch.zeros(size, size, dtype=torch.float64)
    for observation in observations:
        for action in range(3):
            taken = policy.distribution(policy(observation)).log_prob(torch.tensor([action]))
            score = torch.cat([g.ravel() for g in torch.autograd.grad(taken, parameters)])
            fisher += taken.detach().exp() * torch.outer(score, score) / len(observations)
    found = matrix(fisher_product(lambda _: divergence, parameters, 0.0), size)
    torch.testing.assert_close(found, fisher, atol=1e-9, rtol=1e-7)


# Direction and length


class Bandit:
    """A linear softmax policy over contexts with known advantages."""

    def __init__(self, scale: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.contexts, self.advantages = normals(3, 6, 2), normals(4, 6, 3)
        self.weights = nn.Parameter(normals(5, 2, 3) / self.scale)
        self.old = self.log_probs().detach()

    def log_probs(self) -> Tensor:
        return torch.log_softmax(self.contexts @ (self.weights * self.scale), dim=-1)

    def surrogate(self) -> Tensor:
        return (self.log_probs().exp() * self.advantages).sum(dim=-1).mean()

    def divergence(self) -> Tensor:
        return (self.old.exp() * (self.old - self.log_probs())).sum(dim=-1).mean()

    def closed_form(self) -> tuple[Tensor, Tensor]:
        """Fisher matrix and gradient at unit scale."""
        p = self.old.exp()
        fisher, gradient = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(2, 3).double()
        for x, q, advantage in zip(self.contexts, p, self.advantages, strict=True):
            spread = torch.diag(q) - torch.outer(q, q)
            fisher += torch.kron(torch.outer(x, x), spread) / 6
            gradient += torch.outer(x, spread @ advantage) / 6
        return fisher, gradient.ravel()


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_the_direction_is_the_natural_gradient(damping: float) -> None:
    bandit = Bandit()
    before = bandit.weights.detach().clone()
    stats = step([bandit.weights], bandit.surrogate, bandit.divergence, damping=damping)
    fisher, gradient = bandit.closed_form()
    natural = torch.linalg.solve(fisher + damping * torch.eye(6).double(), gradient)
    moved = (bandit.weights.detach() - before).ravel()
    torch.testing.assert_close(moved / moved.norm(), natural / natural.norm(), atol=1e-4, rtol=1e-4)
    assert float(gradient @ natural / gradient.norm() / natural.norm()) < 0.99  # another direction
    assert stats.accepted
    assert stats.gradient_norm == pytest.approx(float(gradient.norm()))


def test_one_iteration_follows_the_gradient() -> None:
    bandit = Bandit()
    before = bandit.weights.detach().clone()
    _, gradient = bandit.closed_form()
    step([bandit.weights], bandit.surrogate, bandit.divergence, conjugate_gradient_iterations=1)
    moved = (bandit.weights.detach() - before).ravel()
    torch.testing.assert_close(moved / moved.norm(), gradient / gradient.norm())


@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_quadratic_divergence_is_used_up(max_kl: float, dtype: torch.dtype) -> None:
    curvature, slope = positive_definite(0, 5).to(dtype), normals(1, 5).to(dtype)
    origin = normals(2, 5).to(dtype)
    theta = nn.Parameter(origin.clone())

    def divergence() -> Tensor:
        return 0.5 * (theta - origin) @ curvature @ (theta - origin)

    def surrogate() -> Tensor:
        return slope @ theta - 0.01 * (theta - origin).square().sum()

    stats = step([theta], surrogate, divergence, max_kl=max_kl)
    natural = torch.linalg.solve(curvature, slope)
    wanted = origin + natural * math.sqrt(2.0 * max_kl / float(slope @ natural))
    assert stats.kl == pytest.approx(max_kl, rel=1e-3)
    assert stats.kl <= max_kl
    assert (stats.accepted, stats.step_scale) == (True, 1.0)
    torch.testing.assert_close(theta.detach(), wanted, atol=1e-3 * max_kl**0.5, rtol=1e-3)


def logits_after(scale: Sequence[float], natural: bool) -> Tensor:
    """Log-probabilities after a step of about the same KL, of a policy that starts the same."""
    bandit = Bandit(scale)
    if natural:
        assert step([bandit.weights], bandit.surrogate, bandit.divergence).accepted
        return bandit.log_probs().detach()
    (gradient,) = torch.autograd.grad(bandit.surrogate(), [bandit.weights])
    (curve,) = torch.autograd.grad(bandit.divergence(), [bandit.weights], create_graph=True)
    (image,) = torch.autograd.grad((curve * gradient).sum(), [bandit.weights])
    with torch.no_grad():
        bandit.weights.add_(gradient * (0.02 / (gradient * image).sum()).sqrt())
    return bandit.log_probs().detach()


def test_the_new_policy_does_not_depend_on_the_parametrisation() -> None:
    plain, scaled = (1.0, 1.0, 1.0), (1.0, 10.0, 1.0)
    torch.testing.assert_close(Bandit(scaled).old, Bandit(plain).old)
    torch.testing.assert_close(
        logits_after(scaled, True), logits_after(plain, True), atol=1e-4, rtol=1e-4
    )
    assert float((logits_after(scaled, False) - logits_after(plain, False)).abs().max()) > 0.05


def test_a_batch_of_advantages_twice_as_large_makes_the_same_step() -> None:
    one, two = Bandit(), Bandit()
    step([one.weights], one.surrogate, one.divergence)
    step([two.weights], lambda: 2.0 * two.surrogate(), two.divergence)
    torch.testing.assert_close(one.weights, two.weights)


# The line search; the full step goes from 0 to 1


def search(
    surrogate: Callable[[Tensor], Tensor],
    divergence: Callable[[Tensor], Tensor] = lambda x: 0.5 * x.square(),
    **options: Any,
) -> tuple[TrustRegionStep, float]:
    theta = parameter(0.0)
    stats = step(
        [theta],
        lambda: surrogate(theta).sum(),
        lambda: divergence(theta).sum(),
        **{"max_kl": 0.5, **options},
    )
    return stats, float(theta.detach())


@pytest.mark.parametrize(("bend", "scale"), [(0.5, 1.0), (1.5, 0.5), (3.0, 0.25), (5.0, 0.125)])
def test_the_step_shrinks_until_the_surrogate_improves(bend: float, scale: float) -> None:
    stats, theta = search(lambda x: x - bend * x.square())  # improves below 1 / bend
    assert (stats.accepted, stats.step_scale) == (True, scale)
    assert theta == pytest.approx(scale, rel=1e-4)
    assert stats.kl == pytest.approx(0.5 * theta**2)


@pytest.mark.parametrize(("bend", "scale"), [(0.1, 0.5), (4.0, 0.5), (8.0, 0.25)])
def test_the_step_shrinks_until_the_divergence_is_within_bounds(bend: float, scale: float) -> None:
    """Also 1.2 max_kl is too much."""
    stats, _ = search(lambda x: x, lambda x: 0.5 * x.square() + bend * x**4)
    assert (stats.accepted, stats.step_scale) == (True, scale)
    assert stats.kl <= 0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_points_that_are_not_finite_are_passed_over(wrong: float) -> None:

    def spoilt(x: Tensor, good: Tensor) -> Tensor:
        return torch.where(x > 0.3, torch.full_like(x, wrong), good)

    assert search(lambda x: spoilt(x, x))[0].step_scale == 0.25
    assert search(lambda x: x, lambda x: spoilt(x, 0.5 * x.square()))[0].step_scale == 0.25


def test_backtracks_are_the_points_after_the_full_step() -> None:
    assert search(lambda x: x - 3.0 * x.square(), backtracks=2)[0].step_scale == 0.25
    stats, theta = search(lambda x: x - 3.0 * x.square(), backtracks=1)
    assert (stats.accepted, stats.step_scale, stats.kl) == (False, 0, 0)
    assert (theta, stats.gradient_norm) == (0.0, 1.0)
    assert search(lambda x: x, backtracks=0)[0].step_scale == 1.0


# Nothing else changes


def odd_parameters() -> list[nn.Parameter]:
    values = torch.tensor([0.1, -0.0, 1e-41, 1e30, -7.3, 1 / 3])
    return [nn.Parameter(values[:4].reshape(2, 2).clone()), nn.Parameter(values[4:].clone())]


def bits(parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    return [p.detach().ravel().view(torch.int32).tolist() for p in parameters]


def squares(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Half the squared distance from where the parameters are: 0, with curvature 1."""
    return torch.stack([0.5 * (p - p.detach()).square().sum() for p in parameters]).sum()


def test_parameters_are_restored_bit_for_bit() -> None:
    parameters = odd_parameters()
    before, start, calls = bits(parameters), parameters[1].detach().clone(), []

    def surrogate() -> Tensor:
        calls.append(bits(parameters))
        shift = parameters[1] - start
        return (shift - 1e9 * shift.square()).sum() + 0.0 * parameters[0].sum()

    stats = step(parameters, surrogate, lambda: squares(parameters), max_kl=1.0, backtracks=6)
    assert not stats.accepted
    assert len(calls) == 8
    assert calls[-1] != before
    assert bits(parameters) == before
    assert [p.grad for p in parameters] == [None, None]


def test_an_error_on_the_way_restores_the_parameters_and_is_not_swallowed() -> None:
    parameters = odd_parameters()
    before = bits(parameters)

    def surrogate() -> Tensor:
        if bits(parameters) != before:
            raise KeyError("halfway")
        return parameters[1].sum()

    with pytest.raises(KeyError, match="halfway"):
        step(parameters, surrogate, lambda: squares(parameters))
    assert bits(parameters) == before


def test_what_is_not_finite_raises_and_changes_nothing() -> None:
    parameters = odd_parameters()
    before = bits(parameters)

    def total() -> Tensor:
        return parameters[1].sum()

    def root() -> Tensor:
        return (parameters[1] - parameters[1].detach()).abs().sqrt().sum()

    with pytest.raises(FloatingPointError, match=r"norm of its gradient \(nan\)"):
        step(parameters, root, lambda: squares(parameters))
    with pytest.raises(FloatingPointError, match=r"surrogate \(inf\)"):
        step(parameters, lambda: total() + math.inf, lambda: squares(parameters))
    with pytest.raises(FloatingPointError, match=r"KL \(nan\)"):
        step(parameters, total, lambda: squares(parameters) + math.nan)
    with pytest.raises(FloatingPointError, match="curvature"):
        step(parameters, total, root)
    assert bits(parameters) == before


def test_without_a_gradient_there_is_no_step() -> None:
    parameters = odd_parameters()
    before = bits(parameters)
    stats = step(parameters, lambda: 0.0 * parameters[1].sum(), lambda: squares(parameters))
    assert stats == TrustRegionStep(False, 0.0, 0.0, 0.0)
    assert bits(parameters) == before


def test_without_curvature_there_is_no_step() -> None:
    """Without damping, a divergence that does not feel the parameters bounds nothing."""
    for flat in (lambda x: 0.0 * x, lambda x: -x.square()):
        stats, theta = search(lambda x: x, flat)
        assert (stats.accepted, theta) == (False, 0.0)
    stats, theta = search(lambda x: x, lambda x: 0.0 * x, damping=4.0)
    assert theta == pytest.approx(0.5, rel=1e-4)  # 0.5 * 4 theta^2 = max_kl


def test_parameters_without_influence_stay() -> None:
    both, gained, bounded, unused = (parameter(0.0) for _ in range(4))
    parameters = [unused, both, gained, bounded]

    def surrogate() -> Tensor:
        return (both + gained).sum()

    def divergence() -> Tensor:
        return (0.5 * both.square() + bounded.square()).sum()

    stats = step(parameters, surrogate, divergence, max_kl=0.5, damping=0.5)
    # (1 + 0.5) x = 1 and 0.5 y = 1; the model of the KL, damping included, is max_kl.
    x, y = 1.0 / 1.5, 1.0 / 0.5
    length = 1.0 / math.sqrt(1.5 * x**2 + 0.5 * y**2)
    moved = [float(p.detach()) for p in parameters]
    assert moved == pytest.approx([0.0, length * x, length * y, 0.0], rel=1e-3)
    assert stats.accepted


# Real policies


def make_policy(space: spaces.Space[Any], seed: int) -> MLPPolicy:
    torch.manual_seed(seed)
    observation = spaces.Box(-1.0, 1.0, (3,), np.float32)
    policy = MLPPolicy(
        observation, space, MLPOptions(hidden_sizes=(6,), normalise_observations=False)
    )
    with torch.no_grad():  # away from the uniform start
        for values in policy.parameters():
            values.add_(0.5 * torch.randn_like(values))
    return policy


SPACES: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4, 3]),
    "Box": spaces.Box(-1.0, 1.0, (2,), np.float32),
}


@settings(max_examples=25)
@given(
    name=st.sampled_from(list(SPACES)),
    seed=st.integers(0, 10**6),
    max_kl=st.floats(-4.0, 0.0).map(lambda exponent: 10.0**exponent),
    damping=st.sampled_from([0.0, 1e-3, 0.1]),
)
def test_the_divergence_never_exceeds_its_bound(
    name: str, seed: int, max_kl: float, damping: float
) -> None:
    policy = make_policy(SPACES[name], seed)
    observations = torch.rand(64, 3) * 2.0 - 1.0
    with torch.no_grad():
        old = policy.distribution(policy(observations))
        shape = (64, policy.head.num_components)
        noise = torch.randn(shape) if name == "Box" else torch.rand(shape)
        actions = old.sample(noise)
        old_log_probs = old.log_prob(actions)
    advantages = torch.randn(64)

    def surrogate() -> Tensor:
        log_probs = policy.distribution(policy(observations)).log_prob(actions)
        return ((log_probs - old_log_probs).exp() * advantages).mean()

    def divergence() -> Tensor:
        return old.kl(policy.distribution(policy(observations))).mean()

    start = float(surrogate().detach())
    stats = step(
        list(policy.parameters()),
        surrogate,
        divergence,
        max_kl=max_kl,
        damping=damping,
        conjugate_gradient_iterations=10,
        backtracks=15,
    )
    assert stats.accepted
    assert stats.kl == float(divergence().detach())  # the policy is the one that is described
    assert 0.0 < stats.kl <= max_kl
    assert float(surrogate().detach()) > start
