"""Run the tests that need an accelerator, and measure it beside the CPU.

`python scripts/check_devices.py` needs an accelerator, and a checkout with its tests.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from grpo_gym import GRPO
from grpo_gym.trainers.devices import find_device

TESTS = Path(__file__).resolve().parent.parent / "tests" / "trainers" / "test_accelerator.py"
BATTLESHIP = {"preset": "classic-10x10"}
NETWORKS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mlp, 64 x 64": ("mlp", "LoadBalancer-v0", {}, {"hidden_sizes": (64, 64)}),
    "mlp, 1024 x 1024": ("mlp", "LoadBalancer-v0", {}, {"hidden_sizes": (1024, 1024)}),
    "servers": ("servers", "LoadBalancer-v0", {}, {}),
    "board, 32 channels": ("board", "Battleship-v0", BATTLESHIP, {"channels": 32, "blocks": 3}),
}


def main() -> int:
    """Test, then measure; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    seconds = parser.parse_args().seconds
    device = find_device("auto").type
    if device == "cpu":
        print("error: PyTorch finds no accelerator here", file=sys.stderr)
        return 1
    status = subprocess.call([sys.executable, "-m", "pytest", "-n", "0", "-q", str(TESTS)])
    Console().print(measured(device, seconds))
    return status


def measured(device: str, seconds: float) -> Table:
    """Steps a second of trainings, on the CPU with one thread and on a device."""
    table = Table("network", "CPU, steps/s", f"{device}, steps/s", "ratio")
    for name, network in NETWORKS.items():
        here, there = (steps_per_second(each, seconds, *network) for each in ("cpu", device))
        table.add_row(name, f"{here:,.0f}", f"{there:,.0f}", f"{there / here:.2f}")
    return table


def steps_per_second(
    device: str, seconds: float, policy: str, env: str, kwargs: dict[str, Any], options: Any
) -> float:
    """Of a training after its first iteration, which compiles and warms up."""
    with GRPO(policy, env, env_kwargs=kwargs, device=device, **options) as model:
        model.train_iteration()
        first, start = model.num_steps, time.perf_counter()
        while time.perf_counter() < start + seconds:
            model.train_iteration()
        if device == "cuda":
            torch.cuda.synchronize()
        return (model.num_steps - first) / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
