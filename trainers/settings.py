"""What a training is made of: environment, policy, settings and number of steps."""

from collections.abc import Collection
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from grpo_gym.settings import (
    Count,
    EnvId,
    Episodes,
    Integer,
    Natural,
    checked_dataclass,
)
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import task_of, task_settings
from grpo_gym.trainers.online.config import OnlineConfig

if TYPE_CHECKING:
    from grpo_gym.trainers.grpo import GRPO


@checked_dataclass
class TrainSettings:
    """What is trained, for how long, and how it is watched."""

    env: EnvId = "LoadBalancer-v0"
    """Id of the environment, such as LoadBalancer-v0 or CartPole-v1."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as preset=park num_servers=10."""
    training_env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments that replace or join them in training only, such as reward=latency."""
    algo: Literal["grpo", "online"] = "grpo"
    """The algorithm: grpo, or online, which learns from one decision at a time and is for
    LoadBalancer-v0."""
    policy: str = "mlp"
    """The policy: linear, mlp, cnn, combined, board, servers, gru, temporal, or a registered name
    (or module:name)."""
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    """Options of the policy, such as hidden_sizes=[32,32]."""
    total_steps: Count = 1_000_000
    """Environment steps to train for, such as 1e6; rounded up to whole iterations."""
    evaluations: Natural = 10
    """Evaluations during training, evenly spaced; the best policy is kept. 0: none."""
    evaluation_episodes: Episodes = 128
    """Episodes of each of them."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints."""
    final_episodes: Annotated[Integer, Field(ge=0, le=10_000_000)] = 1000
    """Episodes of the closing table, which compares the policy with baselines. 0: no table."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Settings of GRPO."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """Settings of online GRPO."""


def settings_from_task(settings: TrainSettings, given: Collection[str]) -> dict[str, Any]:
    """The settings of GRPO that suit the task and the number of steps; see `trainers.defaults`.

    Args:
        settings: What is trained.
        given: Names of settings of GRPO that are kept.

    Raises:
        ConfigError: If the environment cannot be made.
    """
    kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
    task = task_of(settings.env, kwargs, settings.grpo.frame_history)
    return {} if task is None else task_settings(task, settings.total_steps, given)


def new_model(settings: TrainSettings) -> "GRPO":
    """An untrained model of these settings.

    Raises:
        ConfigError: If they cannot be used.
    """
    from grpo_gym.trainers.grpo import GRPO  # loads torch

    return GRPO(
        settings.policy,
        settings.env,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        policy_kwargs=settings.policy_kwargs,
        config=settings.grpo,
    )
