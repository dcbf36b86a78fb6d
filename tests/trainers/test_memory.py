"""What cannot fit into memory is refused in one line, before it is asked for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError
from grpo_gym.settings.memory import LIMIT_VARIABLE, available_memory, check_memory
from grpo_gym.trainers.defaults import longest_episode
from grpo_gym.trainers.grpo import GRPO

BOARD: dict[str, Any] = {"board_size": (3, 4), "fleet": (2,)}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "8")


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_sizes": (10**9,)},
        {"hidden_sizes": (10**5, 10**5)},
        {"hidden_sizes": (10_000,) * 10},
        {"policy": "gru", "frame_history": 4, "hidden_sizes": (30_000, 30_000)},
        {"frame_history": 10**9},
        {"policy": "gru", "frame_history": 4, "gru_width": 10**6},
        {"policy": "temporal", "frame_history": 4, "feedforward_width": 10**9},
        {"policy": "temporal", "frame_history": 4, "lstm_width": 80_000},
        {"policy": "board", "channels": 10**5},
    ],
    ids=str,
)
def test_networks(settings: dict[str, Any]) -> None:
    settings = {"policy": "mlp", **settings}
    with pytest.raises(ConfigError) as caught:
        GRPO(env="Battleship-v0", env_kwargs=BOARD, **settings)
    assert_one_line(str(caught.value))


def test_networks_of_ones_own() -> None:
    def wide(*_: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(48, 10**8), torch.nn.Linear(10**8, 12))

    with pytest.raises(ConfigError, match=r"weights must fit into the 8.0 GB of memory"):
        GRPO(wide, "Battleship-v0", env_kwargs=BOARD)


@pytest.mark.parametrize(
    ("env", "kwargs", "settings"),
    [
        ("Battleship-v0", BOARD, {"num_groups": 500_000, "group_size": 16}),
        ("Battleship-v0", BOARD, {"num_groups": 1000, "group_size": 1000, "frame_history": 30}),
        ("AutoScaler-v0", {"episode_steps": 400_000}, {"num_groups": 16}),
        ("CartPole-v1", {}, {"num_groups": 100_000}),
    ],
)
def test_rollouts(env: str, kwargs: dict[str, Any], settings: dict[str, Any]) -> None:
    model = GRPO("linear", env, env_kwargs=kwargs, **settings)
    with pytest.raises(
        ConfigError, match=r"num_groups .* x group_size .* steps must fit"
    ) as caught:
        model.prepare()
    assert_one_line(str(caught.value))


@pytest.mark.parametrize(
    ("name", "value"), [("num_groups", 10**9), ("group_size", 1e12), ("num_groups", 2**70)]
)
def test_absurd_numbers_are_out_of_range(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=f"{name} must be <= "):
        GRPO("linear", "Battleship-v0", env_kwargs=BOARD, **settings)


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("AutoScaler-v0", {"num_envs": 2_000_000}),
        ("AutoScaler-v0", {"num_envs": 6_000, "episode_steps": 500_000}),
        ("Battleship-v0", {"num_envs": 10_000_000, "board_size": 16}),
    ],
)
def test_simulators(env: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"num_envs={kwargs['num_envs']} .* must fit") as caught:
        gym.make_vec(env, **kwargs)
    assert_one_line(str(caught.value))


def test_what_the_system_refuses_at_once_is_one_line_too() -> None:
    with pytest.raises(ConfigError, match=r"num_envs=10000000 .* must fit into memory: make fewer"):
        gym.make_vec("AutoScaler-v0", num_envs=10_000_000, episode_steps=500_000)
    for length in (10**11, 10**18):
        with pytest.raises(ConfigError, match="must fit into memory: make fewer"):
            gym.make("LoadBalancer-v0", episode_length=length)


def test_more_environments_than_anyone_has() -> None:
    with pytest.raises(ConfigError, match="num_envs must be at most 10,000,000, got 1000000000"):
        gym.make_vec("Battleship-v0", num_envs=10**9)


def test_what_fits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0.05")
    model = GRPO("mlp", "Battleship-v0", env_kwargs=BOARD, num_groups=2, group_size=2)
    model.learn(1)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.00001")
    with pytest.raises(ConfigError, match="must fit into"):
        GRPO("mlp", "Battleship-v0", env_kwargs=BOARD)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_estimate_is_of_the_right_size() -> None:
    """Measured in a process of its own: an iteration takes neither four times more nor less."""
    code = (
        "import re\nfrom pathlib import Path\n"
        "from grpo_gym.trainers.grpo import GRPO\n"
        "import grpo_gym.trainers.memory as memory\n"
        "estimates = []\n"
        "memory.check_memory = lambda needed, *_: estimates.append(needed)\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', status)[1])\n"
        "kwargs = dict(env_kwargs={'board_size': (8, 8), 'fleet': (3,)}, epochs=1)\n"
        "GRPO('linear', 'Battleship-v0', num_groups=2, **kwargs).train_iteration()\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"  # the peak starts anew
        "before = peak()\n"
        "model = GRPO('linear', 'Battleship-v0', num_groups=64, **kwargs)\n"
        "model.train_iteration()\n"
        "print(estimates[-1], peak() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    estimated, measured = map(float, run.stdout.split())
    assert estimated / 4 < measured < estimated * 4


def test_the_longest_episode() -> None:
    assert longest_episode(make_batch("Battleship-v0", BOARD, 1)) == 12
    assert longest_episode(make_batch("Battleship-v0", {**BOARD, "max_episode_steps": 5}, 1)) == 5
    assert longest_episode(make_batch("CartPole-v1", {}, 1)) == 500
    assert longest_episode(make_batch(lambda: gym.make("CartPole-v1").unwrapped, {}, 1)) is None


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_the_variable_is_checked(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE} must be a number of GB > 0"):
        check_memory(1.0, "a", "b")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_the_system_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE)
    free = available_memory()
    assert free is not None and 1e7 < free < 1e14


def assert_one_line(message: str) -> None:
    assert "\n" not in message and len(message) < 300
    assert "must fit into the 8.0 GB of memory that are free, got about " in message
    assert f"(or set {LIMIT_VARIABLE})" in message
