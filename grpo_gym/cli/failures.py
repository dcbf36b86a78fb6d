"""One clear line for what a user can mend; tracebacks are for our mistakes."""

import functools
from collections.abc import Callable, Sequence

from gymnasium.error import Error as GymnasiumError
from rich.console import Console

from grpo_gym.checkpoint import CheckpointError
from grpo_gym.config import ConfigError
from grpo_gym.groups import GroupError

Main = Callable[[Sequence[str] | None], int]


def reported(main: Main) -> Callable[..., int]:
    """Turn errors of use into one line on standard error and exit status 2 (or 1, 130)."""

    @functools.wraps(main)
    def guarded(arguments: Sequence[str] | None = None) -> int:
        console = Console(stderr=True)
        try:
            return main(arguments)
        except (ConfigError, GymnasiumError) as error:
            status, message = 2, str(error)
        except (CheckpointError, GroupError, FloatingPointError, OSError) as error:
            status, message = 1, str(error)
        except KeyboardInterrupt:
            status, message = 130, "stopped"
        console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        return status

    return guarded


