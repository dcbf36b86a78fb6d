"""What commands that serve have in common: repeated options, the event loop, signals, lines."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rich.console import Console

from grpo_gym.cli.signals import Stopped
from grpo_gym.deployment.routing import RoutingStatus

Result = TypeVar("Result")


def gathered(arguments: Sequence[str], option: str) -> list[str]:
    """The words with all that follow an option, which may come several times, in one place."""
    words: list[str] = []
    values: list[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if name == option:
            taking = True
            values += [value] if equals else []
        elif word.startswith("-"):
            taking = False
            words.append(word)
        else:
            (values if taking else words).append(word)
    return [*words, option, *values] if values else words


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """A faster event loop, where there is one."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def on_signals(names: Sequence[str], react: Callable[[int], object]) -> None:
    """Call a function in the running event loop when one of these signals comes."""
    loop = asyncio.get_running_loop()
    for name in names:
        if (number := getattr(signal, name, None)) is not None:
            try:
                loop.add_signal_handler(number, react, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda got, _: loop.call_soon_threadsafe(react, got))


async def unless_impatient(
    ending: Coroutine[Any, Any, Result], signals: "asyncio.Queue[int]"
) -> Result:
    """Wait for an orderly end.

    Args:
        ending: The end.
        signals: Gets further signals.

    Raises:
        Stopped: If one comes before.
    """
    ends = asyncio.create_task(ending)
    impatient = asyncio.create_task(signals.get())
    await asyncio.wait((ends, impatient), return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if not ends.done():
        ends.cancel()
        raise Stopped(impatient.result())
    return ends.result()


def who_decides(status: RoutingStatus) -> str:
    """A line about policy and guard."""
    acting = {
        "shadow": "shadow: it only proposes, and least_connections decides",
        "gradual": f"gradual: it decides for {status.percentage:g} % of the requests",
        "full": "full: it decides, except for the guard's holdout",
    }[status.mode]
    return f"policy: {status.policy}; guard: {acting}"


def say(line: str) -> None:
    """Print a line at once, for whoever reads a pipe."""
    Console(highlight=False, soft_wrap=True).print(line, markup=False)
    sys.stdout.flush()
