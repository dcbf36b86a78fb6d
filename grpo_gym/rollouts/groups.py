"""Groups of environments whose members start from the same state and share one trace.

Shapes: G groups, K members, B = G*K environments (member k of group g has index g*K + k),
W numbers of an observation's row, A choices.
"""

import numpy as np
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from grpo_gym.rollouts.env_batch import EnvBatch, EnvError
from grpo_gym.rollouts.loop_batch import SeparateBatch
from grpo_gym.settings import ConfigError


class GroupError(EnvError):
    """Members of a group did not start from the same state, so their returns are incomparable."""


class EnvGroups:
    """G groups of K environments.

    Attributes:
        num_groups: G.
        group_size: K.
        batch: The B = G*K environments.
    """

    def __init__(self, batch: EnvBatch, group_size: int) -> None:
        """Group the environments of a batch, K neighbours at a time.

        Raises:
            ConfigError: If B is not a multiple of K, or members would not be comparable.
        """
        if group_size < 1 or batch.num_envs % group_size:
            raise ConfigError(
                f"group_size must divide the number of environments ({batch.num_envs}), got "
                f"{group_size}"
            )
        _refuse_own_statistics(batch)
        self.batch = batch
        self.group_size = group_size
        self.num_groups = batch.num_envs // group_size

    def reset(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Reset every group from its seed.

        Args:
            seeds: One per group, shape (G,), or one per member, shape (G, K), for groups of
                unrelated episodes; integers >= 0.

        Returns:
            Observations as rows, shape (B, W), and action masks (B, A), bool, or None.

        Raises:
            GroupError: If members that share a seed do not start with the same observation.
        """
        seeds = np.asarray(seeds)
        shared = seeds.ndim == 1
        members = np.repeat(seeds, self.group_size) if shared else seeds.reshape(-1)
        observations, masks = self.batch.reset(members.tolist())
        if shared:
            grouped = observations.reshape(self.num_groups, self.group_size, -1)
            same = grouped == grouped[:, :1]
            if not same.all():
                raise GroupError(
                    f"{self.batch}.reset(), seed {seeds[same.all(axis=(1, 2)).argmin()]}: members "
                    "of a group were reset with one seed and started differently: "
                    f"{self.batch.seeding_rule}"
                )
        return observations, masks

    def members(self, groups: np.ndarray) -> np.ndarray:
        """Indices of the environments of groups (M,): shape (M, K), int64."""
        return groups[:, None] * self.group_size + np.arange(self.group_size)


def _refuse_own_statistics(batch: EnvBatch) -> None:
    """Refuse wrappers that scale what each member sees or earns by its own past.

    Raises:
        ConfigError: If there is one.
    """
    if not isinstance(batch, SeparateBatch):
        return
    for layer in batch.layers:
        if isinstance(layer, (NormalizeObservation, NormalizeReward)):
            raise ConfigError(
                f"{batch} must come without {type(layer).__name__}: it would scale each member of "
                "a group by different statistics; normalise_observations and scale do it for all"
            )
