"""The `grpo-gym` command: `grpo-gym train ...` is `python scripts/train.py ...`.

Torch is imported only once a command is known, so that help and mistakes show at once.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import grpo_gym
from grpo_gym.settings import suggest

COMMANDS = {
    "train": "train a policy in any Gymnasium environment",
    "evaluate": "play episodes with a trained policy or a baseline",
    "play": "watch a policy play in a window, the terminal or a file; Battleship with its advice",
    "compare": "train GRPO and algorithms of Stable-Baselines3 alike, and report",
    "tune": "search for settings of GRPO or of one of those algorithms",
    "export": "write a trained policy to an .onnx file, or to one that runs on NumPy alone",
    "benchmark": "measure the speed of environments and training on this machine",
    "route": "send HTTP requests to the backend that a policy chooses, behind a guard",
    "scaler": "scale a deployment with KEDA by a policy of AutoScaler-v0 behind a guard",
    "guard": "status, promotion and rollback of a running guard; estimates from its log",
    "picker": "choose endpoints for Envoy, by a policy of LoadBalancer-v0 behind a guard",
    "demo": "real requests to backends that fail, through one policy after the other",
}
_HELP = "usage: grpo-gym COMMAND [OPTIONS]\n\n{commands}\n\nCOMMAND --help shows its options."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
        print(_HELP.format(commands=listed), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        print(f"grpo-gym {grpo_gym.__version__}")
        return 0
    if given[0] not in COMMANDS:
        hint = suggest(given[0], COMMANDS)
        print(f"error: there is no command {given[0]!r}.{hint}", file=sys.stderr)
        return 2
    if "WORLD_SIZE" in os.environ and given[0] != "train":
        from grpo_gym.trainers.processes.join import rank_here, started_together

        if started_together() > 1:
            if rank_here() == 0:
                print(f"error: torchrun must start train, got {given[0]}", file=sys.stderr)
            return 2
    try:
        status: int = import_module(f"grpo_gym.cli.{given[0]}").main(given[1:])
    except KeyboardInterrupt:  # during the import, which takes seconds
        return 130
    return status
