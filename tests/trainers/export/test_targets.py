"""Where an export may go, and what happens where it may not."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from exported_models import FOUR, VECTOR, make_model
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from grpo_gym.storage import files as files_module
from grpo_gym.trainers.grpo import GRPO

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def model() -> GRPO:
    return make_model("linear", VECTOR, FOUR)


def test_an_unknown_ending_is_refused(model: GRPO, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end with .onnx or .safetensors, got .*\.pt"):
        model.export(tmp_path / "policy.pt")


@pytest.mark.parametrize("name", ["policy.onnx", "policy.safetensors"])
def test_a_folder_in_its_place_is_refused(model: GRPO, name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*is a folder"):
        model.export(tmp_path / name)


def test_a_full_disk_leaves_the_old_file(
    model: GRPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.safetensors"
    model.export(path)
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the old file is unchanged"):
        model.export(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("onnxruntime", "policy.onnx"),
        ("onnxscript", "policy.onnx"),
        ("safetensors.numpy", "policy.safetensors"),
    ],
)
def test_a_missing_package_names_the_extra(
    model: GRPO, package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'grpo-gym\[export\]'"):
        model.export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
