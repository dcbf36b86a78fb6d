"""Any number of processes has the result of one, bit for bit, whatever the settings are.

The processes are threads here; `tests/cli/test_processes.py` has real ones.
"""

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

from grpo_gym import GRPO
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.rollout import StepTensors
from grpo_gym.rollouts.workers.pool import LostWorker, WorkersLostError
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.collector import Collector
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.processes import ALONE, Processes, check_size, deal
from grpo_gym.trainers.processes.packing import in_order, pack, unpack
from grpo_gym.trainers.sharded_policy import PlayedShards
from probe_envs import Context, Countdown, Cue, Recall, Search, Target
from thread_processes import Room, ThreadProcesses, in_threads

SMALL: dict[str, Any] = {"num_groups": 5, "group_size": 4, "num_minibatches": 3, "seed": 7}
VINE = {"preset": "vine", "branch_every": 2, "branch_lookahead": 3}
CASES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "branching, masks": (Search, {**VINE, "branch_from": "best"}, 600),
    "refill, target_kl": (Recall, {"preset": "dapo", "group_size": 2, "target_kl": 1e-3}, 500),
    "trust region": (Recall, {"preset": "trust_region"}, 500),
}
"""Environment, settings, and steps of a training."""
MORE_CASES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "grpo, KL from the first policy": (Recall, {"preset": "grpo", "kl_coefficient": 0.1}, 500),
    "learned baseline": (Recall, {"learned_baseline": True, "baseline": "none"}, 500),
    "Box actions, KL stop": (Target, {"target_kl": 0.002, "weight_decay": 0.1}, 500),
    "trust region, learned baseline": (
        Recall,
        {"preset": "trust_region", "learned_baseline": True},
        500,
    ),
    "KL from a moving average": (
        Context,
        {"kl_coefficient": 0.5, "kl_reference": "moving_average", "kl_estimator": "k3_plus"},
        500,
    ),
    "unrelated": (Context, {"preset": "magistral", "grouping": "unrelated"}, 500),
    "frames": (Cue, {"frame_history": 2}, 500),
    "bins and anchors": (Recall, {"baseline": "state_bin", "anchor_weight": 0.5}, 500),
    "sequences": (Countdown, {"preset": "gspo", "learning_rate": 0.03}, 800),
    "groups as minibatches": (Recall, {"minibatches": "groups"}, 500),
    "leave one out, loop": (Countdown, {"preset": "loop"}, 800),
    "third party": ("CartPole-v1", {"max_episode_steps": 40}, 2000),
    "third party, branching": (
        "CartPole-v1",
        {"preset": "vine", "branch_every": 15, "branch_lookahead": 20, "max_episode_steps": 50},
        4000,
    ),
    "third party, Box actions": ("Pendulum-v1", {"max_episode_steps": 30}, 2000),
    "LoadBalancer-v0": ("LoadBalancer-v0", {"env_kwargs": {"episode_length": 40}}, 3000),
    "LoadBalancer-v0, branching": (
        "LoadBalancer-v0",
        {"env_kwargs": {"episode_length": 40}, **VINE, "branch_every": 7},
        6000,
    ),
    "many shards": (Recall, {"gradient_shards": 7, "num_groups": 6}, 500),
    "as many shards as processes": (Recall, {"gradient_shards": 4, "num_groups": 4}, 500),
}
_OWN = threading.local()


@pytest.fixture(autouse=True)
def _processes_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    found = property(lambda self: getattr(_OWN, "processes", ALONE))
    monkeypatch.setattr(GRPO, "processes", found)


def make(env: Any, config: dict[str, Any]) -> GRPO:
    return GRPO("mlp", env, hidden_sizes=(8,), **{**SMALL, **config})


def trained(models: list[GRPO], steps: int | None) -> list[str]:
    """The weights that models have after they were trained together."""

    def train(processes: ThreadProcesses) -> str:
        _OWN.processes = processes
        with models[processes.rank] as model:
            model.resume() if steps is None else model.learn(steps)
            return model.weights_sha256()

    hashes = list(in_threads(len(models), train))
    assert len(set(hashes)) == 1
    return hashes


@pytest.mark.parametrize("case", CASES)
def test_two_have_the_weights_of_one(case: str) -> None:
    env, config, steps = CASES[case]
    one = make(env, config).learn(steps)
    assert one.iteration >= 3
    assert trained([make(env, config) for _ in range(2)], steps) == [one.weights_sha256()] * 2


@pytest.mark.slow  # 20 settings, each trained by one, two, three and four
@pytest.mark.parametrize("case", [*CASES, *MORE_CASES])
def test_any_number_has_the_weights_of_one(case: str) -> None:
    env, config, steps = {**CASES, **MORE_CASES}[case]
    one = make(env, config).learn(steps)
    for size in (2, 3, 4):
        models = [make(env, config) for _ in range(size)]
        assert trained(models, steps) == [one.weights_sha256()] * size
        assert {model.num_steps for model in models} == {one.num_steps}


def test_a_run_goes_on_with_another_number(tmp_path: Path) -> None:
    whole = make(Recall, {}).learn(600)
    make(Recall, {}).learn(600, callback=lambda _, stats: stats.iteration < 2).save(
        tmp_path / "begun"
    )

    def stopped(processes: ThreadProcesses) -> None:
        _OWN.processes = processes
        model = loaded[processes.rank]
        # Only the last one stops, and all do.
        model.resume(callback=lambda _, stats: processes.rank < 3 or stats.iteration < 4)
        assert model.iteration == 4
        model.save(tmp_path / "gone_on") if processes.rank == 0 else None

    loaded = [GRPO.load(tmp_path / "begun", Recall) for _ in range(4)]
    in_threads(4, stopped)
    ended = GRPO.load(tmp_path / "gone_on", Recall).resume()
    assert ended.weights_sha256() == whole.weights_sha256()


