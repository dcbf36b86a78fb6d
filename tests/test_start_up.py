"""What a command imports before it does anything: heavy packages only where they are used.

Seconds depend on the machine; imports do not.
"""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "scipy", "matplotlib", "pandas", "pygame", "onnx", "stable_baselines3")
"""Each takes .1 s to 2 s."""
COMPILERS = ("torch._dynamo", "torch._inductor", "sympy", "torch.onnx")
"""PyTorch's, where nothing is compiled: 1 s to 2 s; its own optimisers import the first."""
HELP = """
import contextlib
from grpo_gym.cli.main import main
with contextlib.suppress(SystemExit): """
TRAINING = """
from grpo_gym import GRPO
with GRPO("mlp", "CartPole-v1", num_groups=1, group_size=2, max_episode_steps=8) as model:
    model.train_iteration()
"""


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import grpo_gym", HEAVY),
        (HELP + "main(['--help'])", HEAVY),
        (HELP + "main(['train', '--help'])", HEAVY),
        (HELP + "main(['train', '--episodes', '3'])", HEAVY),
        (TRAINING, COMPILERS),
    ],
    ids=["import", "help", "help of train", "a mistake", "training"],
)
def test_nothing_heavy_is_imported_unused(code: str, unwanted: tuple[str, ...]) -> None:
    found = f"[name for name in {unwanted} if name in sys.modules]"
    asked = f"{code}\nimport json, sys\nprint(json.dumps({found}))"
    ended = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, text=True
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == []
