"""Groups that start anew from where one of their members is, and rollouts put side by side."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.policies.network import MLPPolicy
from grpo_gym.policies.options import MLPOptions
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.collection import Branching, collect
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.randomness import ActionNoise, Stream, episode_seeds, group_generators
from grpo_gym.rollouts.rollout import GroupedRollout, concatenate
from grpo_gym.trainers.collector import Collector
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.advantages import informative_groups
from grpo_gym.trainers.learning.batch import training_batch
from grpo_gym.trainers.learning.estimate import AdvantageEstimate, estimate_advantages
from probe_envs import BestAction, Countdown, Counter, OneStep, Recall, Search, Weather

GROUPS, MEMBERS = 3, 4


def play(
    env: Any,
    every: int | None,
    *,
    lookahead: int = 0,
    trunk: Any = "random",
    max_steps: int | None = None,
    frame_history: int = 1,
    iteration: int = 0,
    groups: int = GROUPS,
    members: int = MEMBERS,
    **kwargs: Any,
) -> GroupedRollout:
    batch = make_batch(env, kwargs, groups * members)
    torch.manual_seed(1)
    policy = MLPPolicy(
        batch.single_observation_space,
        batch.single_action_space,
        MLPOptions(hidden_sizes=(8,), frame_history=frame_history),
    )
    head, numbers = policy.head, range(groups)
    noise = ActionNoise(head.noise_kind, 0, iteration, numbers, members, head.num_components)
    branching = None
    if every is not None:
        generators = group_generators(0, Stream.TRUNKS, iteration, numbers)
        branching = Branching(every, lookahead, trunk, generators)
    seeds = episode_seeds(0, iteration, numbers, None)
    env_groups = EnvGroups(batch, members)
    return collect(policy, env_groups, seeds, noise, max_steps, branching, frame_history)


def endless() -> Counter:
    return Counter(limit=6, ends=False)


def digits_after(start: float, actions: list[int]) -> float:
    for action in actions:
        start = 5 * start + action + 1
    return start


# Exactly, in a deterministic environment: 6 steps, branching every 2


@pytest.mark.parametrize("trunk", ["random", "first", "best"])
def test_each_segment_is_a_group_that_goes_on_from_its_trunk(trunk: Any) -> None:
    rollout = play(endless, 2, trunk=trunk)
    assert rollout.alive.shape == (2, 3 * GROUPS, MEMBERS)
    assert bool(rollout.alive.all() & rollout.credited.all())
    assert rollout.num_steps == 6 * GROUPS * MEMBERS
    actions = rollout.actions[..., 0]
    trunks = torch.zeros(GROUPS, dtype=torch.float64)
    numbers = []
    for g in range(GROUPS):
        time, digits = 0.0, 0.0
        for segment in range(3):
            row = segment * GROUPS + g
            starts = rollout.observations[0, row]
            assert starts.tolist() == [[time, digits]] * MEMBERS
            wanted = actions[:, row] + 10.0 * (time + torch.arange(2)[:, None])
            torch.testing.assert_close(rollout.rewards[:, row], wanted.double())
            returns = rollout.rewards[:, row].sum(dim=0)
            ends = [digits_after(digits, actions[:, row, k].tolist()) for k in range(MEMBERS)]
            if segment < 2:
                following = float(rollout.observations[0, row + GROUPS, 0, 1])
                assert following in ends
                member = ends.index(following)
            else:
                left = float(rollout.episodes.returns[g]) - float(trunks[g])
                member = returns.tolist().index(left)
            if trunk == "first":
                assert digits_after(digits, actions[:, row, 0].tolist()) == ends[member]
            if trunk == "best":
                assert returns[member] == returns.max()
            numbers.append(member)
            trunks[g] += returns[member]
            time, digits = time + 2.0, ends[member]
    torch.testing.assert_close(rollout.episodes.returns, trunks)
    assert rollout.episodes.lengths.tolist() == [6] * GROUPS
    assert rollout.episodes.truncated.tolist() == [True] * GROUPS
    assert (set(numbers) == {0}) == (trunk == "first")


def test_looking_ahead_counts_for_returns_and_steps_only() -> None:
    plain, ahead = play(endless, 2, trunk="first"), play(endless, 2, lookahead=3, trunk="first")
    assert ahead.alive.shape == (5, 3 * GROUPS, MEMBERS)
    # Segments start at times 0, 2 and 4, of 6: they look 3, 2 and 0 steps ahead.
    wanted = torch.tensor([5, 4, 2]).repeat_interleave(GROUPS)
    assert torch.equal(ahead.lengths, wanted[:, None].expand(-1, MEMBERS))
    assert ahead.num_steps == (5 + 4 + 2) * GROUPS * MEMBERS
    assert bool(ahead.credited[:2].all())
    assert not ahead.credited[2:].any()
    rewards = ahead.actions[..., 0] + 10.0 * ahead.observations[..., 0]
    torch.testing.assert_close(ahead.rewards, (rewards * ahead.alive).double())
    # The trunk is as if nobody had looked: the first segment's actions are the same.
    assert torch.equal(ahead.actions[:2, :GROUPS], plain.actions[:, :GROUPS])
    assert ahead.episodes.lengths.tolist() == [6] * GROUPS
    for g in range(GROUPS):
        path = [ahead.actions[t, s * GROUPS + g, 0, 0].item() for s in range(3) for t in range(2)]
        starts = ahead.observations[0, g::GROUPS, 0, 1].tolist()
        assert starts == [digits_after(0.0, path[:n]) for n in (0, 2, 4)]  # type: ignore[arg-type]
        assert float(ahead.episodes.returns[g]) == sum(path) + 10.0 * 15


def test_groups_end_one_by_one() -> None:
    """Action 3 ends an episode: trunks are chosen among those that go on."""
    rollout = play(lambda: Counter(limit=9), 2, groups=6, members=3)
    actions, alive = rollout.actions[..., 0], rollout.alive
    ended = (actions == 3) & alive
    assert not alive[1][ended[0]].any()  # nobody acts after the end
    row, active = 0, list(range(6))
    digits, returns, lengths = [0.0] * 6, [0.0] * 6, [0] * 6
    early = set()
    while active:
        survivors = []
        for g in active:
            start = rollout.observations[0, row]
            assert start[:, 1].tolist() == [digits[g]] * 3
            steps = [int(alive[:, row, k].sum()) for k in range(3)]
            ends = [
                digits_after(digits[g], actions[:n, row, k].tolist()) for k, n in enumerate(steps)
            ]
            time = int(start[0, 0])
            living = [k for k in range(3) if not ended[:, row, k].any() and time + steps[k] < 9]
            if living:
                survivors.append((g, ends, living, row, steps))
            else:
                early.add((g, time))
                totals = [float(rollout.rewards[:, row, k].sum()) for k in range(3)]
                got = float(rollout.episodes.returns[g]) - returns[g]
                member = min(range(3), key=lambda k: abs(totals[k] - got))
                assert totals[member] == pytest.approx(got)
                assert int(rollout.episodes.lengths[g]) == lengths[g] + steps[member]
                cut = time + steps[member] == 9 and not bool(ended[:, row, member].any())
                assert bool(rollout.episodes.truncated[g]) == cut
            row += 1
        active = []
        for g, ends, living, at, steps in survivors:
            following = row + len(active)
            digits[g] = float(rollout.observations[0, following, 0, 1])
            member = ends.index(digits[g])
            assert member in living
            returns[g] += float(rollout.rewards[:, at, member].sum())
            lengths[g] += steps[member]
            active.append(g)
    assert row == alive.shape[1]
    assert len({time for _, time in early}) > 1
    assert rollout.num_steps == int(alive.sum())


def test_the_limit_of_steps_cuts_segments_and_trunks() -> None:
    rollout = play(endless, 2, lookahead=2, max_steps=5)
    assert rollout.lengths[:, 0].tolist() == [4] * GROUPS + [3] * GROUPS + [1] * GROUPS
    assert rollout.episodes.lengths.tolist() == [5] * GROUPS
    assert rollout.episodes.truncated.tolist() == [True] * GROUPS
    whole = play(lambda: Counter(limit=99, ends=False), 2, max_steps=5)
    assert whole.episodes.truncated.tolist() == [True] * GROUPS
    # Without branching the episodes are those of all members.
    assert play(endless, None, max_steps=5).episodes.lengths.tolist() == [5] * GROUPS * MEMBERS


def test_a_segment_as_long_as_the_episode_is_no_branching() -> None:
    for env in (Counter, Countdown, Search):
        branched, plain = play(env, 50, lookahead=5), play(env, None)
        for name in ("observations", "actions", "log_probs", "outputs", "rewards", "alive"):
            assert torch.equal(getattr(branched, name), getattr(plain, name)), name
        assert torch.equal(branched.credited, plain.alive)
        assert branched.infos == plain.infos
        assert len(branched.episodes.returns) == GROUPS


@pytest.mark.parametrize("lookahead", [0, 2])
def test_branching_at_every_step_compares_single_actions(lookahead: int) -> None:
    rollout = play(endless, 1, lookahead=lookahead, members=2)
    assert rollout.alive.shape[:2] == (1 + lookahead, 6 * GROUPS)
    assert bool(rollout.credited[0].all())
    assert int(rollout.credited.sum()) == 6 * GROUPS * 2
    observations = rollout.observations[0]
    assert torch.equal(observations[:, 0], observations[:, 1])
    assert observations[:, 0, 0].tolist() == [float(t) for t in range(6) for _ in range(GROUPS)]
    left = (6 - observations[:, 0, 0]).clamp(max=1 + lookahead)
    assert torch.equal(rollout.lengths[:, 0].float(), left)
    assert rollout.episodes.lengths.tolist() == [6] * GROUPS


def test_the_same_seed_gives_the_same_branches_and_another_iteration_others() -> None:
    first, again, other = (play(Counter, 2, lookahead=1, iteration=i) for i in (0, 0, 1))
    for name in ("observations", "actions", "rewards", "alive", "credited"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert torch.equal(first.episodes.returns, again.episodes.returns)
    assert first.actions.shape != other.actions.shape or not torch.equal(
        first.actions, other.actions
    )


def test_infos_are_means_over_all_steps() -> None:
    rollout = play(endless, 2, lookahead=2)
    times = (rollout.observations[..., 0] + 1.0)[rollout.alive]
    assert rollout.infos == {"time": pytest.approx(float(times.mean()))}


# One trace for all branches


def test_branches_of_a_third_partys_environment_share_its_luck() -> None:
    rollout = play(Weather, 2, lookahead=2)
    luck = rollout.rewards - rollout.actions[..., 0]
    alive = rollout.alive
    assert bool((alive == alive[:, :, :1]).all())
    torch.testing.assert_close(luck * alive, luck[:, :, :1] * alive)
    assert len(torch.unique(rollout.actions[0, :, :, 0], dim=0)) > 1
    # Looking ahead uses up nobody's luck: the next segment meets it again.
    for g in range(2 * GROUPS):
        torch.testing.assert_close(luck[2:4, g, 0], luck[:2, g + GROUPS, 0])
    assert len(torch.unique(luck[0, :GROUPS, 0])) == GROUPS


def test_branches_of_the_load_balancer_share_its_requests() -> None:
    kwargs: dict[str, Any] = {"preset": "flaky", "episode_length": 24}
    native = play("LoadBalancer-v0", 6, lookahead=3, **kwargs)
    loop = play(lambda: gym.make("LoadBalancer-v0", **kwargs), 6, lookahead=3)
    for name in ("observations", "actions", "rewards", "alive", "credited", "log_probs"):
        assert torch.equal(getattr(native, name), getattr(loop, name)), name
    assert native.alive.shape == (9, 4 * GROUPS, MEMBERS)
    starts = native.observations[0]
    assert bool((starts == starts[:, :1]).all())
    # Members that act alike are rewarded alike, however the trunk went before.
    actions, alike = native.actions[..., 0], 0
    for g in range(4 * GROUPS):
        for k in range(1, MEMBERS):
            same = (actions[:, g, 0] == actions[:, g, k]).long().cumprod(dim=0).bool()
            assert torch.equal(native.rewards[same, g, 0], native.rewards[same, g, k])
            alike += int(same.sum())
    assert alike > 5
    assert native.episodes.lengths.tolist() == [24] * GROUPS


# What the policy saw goes back as well


def test_frames_are_those_of_the_trunk() -> None:
    rollout = play(endless, 2, lookahead=1, frame_history=3, trunk="best")
    frames = rollout.observations.unflatten(-1, (3, 2))
    digits = frames[..., 1]
    for row in range(GROUPS, 3 * GROUPS):
        start = digits[0, row]
        assert bool((start == start[:1]).all())
        before = [torch.div(start[0, i + 1], 5, rounding_mode="floor") for i in range(2)]
        # Each frame is the one after with its last action taken away (digits are 1 to 4).
        assert start[0, :2].tolist() == [float(value) for value in before]
    assert frames[0, :GROUPS].abs().max() == 0.0


class Doors(gym.Env[Any, Any]):
    """One door is legal, `time % 3`; the other raises. No mask comes at the end of an episode.

    At even times before step 4 there is no mask, and anything goes.
    """

    observation_space: gym.Space[Any] = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(3)

    def __init__(self, always: bool) -> None:
        self.always = always

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), self._info()

    def step(self, action: Any) -> Any:
        assert "action_mask" not in self._info() or action == self.time % 3
        self.time += 1
        over = self.time == 5
        info = {} if over else self._info()
        return np.array([self.time], np.float32), float(action), over, False, info

    def _info(self) -> dict[str, Any]:
        if self.time % 2 == 0 and not self.always:
            return {}
        return {"action_mask": np.eye(3, dtype=np.int8)[self.time % 3]}


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize(("every", "lookahead"), [(1, 0), (1, 1), (2, 1), (2, 3), (3, 4)])
def test_masks_are_those_of_the_trunk(every: int, lookahead: int, always: bool) -> None:
    rollout = play(lambda: Doors(always), every, lookahead=lookahead)  # which raises otherwise
    masks, times = rollout.action_masks, rollout.observations[..., 0].long()
    assert masks is not None
    wanted = torch.eye(3, dtype=torch.bool)[times % 3]
    if not always:
        wanted = wanted | (times % 2 == 0)[..., None]
    assert torch.equal(masks[rollout.alive], wanted[rollout.alive])


# Side by side


def test_rollouts_side_by_side_are_padded() -> None:
    short, long = play(Countdown, None, max_steps=2), play(Countdown, None, iteration=1)
    assert (len(short.alive), len(long.alive)) == (2, 4)
    for parts in ((short, long), (long, short)):
        both = concatenate(parts)
        assert both.alive.shape == (4, 2 * GROUPS, MEMBERS)
        for name in ("observations", "actions", "log_probs", "outputs", "rewards", "alive"):
            joined = getattr(both, name)
            for i, part in enumerate(parts):
                own = getattr(part, name)
                columns = joined[:, i * GROUPS : (i + 1) * GROUPS]
                assert torch.equal(columns[: len(own)], own), name
                assert not columns[len(own) :].any(), name
        assert torch.equal(both.returns, torch.cat([part.returns for part in parts]))
        assert both.num_steps == short.num_steps + long.num_steps
        for name in ("returns", "lengths", "truncated"):
            wanted = torch.cat([getattr(part.episodes, name) for part in parts])
            assert torch.equal(getattr(both.episodes, name), wanted)
        total = sum(part.infos["time"] * part.num_steps for part in parts)
        assert both.infos["time"] == pytest.approx(total / both.num_steps)
        assert set(both.infos) == {"time", "last"}


def test_a_rollout_without_masks_beside_one_that_has_them_may_do_anything() -> None:
    masked = play(Search, None)
    assert masked.action_masks is not None
    free = replace(masked, action_masks=None)
    for parts in ((masked, free), (free, masked)):
        masks = concatenate(parts).action_masks
        assert masks is not None
        first, second = masks.chunk(2, dim=1)
        own, rest = (first, second) if parts[0] is masked else (second, first)
        assert torch.equal(own, masked.action_masks)
        assert bool(rest.all())
    assert concatenate([free, free]).action_masks is None


# Groups without a difference are replaced (DAPO)


class SomeTellNothing(OneStep):
    """A share of the episodes pays the same for every action."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)
    observation_space: gym.Space[Any] = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, share: float) -> None:
        self.share = share

    def observe(self) -> Any:
        draws = np.random.default_rng(self.np_random_seed).random(1, np.float32)
        return draws

    def reward(self, action: Any) -> float:
        return 0.0 if float(self.observe()[0]) < self.share else float(action)


