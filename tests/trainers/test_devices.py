"""Where networks are: names of devices, and what is said where there is none."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.cli.main import main
from grpo_gym.rollouts.rows import row_format
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.devices import find_device, is_available
from grpo_gym.trainers.model import _refuse_float64

SMALL = {"num_groups": 2, "group_size": 2, "hidden_sizes": (4,)}


@pytest.fixture
def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "meta", "CUDA"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match='device must be "auto", "cpu", "mps", "cuda", or'):
        GRPO("linear", "CartPole-v1", device=name, **SMALL)


@pytest.mark.usefixtures("_none")
def test_without_an_accelerator() -> None:
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps"):
        assert not is_available(name)
        with pytest.raises(ConfigError, match=f"^device must be .* here, cpu, got '{name}'"):
            GRPO("linear", "CartPole-v1", device=name, **SMALL)


@pytest.mark.usefixtures("_two")
def test_with_two() -> None:
    assert find_device("auto") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="here, cuda:0 to cuda:1, or cpu, got 'cuda:2'"):
        find_device("cuda:2")


@pytest.mark.usefixtures("_none")
def test_apples_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("mps") == torch.device("mps")
    seconds = spaces.Box(0.0, 1e10, (1,), np.float64)
    with pytest.raises(ConfigError, match='device must be "cpu" with observations'):
        _refuse_float64(row_format(seconds), torch.device("mps"))
    _refuse_float64(row_format(seconds), torch.device("cuda"))


@pytest.mark.usefixtures("_none")
def test_a_command_refuses_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--env", "CartPole-v1", "--device", "cuda", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: device must be") and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_none")
def test_a_checkpoint_of_a_device_that_is_not_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = GRPO("linear", "CartPole-v1", **SMALL)
    model.config = replace(model.config, device="cuda:1")
    model.save(tmp_path / "model.ckpt")
    loaded = GRPO.load(tmp_path / "model.ckpt")
    assert loaded.config.device == "cpu" and loaded.weights_sha256() == model.weights_sha256()
    assert caplog.record_tuples[-1][1] == logging.WARNING
    assert "was trained on cuda:1, which is not here: it is on the CPU" in caplog.messages[-1]
    with pytest.raises(CheckpointError, match="cannot be used here: device must be one that"):
        GRPO.load(tmp_path / "model.ckpt", device="cuda:1")
