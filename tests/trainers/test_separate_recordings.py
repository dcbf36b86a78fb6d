"""Recordings for training and others for test: who plays which, and who needs which."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.cli import evaluate, train
from grpo_gym.settings import ConfigError

ROWS = 60
SMALL: dict[str, Any] = {"num_groups": 1, "group_size": 2, "seed": 4}


def arrivals(path: Path, size: float) -> None:
    """Even gaps, and every second request of this size, the others of size 1."""
    rows = [f"{10 * row},{size if row % 2 else 1.0}" for row in range(ROWS)]
    path.write_text("\n".join(["time_ms,size", *rows]))


def demand(path: Path, level: float) -> None:
    path.write_text("\n".join(["value", *[str(level)] * ROWS]))


def largest_size(env: Any) -> float:
    """Over the smallest one: what scaling to a mean keeps."""
    simulator = env.simulator
    sizes = simulator.arrivals["size"][simulator.episodes["trace_row"][0]]
    return float(sizes.max() / sizes.min())


def demand_now(env: Any) -> float:
    return float(np.median(env.simulator.demand_ahead(3)))


CASES: dict[str, tuple[str, Callable[[Path, float], None], Callable[[Any], float], dict[str, Any]]]
CASES = {
    "LoadBalancer-v0": (
        "arrivals_csv",
        arrivals,
        largest_size,
        {"episode_length": 20, "integer_times": False},
    ),
    "AutoScaler-v0": ("demand_csv", demand, demand_now, {"episode_steps": 20}),
}
MAY, JUNE = 3.0, 7.0


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An environment, and arguments of GRPO with June's recording for test, May's for training."""
    name, write, _, short = CASES[request.param]
    for month, value in (("may", MAY), ("june", JUNE)):
        write(tmp_path / f"{month}.csv", value)
    yield (
        request.param,
        {
            "env_kwargs": {name: str(tmp_path / "june.csv"), **short},
            "training_env_kwargs": {name: str(tmp_path / "may.csv")},
        },
    )


def played(env_id: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """What training and evaluation replay: a number that tells one recording from the other."""
    from grpo_gym.rollouts.native_batch import NativeBatch

    seen: list[float] = []
    reset = NativeBatch._reset

    def watched(batch: NativeBatch, seeds: Any) -> Any:
        result = reset(batch, seeds)
        seen.append(CASES[env_id][2](batch.env))
        return result

    monkeypatch.setattr(NativeBatch, "_reset", watched)
    model.train_iteration()
    trained = seen[-1]
    model.evaluate(3)
    return trained, seen[-1]


def test_training_replays_its_own_recording(
    case: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_id, arguments = case
    model = GRPO("linear", env_id, **arguments, **SMALL)
    assert played(env_id, model, monkeypatch) == pytest.approx((MAY, JUNE))
    model.save(tmp_path / "policy.ckpt")
    loaded = GRPO.load(tmp_path / "policy.ckpt")
    assert played(env_id, loaded, monkeypatch) == pytest.approx((MAY, JUNE))


def test_who_only_evaluates_needs_no_recording_of_training(
    case: tuple[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_id, arguments = case
    path = tmp_path / "policy.ckpt"
    model = GRPO("linear", env_id, **arguments, **SMALL)
    model.train_iteration()
    model.save(path)
    (tmp_path / "may.csv").unlink()
    loaded = GRPO.load(path)
    assert loaded.evaluate(3).mean_return == model.evaluate(3).mean_return
    assert loaded.training_env_kwargs == arguments["training_env_kwargs"]
    loaded.save(tmp_path / "again.ckpt")
    assert evaluate.main(["--policy", str(tmp_path / "again.ckpt"), "--episodes", "3"]) == 0
    with pytest.raises(ConfigError, match=r"_csv must be a readable CSV file, got .*may\.csv"):
        loaded.train_iteration()
    with pytest.raises(ConfigError, match=r"_csv must be a readable CSV file, got .*may\.csv"):
        GRPO("linear", env_id, **arguments, **SMALL)


def test_a_settings_file_names_both(
    case: tuple[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_id, arguments = case
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml_of(env_id, arguments))
    run = tmp_path / "run"
    command = ["--config", str(settings), "--run-dir", str(run), "--quiet", "--final-episodes", "2"]
    assert train.main(command) == 0
    loaded = GRPO.load(run / "checkpoints" / "latest.ckpt")
    assert loaded.env_kwargs == arguments["env_kwargs"]
    assert loaded.training_env_kwargs == arguments["training_env_kwargs"]


def yaml_of(env_id: str, arguments: Mapping[str, Any]) -> str:
    lines = [f"env: {env_id}", "policy: linear", "total_steps: 40", "evaluations: 0"]
    for name, values in arguments.items():
        lines += [f"{name}:", *(f"  {key}: {value}" for key, value in values.items())]
    return "\n".join([*lines, "grpo: {num_groups: 1, group_size: 2}"])
