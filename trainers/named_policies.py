"""Finding whoever a name stands for: a baseline of an environment, or a trained policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.registration import descriptor_of
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.settings import ConfigError, suggest
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError

if TYPE_CHECKING:
    from grpo_gym.trainers.grpo import GRPO
    from grpo_gym.trainers.online import OnlineGRPO


def baseline_names(env_id: str) -> list[str]:
    """Names of an environment's baselines; every environment has `random`."""
    module = _baselines(env_id)
    return ["random"] if module is None else list(module.BASELINES)


def table_names(env_id: str, env_kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the baselines that can play an environment, and hundreds of its episodes.

    Args:
        env_id: The environment's id.
        env_kwargs: Its arguments.
    """
    module = _baselines(env_id)
    if module is None:
        return ["random"]
    batch = make_batch(env_id, env_kwargs, 1)
    if not isinstance(batch, NativeBatch):  # an environment of ours, but wrapped
        return ["random"]
    env: Any = batch.env.unwrapped
    return [name for name, each in module.BASELINES.items() if each.is_for_tables(env.simulator)]


def privileged_names(env_id: str) -> set[str]:
    """Baselines that see what no policy in production could."""
    module = _baselines(env_id)
    if module is None:
        return set()
    return {name for name, baseline in module.BASELINES.items() if baseline.privileged}


def is_deterministic(name: str, env_id: str) -> bool:
    """Whether a baseline of this name draws nothing."""
    module = _baselines(env_id)
    return module is not None and bool(getattr(module.BASELINES.get(name), "deterministic", False))


def baseline_action_function(
    name: str, env_id: str, batch: EnvBatch, seed: int = 0
) -> ActionFunction:
    """A baseline bound to the environments that it will play in.

    Args:
        name: Its name.
        env_id: The environment's id.
        batch: Environments of that id.
        seed: Decides random actions in environments of others; baselines of ours draw from each
            episode's own seed.

    Raises:
        ConfigError: If there is none of that name.
    """
    module = _baselines(env_id)
    if module is None or not isinstance(batch, NativeBatch):
        if name != "random":
            raise ConfigError(
                f"policy must be 'random', a checkpoint or a run for {env_id}, got {name!r}"
            )
        return _random_action_function(batch.single_action_space, seed)
    baseline = module.make_baseline(name, batch.env)

    def act(
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        episode_start: np.ndarray,
    ) -> tuple[np.ndarray, Any]:
        actions: tuple[np.ndarray, Any] = baseline.predict(observations, state, episode_start)
        return actions

    return act


def check_environment(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Make an environment once, before anything is paid for.

    Raises:
        ConfigError: If it cannot be made, or not with these arguments.
    """
    try:
        make_batch(env_id, env_kwargs, 1).close()
    except (ConfigError, gym.error.Error):
        raise
    except Exception as error:  # whatever a third party's constructor says to bad arguments
        raise ConfigError(
            f"{env_id} cannot be made with env_kwargs {dict(env_kwargs)}: {error!r}"
        ) from error


def find_checkpoint(policy: str, env_id: str | None) -> Path:
    """The checkpoint that a path to a file or to a run's folder means.

    Of a run it is the best one, or the latest where none was evaluated.

    Args:
        policy: The path; baselines' names are not expected here.
        env_id: For the error: the environment whose baselines there would have been.

    Raises:
        ConfigError: If there is no such file, or the folder has no checkpoints.
    """
    path = Path(policy)
    if path.is_dir():
        for name in ("best.ckpt", "latest.ckpt"):
            if (path / "checkpoints" / name).is_file():
                return path / "checkpoints" / name
        raise ConfigError(
            f"policy must be a run's folder with a checkpoint, got {policy}: there is no "
            "checkpoints/best.ckpt or latest.ckpt in it"
        )
    if path.exists():
        return path
    hint = " A baseline needs --env." if env_id is None else suggest(policy, baseline_names(env_id))
    raise ConfigError(
        f"policy must be a baseline, a checkpoint file or a run's folder, got {policy!r}.{hint}"
    )


def load_model(
    path: Path, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> "GRPO | OnlineGRPO":
    """Read a trained model of either kind.

    Args:
        path: The checkpoint.
        env_id: The environment, if it is named at all.
        env_kwargs: Instead of those it was trained with.

    Raises:
        CheckpointError: If the file is damaged, not ours, or of another environment.
    """
    from grpo_gym.trainers.grpo import GRPO
    from grpo_gym.trainers.online import trainer as online

    try:
        payload = checkpoint.load(path, kind=online.KIND)
    except CheckpointError:  # GRPO's, or unusable, which this tells as well
        return GRPO.load(path, env_id, env_kwargs=env_kwargs)
    return online.OnlineGRPO.restore(payload, path, env_id, env_kwargs)


def _baselines(env_id: str) -> Any:
    descriptor = descriptor_of(env_id)
    return None if descriptor is None else descriptor.baselines


def _random_action_function(space: gym.Space[Any], seed: int) -> ActionFunction:
    generator = np.random.default_rng(seed)
    space.seed(int(generator.integers(2**31)))

    def act(
        observations: np.ndarray,
        masks: np.ndarray | None,
        state: Any,
        episode_start: np.ndarray,
    ) -> tuple[np.ndarray, Any]:
        return sample_batch(space, len(observations), masks), state

    return act
