"""Policies by name: the baselines of an environment, checkpoints and runs."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from grpo_gym.evaluation.episodes import MAX_ENVS, ActionFunction, Evaluation, evaluate
from grpo_gym.inference.policy_files import find_policy_file
from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.settings import ConfigError, suggest
from grpo_gym.storage import checkpoint

if TYPE_CHECKING:
    from grpo_gym.trainers.grpo import GRPO
    from grpo_gym.trainers.online import OnlineGRPO


PREFIX = "pretrained:"
"""Before the name of a policy that ships with the package."""


def baseline_names(env_id: str) -> list[str]:
    """Names of an environment's baselines; every environment has `random`."""
    return list(_baselines(env_id)) or ["random"]


def table_names(env_id: str, env_kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the baselines that can play this environment, hundreds of episodes in seconds."""
    baselines = _baselines(env_id)
    if not baselines:
        return ["random"]
    with closing(cast(NativeBatch, make_batch(env_id, env_kwargs, 1))) as batch:
        simulator = batch.env.unwrapped.simulator
        return [name for name, each in baselines.items() if each.is_for_tables(simulator)]


def privileged_names(env_id: str) -> set[str]:
    """Baselines with information that no policy in production has."""
    return {name for name, baseline in _baselines(env_id).items() if baseline.privileged}


def is_deterministic(name: str, env_id: str) -> bool:
    """Whether there is a baseline of this name that uses no randomness."""
    baseline = _baselines(env_id).get(name)
    return baseline is not None and bool(baseline.deterministic)


def baseline_action_function(
    name: str, env_id: str, batch: EnvBatch, seed: int = 0
) -> ActionFunction:
    """A baseline bound to the environments of this id in which it will play.

    `seed` is that of random actions in environments that are not native; native baselines draw from
    each episode's own seed.

    Raises:
        ConfigError: If there is no baseline of that name.
    """
    descriptor = descriptor_of(env_id)
    if descriptor is not None and isinstance(batch, NativeBatch):
        baseline = descriptor.baselines.make_baseline(name, batch.env)
        return lambda observations, masks, state, start: baseline.predict(
            observations, state, start
        )
    if name != "random":
        raise ConfigError(
            f"policy must be 'random', a checkpoint or a run for {env_id}, got {name!r}"
        )
    space = batch.single_action_space
    space.seed(int(np.random.default_rng(seed).integers(2**31)))
    return lambda observations, masks, state, start: (
        sample_batch(space, len(observations), masks),
        state,
    )


def evaluate_baseline(
    name: str,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    episodes: int = 100,
    seed: int = 1_000_000,
) -> Evaluation:
    """Play whole episodes with a baseline, the same ones as `model.evaluate` of these arguments.

    Args:
        name: A baseline of the environment; "random" plays in every environment.
        env_id: Id of the environment.
        env_kwargs: Its arguments.
        episodes: Number of episodes.
        seed: Seed of the first; episode i has seed + i.

    Raises:
        ConfigError: If there is no such baseline, or an argument cannot be used.
    """
    with closing(make_batch(env_id, env_kwargs, max(1, min(episodes, MAX_ENVS)))) as batch:
        action_function = baseline_action_function(name, env_id, batch)
        return evaluate(action_function, batch, episodes, seed)


def check_environment(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Make an environment once, before any work.

    Raises:
        ConfigError: If it cannot be made, or not with these arguments.
    """
    make_batch(env_id, env_kwargs, 1).close()


def find_checkpoint(policy: str, env_id: str | None) -> Path:
    """The file of a policy: itself, or a run's best checkpoint, or the latest if there is no best.

    If the environment is known, an error suggests its baselines.

    Raises:
        ConfigError: If there is no such file, or the folder has no checkpoints.
    """
    hint = " A baseline needs --env." if env_id is None else suggest(policy, baseline_names(env_id))
    return find_policy_file(policy, "a baseline, a checkpoint file or a run's folder", hint)


def load_model(
    path: Path, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> "GRPO | OnlineGRPO":
    """Read a model of GRPO or online GRPO; `env_kwargs` go over those it was trained with.

    Raises:
        CheckpointError: If the file is damaged, not ours, or of another environment.
    """
    from grpo_gym.trainers.grpo import GRPO
    from grpo_gym.trainers.online.trainer import KIND, OnlineGRPO

    model: type[GRPO | OnlineGRPO] = OnlineGRPO if checkpoint.kind_of(path) == KIND else GRPO
    return model.load(path, env_id, env_kwargs=env_kwargs)


def load_policy(
    policy: str, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> "GRPO | OnlineGRPO":
    """The model that a name, a checkpoint file or a run's folder stands for.

    Args:
        policy: "pretrained:NAME", a file or a folder.
        env_id: The environment; None: that of its training.
        env_kwargs: Arguments of that environment.

    Raises:
        ConfigError: If there is no such policy.
        CheckpointError: If the file is damaged, not ours, or of another environment.
    """
    if policy.startswith(PREFIX):
        from grpo_gym.trainers.pretrained import ENV_ID, pretrained

        if env_id not in (None, ENV_ID):
            raise ConfigError(f"env must be {ENV_ID} for the policy {policy}, got {env_id}")
        fleets = {"preset": "fleets"} if env_id is None else {}
        return pretrained(policy.removeprefix(PREFIX), {**fleets, **(env_kwargs or {})})
    return load_model(find_checkpoint(policy, env_id), env_id, env_kwargs)


def _baselines(env_id: str) -> Mapping[str, Any]:
    """Classes of an environment's baselines by name; none unless it is native."""
    descriptor = descriptor_of(env_id)
    return {} if descriptor is None else descriptor.baselines.BASELINES
