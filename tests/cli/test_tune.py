"""`tune` as its users call it: searches, goes on, ends with settings that `compare` takes."""

from pathlib import Path

import pytest

from grpo_gym.cli.tune import main
from grpo_gym.settings import from_mapping, load_yaml
from grpo_gym.trainers.comparison.contenders import find_contender
from grpo_gym.trainers.comparison.settings import SB3Settings
from grpo_gym.trainers.settings import TrainSettings

pytest.importorskip("optuna")
pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

SMALL = [
    *("--env", "LoadBalancer-v0", "--env-kwargs", "episode_length=8", "--settings", "first.yaml"),
    *("--total-steps", "256", "--evaluations", "2", "--curve-episodes", "2"),
    *("--final-episodes", "3"),
]


def test_finds_goes_on_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("first.yaml").write_text("env: LoadBalancer-v0\nalgorithm: a2c\nvf_coef: 1\n")
    call = [*SMALL, "--algorithm", "a2c", "--processes", "1"]
    assert main([*call, "--trials", "2"]) == 2
    assert "'vf_coef' is not a setting of SB3Settings" in capsys.readouterr().err
    Path("first.yaml").write_text("env: LoadBalancer-v0\nalgorithm: a2c\nnum_envs: 4\n")
    assert main([*call, "--trials", "1"]) == 0
    out = Path("tuning/a2c-LoadBalancer-v0.yaml")
    only = find_contender("a2c", "LoadBalancer-v0", {"episode_length": 8}, str(out))
    assert only.tuned and only.settings.num_envs == 4  # type: ignore[union-attr]
    assert capsys.readouterr().out == out.read_text()

    assert main([*call, "--trials", "3"]) == 0
    told = capsys.readouterr()
    assert "trial 0:" not in told.err and "trial 1:" in told.err and "trial 2:" in told.err
    text = out.read_text()
    assert "# a2c on LoadBalancer-v0 episode_length=8. Best of 3 trials: " in text
    assert "1 training of 256 steps" in text and "--trials 3" in text
    values = load_yaml(out)
    assert values["tuned"] is True and values["env_kwargs"] == {"episode_length": 8}
    assert isinstance(from_mapping(SB3Settings, values, str(out)), SB3Settings)

    assert main([word if word != "256" else "512" for word in [*call, "--trials", "4"]]) == 2
    assert "budget.total_steps was 256 there and is 512 now" in capsys.readouterr().err
    assert out.read_text() == text


def test_settings_of_ours_are_a_file_for_train(capsys: pytest.CaptureFixture[str]) -> None:
    Path("first.yaml").write_text(
        "env: LoadBalancer-v0\ngrpo: {num_groups: 2, group_size: 4, final_learning_rate: 0.5}\n"
    )
    assert main([*SMALL, "--trials", "1", "--processes", "1", "--out", "best.yaml"]) == 0
    settings = from_mapping(TrainSettings, load_yaml("best.yaml"), "best.yaml")
    assert settings.total_steps == 256 and settings.env_kwargs == {"episode_length": 8}
    assert (settings.grpo.num_groups, settings.grpo.final_learning_rate) == (2, 0.5)
    assert "seed" not in load_yaml("best.yaml")["grpo"]
    assert "python " not in Path("best.yaml").read_text().split("grpo-gym tune")[0]


def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--algorithm", "poo"]) == 2
    assert "Did you mean 'ppo'" in capsys.readouterr().err
    assert main(["--env", "CartPole-v1", "--algorithm", "maskable_ppo"]) == 2
    assert "algorithm must be ppo for CartPole-v1" in capsys.readouterr().err
    assert main(["--trials", "0"]) == 2
    assert "trials must be >= 1" in capsys.readouterr().err
    assert main(["--processes", "100000"]) == 2
    assert "processes must be <= " in capsys.readouterr().err
    Path("folder").mkdir()
    assert main(["--study", "folder"]) == 2
    assert "--study must be a file that can be written" in capsys.readouterr().err
