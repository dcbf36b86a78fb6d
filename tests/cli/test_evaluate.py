"""`evaluate` as its users call it: the statistics file, who may play, and what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym import GRPO, evaluate_baseline
from grpo_gym.cli.evaluate import _batch_limit, main
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.trainers.named_policies import baseline_names, privileged_names

ROOT = Path(__file__).resolve().parents[2]
BALANCER = ["--env", "LoadBalancer-v0", "--env-kwargs", "episode_length=25"]
SUMMARY = {"mean", "sem", "median", "iqm", "ci95"}


@pytest.fixture
def model(tmp_path: Path) -> GRPO:
    """An untrained policy, saved as the only and latest checkpoint of a run."""
    model = GRPO("linear", "LoadBalancer-v0", env_kwargs={"episode_length": 25}, num_groups=2)
    model.save(tmp_path / "run" / "checkpoints" / "latest.ckpt")
    return model


def evaluated(*arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json", "out.json"]) == 0
    result: dict[str, Any] = json.loads(Path("out.json").read_text())
    return result


def test_the_file_has_the_layout_that_others_rely_on() -> None:
    result = evaluated(*BALANCER, "--policy", "random", "--episodes", "20", "--seed", "7")
    assert {"env", "policy", "episodes", "seed", "return", "length", "metrics"} <= set(result)
    assert result["env"] == "LoadBalancer-v0"
    assert (result["policy"], result["episodes"], result["seed"]) == ("random", 20, 7)
    assert {"response_time_ms", "error"} <= set(result["metrics"])
    for summary in (result["return"], result["length"], *result["metrics"].values()):
        assert set(summary) == SUMMARY
        low, high = summary["ci95"]
        assert low <= summary["mean"] <= high
    assert result["length"]["mean"] == 25.0
    assert result["length"]["sem"] == 0.0


def test_the_numbers_are_those_of_the_library(model: GRPO) -> None:
    result = evaluated("--policy", "run", "--episodes", "9", "--seed", "5")
    evaluation = model.evaluate(9, seed=5)
    assert result["return"]["mean"] == pytest.approx(evaluation.mean_return)
    assert result["return"]["ci95"] == list(summarise(evaluation.returns).ci95)
    assert result["env"] == "LoadBalancer-v0"
    assert result["env_kwargs"] == {"episode_length": 25}


def test_another_policy_in_the_same_episodes(
    model: GRPO, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--policy", "run", "--episodes", "9", "--seed", "5"]
    result = evaluated(*arguments, "--versus", "least_connections")
    baseline = evaluate_baseline("least_connections", "LoadBalancer-v0", model.env_kwargs, 9, 5)
    difference = model.evaluate(9, seed=5).difference(baseline)
    assert result["versus"] == "least_connections"
    assert result["difference"]["return"]["mean"] == pytest.approx(difference.mean_return)
    assert result["difference"]["return"]["ci95"] == list(summarise(difference.returns).ci95)
    assert "run minus least_connections, episode by episode" in capsys.readouterr().out
    itself = evaluated(*arguments, "--versus", "run/checkpoints/latest.ckpt")
    assert itself["difference"]["return"]["ci95"] == [0.0, 0.0]
    assert "difference" not in evaluated(*arguments)


def test_a_rival_for_other_spaces_is_refused(
    model: GRPO, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--policy", "run", "--versus", "lest_connections"]) == 2
    assert "least_connections" in capsys.readouterr().err
    other = GRPO("linear", "LoadBalancer-v0", env_kwargs={"preset": "mm4", "staleness_ms": 5.0})
    other.save("other.ckpt")
    assert main(["--policy", "run", "--versus", "other.ckpt"]) in (1, 2)


def test_a_checkpoint_a_run_and_the_prefixed_id_are_the_same_policy(model: GRPO) -> None:
    arguments = ["--episodes", "5"]
    by_run = evaluated("--policy", "run", *arguments)
    by_file = evaluated("--policy", "run/checkpoints/latest.ckpt", *arguments)
    by_id = evaluated("--policy", "run", "--env", "grpo_gym:LoadBalancer-v0", *arguments)
    assert by_run["return"] == by_file["return"] == by_id["return"]


def test_the_best_checkpoint_stands_for_a_run(model: GRPO) -> None:
    other = GRPO("mlp", "LoadBalancer-v0", env_kwargs={"episode_length": 25}, seed=1)
    other.save("run/checkpoints/best.ckpt")
    result = evaluated("--policy", "run", "--episodes", "5")
    expected, latest = other.evaluate(5, seed=0), model.evaluate(5, seed=0)
    assert result["return"]["mean"] == pytest.approx(expected.mean_return)
    assert result["return"]["mean"] != pytest.approx(latest.mean_return)


def test_sampling_differs_from_the_most_probable_action_and_repeats_itself(model: GRPO) -> None:
    arguments = ["--policy", "run", "--episodes", "5"]
    probable = evaluated(*arguments)["return"]
    sampled = evaluated(*arguments, "--stochastic")["return"]
    assert sampled != probable
    assert evaluated(*arguments, "--stochastic")["return"] == sampled


@pytest.mark.parametrize("name", baseline_names("LoadBalancer-v0"))
def test_every_baseline_plays_by_name(name: str) -> None:
    result = evaluated(*BALANCER, "--policy", name, "--episodes", "4")
    assert result["policy"] == name
    assert np.isfinite(result["return"]["mean"])


def test_the_clairvoyant_baseline_is_better_and_marked() -> None:
    oracle = evaluated(*BALANCER, "--policy", "oracle", "--episodes", "50")
    random = evaluated(*BALANCER, "--policy", "random", "--episodes", "50")
    assert oracle["return"]["ci95"][0] > random["return"]["ci95"][1]
    assert "oracle" in privileged_names("LoadBalancer-v0")
    assert "least_connections" not in privileged_names("LoadBalancer-v0")


def test_arguments_come_over_those_of_training_one_by_one() -> None:
    trained = {"preset": "park", "num_servers": 3, "episode_length": 25}
    GRPO("linear", "LoadBalancer-v0", env_kwargs=trained).save("park.grpo")
    line = ["--policy", "park.grpo", "--episodes", "2"]
    longer = evaluated(*line, "--env-kwargs", "episode_length=30")
    assert longer["env_kwargs"] == {**trained, "episode_length": 30}
    afresh = evaluated(*line, "--env-kwargs", "preset=flaky", "num_servers=3")
    assert afresh["env_kwargs"] == {"preset": "flaky", "num_servers": 3}
    assert afresh["length"]["mean"] == 400.0


def test_episode_i_is_that_of_seed_plus_i() -> None:
    arguments = [*BALANCER, "--policy", "least_connections"]
    both = evaluated(*arguments, "--episodes", "2", "--seed", "3")["return"]["mean"]
    first = evaluated(*arguments, "--episodes", "1", "--seed", "3")["return"]["mean"]
    second = evaluated(*arguments, "--episodes", "1", "--seed", "4")["return"]["mean"]
    assert both == pytest.approx((first + second) / 2)
    assert first != second


def test_warmup_is_left_out_of_the_metrics_and_not_of_the_return() -> None:
    arguments = [*BALANCER, "--policy", "round_robin", "--episodes", "10"]
    whole, warm = evaluated(*arguments), evaluated(*arguments, "--warmup", "10")
    assert warm["return"] == whole["return"]
    assert warm["metrics"]["response_time_ms"] != whole["metrics"]["response_time_ms"]


def test_third_party_environments_have_a_random_baseline() -> None:
    arguments = ["--env", "CartPole-v1", "--policy", "random", "--episodes", "3e1"]
    result = evaluated(*arguments)
    assert result["metrics"] == {}
    assert 10 < result["return"]["mean"] < 40
    assert evaluated(*arguments) == result


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BALANCER, "--policy", "random", "--episodes", "20"]) == 0
    out, err = capsys.readouterr()
    assert "random on LoadBalancer-v0: 20 episodes from seed 0" in out
    for name in ("return", "length", "response_time_ms", "error"):
        assert re.search(rf"^  {name}( +-?[\d.]+){{6}} *$", out, re.MULTILINE), name
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "\x1b" not in out + err


def test_the_script_is_the_command() -> None:
    script = ROOT / "scripts" / "evaluate.py"
    arguments = [*BALANCER, "--policy", "random", "--episodes", "3", "--json", "deep/er/out.json"]
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(Path("deep/er/out.json").read_text())["episodes"] == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "--policy must be given"),
        ("--policy random", "A baseline needs --env."),
        ("--policy round_robbin --env LoadBalancer-v0", "Did you mean 'round_robin'?"),
        ("--policy nothing.ckpt --env CartPole-v1", "Choose from: random."),
        ("--policy round_robin --env CartPole-v1", "Choose from: random."),
        ("--policy empty", "there is no checkpoints/best.ckpt or latest.ckpt in it"),
        ("--policy random --env Nope-v0", "env must be a registered id"),
        ("--policy random --env LoadBalancer-v0 --env-kwargs num_server=3", "num_server"),
        ("--policy random --env CartPole-v1 --env-kwargs foo=3", "CartPole-v1 cannot be made"),
        ("--policy random --env CartPole-v1 --episodes 0", "episodes must be >= 1, got"),
        ("--policy random --env CartPole-v1 --seed -1", "seed must be >= 0, got"),
        ("--policy random --env CartPole-v1 --warmup -1", "warmup must be >= 0, got"),
        ("--policy random --env CartPole-v1 --warmup 501", "--warmup must be less than the "),
        ("--policy random --env CartPole-v1 --plot-beside hpa", "unless --plot FILE is given"),
        ("--policy random --env CartPole-v1 --stochastic", "must come with a trained policy"),
        (
            "--policy exact_posterior --env Battleship-v0 --exact --episodes 5",
            "--episodes must be left out unless --exact is left out too, got 5",
        ),
        (
            "--policy exact_posterior --env Battleship-v0 --exact --seed 5",
            "--seed must be left out unless --exact is left out too, got 5",
        ),
        ("--policy random --env CartPole-v1 --episodes 1e12", "episodes must be <= 1e+07"),
        (
            "--policy random --env CartPole-v1 --seed 9223372036854775807",
            "seed must be at most 2^63 - 1000 episodes",
        ),
        ("--policy random --env LoadBalancer-v0 --env-kwargs num_envs=5", "got num_envs=5"),
        ("--policy random --env CartPole-v1 --env-kwargs id=5", "got id=5"),
        ("--policy random --env CartPole-v1 --json empty", "--json must be a file"),
        ("--policy random --env CartPole-v1 --json text/x", "--json must be a file"),
        ("--polisy random", "Did you mean --policy?"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("text").write_text("no checkpoint")
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--policy text", "it is not a grpo-gym checkpoint"),
        ("--policy run --env CartPole-v1", "was trained with"),
        ("--policy run --env-kwargs num_servers=7", "was trained with"),
    ],
)
def test_a_checkpoint_that_cannot_play_is_refused_in_one_line(
    arguments: str, part: str, model: GRPO, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text").write_text("no checkpoint")
    assert main(arguments.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err


def test_ctrl_c_stops_at_once_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("grpo_gym.cli.evaluate.evaluate", interrupted)
    assert main([*BALANCER, "--policy", "random", "--json", "out.json"]) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not Path("out.json").exists()


# Playing every initial state


MICRO = ["--env", "Battleship-v0", "--env-kwargs", "preset=microgrpo-5x5"]


def test_an_exact_score_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(*MICRO, "--policy", "exact_posterior", "--exact")
    assert result["episodes"] == 1504
    assert result["return"]["mean"] == pytest.approx(0.7160, abs=5e-5)
    assert result["return"]["sem"] == 0.0
    assert result["return"]["ci95"] == [result["return"]["mean"]] * 2
    assert "1,504 episodes, which is all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            [*MICRO, "--policy", "random"],
            "--exact must come with a deterministic policy, got random",
        ),
        (["--env", "Battleship-v0", "--policy", "exact_posterior"], "too many boards to list"),
        (["--env", "LoadBalancer-v0", "--policy", "oracle"], "cannot enumerate its initial"),
        (["--env", "CartPole-v1", "--policy", "random"], "cannot enumerate its initial states"),
    ],
)
def test_what_has_no_exact_score_is_refused(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, "--exact"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "env_kwargs", "limit"),
    [
        ("LoadBalancer-v0", {}, 128),
        ("LoadBalancer-v0", {"preset": "mm4"}, 32),
        ("AutoScaler-v0", {"preset": "weekly"}, 32),
        ("Battleship-v0", {}, 128),
        ("CartPole-v1", {}, 128),
    ],
)
def test_fewer_environments_side_by_side_where_episodes_are_long(
    env: str, env_kwargs: dict[str, Any], limit: int
) -> None:
    assert _batch_limit(env, env_kwargs) == limit
