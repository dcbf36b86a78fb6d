"""The `grpo-gym` command: `grpo-gym train ...` is `python scripts/train.py ...`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console

import grpo_gym
from grpo_gym.config import suggest

COMMANDS = {
    "train": "train a policy in any Gymnasium environment",
    "evaluate": "play episodes with a trained policy or a baseline",
    "benchmark": "measure the speed of environments and training here",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True)
    if given == ["--version"]:
        Console().print(f"grpo-gym {grpo_gym.__version__}", highlight=False)
        return 0
    if not given or given[0] in ("-h", "--help"):
        lines = [f"  {name:10} {text}" for name, text in COMMANDS.items()]
        help_text = "\n".join(["usage: grpo-gym COMMAND [OPTIONS]", "", *lines, ""])
        Console().print(help_text + "\ngrpo-gym COMMAND --help shows its options", highlight=False)
        return 0 if given else 2
    if given[0] not in COMMANDS:
        hint = suggest(given[0], COMMANDS)
        console.print(f"error: there is no command {given[0]!r}.{hint}", style="red", markup=False)
        return 2
    status: int = import_module(f"grpo_gym.cli.{given[0]}").main(given[1:])
    return status
