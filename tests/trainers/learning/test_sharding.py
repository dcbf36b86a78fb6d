"""An update has the same bits whoever computes its shards."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_gym import GRPO
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers.learning.batch import training_batch
from grpo_gym.trainers.learning.sharding import Shards
from grpo_gym.trainers.learning.update import UpdateStats, update_policy
from grpo_gym.trainers.processes import ALONE, deal
from probe_envs import Countdown

SMALL: dict[str, Any] = {"num_groups": 6, "group_size": 4, "hidden_sizes": (8,), "epochs": 2}


@dataclass(frozen=True)
class Thread:
    """One of several threads that share the shards, in place of processes."""

    rank: int
    size: int
    barrier: threading.Barrier
    board: dict[int, Tensor]

    def mine(self, shards: int) -> range:
        return deal(shards, self.size, self.rank)

    def gather(self, parts: Tensor, shards: int) -> Tensor:
        self.board[self.rank] = parts
        self.barrier.wait(timeout=30)
        everything = torch.cat([self.board[rank] for rank in range(self.size)])
        self.barrier.wait(timeout=30)
        assert len(everything) == shards
        return everything

    def gather_rollout(self, rollout: GroupedRollout | None) -> GroupedRollout:
        raise NotImplementedError

    def agree(self, number: int) -> int:
        raise NotImplementedError


def among(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What each of several threads gets."""
    barrier, board = threading.Barrier(size), dict[int, Tensor]()
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [Thread(rank, size, barrier, board) for rank in range(size)]))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shards_are_added_in_their_order(size: int) -> None:
    """Of these numbers another order, or sums of sums, has another sum."""
    numbers = torch.tensor([1.0, 1e8, -1e8, 3.0, 1e-3])
    wanted = torch.zeros(())
    for number in numbers:
        wanted = wanted + number
    assert float(wanted) != float(numbers.flip(0).cumsum(0)[-1])
    totals = among(size, lambda own: Shards(5, own).total(lambda n: numbers[n], numbers[0]))
    assert totals == [wanted] * size


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ratio": "sequence_mean", "gradient_shards": 3, "policy": "linear"},
        {"update": "trust_region"},
        {"kl_coefficient": 0.1, "kl_reference": "collection", "target_kl": 1e-3},
    ],
)
def test_an_update_has_the_same_bits_on_any_number_of_processes(
    settings: dict[str, Any], size: int
) -> None:
    settings = dict(settings)
    model = GRPO(settings.pop("policy", "mlp"), Countdown, **{**SMALL, **settings})
    rollout, estimate = model._collect()
    batch = training_batch(rollout, estimate.advantages, model.config)

    def updated(processes: Any) -> tuple[str, UpdateStats | None]:
        twin = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(3)
        stats = update_policy(
            twin.policy, twin.optimizer, batch, None, twin.config, generator, processes
        )
        return twin.weights_sha256(), stats

    alone = updated(ALONE)
    assert alone[0] != model.weights_sha256()
    assert among(size, updated) == [alone] * size


def test_the_number_of_shards_changes_rounding_only() -> None:
    weights = []
    for count in (1, 4):
        model = GRPO("mlp", Countdown, **SMALL, gradient_shards=count, seed=1)
        model.train_iteration()
        weights.append(torch.cat([p.detach().ravel() for p in model.policy.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