def refilled(
    share: float, rounds: int, seed: int = 0
) -> tuple[GRPO, GroupedRollout, AdvantageEstimate]:
    model = GRPO(
        "mlp", lambda: SomeTellNothing(share), preset="dapo", refill_rounds=rounds, num_groups=4,
        group_size=16, seed=seed,
    )  # fmt: skip
    return model, *model._collect()


def test_uniform_groups_are_replaced_by_others() -> None:
    # Two of the first four episodes of seed 1 tell nothing: one round is not enough.
    model, rollout, estimate = refilled(0.5, 6, seed=1)
    informative = informative_groups(estimate.advantages)
    starts = rollout.observations[0, :, 0, 0]
    assert torch.equal(informative, starts >= 0.5)  # 16 members hardly all choose the same
    rounds = len(starts) // 4
    assert 2 <= rounds <= 7
    assert int(informative.sum()) >= 4
    assert int(informative[:-4].sum()) < 4, "no round too many"
    assert len(torch.unique(starts)) == len(starts), "every round has traces of its own"
    first = model._collector
    assert first is not None
    wanted = [first.collect(model.policy, 0, r).observations[0, :, 0, 0] for r in range(rounds)]
    assert torch.equal(starts, torch.cat(wanted))
    stats = model.train_iteration()
    assert stats.rollout_steps == model.num_steps == 4 * 16 * rounds
    assert stats.uniform_groups == pytest.approx(1.0 - float(informative.float().mean()))
    # The replaced ones take no part.
    batch = training_batch(rollout, estimate.advantages, model.config)
    assert len(batch) == 16 * int(informative.sum())


