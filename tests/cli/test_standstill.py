from pathlib import Path

import pytest

from grpo_gym.cli.train import main
from grpo_gym.trainers.grpo import GRPO

TRAIN = [
    *("--env", "CartPole-v1", "--num-groups", "2", "--group-size", "4", "--hidden-sizes", "8"),
    *("--final-episodes", "3", "--evaluation-episodes", "3", "--evaluations", "5", "--total-steps"),
]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(words)
    return status, capsys.readouterr().err


def test_a_collapsed_run_keeps_its_best_and_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    collapse = ["5000", "--learning-rate", "1e6", "--run-dir", "run"]
    status, said = run(capsys, *TRAIN, *collapse)
    assert status == 3
    last = said.splitlines()[-1]
    assert "of 5,000 steps: 10 iterations in a row changed no weight" in last
    assert last.endswith("The policy to keep is run/checkpoints/best.ckpt")
    model = GRPO.load("run/checkpoints/latest.ckpt")
    assert model.num_steps < 5_000
    best = GRPO.load("run/checkpoints/best.ckpt")
    assert best.notes["return"] == best.notes["best_return"] == model.notes["best_return"]
    before = Path("run/checkpoints/latest.ckpt").read_bytes()
    status, said = run(capsys, "--resume", "run")
    assert (status, said.splitlines()[-1]) == (3, last)
    assert Path("run/checkpoints/latest.ckpt").read_bytes() == before


def test_the_last_step_may_come_before_the_tenth_such_iteration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, said = run(capsys, *TRAIN, "600", "--learning-rate", "1e6", "--run-dir", "run")
    assert status == 3
    assert "training ended after 6" in said.splitlines()[-1]
    assert GRPO.load("run/checkpoints/latest.ckpt").num_steps >= 600


def test_a_run_that_learns_has_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, *TRAIN, "600", "--run-dir", "run")
    assert status == 0
    assert "changed no weight" not in said


EASY = """
import gymnasium as gym
import numpy as np

class Easy(gym.Env):
    \"\"\"One action is best, so much that a policy is soon certain of it.\"\"\"
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action == 1), True, False, {}

gym.register("Easy-v0", Easy)
"""


def test_a_task_that_is_learned_for_certain_has_status_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("easy_env.py").write_text(EASY)
    monkeypatch.syspath_prepend(".")
    options = ["--env", "easy_env:Easy-v0", "--num-groups", "4", "--group-size", "8"]
    options += ["--policy", "linear", "--learning-rate", "1", "--total-steps", "20000"]
    options += ["--learning-rate-schedule", "constant", "--final-episodes", "0"]
    status, said = run(capsys, *options, "--run-dir", "run")
    assert "the policy is certain of its actions, and has learned its task" in said
    assert status == 0
    assert GRPO.load("run/checkpoints/latest.ckpt", "easy_env:Easy-v0").num_steps < 20_000