def test_each_process_steps_its_own_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(*arguments: Any) -> Any:
        made.append(arguments[2])
        return make_batch(*arguments)

    monkeypatch.setattr("grpo_gym.trainers.collector.make_batch", counting)
    config = GRPOConfig(num_groups=7, group_size=3)
    for rank in range(3):
        Collector(Recall, {}, config, ThreadProcesses(rank, Room(3))).close()
    assert made == [3, 6, 12]  # of 4 shards with 1, 2, 2 and 2 groups: one, one and two of them


def test_lost_workers_of_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "grpo_gym.trainers.collector.make_batch", lambda *given: make_batch(*given[:3])
    )
    model = make(Recall, {"workers": 2})
    lost = WorkersLostError([LostWorker("worker 1 of 2", range(4), "was killed")])

    def lose_as_many_as_the_rank(processes: ThreadProcesses) -> dict[str, float]:
        ours = Collector(Recall, {}, model.config, processes)
        played = [lost] * processes.rank + [None]
        monkeypatch.setattr(ours, "_play", Mock(side_effect=played))
        ours.collect(model.policy, 0)
        return ours.metrics

    assert in_threads(3, lose_as_many_as_the_rank) == [{"lost_workers": 3.0}] * 3


@pytest.mark.parametrize("items", range(6))
@pytest.mark.parametrize("receivers", range(1, 6))
def test_dealing(items: int, receivers: int) -> None:
    dealt = [deal(items, receivers, receiver) for receiver in range(receivers)]
    assert [item for part in dealt for item in part] == list(range(items))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"num_groups": 1}, "num_groups must be >= the number of processes, 2, got 1: "),
        ({"gradient_shards": 1}, "gradient_shards must be >= the number of processes, 2, got 1: "),
    ],
)
def test_a_process_without_work_is_refused(config: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        check_size(2, GRPOConfig(**config))
    with pytest.raises(ConfigError, match=rule):
        Collector(Recall, {}, GRPOConfig(**config), ThreadProcesses(0, Room(2)))


def test_a_vector_environment_of_its_own_is_for_one_process() -> None:
    vector = gym.make_vec("CartPole-v1", num_envs=8, vectorization_mode="sync")
    config = GRPOConfig(num_groups=4, group_size=2)
    with pytest.raises(ConfigError, match="env must be an id or a function of num_envs with 2"):
        Collector(vector, {}, config, ThreadProcesses(0, Room(2)))
    vector.close()


@pytest.mark.parametrize("case", ["branching, masks", "LoadBalancer-v0, branching"])
def test_all_groups_are_in_the_order_of_one_process(case: str) -> None:
    env, config, _ = {**CASES, **MORE_CASES}[case]
    model = make(env, config)

    def collected(processes: Processes) -> Any:
        collector = Collector(env, config.get("env_kwargs", {}), model.config, processes)
        try:
            return collector.collect(model.policy, 0)
        finally:
            collector.close()

    whole = collected(ALONE)
    parts = [collected(ThreadProcesses(rank, Room(3))) for rank in range(3)]
    assert any(bool(part.branchings.any()) for part in parts)
    joined = in_order([unpack(pack(part)) for part in parts])
    alive = whole.alive
    for name in StepTensors.__dataclass_fields__:
        wanted, found = getattr(whole, name), getattr(joined, name)
        if wanted is None:
            assert found is None
        else:
            assert torch.equal(wanted[alive], found[alive]), name
    assert torch.equal(whole.alive, joined.alive)
    assert torch.equal(whole.branchings, joined.branchings)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(vars(r.episodes).values() for r in (whole, joined)), strict=True)
    )
    assert joined.infos == pytest.approx(whole.infos)
    assert joined.info_counts == whole.info_counts


# A policy that plays in shards


class Sensitive(nn.Module):
    """A network whose rows depend on how many others are passed with them."""

    device = torch.device("cpu")

    def forward(self, rows: Tensor) -> Tensor:
        return rows * len(rows)


class Plain(nn.Linear):
    device = torch.device("cpu")


def rollout_of(rows: int, steps: int) -> Any:
    return SimpleNamespace(observations=torch.randn(steps, rows, 1, 3))


def test_shards_are_passed_at_once_only_where_nobody_can_tell() -> None:
    rows = torch.randn(12, 3)
    policies: tuple[tuple[Any, list[int]], ...] = (
        (Sensitive(), [4, 8]),
        (Plain(3, 2), [12]),
    )
    for policy, wanted_passes in policies:
        # , [4, 8]), (Plain(3, 2), [12])):
        shards = PlayedShards([4, 8])
        wanted = torch.cat([policy(rows[:4]), policy(rows[4:])])
        assert torch.equal(shards.outputs(policy, rows), wanted)
        shards.try_all_at_once(policy, rollout_of(12, 5))
        passes: list[int] = []
        policy.register_forward_hook(partial(note_rows, passes))
        assert torch.equal(shards.outputs(policy, rows), wanted)
        assert passes == wanted_passes


def note_rows(passes: list[int], _: nn.Module, given: tuple[Tensor], __: Tensor) -> None:
    passes.append(len(given[0]))
