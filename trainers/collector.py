"""Collecting an iteration's rollout: the seeds of its groups, and when they branch."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch

from grpo_gym.policies.network import Policy
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.collection import Branching, collect
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.randomness import (
    ActionNoise,
    Stream,
    episode_seeds,
    group_generators,
    narrow_seeds,
)
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.rollouts.snapshot_check import check_snapshots
from grpo_gym.rollouts.workers.batch import Workers
from grpo_gym.rollouts.workers.pool import WorkersLostError
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.processes import ALONE, Processes, check_size, deal
from grpo_gym.trainers.redraws import Redraws
from grpo_gym.trainers.sharded_policy import PlayedShards, ShardedPolicy


class Collector:
    """Collects rollouts from its own environments, those of this process's groups.

    Groups are numbered within an iteration, across all its rounds and all processes; every random
    number derives from the seed, the iteration and the group's number.
    """

    def __init__(
        self,
        env: EnvSource,
        env_kwargs: Mapping[str, Any],
        config: GRPOConfig,
        processes: Processes = ALONE,
    ) -> None:
        """Make the environments; if groups branch, first check that they can be restored.

        Raises:
            ConfigError: If there are more processes than groups, or than shards of them.
            SnapshotError: If environments cannot be restored.
        """
        check_size(processes.size, config)
        self._config, self._processes = config, processes
        shards = min(config.num_groups, config.gradient_shards)
        mine = [deal(config.num_groups, shards, shard) for shard in processes.mine(shards)]
        self._groups = range(mine[0].start, mine[-1].stop)
        self._shards = PlayedShards([len(groups) * config.group_size for groups in mine])
        if config.grouping == "branch":
            with closing(make_batch(env, env_kwargs, 2)) as pair:
                check_snapshots(pair)
        workers = Workers(config.workers, config.group_size, config.worker_timeout_s)
        num_envs = len(self._groups) * config.group_size
        batch = make_batch(env, env_kwargs, num_envs, workers)
        if batch.num_envs != num_envs:
            batch.close()
            raise ConfigError(
                f"env must be an id or a function of num_envs with {processes.size} processes, got "
                f"{batch} with {batch.num_envs} environments of its own"
            )
        try:
            self._env = EnvGroups(batch, config.group_size)
        except ConfigError:
            batch.close()
            raise
        self._lost_workers = 0

    def close(self) -> None:
        """Close the environments."""
        self._env.batch.close()

    @property
    def metrics(self) -> dict[str, float]:
        """The `rollout/` metrics of what collects in all processes, which all ask for them."""
        if not self._config.workers:
            return {}
        lost = self._processes.gather(torch.tensor([self._lost_workers]), self._processes.size)
        return {"lost_workers": float(lost.sum())}

    def collect(self, policy: Policy, iteration: int, round_number: int = 0) -> GroupedRollout:
        """This process's groups of a rollout, of the `round_number`-th of this iteration.

        Both count from 0.

        Where workers are lost, the rollout begins again: their groups with other seeds, and all
        others as before.

        Raises:
            EnvError: If an environment fails, or too many workers are lost.
        """
        first = round_number * self._config.num_groups
        groups = range(first + self._groups.start, first + self._groups.stop)
        redraws = Redraws(iteration, groups, self._config)
        while True:
            try:
                return self._play(policy, iteration, groups, redraws)
            except WorkersLostError as error:
                self._lost_workers += len(error.lost)
                redraws.note(error)

    def _play(
        self, policy: Policy, iteration: int, groups: range, redraws: Redraws
    ) -> GroupedRollout:
        config = self._config
        members = config.group_size if config.grouping == "unrelated" else None
        head = policy.head
        key = config.seed, iteration, groups
        noise = ActionNoise(head.noise_kind, *key, config.group_size, head.num_components)
        seeds = redraws.applied(episode_seeds(*key, members))
        if not _takes_wide_seeds(self._env.batch):
            seeds = narrow_seeds(seeds)
        branching = None
        if config.grouping == "branch":
            branching = Branching(
                config.branch_every,
                config.branch_lookahead,
                config.branch_from,
                group_generators(config.seed, Stream.TRUNKS, iteration, groups),
            )
        rollout = collect(
            ShardedPolicy(policy, self._shards),
            self._env,
            seeds,
            noise,
            config.max_episode_steps,
            branching,
            config.frame_history,
        )
        self._shards.try_all_at_once(policy, rollout)
        return rollout


def _takes_wide_seeds(batch: EnvBatch) -> bool:
    """Whether environments are known to take seeds of any size: ours, and Gymnasium's own."""
    if not isinstance(batch, SeparateBatch):
        return isinstance(batch, NativeBatch)
    return all(type(layer).__module__.startswith("gymnasium.") for layer in batch.layers)