@pytest.mark.parametrize(("share", "rounds", "groups"), [(2.0, 3, 16), (2.0, 0, 4), (-1.0, 3, 4)])
def test_rounds_are_bounded_and_stop_when_there_is_enough(
    share: float, rounds: int, groups: int
) -> None:
    _, rollout, _ = refilled(share, rounds)
    assert rollout.alive.shape[1] == groups
    assert rollout.num_steps == groups * 16


# In training


def test_the_ratio_is_one_before_the_first_step() -> None:
    """Also of segments, with masks and frames: observations, masks and outputs belong together."""
    for env, options in (
        (Search, {"branch_every": 1, "branch_lookahead": 1}),
        (lambda: Doors(False), {"branch_every": 2, "branch_lookahead": 2, "frame_history": 3}),
        (Recall, {"branch_every": 2, "frame_history": 2}),
    ):
        model = GRPO(
            "mlp", env, preset="vine", num_groups=3, group_size=4, drop_uniform_groups=False,
            **options,
        ).learn(200)  # fmt: skip
        rollout, estimate = model._collect()
        batch = training_batch(rollout, estimate.advantages, model.config)
        assert len(batch) == int(rollout.credited.sum())
        with torch.no_grad():
            now = model.policy.distribution(model.policy(batch.observations), batch.action_masks)
        torch.testing.assert_close(now.log_prob(batch.actions), batch.old_log_probs)


