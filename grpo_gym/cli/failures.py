"""One clear line for every error; `GRPO_GYM_TRACEBACK=1` shows where unexpected ones come from."""

import functools
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gymnasium.error import Error as GymnasiumError
from rich.console import Console

from grpo_gym.cli.options import HelpShown
from grpo_gym.cli.outputs import released_at_the_end
from grpo_gym.cli.signals import Stopped
from grpo_gym.cli.streams import flush_output, lasting_streams
from grpo_gym.deployment.records import GuardError
from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from grpo_gym.trainers.processes.errors import ProcessError

Main = Callable[[Sequence[str]], int]

_USAGE, _FAILURE, _STANDSTILL = 2, 1, 3
"""Exit status for wrong arguments, errors during the work, and training that got nowhere."""


class StandstillError(Exception):
    """Training ended, perhaps before its last step, in iterations that changed no weight."""


@contextmanager
def extra_serve(command: str) -> Iterator[None]:
    """Import within it what the extra `serve` brings.

    Raises:
        ConfigError: If a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{command} must have the packages of the extra serve, and there is no {error.name}: "
            "pip install 'grpo-gym[serve]'"
        ) from error


def reported(main: Main) -> Main:
    """Turn errors into one line on standard error.

    Exit status: 2 for arguments, 1 for files, memory, numbers and users' code, 3 for training that
    ended where nothing would change any more, 128 + n after signal n.
    """

    @functools.wraps(main)
    def guarded(arguments: Sequence[str]) -> int:
        with lasting_streams(), released_at_the_end():
            return outcome(arguments)

    def outcome(arguments: Sequence[str]) -> int:
        try:
            status = main(arguments)
            flush_output()
            return status
        except (ConfigError, GymnasiumError) as error:
            return _report(str(error), _USAGE)
        except OSError as error:
            text = error.strerror or str(error)  # without the number
            return _report(f"{error.filename}: {text}" if error.filename else text, _FAILURE)
        except MemoryError as error:
            return _report(f"out of memory: {error}".removesuffix(": "), _FAILURE)
        except (CheckpointError, EnvError, FloatingPointError, GuardError, ProcessError) as error:
            return _report(str(error), _FAILURE)
        except StandstillError as end:
            return _report(str(end), _STANDSTILL)
        except KeyboardInterrupt as stop:
            return _report("stopped", 128 + (stop.number if isinstance(stop, Stopped) else 2))
        except HelpShown:
            raise
        except BaseException as error:  # a user's network or environment may raise anything
            if os.environ.get("GRPO_GYM_TRACEBACK"):
                raise
            return _report(_unexpected(error), _FAILURE)

    return guarded


def _unexpected(error: BaseException) -> str:
    """An error of a user's code, or of ours, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{error!r} in {place.filename}, line {place.lineno}: set GRPO_GYM_TRACEBACK=1 to see how "
        "it came there"
    )


def _report(message: str, status: int) -> int:
    line = " ".join(message.split())
    line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
    console = Console(stderr=True)
    prefix = "" if status > 128 or status == _STANDSTILL else "error: "
    console.print(f"{prefix}{line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status
