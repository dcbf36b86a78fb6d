"""Training with environments in processes: the same weights, and what becomes of lost workers."""

import logging
import re
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from grpo_gym import GRPO
from grpo_gym.cli.main import main
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.rollouts.randomness import redrawn_seeds
from grpo_gym.settings import ConfigError
from grpo_gym.trainers import memory, redraws
from worker_envs import Everything, Fragile

GROUPS, MEMBERS = 4, 3


def model_of(env: Any, workers: int, **settings: Any) -> GRPO:
    sizes = {"num_groups": GROUPS, "group_size": MEMBERS, "worker_timeout_s": 30.0}
    return GRPO("linear", env, workers=workers, **sizes, **settings)


def trained(env: Any, workers: int, **settings: Any) -> str:
    with model_of(env, workers, **settings) as model:
        for _ in range(2):
            model.train_iteration()
        return model.weights_sha256()


@pytest.mark.parametrize(
    "settings",
    [
        {"grouping": "shared", "refill_rounds": 1},
        {"grouping": "branch", "branch_every": 2, "branch_lookahead": 1, "branch_from": "best"},
        {"grouping": "unrelated"},
    ],
)
def test_the_number_of_workers_changes_no_weight(settings: dict[str, Any]) -> None:
    here, there = (trained(Everything, workers, **settings) for workers in (0, 3))
    assert here == there


def test_the_groups_of_a_lost_worker_start_from_other_seeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    original = redraws.Redraws.applied

    def applied(self: redraws.Redraws, seeds: np.ndarray) -> np.ndarray:
        changed = original(self, seeds)
        starts.append((seeds, changed))
        return changed

    monkeypatch.setattr(redraws.Redraws, "applied", applied)
    hashes = []
    for _ in range(2):
        (tmp_path / "file").touch()
        with model_of(partial(Fragile, "exit", str(tmp_path / "file")), 1) as model:
            stats = [model.train_iteration() for _ in range(2)]
            hashes.append(model.weights_sha256())
        assert [each.rollout["lost_workers"] for each in stats] == [1.0, 1.0]
    assert hashes[0] == hashes[1]
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert said == 2 * [
        "iteration 1: worker 1 of 1 of Fragile ended with status 3; another takes its place, and "
        f"its groups, {GROUPS} of {GROUPS}, start again from other seeds"
    ]
    (first, undisturbed), (again, changed), (_, unchanged) = starts[:3]
    np.testing.assert_array_equal(first, undisturbed)
    np.testing.assert_array_equal(first, again)
    assert len({*first, *changed, *unchanged}) == 3 * GROUPS
    assert changed.tolist() == [int(redrawn_seeds(0, 0, g, 1, None)) for g in range(GROUPS)]


def test_only_the_groups_of_a_lost_worker_start_from_other_seeds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with model_of(partial(Fragile, "exit", str(tmp_path / "file")), 2) as model:
        seeds = [model.prepare().collect(model.policy, 0).observations[0] for _ in range(2)]
    same = (seeds[0] == seeds[1]).all(dim=2).all(dim=1)
    assert sorted([same[:2].tolist(), same[2:].tolist()]) == [[False, False], [True, True]]


def test_too_many_lost_workers_end_training(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(redraws, "MOST_LOST", 1)
    (tmp_path / "file").touch()
    make = partial(Fragile, "kill", str(tmp_path / "file"), forever=True)
    with (
        model_of(make, 1) as model,
        pytest.raises(
            EnvError,
            match=r"a rollout must not lose more than 1 workers, lost one more: worker 1 of 1 of "
            r"Fragile was killed by SIGKILL .*, or train with workers=0$",
        ),
    ):
        model.learn(1)


MODULE = """
import gymnasium as gym
from worker_envs import Fragile

class Later(Fragile):
    def reset(self, *, seed=None, options=None):
        self.episode = getattr(self, "episode", 0) + 1
        if self.episode == 3 and not self.forever:
            self.file.touch()
        return super().reset(seed=seed)

gym.register("Later-v0", Later)
"""


def test_a_command_ends_with_a_checkpoint_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "later.py").write_text(MODULE)
    monkeypatch.setattr(redraws, "MOST_LOST", 0)
    command = ["train", "--env", "later:Later-v0", "--env-kwargs", "fault=exit", "file=file"]
    command += ["--num-groups", "2", "--group-size", "2", "--evaluations", "0", "--quiet"]
    command += ["--final-episodes", "0", "--total-steps", "64", "--workers", "1"]
    assert main([*command, "--run-dir", "run"]) == 1
    assert re.search(
        r"^error: a rollout must not lose .* ended with status 3\.", capsys.readouterr().err, re.M
    )
    assert GRPO.load("run/checkpoints/latest.ckpt").iteration == 2
    Path("file").unlink(missing_ok=True)
    assert main(["train", "--resume", "run", "--workers", "0", "--quiet"]) == 0
    assert GRPO.load("run/checkpoints/latest.ckpt").iteration == 4


def vector(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([Everything] * num_envs)


@pytest.mark.parametrize(
    ("env", "kwargs"), [("Battleship-v0", {"preset": "uniform-5x5"}), (vector, {})]
)
def test_where_there_is_nothing_for_workers_to_do(
    env: Any, kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with model_of(env, 2, env_kwargs=kwargs) as model:
        model.prepare()
    for name in ("workers", "worker_timeout_s"):
        assert (
            f"{name} has no effect unless the environment is neither native nor a vector "
            "environment"
        ) in caplog.messages


def test_a_command_for_an_environment_of_ours_refuses_workers(capsys: Any) -> None:
    assert main(["train", "--env", "Battleship-v0", "--workers", "2"]) == 2
    assert "--workers must be left out unless the environment is neither" in capsys.readouterr().err


def test_a_model_goes_on_with_other_workers_and_nothing_else(tmp_path: Path) -> None:
    model_of(Everything, 2).save(tmp_path / "model.ckpt")
    model = GRPO.load(tmp_path / "model.ckpt", Everything, workers=0)
    assert model.config.workers == 0 and model.config.worker_timeout_s == 30.0
    with pytest.raises(ConfigError, match="seed must be left out of load"):
        GRPO.load(tmp_path / "model.ckpt", Everything, seed=1)


def test_workers_count_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[float] = []
    monkeypatch.setattr(memory, "check_memory", lambda size, *_: needed.append(size))
    for workers in (0, 3):
        model = model_of(Everything, workers)
        with closing(make_batch(Everything, None, 1)) as batch:
            memory.check_rollout(batch, model.policy, model.config)
    assert needed[-1] - needed[len(needed) // 2 - 1] > 100e6
