"""An id that is not registered: the error says where it may be found."""

import pytest

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError


@pytest.mark.parametrize(
    ("env_id", "hint"),
    [
        ("MiniGrid-Nowhere-5x5-v0", "minigrid:MiniGrid-Nowhere-5x5-v0 (pip install minigrid)"),
        ("ALE/Nowhere-v5", "ale_py:ALE/Nowhere-v5 (pip install ale-py)"),
        ("Elsewhere-v3", "write PACKAGE:Elsewhere-v3"),
        ("elsewhere/Env-v3", "write PACKAGE:elsewhere/Env-v3"),
        ("no_such_module:Env-v3", "No module named 'no_such_module'"),
    ],
)
def test_the_error_says_where_to_look(env_id: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="env must be a registered id") as refused:
        make_batch(env_id, None, 1)
    assert hint in str(refused.value)
    assert "\n" not in str(refused.value)
