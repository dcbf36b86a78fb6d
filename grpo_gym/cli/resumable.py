"""What `compare` and `tune` share: long work on one task that the same command resumes."""

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import field
from os import cpu_count
from typing import Any

from rich.console import Console

from grpo_gym.cli.options import CommandLine, invocation
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.settings import EnvId, Processes, checked_dataclass
from grpo_gym.trainers.shipped import task_names


@checked_dataclass
class TaskOptions:
    """The environment, and how many trainings run in it at a time."""

    env: EnvId = "LoadBalancer-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park."""
    processes: Processes = cpu_count() or 1
    """Trainings at a time, each on one core; by default one for each core, at most four."""

    @property
    def task_name(self) -> str:
        """A name for files about the environment and its preset."""
        return task_names(self.env, self.env_kwargs)[0]


def run_resumable(
    line: CommandLine,
    arguments: Sequence[str],
    work: Callable[[dict[str, Any], str, Console], None],
) -> int:
    """Read a command line and do work that the same command resumes after a stop.

    Args:
        line: The command's options.
        arguments: Its words.
        work: Takes the configs by title, the command to resume with, and the console for progress.
            It keeps whatever it finishes.

    Returns:
        The exit status.

    Raises:
        MemoryError: If one of the work's processes was killed.
    """
    configs = line.read(arguments)
    command = f"{invocation(line.command)} {shlex.join(arguments)}"
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with StopSignals().installed():
        try:
            work(configs, command, console)
        except Stopped as stop:
            console.print(f"stopped; resume with: {command}")
            return 128 + stop.number
        except BrokenExecutor as error:
            raise MemoryError(
                "a process was killed: use fewer --processes; what is finished is kept"
            ) from error
    return 0
