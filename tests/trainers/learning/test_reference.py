"""The policy that a KL penalty stays close to: when it moves, and where to."""

import copy
from typing import Any

import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.policies.network import Policy
from grpo_gym.storage.checkpoint import weights_sha256
from probe_envs import Recall

SMALL: dict[str, Any] = {"num_groups": 4, "group_size": 4, "hidden_sizes": (8,)}


def make(reference: Any, **options: Any) -> GRPO:
    settings = {**SMALL, "kl_coefficient": 0.1, "learning_rate": 0.02, **options}
    return GRPO("mlp", Recall, kl_reference=reference, **settings)


def digest(policy: Policy | None) -> str:
    assert policy is not None
    return weights_sha256(policy.state_dict())


def test_there_is_none_where_none_is_needed() -> None:
    assert make("initial", kl_coefficient=0.0).reference is None
    assert make("collection").reference is None
    reference = make("initial").reference
    assert reference is not None
    assert not any(p.requires_grad for p in reference.parameters())


def test_the_initial_policy_stays() -> None:
    model = make("initial")
    start = digest(model.policy)
    for _ in range(3):
        model.train_iteration()
        assert digest(model.reference) == start
    assert digest(model.policy) != start


def test_a_refreshed_reference_becomes_the_policy_every_so_many_iterations() -> None:
    model = make("refreshed", reference_every=3)
    last = digest(model.policy)
    for iteration in range(1, 8):
        model.train_iteration()
        if iteration % 3 == 0:
            last = digest(model.policy)  # with the statistics of the policy that collects next
        assert digest(model.reference) == last
        assert (digest(model.policy) == last) == (iteration % 3 == 0)


def test_refreshed_every_iteration_is_the_policy_that_collected() -> None:
    runs = []
    for model in (make("refreshed", reference_every=1), make("collection")):
        for _ in range(4):
            stats = model.train_iteration()
            assert stats.update is not None
        runs.append([p.detach() for p in model.policy.parameters()])
    for left, right in zip(*runs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_a_moving_average_moves_by_its_share(decay: float) -> None:
    model = make("moving_average", reference_decay=decay)
    assert model.reference is not None
    for _ in range(3):
        before = copy.deepcopy(model.reference)
        model.train_iteration()
        for old, average, current in zip(
            before.parameters(), model.reference.parameters(), model.policy.parameters(),
            strict=True,
        ):  # fmt: skip
            wanted = decay * old + (1.0 - decay) * current.detach()
            torch.testing.assert_close(average, wanted)
        # It sees observations as the policy does.
        for average, current in zip(model.reference.buffers(), model.policy.buffers(), strict=True):
            assert torch.equal(average, current)
    assert (digest(model.reference) == digest(model.policy)) == (decay == 0.0)


def test_the_penalty_is_that_of_the_estimator() -> None:
    """None pulls as another, but for k2 and k3_plus, which differ in their value only."""
    found = {}
    for kind in ("exact", "k1", "k2", "k3", "k3_plus"):
        model = make("initial", kl_estimator=kind, kl_coefficient=1.0)
        for _ in range(2):
            stats = model.train_iteration()
        assert stats.update is not None
        found[kind] = (model.weights_sha256(), stats.update.reference_kl)
    assert len({sha for sha, _ in found.values()}) == 4
    assert found["k2"][0] == found["k3_plus"][0]
    assert found["k2"][1] != found["k3_plus"][1]
    assert all(value > 0.0 for kind, (_, value) in found.items() if kind != "k1")
