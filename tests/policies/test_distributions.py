from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from grpo_gym.policies.distributions import Categorical, Gaussian

LAST_BELOW_ONE = float(np.nextafter(np.float32(1.0), np.float32(0.0)))


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_mask(seed: int, *shape: int) -> torch.Tensor:
    """At least one legal choice in each component."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(*shape, generator=generator) < 0.5
    keep = torch.randint(shape[-1], shape[:-1], generator=generator)
    return mask.scatter(-1, keep.unsqueeze(-1), True)


# Against torch.distributions


@pytest.mark.parametrize("masked", [False, True])
def test_categorical_equals_torch(masked: bool) -> None:
    logits, other_logits = random_logits(0, 50, 2, 5), random_logits(1, 50, 2, 5)
    mask = random_mask(2, 50, 2, 5) if masked else None
    ours, other = Categorical(logits, mask), Categorical(other_logits, mask)
    # torch's own has no masks: a forbidden choice is one of negligible probability.
    low = torch.full_like(logits, -1e9)
    theirs, theirs_other = (
        TorchCategorical(logits=values if mask is None else torch.where(mask, values, low))
        for values in (logits, other_logits)
    )
    actions = theirs.sample()
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    torch.testing.assert_close(ours.kl(other), kl_divergence(theirs, theirs_other).sum(-1))
    assert torch.equal(ours.mode(), theirs.probs.argmax(-1))
    assert not ours.kl(ours).any()


def test_gaussian_equals_torch() -> None:
    means, log_stds = random_logits(0, 2, 40, 3), 0.5 * random_logits(1, 2, 40, 3)
    ours, other = (Gaussian(m, s) for m, s in zip(means, log_stds, strict=True))
    theirs, theirs_other = (
        Independent(Normal(m, s.exp()), 1)  # type: ignore[no-untyped-call, unused-ignore]
        for m, s in zip(means, log_stds, strict=True)
    )
    noise = random_logits(2, 40, 3)
    actions = ours.sample(noise)
    torch.testing.assert_close((actions - means[0]) / log_stds[0].exp(), noise, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(other), kl_divergence(theirs, theirs_other))
    assert torch.equal(ours.mode(), means[0])


def test_kl_is_between_equals() -> None:
    categorical = Categorical(torch.zeros(1, 1, 2))
    gaussian = Gaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(TypeError, match="Categorical needs another, got Gaussian"):
        categorical.kl(gaussian)
    with pytest.raises(TypeError, match="Gaussian needs another, got Categorical"):
        gaussian.kl(categorical)


# Sampling


@pytest.mark.parametrize("masked", [False, True])
def test_frequencies_are_the_probabilities(masked: bool) -> None:
    logits = torch.tensor([[[0.0, 1.0, -1.0, 0.5, -2.0]]])
    mask = torch.tensor([[[True, False, True, True, True]]]) if masked else None
    distribution = Categorical(logits, mask)
    noise = np.random.default_rng(3).random((200_000, 1), np.float32)
    counts = np.bincount(distribution.sample(torch.from_numpy(noise)).ravel(), minlength=5)
    probabilities = distribution.log_probs.exp().double().ravel().numpy()
    possible = probabilities > 0.0
    assert not counts[~possible].any()
    expected = probabilities[possible] / probabilities.sum() * counts.sum()
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


def test_normal_samples_are_normal() -> None:
    noise = np.random.default_rng(4).standard_normal((20_000, 1), np.float32)
    mean, log_std = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    samples = Gaussian(mean, log_std).sample(torch.from_numpy(noise)).numpy().ravel()
    assert stats.kstest(samples, "norm", args=(2.0, np.exp(-1.0))).pvalue > 1e-3


def is_legal(mask: torch.Tensor, actions: torch.Tensor) -> bool:
    return bool(mask.expand(*actions.shape, -1).gather(-1, actions.unsqueeze(-1)).all())


@pytest.mark.parametrize("noise", [0.0, LAST_BELOW_ONE, 1.0])  # 1.0 is out of bounds, but safe
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
def test_edges_of_the_noise_give_legal_actions(noise: float, scale: float) -> None:
    logits = scale * random_logits(5, 2_000, 3, 7)
    mask = random_mask(6, 2_000, 3, 7)
    distribution = Categorical(logits, mask)
    actions = distribution.sample(torch.full((2_000, 3), noise))
    assert is_legal(mask, actions)
    assert bool(torch.isfinite(distribution.log_prob(actions)).all())


@pytest.mark.parametrize("first", [True, False])
def test_edges_with_one_forbidden_side(first: bool) -> None:
    mask = torch.tensor([[False, True, True, False] if first else [True, False, False, False]])
    distribution = Categorical(torch.zeros(1, 1, 4), mask[None])
    ends = [int(distribution.sample(torch.tensor([[u]]))) for u in (0.0, LAST_BELOW_ONE)]
    assert ends == ([1, 2] if first else [0, 0])


def test_a_million_masked_samples_are_all_legal() -> None:
    logits, mask = random_logits(7, 1_000, 2, 9), random_mask(8, 1_000, 2, 9)
    distribution = Categorical(logits, mask)
    noise = np.random.default_rng(9).random((500, 1_000, 2), np.float32)
    assert is_legal(mask, distribution.sample(torch.from_numpy(noise)))


# Masks


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 100.0]))
def test_gradients_with_masks_are_finite_and_pass_by_the_forbidden(seed: int, scale: float) -> None:
    mask = random_mask(seed, 4, 2, 3)
    raw = (scale * random_logits(seed + 1, 4, 2, 3)).requires_grad_()
    distribution = Categorical(raw, mask)
    actions = distribution.sample(torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)))
    other = Categorical(random_logits(seed + 2, 4, 2, 3), mask)
    terms = [distribution.log_prob(actions), distribution.entropy(), distribution.kl(other)]
    terms.append(other.kl(distribution))
    for term in terms:
        (gradient,) = torch.autograd.grad(term.sum(), raw, retain_graph=True)
        assert bool(torch.isfinite(term).all())
        assert bool(torch.isfinite(gradient).all())
        assert not gradient[~mask].any()


def test_a_single_legal_choice_has_no_entropy() -> None:
    mask = torch.tensor([[[False, True, False]]])
    distribution = Categorical(torch.tensor([[[5.0, -5.0, 1.0]]]), mask)
    assert float(distribution.entropy()) == 0.0
    assert float(distribution.log_prob(torch.tensor([[1]]))) == 0.0


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 2, 4)])
def test_a_row_without_a_legal_choice_is_refused(shape: Any) -> None:
    mask = torch.ones(shape, dtype=torch.bool)
    mask[1, -1] = False
    with pytest.raises(ValueError, match="must allow at least one action"):
        Categorical(torch.zeros(shape), mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("components", "choices"), [(1, 2), (1, 40), (3, 5), (9, 2)])
def test_what_is_drawn_is_what_is_sampled_to_the_last_bit(
    components: int, choices: int, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (500, components, choices)
    logits = 5.0 * torch.randn(shape, generator=generator)
    allowed = torch.rand(shape, generator=generator) < 0.5 if masked else None
    if allowed is not None:
        allowed[..., 0] = True
    noise = torch.rand(shape[:2], generator=generator)
    noise[:9] = 0.0
    noise[9:99] = 1.0 - 2.0**-24
    distribution = Categorical(logits, allowed)
    actions, log_probs = distribution.draw(noise)
    assert torch.equal(actions, distribution.sample(noise))
    assert torch.equal(log_probs, distribution.log_prob(actions))


def test_what_is_drawn_of_numbers_that_are_none_is_none() -> None:
    distribution = Categorical(torch.full((4, 1, 3), torch.nan))
    actions, log_probs = distribution.draw(torch.rand(4, 1))
    assert torch.equal(actions, distribution.sample(torch.rand(4, 1)))
    assert bool(log_probs.isnan().all())
