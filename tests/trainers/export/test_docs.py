"""The Python of docs/how_to/export.md runs as it is printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from grpo_gym.trainers.grpo import GRPO

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")
PAGE = Path(__file__).parents[3] / "docs" / "how_to" / "export.md"


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = GRPO("mlp", "CartPole-v1")
    model.export("policy.onnx")
    model.export("policy.safetensors")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    seen: dict[str, object] = {}
    for block in blocks:
        exec(block, seen)
    state = np.array([0.01, -0.02, 0.03, 0.04], np.float32)
    wanted = np.log(model.probabilities(state))
    np.testing.assert_allclose(np.asarray(seen["log_probs"]), wanted, rtol=1e-5)
    assert seen["action"] == wanted.argmax()
