"""`train --algo online` as its users call it."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from grpo_gym.cli.evaluate import main as evaluate_main
from grpo_gym.cli.train import main
from grpo_gym.settings import load_yaml
from grpo_gym.trainers.online import OnlineGRPO

ROOT = Path(__file__).resolve().parents[2]
ONLINE = ["--algo", "online"]
TINY = [*ONLINE, "--env", "LoadBalancer-v0", "--env-kwargs", "preset=tiny-grpo"]
NO_TABLE = ["--final-episodes", "0"]
SHORT = [*ONLINE, "--total-steps", "2000", "--seed", "3"]


def weights(folder: str) -> str:
    return OnlineGRPO.load(Path(folder) / "checkpoints" / "latest.ckpt").weights_sha256()


def assert_one_line(err: str, *parts: str) -> None:
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


def test_exactly_the_recorded_tags_are_documented() -> None:
    assert main([*TINY, "--run-dir", "tiny", "--quiet"]) == 0
    events = EventAccumulator("tiny").Reload()
    shares = [f"policy/server_{server}" for server in range(4)]
    assert sorted(events.Tags()["scalars"]) == [*shares, "rollout/reward_mean"]
    faulty = {event.step: event.value for event in events.Scalars("policy/server_0")}
    assert faulty[1000] > 0.85
    assert faulty[2000] < 0.05
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    documented = text[text.index("## Online runs") :]
    assert re.findall(r"^\| `([\w/<>]+)` \|", documented, re.MULTILINE) == [
        *("rollout/reward_mean", "policy/server_<n>")
    ]


def test_the_demonstration_degrades_and_recovers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--run-dir", "run"]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"^step (\d+): mean reward -\d+\.\d since", out, re.MULTILINE) == [
        *("500", "1000", "1500", "2000", "2500", "3000")
    ]
    shares = {n: re.findall(rf"^server {n} .*?([\d.]+) %$", out, re.MULTILINE) for n in range(4)}
    best = [float(share) for share in shares[0]]
    assert min(best[0], best[1], best[4], best[5]) >= 85.0
    assert max(best[2], best[3]) < 5.0
    assert min(float(share) for share in shares[1][2:4]) > 85.0
    since = r"server {} has been the most likely since step (\d+), (\d+) steps after the change"
    change = re.search(since.format(1), out)
    recovery = re.search(since.format(0), out)
    assert change and recovery
    assert 1_000 < int(change[1]) == 1_000 + int(change[2]) <= 1_200
    assert 2_000 < int(recovery[1]) == 2_000 + int(recovery[2]) <= 2_500
    assert "server 0 is degraded from here on" in out
    assert "server 0 has recovered" in out
    assert "policy " not in out, "no table: this is not about heuristics"
    assert max(map(len, out.splitlines())) <= 80
    assert weights("run") in err


def test_a_run_leaves_its_settings_and_a_policy_among_the_baselines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [*SHORT, "--final-episodes", "4", "--online-kwargs", "learning_rate=0.02"]
    assert main([*line, "--run-dir", "run"]) == 0
    out, err = capsys.readouterr()
    assert "> trained policy" in out
    assert re.search(r"shortest_expected_delay +-\d", out)
    assert re.search(r"oracle \*", out)
    assert "2,000/2,000 decisions" in err
    config = load_yaml("run/config.yaml")
    assert config["online"]["learning_rate"] == 0.02
    assert config["online"]["seed"] == config["grpo"]["seed"] == 3
    again = ["--config", "run/config.yaml", *NO_TABLE]
    assert main([*again, "--run-dir", "again"]) == 0
    assert weights("again") == weights("run")
    assert main([*again, "--run-dir", "other", "--seed", "4"]) == 0
    assert weights("other") != weights("run")


def test_a_run_is_found_under_its_name() -> None:
    assert main([*SHORT, *NO_TABLE, "--quiet"]) == 0
    (folder,) = Path("runs/LoadBalancer-v0").iterdir()
    assert folder.name.startswith("online-seed3-")


def test_evaluate_plays_an_online_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, *NO_TABLE, "--run-dir", "run", "--quiet"]) == 0
    assert evaluate_main(["--policy", "run", "--episodes", "8", "--json", "a.json"]) == 0
    assert evaluate_main(["--policy", "run", "--episodes", "8", "--stochastic"]) == 0
    expected = OnlineGRPO.load("run/checkpoints/latest.ckpt").evaluate(8, seed=0)
    assert load_yaml("a.json")["return"]["mean"] == pytest.approx(np.mean(expected.returns))
    Path("damaged.ckpt").write_bytes(b"grpo-gym-checkpoint 1 0 0\n")
    capsys.readouterr()
    assert evaluate_main(["--policy", "damaged.ckpt"]) == 1
    assert_one_line(capsys.readouterr().err, "damaged.ckpt: its first line is damaged")


@pytest.mark.parametrize("arguments", [SHORT, TINY])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_and_saves_what_was_learned(
    number: int,
    status: int,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = OnlineGRPO.train_steps

    def interrupted(self: OnlineGRPO, *given: Any) -> Any:
        rewards = original(self, *given)
        if self.num_steps >= 1_000:
            os.kill(os.getpid(), number)
        return rewards

    monkeypatch.setattr(OnlineGRPO, "train_steps", interrupted)
    given = [*arguments, *([] if arguments is TINY else ["--env", "LoadBalancer-v0"])]
    if arguments is SHORT:
        given[given.index("2000")] = "50000"
    assert main([*given, "--run-dir", "run"]) == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert "decisions; what was learned is in run/checkpoints/latest.ckpt" in last
    model = OnlineGRPO.load("run/checkpoints/latest.ckpt")
    assert f"stopped after {model.num_steps:,} of" in last
    assert model.num_steps in (1_000, 10_000)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--algo online --preset loop", "--preset is for --algo grpo"),
        ("--algo online --learning-rate 0.1", "--learning-rate is for --algo grpo"),
        ("--algo online --policy mlp", "--policy is for --algo grpo"),
        ("--algo online --policy-kwargs blocks=3", "--policy-kwargs is for --algo grpo"),
        ("--algo online --evaluations 3", "--evaluations is for --algo grpo"),
        ("--algo online --training-env-kwargs reward=demo", "--training-env-kwargs is for"),
        ("--online-kwargs group_size=3", "--online-kwargs must come with --algo online"),
        ("--algo online --online-kwargs group_siz=3", "Did you mean 'group_size'?"),
        ("--algo online --online-kwargs group_size=1", "group_size must be >= 2, got 1"),
        ("--algo online --online-kwargs group_size=5", "num_actions must be from group_size = 5"),
        ("--algo online --env CartPole-v1", "env must be 'LoadBalancer-v0' for online GRPO"),
        ("--algo online --env Pendulum-v1", "it needs discrete actions"),
        ("--algo online --env-kwargs preset=park", 'add reward="latency" to env_kwargs'),
        ("--algo online --env-kwargs preset=parc", "Did you mean 'park'?"),
        ("--algo online --run-dir used", "--run-dir must be new or empty"),
        ("--resume online", "--resume must be followed by a run of --algo grpo"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_work(
    arguments: str,
    parts: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(OnlineGRPO, "train_steps", None)
    Path("used").mkdir()
    Path("used/file").touch()
    Path("online").mkdir()
    Path("online/config.yaml").write_text("algo: online\n")
    assert main(arguments.split()) == 2
    assert_one_line(capsys.readouterr().err, parts)
    assert not Path("runs").exists()


def test_a_policy_is_saved_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    train_steps = OnlineGRPO.train_steps

    def fail(model: OnlineGRPO, *arguments: Any) -> np.ndarray:
        if model.num_steps:
            raise OSError(5, "no power")
        return train_steps(model, *arguments)

    monkeypatch.setattr(OnlineGRPO, "train_steps", fail)
    words = [*ONLINE, *NO_TABLE, "--total-steps", "50000", "--run-dir", "run", "--quiet"]
    assert main(words) == 1
    assert OnlineGRPO.load("run/checkpoints/latest.ckpt").num_steps == 10_000
