"""What a test needs and an installation may lack."""

import gymnasium as gym
import pytest


def require_environment(id: str) -> None:
    """Skip the test where the package of an environment is not installed."""
    try:
        gym.make(id).close()
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        pytest.skip(str(error))
