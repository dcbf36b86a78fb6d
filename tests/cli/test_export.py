"""`grpo-gym export`: a policy by its name or file, to a file."""

from pathlib import Path

import numpy as np
import pytest

from grpo_gym.cli.export import main
from grpo_gym.inference import NumpyPolicy
from grpo_gym.trainers.online import OnlineGRPO

pytest.importorskip("safetensors")


def test_a_policy_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exports" / "router.safetensors"
    assert main(["--policy", "pretrained:router", "--to", str(path)]) == 0
    assert capsys.readouterr().out == f"written: {path}\n"
    policy = NumpyPolicy.load(path)
    assert policy.kind == "servers"
    assert policy.scores(np.zeros(37, np.float32)).shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "policy.onnx"], "--policy must be given: a checkpoint file, a run's folder"),
        (["--policy", "pretrained:router"], "--to must be given: a file that ends with .onnx"),
        (
            ["--policy", "pretrained:router", "--to", "policy.pt"],
            "--to must end with .onnx or .safetensors, got policy.pt",
        ),
        (["--policy", "nothing", "--to", "policy.onnx"], "got 'nothing'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.glob("policy*"))


def test_online_grpo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "online.ckpt"
    OnlineGRPO("LoadBalancer-v0").save(path)
    assert main(["--policy", str(path), "--to", str(tmp_path / "policy.onnx")]) == 2
    assert "--policy must be a network" in capsys.readouterr().err
