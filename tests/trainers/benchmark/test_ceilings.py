"""Arithmetic of a training step, and shares of what the machine can do."""

from typing import Any

import pytest
import torch

from grpo_gym.trainers.benchmark import ceilings
from grpo_gym.trainers.benchmark.ceilings import measure_ceilings, operations_per_step, rate
from grpo_gym.trainers.grpo import GRPO


def test_operations_follow_from_the_settings() -> None:
    small: dict[str, Any] = {"num_groups": 1, "group_size": 2}
    with GRPO("mlp", "CartPole-v1", hidden_sizes=(8, 16), epochs=3, **small) as model:
        # 4 observed numbers, 2 actions; each weight: 2 operations to act, 6 in each of 3 epochs.
        assert operations_per_step(model) == (4 * 8 + 8 * 16 + 16 * 2) * (2 + 3 * 6)
    with (
        GRPO("servers", "LoadBalancer-v0", **small) as model,
        pytest.raises(ValueError, match="policy must be mlp or linear"),
    ):
        operations_per_step(model)


def test_the_share_is_that_of_the_products_rate() -> None:
    found = measure_ceilings(seconds=1e-3, repetitions=1)
    assert found["operations_per_step"] == 129_280, "README's settings"
    share = found["training"][0] * found["operations_per_step"] / found["product"][0]
    assert found["share"] == share
    assert 0.0 < share < 1.0
    assert found["copy"][0] > 0.0


def test_a_copy_counts_the_bytes_that_it_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_COPIED_BYTES", 4_000)
    copied: list[int] = []
    original = torch.Tensor.copy_

    def counted(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        copied.append(source.nbytes)
        return original(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", counted)
    assert ceilings._copies()() == sum(copied) == 4_000


def test_a_rate_counts_whole_works() -> None:
    calls: list[int] = []

    def work() -> float:
        calls.append(1)
        return 3.0

    per_second = rate(work, seconds=1e-3)
    assert per_second * 1e-3 <= 3.0 * len(calls)
