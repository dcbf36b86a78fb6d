"""Records of one kind have one type object in a process.

At every call of a kernel, numba compares different objects field by field, which took a third of a
step.
"""

from collections import defaultdict

import numpy as np
import pytest

from grpo_gym.registration import DESCRIPTORS
from native_cases import CASES


@pytest.mark.parametrize("env_id", [each.env_id for each in DESCRIPTORS])
def test_environments_share_the_types_of_their_records(env_id: str) -> None:
    types = defaultdict(list)
    for case in [each for each in CASES.values() if each.env_id == env_id] * 2:
        for name, array in vars(case.single().simulator).items():
            if isinstance(array, np.ndarray) and array.dtype.names:
                types[name].append(array.dtype)
    assert {"episodes"} < set(types)
    for name, each in types.items():
        assert all(dtype is each[0] for dtype in each), name
