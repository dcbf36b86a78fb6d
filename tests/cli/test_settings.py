"""From the words of a command line to settings: which source wins, and what the help shows."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.settings import RunOptions, parse_train
from grpo_gym.settings import ConfigError, load_yaml, save_yaml
from grpo_gym.trainers import shipped as shipped_settings
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.presets import PRESETS
from grpo_gym.trainers.settings import TrainSettings


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped settings with one environment and one of its presets."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "LoadBalancer-v0.yaml").write_text("total_steps: 111\ngrpo: {epochs: 7}\n")
    (folder / "LoadBalancer-v0-park.yaml").write_text(
        "env_kwargs: {preset: park, num_servers: 6}\n"
        "training_env_kwargs: {reward: latency}\n"
        "total_steps: 222\n"
    )
    monkeypatch.setattr(shipped_settings, "files", lambda _: folder)
    return folder


def parse(line: str) -> TrainSettings:
    return parse_train(line.split())[0]


def test_every_setting_is_an_option() -> None:
    settings = parse(
        "--env LoadBalancer-v0 --env-kwargs a=1 b=[1,2] c=x=y --training-env-kwargs d=true "
        "--algo grpo --policy gru --total-steps 1e6 --evaluations 3 --evaluation-episodes 1e2 "
        "--checkpoint-every 5 --final-episodes 0 --num-groups 2 --group_size=4 --target-kl 0.1 "
        "--hidden-sizes 8 16 --log-std-bounds -4 1 --no-drop-uniform-groups --scale none "
        "--learning-rate 3e-4 --max-episode-steps None --seed 9"
    )
    assert settings.env == "LoadBalancer-v0"
    assert settings.env_kwargs == {"a": 1, "b": [1, 2], "c": "x=y"}
    assert settings.training_env_kwargs == {"d": True}
    assert (settings.policy, settings.total_steps, settings.evaluations) == ("gru", 10**6, 3)
    assert (settings.evaluation_episodes, settings.final_episodes) == (100, 0)
    grpo = settings.grpo
    assert (grpo.num_groups, grpo.group_size, grpo.seed, grpo.target_kl) == (2, 4, 9, 0.1)
    assert (grpo.hidden_sizes, grpo.log_std_bounds) == ((8, 16), (-4.0, 1.0))
    assert (grpo.drop_uniform_groups, grpo.scale, grpo.max_episode_steps) == (False, "none", None)


def test_without_options_the_shipped_settings_hold() -> None:
    assert parse("") == TrainSettings(total_steps=111, grpo=GRPOConfig(epochs=7))
    assert parse("--env grpo_gym:LoadBalancer-v0") == parse("")
    assert parse("--env Blackjack-v1 --baseline time_step") == TrainSettings(env="Blackjack-v1")


def test_the_settings_of_a_preset_of_the_environment_are_preferred() -> None:
    settings = parse("--env LoadBalancer-v0 --env-kwargs preset=park num_servers=10")
    assert settings.total_steps == 222
    assert settings.env_kwargs == {"preset": "park", "num_servers": 10}
    assert settings.training_env_kwargs == {"reward": "latency"}
    assert parse("--env-kwargs preset=mm4").total_steps == 111


def test_options_go_over_a_preset_over_a_file() -> None:
    Path("mine.yaml").write_text(
        "env: CartPole-v1\ntotal_steps: 5\ngrpo: {epochs: 9, scale: group, num_groups: 3}\n"
    )
    settings = parse("--config mine.yaml --preset loop --clip-high 0.5")
    assert (settings.env, settings.total_steps) == ("CartPole-v1", 5)
    assert settings.grpo.num_groups == 3, "of the file"
    assert settings.grpo.scale == PRESETS["loop"]["scale"] == "none", "of the preset"
    assert settings.grpo.epochs == PRESETS["loop"]["epochs"] == 2, "of the preset"
    assert settings.grpo.clip_high == 0.5, "of the command line"


@pytest.mark.parametrize(
    ("line", "kwargs", "training"),
    [
        ("", {"preset": "park", "num_servers": 6}, {"reward": "latency"}),
        ("--env-kwargs num_servers=3", {"preset": "park", "num_servers": 3}, {"reward": "latency"}),
        ("--env-kwargs preset=mm4", {"preset": "mm4"}, {}),
        ("--env CartPole-v1", {}, {}),
        ("--training-env-kwargs reward=park", {"preset": "park", "num_servers": 6}, None),
    ],
)
def test_arguments_of_an_environment_count_for_it_and_its_preset(
    line: str, kwargs: dict[str, Any], training: dict[str, Any] | None, shipped: Path
) -> None:
    settings = parse(f"--config {shipped / 'LoadBalancer-v0-park.yaml'} {line}")
    assert settings.env_kwargs == kwargs
    assert settings.training_env_kwargs == ({"reward": "park"} if training is None else training)


def test_what_concerns_the_start_only_is_no_setting() -> None:
    _, run = parse_train(["--run-dir", "here", "--quiet"])
    assert run == RunOptions(run_dir=Path("here"), quiet=True)


def test_a_resumed_run_has_its_own_settings_and_may_be_longer(tmp_path: Path) -> None:
    saved = parse("--env CartPole-v1 --total-steps 5000 --seed 3")
    save_yaml(saved, tmp_path / "config.yaml")
    settings, run = parse_train(["--resume", str(tmp_path), "--quiet"])
    assert (settings, run) == (saved, RunOptions(resume=tmp_path, quiet=True))
    settings, _ = parse_train(["--resume", str(tmp_path), "--total-steps", "1e6"])
    assert settings == dataclasses.replace(saved, total_steps=1_000_000)


@pytest.mark.parametrize("config", [TrainSettings, RunOptions, GRPOConfig])
def test_every_field_is_explained(config: type) -> None:
    for owner in config.__mro__[:-1]:
        for name in inspect.get_annotations(owner):
            text = owner.__pydantic_fields__[name].description  # type: ignore[attr-defined]
            assert text and text.endswith("."), (owner, name)


def test_the_help_names_every_option_with_what_holds_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        parse("--env-kwargs preset=park --preset loop --hidden-sizes 8 4 --help")
    assert left.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for config in (TrainSettings, RunOptions, GRPOConfig):
        for field in dataclasses.fields(config):
            if field.name not in ("grpo", "online"):
                option = f"--{field.name.replace('_', '-')}"
                assert re.search(rf" {option}[ ,\n]", out), option
    words = " ".join(re.sub(r"[│─╭╮╰╯]", " ", out).split())
    assert all(name in words for name in PRESETS)
    assert "(default: preset=park num_servers=6)" in words
    assert "(default: 222)" in words
    assert "(default: leave_one_out)" in words, "of the preset"
    assert "(default: 8 4)" in words
    assert "{none,group,batch,time_step}" in words
    assert "_config" not in words and "object at" not in words
    assert max(map(len, out.splitlines())) <= 80
    assert "loop, dapo, magistral" in out, "lines of a docstring are joined"
    assert "\x1b" not in out


def test_help_is_shown_for_a_command_of_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    line = CommandLine("some", "Do something.", {"run": RunOptions})
    assert line.parse(["--quiet", "-h"]).help
    with pytest.raises(SystemExit):
        line.show_help({"run": RunOptions()})
    assert "usage: grpo-gym some" in capsys.readouterr().out


def test_the_shipped_files_are_settings() -> None:
    root = Path(__file__).resolve().parents[2] / "configs"
    for path in root.glob("*.yaml"):
        assert load_yaml(path).get("env") is not None
        assert parse(f"--config {path}").env == load_yaml(path)["env"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--branch-every 10",
            '--branch-every must be left out unless grouping is "branch", got 10',
        ),
        ("--preset vine --branch-every 10 --grouping shared", "--branch-every must be left out"),
        ("--preset trust_region --learning-rate 0.1", "--learning-rate must be left out unless"),
        ("--preset loop --kl-estimator k2", "--kl-estimator must be left out unless kl_coeff"),
        ("--policy linear --hidden-sizes 8", "--hidden-sizes must be left out unless policy is"),
        ("--evaluations 0 --evaluation-episodes 5", "--evaluation-episodes must be left out"),
        ("--hidden-sizes 8 --policy-kwargs hidden_sizes=[4]", "hidden_sizes must be given once"),
        ("--algo online --env-kwargs preset=tiny-grpo --final-episodes 7", "demonstrations"),
    ],
)
def test_an_option_without_effect_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(line)


def test_settings_without_effect_in_a_file_are_said(caplog: pytest.LogCaptureFixture) -> None:
    Path("mine.yaml").write_text("env: CartPole-v1\ngrpo: {branch_every: 9}\n")
    assert parse("--config mine.yaml").grpo.branch_every == 9
    assert caplog.messages == ['branch_every has no effect unless grouping is "branch"']
    assert parse("--config mine.yaml --preset vine").grpo.branch_every == 9
    assert len(caplog.messages) == 1
