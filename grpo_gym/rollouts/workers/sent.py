"""What a worker is sent to make environments, as bytes.

Workers are fresh interpreters: no thread, lock or device of this process is in them, and scripts
need no `if __name__ == "__main__"`. Functions therefore travel as cloudpickle writes them, those of
a script by value, and with them the ids that this process has registered.
"""

import contextlib
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym

from grpo_gym.settings import ConfigError

Make = Callable[[], gym.Env[Any, Any]]


def as_bytes(make: Make, name: str) -> bytes:
    """A function that makes an environment, for `from_bytes` in another process.

    Args:
        make: The function.
        name: What messages call the environment.

    Raises:
        ConfigError: If it refers to what only this process has.
    """
    try:
        function = cloudpickle.dumps(make)
    except Exception as error:  # users' objects refuse in their own ways
        raise ConfigError(
            f"workers must be 0 with {name}, which cannot be sent to other processes: {error!r}. "
            "Make what it uses within the function that makes it"
        ) from error
    return pickle.dumps((_registered_here(), function))


def from_bytes(sent: bytes) -> Make:
    """The function, once the ids are registered here too.

    Raises:
        ConfigError: If it needs a module that cannot be imported here.
    """
    registered, function = pickle.loads(sent)
    for env_id in registered.keys() - gym.registry.keys():
        with contextlib.suppress(Exception):  # of a module that is not here; it may not be needed
            gym.registry[env_id] = pickle.loads(registered[env_id])
    try:
        make: Make = pickle.loads(function)
    except Exception as error:  # modules that are imported may raise anything
        raise ConfigError(
            f"workers must be 0 where other processes cannot make the environment: {error!r}. Put "
            "it into a module that Python can import, or into the script itself"
        ) from error
    return make


def _registered_here() -> dict[str, bytes]:
    """The ids that importing Gymnasium does not register, where their specs can be sent."""
    specs = {}
    for env_id, spec in gym.registry.items():
        if not str(spec.entry_point).startswith("gymnasium."):
            with contextlib.suppress(Exception):  # users' objects refuse in their own ways
                specs[env_id] = cloudpickle.dumps(spec)
    return specs
