"""The check that environments restored from a snapshot continue exactly like the original."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch
from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.settings import ConfigError

_WARM_UPS = (3, 3, 3, 2, 1, 0)
"""Steps before the snapshot, by attempt: fewer for episodes that end earlier."""
_COMPARED_STEPS = 250
_RESTORATIONS = 2


class SnapshotError(ConfigError):
    """An environment cannot be restored to an earlier state, so no group can branch there."""


def check_snapshots(batch: EnvBatch, seed: int = 0) -> None:
    """Check that restored copies continue exactly like the original.

    After a few steps the first environment is saved and played for up to 250 steps. Then its
    snapshot is restored into both environments, twice: observations, rewards, ends and action
    masks must be equal to the last bit. Randomness or state that none of these steps uses goes
    unnoticed.

    Args:
        batch: Two environments; they are reset and stepped.
        seed: Of the episode and of the actions.

    Raises:
        SnapshotError: If the copies differ, or if the environment cannot be copied.
    """
    if not batch.can_branch:
        raise SnapshotError(
            f"grouping must be 'shared' with {batch}, which is a vector environment, got 'branch': "
            "pass a function that makes a single environment"
        )
    space = copy.deepcopy(batch.single_action_space)
    space.seed(seed)
    for attempt, steps in enumerate(_WARM_UPS):
        alive, masks = _warm_up(batch, space, seed + 2 * attempt, steps)
        if alive:
            break
    # Copying third-party environments may raise anything.
    try:
        snapshot = batch.snapshot(np.array([0]))
    except Exception as error:
        raise _refusal(batch, f"copying it raised {error!r}") from error
    original = _play_original(batch, space, masks)
    for _ in range(_RESTORATIONS):
        try:
            batch.restore(snapshot, np.array([[0, 1]]))
        except Exception as error:
            raise _refusal(batch, f"restoring it raised {error!r}") from error
        _replay(batch, original)


def _warm_up(
    batch: EnvBatch, space: gym.Space[Any], seed: int, steps: int
) -> tuple[bool, np.ndarray | None]:
    """Bring the environments into different states; whether the first is alive, and the masks."""
    _, masks = batch.reset([seed, seed + 1])
    alive = np.ones(2, np.bool_)
    for _ in range(steps):
        step = batch.step(sample_batch(space, 2, masks), alive)
        alive = alive & ~(step.terminated | step.truncated)
        masks = step.action_masks
        if not alive[0]:
            break
    return bool(alive[0]), masks


def _play_original(
    batch: EnvBatch, space: gym.Space[Any], masks: np.ndarray | None
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Step the first environment; the actions for both and the outcome, step by step."""
    record = []
    for _ in range(_COMPARED_STEPS):
        actions = sample_batch(space, 2, masks)
        actions[1] = actions[0]
        step = batch.step(actions, np.array([True, False]))
        record.append((actions, _outcome(step, 0)))
        if step.terminated[0] or step.truncated[0]:
            break
        masks = step.action_masks
    return record


def _replay(batch: EnvBatch, original: list[tuple[np.ndarray, dict[str, Any]]]) -> None:
    """Repeat the original's actions in both copies and compare every outcome."""
    for t, (actions, expected) in enumerate(original):
        try:
            step = batch.step(actions, np.ones(2, np.bool_))
        except Exception as error:
            reason = error.__cause__ or error  # what the environment itself raised
            raise _refusal(batch, f"a copy raised {reason!r} where the original went on") from error
        for b in range(2):
            for name, value in _outcome(step, b).items():
                if not _same(value, expected[name]):
                    raise _refusal(
                        batch,
                        f"{t + 1} steps after the snapshot a copy's {name} was not the original's",
                    )


def _outcome(step: BatchStep, b: int) -> dict[str, Any]:
    """Everything that an agent notices of environment b's step."""
    return {
        "observation": step.observations[b],
        "reward": step.rewards[b],
        "end": [step.terminated[b], step.truncated[b]],
        "action mask": None if step.action_masks is None else step.action_masks[b],
    }


def _same(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    return np.array_equal(left, right, equal_nan=True)


def _refusal(batch: EnvBatch, reason: str) -> SnapshotError:
    return SnapshotError(
        f"{batch} cannot be branched: {reason}. Use grouping='shared', or give the environment "
        "get_state() and set_state(state), or __deepcopy__, that cover its complete state"
    )