def test_uncredited_steps_are_not_learned_from_and_count_for_returns() -> None:
    config = GRPOConfig(
        num_groups=2, group_size=3, grouping="branch", branch_every=2, branch_lookahead=2,
        discount=1.0, scale="none", drop_uniform_groups=False, hidden_sizes=(4,),
    )  # fmt: skip
    model = GRPO("mlp", endless, config=config)
    rollout = Collector(endless, {}, config).collect(model.policy, 0)
    advantages = estimate_advantages(rollout, config, config.discount).advantages
    assert not advantages[~rollout.credited].any()
    returns = rollout.rewards.sum(dim=0)
    wanted = returns - returns.mean(dim=1, keepdim=True)
    torch.testing.assert_close(advantages[0], wanted.float())
    assert len(training_batch(rollout, advantages, config)) == 2 * 6 * 3


def test_branching_solves_what_it_should() -> None:
    model = GRPO(
        "mlp", Recall, preset="vine", branch_every=2, branch_lookahead=5, num_groups=4,
        group_size=8, hidden_sizes=(16,), num_minibatches=2, learning_rate=0.02,
    ).learn(16_000)  # fmt: skip
    assert model.evaluate(64).mean_return == 5.0


def test_environments_that_cannot_be_copied_are_refused_at_once() -> None:
    class Uncopyable(BestAction):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise TypeError("holds a socket")

    with pytest.raises(Exception, match=r"Uncopyable cannot be branched: .*holds a socket"):
        GRPO("mlp", Uncopyable, preset="vine").prepare()
    GRPO("mlp", Uncopyable).train_iteration()
