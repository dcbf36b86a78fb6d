from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import NormalizeReward, RescaleAction, TimeLimit

from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import ConfigError
from probe_envs import BestAction, Context, Temptation

# Making


def test_made_environments_are_made_again_with_their_wrappers() -> None:
    pendulum = gym.make("Pendulum-v1", max_episode_steps=7, g=1.5, render_mode="human")
    made = RescaleAction(pendulum, np.float32(-1.0), np.float32(1.0))
    batch = make_batch(made, None, 4)
    assert isinstance(batch, LoopBatch)
    for one in batch.envs:
        assert isinstance(one, RescaleAction)
        assert isinstance(one.env, TimeLimit)
        assert one.get_wrapper_attr("g") == 1.5
        assert one.render_mode is None
    assert batch.single_action_space == made.action_space
    batch.reset([1, 1, 2, 2])
    everyone = np.ones(4, np.bool_)
    truncated = [batch.step(np.zeros((4, 1), np.float32), everyone).truncated for _ in range(7)]
    assert [row.all() for row in truncated] == [False] * 6 + [True]


def test_factories_and_classes_make_environments() -> None:
    for source in (BestAction, lambda: Context("dict"), lambda: gym.make("CartPole-v1")):
        batch = make_batch(source, None, 4)
        assert isinstance(batch, LoopBatch)
        assert len({id(one.unwrapped) for one in batch.envs}) == 4


def test_an_id_may_name_its_module() -> None:
    assert isinstance(make_batch("grpo_gym:LoadBalancer-v0", None, 2), NativeBatch)


def test_the_named_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registers_a_probe.py").write_text(
        "import gymnasium\ngymnasium.register('Probe-v0', 'probe_envs:BestAction')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(gym.registry, "Probe-v0", raising=False)
    batch = make_batch("registers_a_probe:Probe-v0", None, 2)
    assert batch.single_action_space == BestAction.action_space
    del gym.registry["Probe-v0"]


class NotRecorded(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that gym.make cannot make again."""


ALWAYS_THE_SAME = BestAction()
UNMAKEABLE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown id": ("NoSuchEnv-v0", {}, "env must be a registered id, got 'NoSuchEnv-v0'"),
    "unknown module": ("no_such_module:A-v0", {}, "registered id.*no_such_module"),
    "kwargs of a made env": (gym.make("CartPole-v1"), {"a": 1}, "env_kwargs must be empty"),
    "kwargs of a factory": (BestAction, {"a": 1}, "env_kwargs must be empty"),
    "no spec": (BestAction(), {}, "env must have a spec"),
    "wrapper not recorded": (NotRecorded(gym.make("CartPole-v1")), {}, "cannot be made again"),
    "nothing that makes one": (7, {}, "env must be an id, an environment or a function"),
    "makes no environment": (lambda: 7, {}, "env must make a gymnasium.Env"),
    "the same every time": (lambda: ALWAYS_THE_SAME, {}, "make a new environment"),
    "observations": (lambda: Sized(spaces.Text(3)), {}, "observation space must be"),
    "actions": (lambda: Sized(actions=spaces.Text(3)), {}, "action space must be"),
}


class Sized(Temptation):
    """Spaces as given."""

    def __init__(self, observations: Any = None, actions: Any = None) -> None:
        self.observation_space = observations or self.observation_space
        self.action_space = actions or self.action_space


@pytest.mark.parametrize("case", UNMAKEABLE)
def test_what_cannot_be_made_is_refused(case: str) -> None:
    env, kwargs, message = UNMAKEABLE[case]
    with pytest.raises(ConfigError, match=message):
        make_batch(env, kwargs, 2)


def test_closing_closes_every_environment() -> None:
    closed: list[int] = []

    class Closes(BestAction):
        def close(self) -> None:
            closed.append(id(self))

    make: Callable[[], Any] = Closes
    make_batch(make, None, 3).close()
    assert len(set(closed)) == 3


def test_wrappers_with_state_are_separate_for_each_member() -> None:
    batch = make_batch(lambda: NormalizeReward(gym.make("CartPole-v1")), None, 2)
    first, second = batch.envs  # type: ignore[attr-defined]
    assert first.return_rms is not second.return_rms


# Members of different lengths


def test_native_members_that_have_ended_are_left_as_they_are() -> None:
    """Members 0 and 2 pause for two steps, so that episodes end at different moments."""
    batch = make_batch("LoadBalancer-v0", {"episode_length": 6}, 3)
    alone = make_batch("LoadBalancer-v0", {"episode_length": 6}, 3)
    batch.reset([1, 2, 3])
    alone.reset([1, 2, 3])
    actions, everyone = np.array([0, 1, 2]), np.ones(3, np.bool_)
    expected = [alone.step(actions, everyone) for _ in range(6)]
    seen = [batch.step(actions, everyone) for _ in range(2)]
    shown = seen[-1].observations
    for t in range(2, 4):
        step = batch.step(actions, np.array([False, True, False]))
        np.testing.assert_array_equal(step.observations[[0, 2]], shown[[0, 2]])
        np.testing.assert_array_equal(step.observations[1], expected[t].observations[1])
        assert step.rewards[[0, 2]].tolist() == [0.0, 0.0]
        times = step.infos["response_time_ms"]
        assert np.isnan(times[[0, 2]]).all()
        assert times[1] == expected[t].infos["response_time_ms"][1]
    for _ in range(4, 6):
        step = batch.step(actions, everyone)
    assert step.truncated.tolist() == [False, True, False]
    for t in range(4, 6):
        last = batch.step(actions, np.array([True, False, True]))
        np.testing.assert_array_equal(last.rewards[[0, 2]], expected[t].rewards[[0, 2]])
        np.testing.assert_array_equal(last.observations[1], step.observations[1])
        assert last.rewards[1] == 0.0
        assert not last.truncated[1]
    assert last.truncated.tolist() == [True, False, True]
    with pytest.raises(gym.error.ResetNeeded, match="finished environments must be reset"):
        batch.step(actions, np.array([False, True, False]))


def test_members_are_only_left_out_where_nobody_is_reset_for_them() -> None:
    env = LoadBalancerVectorEnv(2)
    env.reset(seed=1)
    with pytest.raises(ConfigError, match="autoreset_mode must be DISABLED for step_alive"):
        env.step_alive(np.zeros(2, np.int64), np.ones(2, np.bool_))
    env = LoadBalancerVectorEnv(2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before step"):
        env.step_alive(np.zeros(2, np.int64), np.ones(2, np.bool_))
    env.reset(seed=1)
    for alive in (np.ones(2, np.int64), np.ones(1, np.bool_)):
        with pytest.raises(ConfigError, match=r"alive must be bool of shape \(2,\)"):
            env.step_alive(np.zeros(2, np.int64), alive)
