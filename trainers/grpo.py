"""GRPO: critic-free policy optimisation on groups that share their start and outside world.

Shapes: T steps, G groups, K members of a group, B = G*K environments.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.rollout import GroupedRollout, concatenate
from grpo_gym.settings.config import ConfigError, replace
from grpo_gym.trainers import persistence
from grpo_gym.trainers.collector import Collector
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.learning.advantages import compute_returns, informative_groups
from grpo_gym.trainers.learning.reference import make_reference, move_reference
from grpo_gym.trainers.learning.training_batch import compute_advantages, training_batch
from grpo_gym.trainers.learning.update import UpdateStats, update_in_trust_region, update_policy
from grpo_gym.trainers.learning.value_baseline import ValueBaseline
from grpo_gym.trainers.model import PolicyKind, PolicyModel
from grpo_gym.trainers.presets import make_config
from grpo_gym.trainers.schedule import Schedule

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IterationStats:
    """What one iteration did.

    Attributes:
        iteration: Number of the iteration, from 1.
        num_steps: Environment steps since the start of training.
        rollout_steps: Environment steps of this iteration.
        rollout: `rollout/` metrics by name.
        update: What the update was like; None if no group had anything to compare.
        uniform_groups: Share of groups whose returns were all equal.
        explained_variance: Share of the returns' variance that the learned baseline predicted;
            NaN without one.
        discount: In use.
        collect_seconds: Time spent collecting.
        update_seconds: Time spent learning.
    """

    iteration: int
    num_steps: int
    rollout_steps: int
    rollout: dict[str, float]
    update: UpdateStats | None
    uniform_groups: float
    explained_variance: float
    discount: float
    collect_seconds: float
    update_seconds: float


Callback = Callable[["GRPO", IterationStats], bool | None]


class GRPO(PolicyModel):
    """Group relative policy optimisation for Gymnasium environments.

    Example:
        ```python
        model = GRPO("mlp", "LoadBalancer-v0", seed=0).learn(1_000_000, progress_bar=True)
        action, _ = model.predict(observation, deterministic=True)
        ```

    Attributes:
        iteration: Iterations made.
        num_steps: Environment steps taken in training.
        notes: Numbers about this policy that are saved with it, such as its evaluated return.
    """

    def __init__(
        self,
        policy: PolicyKind = "mlp",
        env: EnvSource = "LoadBalancer-v0",
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        training_env_kwargs: Mapping[str, Any] | None = None,
        preset: str | None = None,
        config: GRPOConfig | None = None,
        **overrides: Any,
    ) -> None:
        """Set up a policy for an environment; nothing is collected yet.

        Args:
            policy: "mlp", "linear" for no hidden layer, "board" for a convolutional network
                that scores every cell of a board, "gru" or "temporal" for a network that reads
                what was seen before, in order.
            env: A registered id, a made environment, or a function that makes one.
            env_kwargs: Passed to the environment; only with an id.
            training_env_kwargs: Arguments that replace or join them in training only, such as
                a reward that gives credit sooner.
            preset: A named variant from `trainers.presets.PRESETS`; default: "default".
            config: All settings at once, instead of a preset.
            **overrides: Fields of `GRPOConfig` to replace.

        Raises:
            ConfigError: If a name is unknown, or a value or the environment cannot be used.
        """
        if config is not None and preset is not None:
            raise ConfigError("preset must be None when config is given: a config has it all")
        settings = (
            make_config(preset, **overrides) if config is None else replace(config, **overrides)
        )
        super().__init__(policy, env, env_kwargs, training_env_kwargs, settings)
        self._collector: Collector | None = None
        self.reference = make_reference(self.policy, self.config)
        self.value_baseline = self._make_value_baseline()
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            eps=1e-5,
        )
        self.iteration = 0
        self.num_steps = 0
        self.schedule = Schedule(start=0, end=0)
        self.notes: dict[str, float] = {}

    def learn(
        self,
        total_steps: float,
        *,
        progress_bar: bool = False,
        callback: Callback | Iterable[Callback] = (),
    ) -> "GRPO":
        """Train for so many environment steps more, rounded up to whole iterations.

        Args:
            total_steps: Steps to take in this call; the learning-rate schedule spans them.
            progress_bar: Show progress on the terminal.
            callback: Called after each iteration as callback(model, stats); training stops
                early when one returns False.

        Raises:
            ConfigError: If `total_steps` is not a positive whole number.
            GroupError: If the environment's members do not share their starts.
        """
        if not 1 <= total_steps < math.inf or total_steps != int(total_steps):
            raise ConfigError(f"total_steps must be a whole number >= 1, got {total_steps}")
        self.schedule = Schedule(start=self.num_steps, end=self.num_steps + int(total_steps))
        return self.resume(progress_bar=progress_bar, callback=callback)

    def resume(
        self, *, progress_bar: bool = False, callback: Callback | Iterable[Callback] = ()
    ) -> "GRPO":
        """Go on to where the interrupted `learn` was to end; arguments as there."""
        torch.set_num_threads(self.config.torch_threads)
        callbacks = [callback] if callable(callback) else list(callback)
        with contextlib.ExitStack() as stack:
            if progress_bar:
                from grpo_gym.trainers.reporting import ProgressReporter

                callbacks.append(stack.enter_context(ProgressReporter()))
            going_on = True
            while going_on and self.num_steps < self.schedule.end:
                stats = self.train_iteration()
                going_on = all([report(self, stats) is not False for report in callbacks])
        return self

    def train_iteration(self) -> IterationStats:
        """Collect a rollout, compare, learn."""
        started = time.perf_counter()
        rollout = self._collect()
        collected = time.perf_counter()
        discount, advantages = self.discount, self._advantages(rollout)
        update = self._update(rollout, advantages)
        explained_variance = self._fit_baseline(rollout)
        self._observe(rollout)
        self.iteration += 1
        # Only now is the policy the one that collects next.
        move_reference(self.reference, self.policy, self.iteration, self.config)
        self.num_steps += rollout.num_steps
        return IterationStats(
            iteration=self.iteration,
            num_steps=self.num_steps,
            rollout_steps=rollout.num_steps,
            rollout=_describe(rollout),
            update=update,
            uniform_groups=1.0 - float(informative_groups(advantages).float().mean()),
            explained_variance=explained_variance,
            discount=discount,
            collect_seconds=collected - started,
            update_seconds=time.perf_counter() - collected,
        )

    @property
    def discount(self) -> float:
        """The discount factor in use: on the way to `final_discount` if there is one."""
        first, final = self.config.discount, self.config.final_discount
        if final is None:
            return first
        return first + (final - first) * self.schedule.progress(self.num_steps)

    def prepare(self) -> Collector:
        """Make the environments to collect from, as training does when it begins.

        Raises:
            SnapshotError: If groups are to branch where environments cannot be copied.
        """
        if self._collector is None:
            kwargs = {**self.env_kwargs, **self.training_env_kwargs}
            self._collector = Collector(self.env_source, kwargs, self.config)
        return self._collector

    def save(self, path: str | PathLike[str]) -> str:
        """Write everything that training goes on from to one file, atomically.

        Returns:
            The SHA-256 of the weights.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        persistence.save(self, path)
        return self.weights_sha256()

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        env: EnvSource | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> "GRPO":
        """Read a model that `save` wrote; it evaluates and resumes as the original.

        Args:
            path: The file.
            env: Needed only if the model was trained in an environment without an id.
            env_kwargs: Instead of those it was trained with. They must leave the spaces as they
                are; but the policy `board` goes on to boards of any size with as many images.

        Raises:
            CheckpointError: If the file is damaged, not ours, or of another environment.
        """
        return persistence.load(cls, path, env, env_kwargs)

    def _collect(self) -> GroupedRollout:
        """One round of groups, or more where groups without a difference are to be replaced."""
        collector = self.prepare()
        rollout = collector.collect(self.policy, self.iteration)
        for round_number in range(1, self.config.refill_rounds + 1):
            if self._num_informative(rollout) >= self.config.num_groups:
                return rollout
            more = collector.collect(self.policy, self.iteration, round_number)
            rollout = concatenate([rollout, more])
        if self.config.refill_rounds and not self._num_informative(rollout):
            _log.warning(
                "iteration %d: all returns are equal in every group, after %d rounds of refilling: "
                "nothing to learn from; raise group_size, or give the task a finer reward",
                self.iteration + 1,
                self.config.refill_rounds,
            )
        return rollout

    def _num_informative(self, rollout: GroupedRollout) -> int:
        return int(informative_groups(self._advantages(rollout)).sum())

    def _advantages(self, rollout: GroupedRollout) -> torch.Tensor:
        with torch.no_grad():
            features = self.policy.features(rollout.observations)
            values = None if self.value_baseline is None else self.value_baseline.predict(features)
        config = replace(self.config, discount=self.discount)
        return compute_advantages(rollout, features, config, values)

    def _update(self, rollout: GroupedRollout, advantages: torch.Tensor) -> UpdateStats | None:
        config = self.config
        batch = training_batch(rollout, advantages, config)
        if config.update == "trust_region":
            stats = update_in_trust_region(self.policy, batch, self.reference, config)
        else:
            factor = self.schedule.factor(
                self.num_steps, config.learning_rate_schedule, config.final_learning_rate
            )
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            generator = self._generator(Stream.MINIBATCHES)
            stats = update_policy(
                self.policy, self.optimizer, batch, self.reference, config, generator
            )
        return stats

    def _fit_baseline(self, rollout: GroupedRollout) -> float:
        if self.value_baseline is None:
            return math.nan
        config = self.config
        returns = compute_returns(rollout.rewards, rollout.alive, config.returns, self.discount)
        with torch.no_grad():
            features = self.policy.features(rollout.observations[rollout.credited])
        generator = self._generator(Stream.VALUES)
        return self.value_baseline.fit(
            features, returns[rollout.credited], config.epochs, generator
        )

    def _observe(self, rollout: GroupedRollout) -> None:
        """Move the normaliser; only now, so that the update saw what the rollout did."""
        if self.policy.normaliser is not None:
            self.policy.normaliser.update(rollout.observations[rollout.credited])

    def _generator(self, stream: Stream) -> torch.Generator:
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.config.seed, stream, self.iteration))
        return generator

    def _make_value_baseline(self) -> ValueBaseline | None:
        if not self.config.learned_baseline:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, Stream.VALUES))
            return ValueBaseline(
                self.policy.observation_size,
                self.config.hidden_sizes,
                self.config.value_learning_rate,
            )


def _describe(rollout: GroupedRollout) -> dict[str, float]:
    returns = rollout.episodes.returns
    return {
        **rollout.infos,  # an environment may call something by a name of ours
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std(correction=0)),
        "return_group_std": float(rollout.returns.std(dim=1, correction=0).mean()),
        "length_mean": float(rollout.episodes.lengths.to(torch.float64).mean()),
        "truncated_share": float(rollout.episodes.truncated.to(torch.float64).mean()),
    }
