from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# The same examples every time, and no deadline: on a busy machine a slow example is no failure.
settings.register_profile("grpo_gym", deadline=None, derandomize=True)
settings.load_profile("grpo_gym")

TOGETHER = (
    "tests/envs/test_native_",
    "tests/rollouts/test_foreign_environments.py",
    "tests/envs/load_balancer/test_rendering.py",
)
"""Large files, which run first, and begin with the same kernels."""


class _Scheduling(LoadFileScheduling):
    """Each file in one process; those of `TOGETHER` in the same one.

    Processes that begin with the same kernels each compile them: 20 seconds in a fresh checkout.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "together" if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _Scheduling(config, log)
