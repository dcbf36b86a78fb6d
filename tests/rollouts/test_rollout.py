from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from grpo_gym.policies.network import MLPPolicy
from grpo_gym.policies.options import MLPOptions
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.collection import collect
from grpo_gym.rollouts.env_batch import BatchStep
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.loop_batch import LoopBatch
from grpo_gym.rollouts.player import InfoMeans
from grpo_gym.rollouts.randomness import ActionNoise, episode_seeds
from grpo_gym.rollouts.rollout import GroupedRollout
from probe_envs import BestAction, Countdown, OneStep, Search

GROUPS, MEMBERS = 3, 4


def play(
    env: Any, max_steps: int | None = None, iteration: int = 0, **kwargs: Any
) -> GroupedRollout:
    batch = env if isinstance(env, LoopBatch) else make_batch(env, kwargs, GROUPS * MEMBERS)
    torch.manual_seed(1)
    policy = MLPPolicy(
        batch.single_observation_space, batch.single_action_space, MLPOptions(hidden_sizes=(8,))
    )
    head = policy.head
    noise = ActionNoise(head.noise_kind, 0, iteration, range(GROUPS), MEMBERS, head.num_components)
    seeds = episode_seeds(0, iteration, range(GROUPS), None)
    return collect(policy, EnvGroups(batch, MEMBERS), seeds, noise, max_steps)


def test_lengths_rewards_and_alive_follow_the_first_action() -> None:
    rollout = play(Countdown)
    lengths = rollout.actions[0, :, :, 0] + 1
    assert len(set(lengths.ravel().tolist())) > 1
    assert torch.equal(rollout.lengths, lengths)
    time = torch.arange(len(rollout.alive))[:, None, None]
    assert torch.equal(rollout.alive, time < lengths)
    assert torch.equal(rollout.rewards, rollout.alive.double())
    assert torch.equal(rollout.returns, lengths.double())
    assert rollout.num_steps == int(lengths.sum())
    assert len(rollout.alive) == int(lengths.max())
    assert not rollout.episodes.truncated.any()


class PaysTheDead(LoopBatch):
    """Goes on rewarding members that have ended, as a vector environment may."""

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        step = super().step(actions, alive)
        return replace(step, rewards=np.where(alive, step.rewards, 7.0))


def test_rewards_after_the_end_are_zero() -> None:
    batch = PaysTheDead([Countdown() for _ in range(GROUPS * MEMBERS)])
    assert torch.equal(play(batch).returns, play(Countdown).returns)


def test_shapes_and_types() -> None:
    rollout = play(Search)
    steps = len(rollout.alive)
    shapes = {
        "observations": (4,),
        "actions": (1,),
        "log_probs": (),
        "outputs": (4,),
        "rewards": (),
        "alive": (),
        "action_masks": (4,),
    }
    for name, shape in shapes.items():
        assert getattr(rollout, name).shape == (steps, GROUPS, MEMBERS, *shape), name
    assert rollout.observations.dtype == rollout.log_probs.dtype == torch.float32
    assert rollout.rewards.dtype == torch.float64
    assert rollout.actions.dtype == torch.int64
    assert not any(
        value.requires_grad for value in vars(rollout).values() if torch.is_tensor(value)
    )


def test_the_limit_of_steps_truncates_and_termination_does_not() -> None:
    whole, cut = play(Countdown), play(Countdown, max_steps=2)
    assert torch.equal(cut.lengths, whole.lengths.clamp(max=2))
    # Whoever ends by itself at the limit is not cut off by it.
    assert torch.equal(cut.episodes.truncated, whole.episodes.lengths > 2)
    assert (whole.lengths == 2).any()
    by_itself = play(lambda: Countdown(limit=2))
    assert torch.equal(by_itself.episodes.truncated, cut.episodes.truncated)
    assert torch.equal(by_itself.rewards, cut.rewards)


def test_infos_are_means_over_the_steps_that_gave_them() -> None:
    rollout = play(Countdown)
    lengths = rollout.lengths.double()
    sums = (lengths * (lengths + 1) / 2).sum()
    assert rollout.infos["time"] == pytest.approx(float(sums / lengths.sum()))
    assert rollout.infos["last"] == pytest.approx(float(lengths.mean()))
    assert set(rollout.infos) == {"time", "last"}


class Junk(Countdown):
    """Rewards are not numbers, and infos not finite, at the end."""

    def step(self, action: Any) -> Any:
        observation, reward, over, cut, _ = super().step(action)
        return observation, reward, over, cut, {"time": np.inf if over else 1.0}


def test_infos_may_come_in_the_same_array_each_step() -> None:
    means, values, alive = InfoMeans(), np.zeros(2), np.ones(2, np.bool_)
    for value in (1.0, 2.0):
        values[:] = value
        means.add({"value": values}, alive)
    assert means.means() == {"value": 1.5}
    assert means.counts() == {"value": 4}


def test_infos_that_are_not_finite_are_left_out() -> None:
    assert play(Junk).infos == {"time": 1.0}


class MaskNowAndThen(OneStep):
    """Two steps, of which only the second has a mask."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(3)

    def reset(self, **arguments: Any) -> Any:
        self.time = 0
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        self.time += 1
        assert self.time == 1 or action == 2
        mask = np.array([0, 0, 1], np.int8)
        return self.observe(), 0.0, self.time == 2, False, {"action_mask": mask}


def test_a_mask_that_is_missing_allows_everything() -> None:
    masks = play(MaskNowAndThen).action_masks
    assert masks is not None
    assert bool(masks[0].all())
    assert (masks[1] == torch.tensor([False, False, True])).all()
    assert play(BestAction).action_masks is None


def test_legal_actions_only() -> None:
    rollout = play(Search)  # which raises otherwise
    assert rollout.action_masks is not None
    taken = rollout.action_masks.gather(-1, rollout.actions).squeeze(-1)
    assert bool(taken[rollout.alive].all())
    assert set(rollout.lengths.ravel().tolist()) == {1, 2, 3}


@pytest.mark.parametrize("preset", ["flaky", "park"])
def test_native_and_loop_batches_play_the_same(preset: str) -> None:
    kwargs: dict[str, Any] = {"preset": preset, "episode_length": 60}
    native = play("LoadBalancer-v0", **kwargs)
    loop = play(lambda: gym.make("LoadBalancer-v0", **kwargs))
    for name in ("observations", "actions", "rewards", "alive", "log_probs"):
        assert torch.equal(getattr(native, name), getattr(loop, name)), name
    assert torch.equal(native.episodes.truncated, loop.episodes.truncated)
    assert bool((loop.lengths == 60).all())
    assert bool((loop.episodes.truncated == (preset == "flaky")).all())
    assert (
        native.infos.items() <= {name: pytest.approx(v) for name, v in loop.infos.items()}.items()
    )


def test_iterations_differ_and_repeat() -> None:
    first, again, other = play(Countdown), play(Countdown), play(Countdown, iteration=1)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions[0], other.actions[0])
