"""`train`: train a policy, save checkpoints, and compare it with the baselines."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from grpo_gym.cli.displays import draw_without_windows
from grpo_gym.cli.failures import reported
from grpo_gym.cli.settings import parse_train
from grpo_gym.cli.signals import StopSignals
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.processes.join import exit_with, launched, rank_here, started_together


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    status = _main(arguments)
    exit_with(status)
    return status


@reported
def _main(arguments: Sequence[str]) -> int:
    draw_without_windows()
    if rank_here() > 0:
        return _follow(arguments)
    settings, options = parse_train(arguments)
    if settings.algo == "online" and started_together() > 1:
        raise ConfigError("--algo must be grpo under torchrun, got online, which is one process")
    # These load torch: only now, so that help and mistakes show at once.
    from grpo_gym.cli.online import train_online
    from grpo_gym.cli.training import train_grpo

    console = Console(stderr=True, quiet=options.quiet, highlight=False, soft_wrap=True)
    train = train_online if settings.algo == "online" else train_grpo
    with StopSignals().installed() as signals, _processes(options.processes):
        return train(settings, options, signals, console)


def _processes(number: int) -> AbstractContextManager[Any]:
    """Other processes to train with, if they are asked for."""
    if number == 1:
        return nullcontext()
    from grpo_gym.cli.together import follow

    return launched(number, follow)


def _follow(arguments: Sequence[str]) -> int:
    """Train as torchrun's process of another number than 0, which reads the command line."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        return 0
    from grpo_gym.cli.together import follow

    return follow()
