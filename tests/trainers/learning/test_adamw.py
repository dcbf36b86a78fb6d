"""AdamW on one vector is that of torch, and their states fit each other."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo_gym.trainers.learning.adamw import AdamW
from grpo_gym.trainers.learning.vectors import as_vector, assign

SETTINGS: dict[str, Any] = {"lr": 0.02, "eps": 1e-5, "weight_decay": 0.1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def gradients(module: nn.Module, step: int) -> list[Tensor]:
    torch.manual_seed(step)
    return [torch.randn_like(each) * 10.0**-step for each in module.parameters()]


def step_torch(optimizer: torch.optim.Optimizer, module: nn.Module, steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(module.parameters(), gradients(module, step), strict=True):
            parameter.grad = gradient if parameter.requires_grad else None
        optimizer.step()


def step_ours(optimizer: AdamW, module: nn.Module, steps: range) -> None:
    for step in steps:
        parameters = optimizer.trainable
        pairs = zip(module.parameters(), gradients(module, step), strict=True)
        gradient = as_vector([gradient for each, gradient in pairs if each.requires_grad])
        weights = as_vector(parameters)
        optimizer.step(weights, gradient)
        assign(parameters, weights)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torch(decay: float) -> None:
    theirs, ours = network(), network()
    settings = {**SETTINGS, "weight_decay": decay}
    step_torch(torch.optim.AdamW(theirs.parameters(), **settings), theirs, range(6))
    step_ours(AdamW(ours.parameters(), **settings), ours, range(6))
    assert_same(ours, theirs)
    moved = as_vector(list(ours.parameters())) - as_vector(list(network().parameters()))
    assert float(moved.norm()) > 0.1


def test_states_fit_each_other() -> None:
    theirs, ours = network(), network()
    first = torch.optim.AdamW(theirs.parameters(), **SETTINGS)
    second = AdamW(ours.parameters(), **SETTINGS)
    step_torch(first, theirs, range(3))
    step_ours(second, ours, range(3))
    one, other = first.state_dict(), second.state_dict()
    assert one["param_groups"][0]["params"] == other["param_groups"][0]["params"]
    torch.testing.assert_close(other["state"], one["state"])
    # Each goes on from the other's state.
    swapped = AdamW(ours.parameters(), **SETTINGS)
    swapped.load_state_dict(copy.deepcopy(one))
    back = torch.optim.AdamW(theirs.parameters(), **SETTINGS)
    back.load_state_dict(copy.deepcopy(other))
    step_ours(swapped, ours, range(3, 6))
    step_torch(back, theirs, range(3, 6))
    assert_same(ours, theirs)


def test_it_continues_bit_for_bit() -> None:
    whole, parts = network(), network()
    step_ours(AdamW(whole.parameters(), **SETTINGS), whole, range(6))
    first = AdamW(parts.parameters(), **SETTINGS)
    step_ours(first, parts, range(3))
    second = AdamW(parts.parameters(), **SETTINGS)
    second.load_state_dict(first.state_dict())
    step_ours(second, parts, range(3, 6))
    assert torch.equal(as_vector(list(whole.parameters())), as_vector(list(parts.parameters())))


def test_a_frozen_parameter_stays_and_keeps_its_state() -> None:
    """As torch's, which leaves out what has no gradient."""
    theirs, ours = network(), network()
    first = torch.optim.AdamW(theirs.parameters(), **SETTINGS)
    second = AdamW(ours.parameters(), **SETTINGS)
    for module in (theirs, ours):
        module[0].requires_grad_(False)  # type: ignore[index]
    step_torch(first, theirs, range(2))
    step_ours(second, ours, range(2))
    assert sorted(second.state_dict()["state"]) == [2, 3]
    assert_same(ours, theirs)
    assert torch.equal(ours[0].weight, network()[0].weight)  # type: ignore[index]
    ours.requires_grad_(True)
    step_ours(second, ours, range(2, 3))
    assert sorted(second.state_dict()["state"]) == [0, 1, 2, 3]


def test_reset_forgets() -> None:
    ours, fresh = network(), network()
    optimizer = AdamW(ours.parameters(), **SETTINGS)
    step_ours(optimizer, ours, range(2))
    optimizer.reset()
    assert optimizer.state_dict()["state"] == {}
    assign(list(ours.parameters()), as_vector(list(fresh.parameters())))
    step_ours(optimizer, ours, range(1))
    step_ours(AdamW(fresh.parameters(), **SETTINGS), fresh, range(1))
    assert torch.equal(as_vector(list(ours.parameters())), as_vector(list(fresh.parameters())))
