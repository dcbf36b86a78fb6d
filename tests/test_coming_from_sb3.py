"""docs/coming_from.md: its examples run, and what it says of both sides holds."""

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import TRPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as masked_evaluate_policy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from grpo_gym import GRPO
from grpo_gym.envs.sb3 import to_sb3
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.reporting import scalars

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "coming_from.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """Cells of the table in a section of the page, without its head."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def with_values(cell: str) -> dict[str, str]:
    """Names in a cell that are followed by a value in brackets."""
    return dict(re.findall(r"`(\w+)` \(([^)]+|\([^)]*\))\)", cell))


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    names: dict[str, Any] = {}
    exec(compile(code, "coming_from.md", "exec"), names)
    assert names["grpo"].num_steps >= 2_000
    assert (tmp_path / "best.grpo").exists()
    assert list((tmp_path / "runs" / "cartpole").glob("events.out.tfevents.*"))
    assert names["info"]["action_mask"][names["shot"]]


def test_defaults_are_those_of_the_page() -> None:
    theirs = inspect.signature(PPO).parameters
    checked = 0
    for left, *_ in rows("Settings"):
        for name, value in with_values(left).items():
            assert str(theirs[name].default) == value, name
            checked += 1
    ours = GRPOConfig()
    for _, right, remark in rows("Settings"):
        for name, value in (with_values(right) | with_values(remark)).items():
            assert str(getattr(ours, name)) in (value.strip('"'), f"({value})"), name
            checked += 1
    assert checked >= 35
    assert inspect.signature(TRPO).parameters["target_kl"].default == ours.max_kl


def test_every_setting_named_on_our_side_exists() -> None:
    fields = {field for field in GRPOConfig.__dataclass_fields__} | {"policy"}
    for _, right, _ in rows("Settings"):
        for name in re.findall(r"`(\w+)", right):
            assert name in fields, name


def test_our_settings_beside_cleanrl_and_trl_exist() -> None:
    fields, metrics = set(GRPOConfig.__dataclass_fields__), (DOCS / "reference" / "metrics.md")
    described = metrics.read_text(encoding="utf-8")
    for section in ("CleanRL", "TRL"):
        for _, right, _ in rows(section):
            for name in re.findall(r"`([\w/-]+)`", right):
                if "/" in name:
                    assert f"`{name}`" in described, name
                else:
                    assert name in fields or name in ("--env", "--total-steps"), name


class Tags(KVWriter):
    """Notes which tags were written."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def write(self, key_values: dict[str, Any], *_: Any) -> None:
        self.names |= key_values.keys()

    def close(self) -> None:
        pass


def test_tags_of_both_sides_are_recorded() -> None:
    tags = Tags()
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, n_epochs=1, seed=0)
    model.set_logger(Logger(None, [tags]))
    evaluation = EvalCallback(gym.make("CartPole-v1"), n_eval_episodes=1, eval_freq=32, verbose=0)
    with pytest.warns(UserWarning):  # neither of one type nor monitored, which is no matter here
        model.learn(256, callback=evaluation)
    recorded: set[str] = set()
    described = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    GRPO("mlp", "CartPole-v1", num_groups=2, group_size=4).learn(
        100, callback=lambda _, stats: recorded.update(scalars(stats))
    )
    for left, right, _ in rows("TensorBoard"):
        assert set(re.findall(r"`(\S+)`", left)) <= tags.names
        for tag in re.findall(r"`(\S+)`", right):
            assert tag in recorded or tag.startswith("eval/")
            assert f"`{tag}`" in described


def test_evaluate_policy_takes_models_with_a_memory_and_vector_environments() -> None:
    kwargs: dict[str, Any] = {"episode_length": 20}
    batch = gym.make_vec("LoadBalancer-v0", num_envs=4, autoreset_mode="SameStep", **kwargs)
    venv = VecMonitor(to_sb3(batch))
    for frame_history in (1, 3):
        model = GRPO("mlp", "LoadBalancer-v0", env_kwargs=kwargs, frame_history=frame_history)
        mean, _ = evaluate_policy(model, venv, n_eval_episodes=4)
        assert np.isfinite(mean)
    model = GRPO("gru", "CartPole-v1", frame_history=4)
    theirs = VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2))
    mean, _ = evaluate_policy(model, theirs, n_eval_episodes=4)
    assert mean > 0.0


def test_evaluate_policy_with_masks_takes_models() -> None:
    kwargs: dict[str, Any] = {"preset": "uniform-5x5", "reward": "shots"}
    model = GRPO("board", "Battleship-v0", env_kwargs=kwargs)
    env = gym.make("Battleship-v0", **kwargs)
    mean, _ = masked_evaluate_policy(model, env, n_eval_episodes=4, deterministic=False, warn=False)
    # 25 shots without a repetition end every game, and none ends before its nine cells are hit.
    assert -25.0 <= mean <= -9.0


def test_learning_goes_on_counting_and_files_hold_it(tmp_path: Path) -> None:
    model = GRPO("mlp", "CartPole-v1", num_groups=1, group_size=4).learn(50)
    model.save(tmp_path / "half.grpo")
    again = GRPO.load(tmp_path / "half.grpo")
    assert again.weights_sha256() == model.weights_sha256()
    assert again.learn(50).num_steps == model.learn(50).num_steps > 100
    assert again.weights_sha256() == model.weights_sha256()


def test_theirs_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="an id, an environment or a function"):
        GRPO("mlp", DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(ConfigError, match="'gamma' is not a setting"):
        GRPO("mlp", "CartPole-v1", gamma=0.9)
    with pytest.raises(ConfigError, match="Did you mean 'learning_rate'"):
        GRPO("mlp", "CartPole-v1", learning_rates=0.1)
    with pytest.raises(ConfigError, match="action space must be"):
        GRPO("mlp", WholeNumbers)


class WholeNumbers(gym.Env[np.ndarray, np.ndarray]):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(0, 9, (3,), np.int64)
