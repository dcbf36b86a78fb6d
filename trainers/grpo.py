"""GRPO: critic-free policy optimisation with groups that share their start and their trace.

Shapes: T steps, G groups, K members of a group, B = G*K environments.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from grpo_gym.evaluation.episodes import described
from grpo_gym.policies.registry import PolicySource
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.rollouts.rollout import GroupedRollout, concatenate
from grpo_gym.settings import ConfigError, Count, check_value
from grpo_gym.settings.effects import without_effect
from grpo_gym.trainers.advice import Advice
from grpo_gym.trainers.collector import Collector
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import in_words, task_of, task_settings
from grpo_gym.trainers.effects import (
    needs_of,
    needs_of_actions,
    needs_of_environment,
    refuse_both,
)
from grpo_gym.trainers.iteration import Callback, IterationStats, rollout_metrics
from grpo_gym.trainers.learning.adamw import AdamW
from grpo_gym.trainers.learning.batch import steps_of, training_batch
from grpo_gym.trainers.learning.estimate import AdvantageEstimate, estimate_advantages
from grpo_gym.trainers.learning.reference import make_reference, move_reference
from grpo_gym.trainers.learning.update import UpdateStats, update_policy
from grpo_gym.trainers.learning.value_baseline import make_value_baseline
from grpo_gym.trainers.memory import (
    NetworkMemory,
    check_rollout,
    check_widths,
)
from grpo_gym.trainers.persistence import PersistentModel
from grpo_gym.trainers.presets import PRESETS, make_config
from grpo_gym.trainers.processes import Processes
from grpo_gym.trainers.processes.join import join
from grpo_gym.trainers.reporting import ProgressReporter
from grpo_gym.trainers.schedule import Schedule
from grpo_gym.trainers.standstill import Standstill, have_changed, nothing_will_change, weights_of

_log = logging.getLogger(__name__)


class GRPO(PersistentModel):
    """Group relative policy optimisation for Gymnasium environments.

    Example:
        ```python
        model = GRPO("mlp", "LoadBalancer-v0", seed=0).learn(1_000_000, progress_bar=True)
        action, _ = model.predict(observation, deterministic=True)
        ```

    Attributes:
        is_updating: Whether the weights lie between those of two iterations. It stays so after an
            error in an update; such a model must not be saved to resume from.
    """

    def __init__(
        self,
        policy: PolicySource = "mlp",
        env: EnvSource = "LoadBalancer-v0",
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        training_env_kwargs: Mapping[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        preset: str | None = None,
        config: GRPOConfig | None = None,
        **overrides: Any,
    ) -> None:
        """Set up a policy for an environment; nothing is collected yet.

        Args:
            policy: "mlp"; "linear", without hidden layers; "cnn", for images; "combined", for
                images among other parts; "board", a convolutional network with one logit per cell
                of a board; "servers", which scores any number of servers; "gru" or "temporal",
                which read a history; a name that `register_policy` registered; or a network of
                your own: a callable as described there.
            env: A registered id, a made environment or vector environment, or a function that makes
                one; see docs/how_to/environments.md.
            env_kwargs: Passed to the environment; only with an id.
            training_env_kwargs: Arguments that replace or extend them in training only, such as
                a reward that is easier to learn from.
            policy_kwargs: Options of the policy, or keyword arguments of your own network.
            preset: A named variant from `trainers.presets.PRESETS`; default: "default".
            config: All settings at once, instead of a preset.
            **overrides: Fields of `GRPOConfig` to replace; those without effect are warned of.
                Without `config`, `learn` takes some others from the task and the number of steps
                when it first begins: see `trainers.defaults`.

        Raises:
            ConfigError: If a name is unknown, or a value or the environment cannot be used.
        """
        if config is not None and preset is not None:
            raise ConfigError("preset must be None when config is given: a config is complete")
        settings = (
            make_config(preset, **overrides) if config is None else replace(config, **overrides)
        )
        refuse_both(overrides, policy_kwargs or {}, policy)
        check_widths(settings)
        with NetworkMemory(f"policy {policy!r}"):
            super().__init__(
                policy,
                env,
                env_kwargs=env_kwargs,
                training_env_kwargs=training_env_kwargs,
                policy_kwargs=policy_kwargs,
                config=settings,
            )
            self.reference = make_reference(self.policy, self.config)
            self.value_baseline = make_value_baseline(self.policy, self.config)
        needs = (
            *needs_of(policy),
            *needs_of_actions(self.action_space),
            *needs_of_environment(self.is_separate),
        )
        # Not refused: one set of keywords may serve several presets and policies.
        for name, condition in without_effect(self.config, needs, overrides):
            _log.warning("%s has no effect unless %s", name, condition)
        self._given = {*PRESETS[preset or "default"], *overrides} if config is None else None
        self._from_task: dict[str, Any] = {}
        self._collector: Collector | None = None
        self.optimizer = AdamW(
            self.policy.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            eps=1e-5,
        )
        self.is_updating = False
        self.iteration = 0
        self.num_steps = 0
        self.schedule = Schedule(start=0, end=0)
        self.standstill = Standstill()
        self._advice = Advice()
        self.notes = {}

    def __repr__(self) -> str:
        source = self.policy_source if isinstance(self.policy_source, str) else "own network"
        weights = sum(each.numel() for each in self.policy.parameters())
        groups = f"{self.config.num_groups} groups of {self.config.group_size}"
        return (
            f"<GRPO with {source} in {described(self)}: {weights:,} weights, {groups}, "
            f"{self.num_steps:,} steps trained>"
        )

    def learn(
        self,
        total_steps: float,
        *,
        progress_bar: bool = False,
        callback: Callback | Iterable[Callback] = (),
    ) -> "GRPO":
        """Train for `total_steps` more environment steps, rounded up to whole iterations.

        Training ends sooner, with a warning, once nothing will change the weights any more: see
        `trainers.standstill`.

        Args:
            total_steps: Steps to take in this call; schedules span them.
            progress_bar: Show progress on the terminal.
            callback: Called after each iteration as callback(model, stats); training stops
                early when one returns False, in any of several processes.

        Raises:
            ConfigError: If `total_steps` is not a positive whole number.
            GroupError: If the environment's members do not share their starts.
            ProcessError: If it trains together with other processes, and one is lost or hangs.
        """
        steps = check_value("total_steps", total_steps, Count)
        self._take_settings_from_task(steps)
        self.schedule = Schedule(start=self.num_steps, end=self.num_steps + steps)
        self.standstill = Standstill()
        return self.resume(progress_bar=progress_bar, callback=callback)

    def resume(
        self, *, progress_bar: bool = False, callback: Callback | Iterable[Callback] = ()
    ) -> "GRPO":
        """Continue an interrupted `learn` to its end; arguments as there."""
        torch.set_num_threads(self.config.torch_threads)
        callbacks = [callback] if callable(callback) else list(callback)
        processes = self.processes
        with contextlib.ExitStack() as stack:
            stack.enter_context(processes.together())
            processes.check_same(self.policy.state_dict(), "before they train together")
            if processes.rank == 0:
                callbacks.append(self._advice)
            if progress_bar and processes.rank == 0:
                progress = stack.enter_context(ProgressReporter())
                callbacks.append(progress)
                if self._from_task and self.iteration == 0:
                    progress.console.print(in_words(self._from_task))
            stopping = False
            while not (stopping or self.has_ended):
                stats = self.train_iteration()
                processes.check_same(self.policy.state_dict(), f"after iteration {self.iteration}")
                stops = any([report(self, stats) is False for report in callbacks])
                stopping = bool(processes.agree(stops))
            if self.standstill.is_final:
                _log.warning("training ended at step %d: no more would change", self.num_steps)
        return self

    @property
    def processes(self) -> Processes:
        """Those that train this model together: torchrun's, or only this one."""
        return join()

    @property
    def has_ended(self) -> bool:
        """Whether `learn` has come to its end: all steps are taken, or nothing will change."""
        return self.num_steps >= self.schedule.end or self.standstill.is_final

    def train_iteration(self) -> IterationStats:
        """Collect, estimate advantages, update, observe, report."""
        started = time.perf_counter()
        rollout, estimate = self._collect()
        collected = time.perf_counter()
        self.is_updating = True
        self._set_learning_rate()
        before = weights_of(self.policy.parameters())
        update = update_policy(
            self.policy,
            self.optimizer,
            training_batch(rollout, estimate.advantages, self.config),
            self.reference,
            self.config,
            self._generator(Stream.MINIBATCHES),
            self.processes,
        )
        self._notice_standstill(before, rollout, update)
        of_learned = self._fit_value_baseline(rollout, estimate)
        # Only now: the update has to normalise observations as the collecting policy did.
        if self.policy.normaliser is not None:
            self.policy.observe(steps_of(rollout.observations, rollout.credited))
        self.iteration += 1
        self.num_steps += rollout.num_steps
        # Only now is the policy the one that collects next.
        move_reference(self.reference, self.policy, self.iteration, self.config)
        self.is_updating = False
        return IterationStats(
            iteration=self.iteration,
            num_steps=self.num_steps,
            rollout_steps=rollout.num_steps,
            rollout={**rollout_metrics(rollout), **self.prepare().metrics},
            update=update,
            uniform_groups=estimate.uniform_groups,
            explained_variance=estimate.explained_variance.get("state", of_learned),
            explained_variance_time_step=estimate.explained_variance.get("time_step", math.nan),
            unchanged_iterations=self.standstill.unchanged,
            discount=estimate.discount,
            collect_seconds=collected - started,
            update_seconds=time.perf_counter() - collected,
        )

    @property
    def discount(self) -> float:
        """The discount factor in use: on its way to `final_discount` if there is one."""
        first, final = self.config.discount, self.config.final_discount
        if final is None:
            return first
        return first + (final - first) * self.schedule.progress(self.num_steps)

    def prepare(self) -> Collector:
        """Make the environments to collect from; training does so when it begins. See `close`.

        Called before the first `learn`, it fixes the settings: none are taken from the task.

        Raises:
            ConfigError: If an iteration would not fit into memory.
            SnapshotError: If groups are to branch in environments that cannot be copied.
        """
        if self._collector is None:
            self.check_training_environment()
            kwargs = {**self.env_kwargs, **self.training_env_kwargs}
            with contextlib.closing(make_batch(self.env_source, kwargs, 1)) as one:
                check_rollout(one, self.policy, self.config)
            self._collector = Collector(self.env_source, kwargs, self.config, self.processes)
        return self._collector

    def close(self) -> None:
        """Close the environments to collect from; if training goes on, it makes new ones.

        A model is a context manager that does so at its end: `with GRPO(...) as model`.
        """
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_settings_from_task(self, total_steps: int) -> None:
        """Before the first iteration, replace what was not given by what suits the task."""
        if self._given is None or self.iteration or self._collector is not None:
            return
        kwargs = {**self.env_kwargs, **self.training_env_kwargs}
        task = task_of(self.env_source, kwargs, self.config.frame_history)
        if task is None:
            return
        self._from_task = task_settings(task, total_steps, self._given)
        _log.info(in_words(self._from_task))
        self.config = replace(self.config, **self._from_task)

    def _collect(self) -> tuple[GroupedRollout, AdvantageEstimate]:
        """Collect a round of groups, and more rounds while too few groups are informative."""
        collector, config = self.prepare(), self.config
        gather = self.processes.gather_rollout
        rollout = gather(collector.collect(self.policy, self.iteration))
        estimate = self._estimate(rollout)
        for round_number in range(1, config.refill_rounds + 1):
            if int(estimate.informative.sum()) >= config.num_groups:
                break
            more = collector.collect(self.policy, self.iteration, round_number)
            rollout = concatenate([rollout, gather(more)])
            estimate = self._estimate(rollout)
        return rollout, estimate

    def _notice_standstill(
        self, before: list[Tensor], rollout: GroupedRollout, update: UpdateStats | None
    ) -> None:
        """Count iterations that led nowhere, and warn when they are several."""
        changed = have_changed(before, self.policy.parameters())
        made = update if self.config.update == "adamw" else None
        rate = self.config.learning_rate
        hopeless = not changed and nothing_will_change(self.policy.head, rollout, made, rate)
        self.standstill = self.standstill.after(changed, hopeless)
        if warning := self.standstill.warning():
            _log.warning("iteration %d: %s", self.iteration + 1, warning)

    def _estimate(self, rollout: GroupedRollout) -> AdvantageEstimate:
        features = states = values = None
        if self.config.bins_states or self.value_baseline is not None:
            features = self._features(rollout.observations)
        if self.config.fits_states:
            states = self._state_features(rollout.observations)
        if self.value_baseline is not None and features is not None:
            values = self.value_baseline.predict(features)
        return estimate_advantages(rollout, self.config, self.discount, features, states, values)

    @torch.no_grad()
    def _features(self, observations: Tensor) -> Tensor:
        """Observations, rows (..., W), as the network sees them: (..., D), on the CPU."""
        return self.policy.features(observations.to(self.policy.device)).cpu()

    @torch.no_grad()
    def _state_features(self, observations: Tensor) -> Tensor:
        """What tells the states apart of observations, rows (..., W): (..., S), on the CPU."""
        return self.policy.state_features(observations.to(self.policy.device)).cpu()

    def _set_learning_rate(self) -> None:
        config = self.config
        factor = self.schedule.factor(
            self.num_steps, config.learning_rate_schedule, config.final_learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor

    def _fit_value_baseline(self, rollout: GroupedRollout, estimate: AdvantageEstimate) -> float:
        """Fit the learned baseline, if any; returns the variance that it explained before."""
        if self.value_baseline is None:
            return math.nan
        features = self._features(steps_of(rollout.observations, rollout.credited))
        returns = estimate.returns[rollout.credited]
        generator = self._generator(Stream.VALUES)
        return self.value_baseline.fit(features, returns, self.config.epochs, generator)

    def _generator(self, stream: Stream) -> torch.Generator:
        seed = derive_seed(self.config.seed, stream, self.iteration)
        return torch.Generator().manual_seed(seed)
