from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# The same examples every time, and no deadline: on a busy machine a slow example is no failure.
settings.register_profile("grpo_gym", deadline=None, derandomize=True)
settings.load_profile("grpo_gym")

TOGETHER = "tests/envs/test_native_"


class _Scheduling(LoadFileScheduling):
    """Each file in one process, and those together that would compile the same kernels at first.

    Two processes that do so at the same time do it twice: half a minute in a fresh checkout.
    """

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _Scheduling(config, log)
