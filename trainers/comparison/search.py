"""A search for settings that treats every algorithm alike: optuna proposes, trainings answer.

One study lies in one SQLite file. Its first trial uses the settings given at the start, so the
best trial is at least as good as they are on the episodes of the search.
"""

import math
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy.exc
from optuna.trial import Trial, TrialState

from grpo_gym.settings import ConfigError, from_mapping, to_mapping
from grpo_gym.storage.processes import stop_at_once
from grpo_gym.trainers.comparison.contenders import Contender, Settings
from grpo_gym.trainers.comparison.measurements import refuse_difference, train_and_evaluate
from grpo_gym.trainers.comparison.records import Budget, CurvePoint, Plan, TrialBudget
from grpo_gym.trainers.comparison.search_spaces import first_parameters, search_space, values_of
from grpo_gym.trainers.comparison.settings import SB3Settings
from grpo_gym.trainers.settings import TrainSettings

FIRST_SEED = 100
"""Seed of the first training of a trial; a comparison's begin at 0."""
EVALUATION_SEED = 8_000_000
"""Seed of the first final episode; a comparison's begin at 5,000,000."""
_SAMPLER_SEED = 0
_STUDY = "settings"
_STARTUP_TRIALS = 5
"""Random trials before the sampler, and complete ones before the pruner, uses what was found."""
_MAX_OVERRUN = 1.25
"""Trials are pruned if whole iterations make them longer than this share of their steps."""


class Search:
    """A search for the settings of one algorithm.

    Attributes:
        contender: The algorithm and its settings at the start.
        budget: Budget of every trial.
        study: The trials so far.
    """

    def __init__(self, path: Path, contender: Contender, budget: TrialBudget) -> None:
        """Open a study, new or to be continued; interrupted trials are queued again.

        Raises:
            ConfigError: If the file is no study, or one with another algorithm, start or budget.
        """
        self.contender = contender
        self.budget = budget
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.study = _load(path, budget)
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            reason = getattr(error, "orig", error)
            raise ConfigError(
                f"{path} must be a writable study of optuna, got {reason}: choose another --study"
            ) from error
        self._refuse_another_search(path)
        if not self.study.trials:
            self.study.enqueue_trial(first_parameters(contender), {"shipped": True})
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            fixed = trial.system_attrs.get("fixed_params", {})
            self.study.enqueue_trial({**fixed, **trial.params}, trial.user_attrs)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self, trials: int, processes: int, report: Callable[[str], None]) -> None:
        """Run trials until the study has a given number; each is stored as soon as it ends."""
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches every process of a terminal; this one stops the others.
        ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        pool = ProcessPoolExecutor(processes, context, initializer=ignore_interrupts)
        running: dict[Future[float], int] = {}
        try:
            while True:
                while len(running) < processes and self._count() + len(running) < trials:
                    number, settings = self.propose()
                    running[pool.submit(self.run_trial, number, settings)] = number
                if not running:
                    break
                future = next(as_completed(running))
                report(self._store(running.pop(future), future))
        except BaseException:  # interrupted, or nothing can be stored: the rest would be wasted
            stop_at_once(pool)
            raise
        pool.shutdown()

    def propose(self) -> tuple[int, Settings]:
        """The number of a new trial, and its settings."""
        trial = self.study.ask(search_space(self.contender))
        return trial.number, self._settings(trial.params)

    def run_trial(self, number: int, settings: Settings) -> float:
        """The value of a trial: the mean return after training, over its seeds.

        Raises:
            optuna.TrialPruned: If it is worse than half of the others at the same point, or trained
                too long. The settings given at the start are never pruned.
        """
        budget = self.budget
        trial = Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
        is_start = "shipped" in trial.user_attrs
        tried = Contender(settings=settings, tuned=False)
        plan = Plan(
            env=settings.env,
            env_kwargs=settings.env_kwargs,
            evaluation_seed=EVALUATION_SEED,
            **{each.name: getattr(budget, each.name) for each in fields(Budget)},
        )

        def prune(point: CurvePoint) -> None:
            """Report a point to the study, and stop the trial if the study says so."""
            if is_start or returns:
                return
            number = round(point.steps * budget.evaluations / budget.total_steps)
            trial.report(point.mean_return, number)
            if trial.should_prune():
                raise optuna.TrialPruned(f"below the median after {point.steps:,} steps")

        returns: list[float] = []
        for seed in range(FIRST_SEED, FIRST_SEED + budget.seeds_per_trial):
            result = train_and_evaluate(tried, seed, plan, prune)
            if not is_start and result.steps > _MAX_OVERRUN * budget.total_steps:
                raise optuna.TrialPruned(f"trained for {result.steps:,} steps")
            returns.append(result.final.mean_return)
        return float(np.mean(returns))

    def best_settings(self) -> Settings:
        """The settings of the best trial."""
        return self._settings(self.study.best_trial.params)

    def summary(self) -> str:
        """How good the best trial is, in words."""
        first = next(
            trial.value
            for trial in self.study.trials
            if "shipped" in trial.user_attrs and trial.state is TrialState.COMPLETE
        )
        best = f"{self.study.best_value:.5g}"
        return f"Best of {self._count()} trials: {best}; the first: {first:.5g}"

    def _refuse_another_search(self, path: Path) -> None:
        asked = {
            "algorithm": self.contender.algorithm,
            "env": self.contender.settings.env,
            "budget": to_mapping(self.budget),
            "settings": self.contender.describe(),
        }
        for name, value in asked.items():
            if name not in self.study.user_attrs:
                self.study.set_user_attr(name, value)
            refuse_difference(path, "--study", name, self.study.user_attrs[name], value)

    def _settings(self, parameters: Mapping[str, Any]) -> Settings:
        values = values_of(parameters)
        return with_values(self.contender.settings, values, self.budget.total_steps)

    def _count(self) -> int:
        """Number of trials that ended; FAIL are those that were interrupted."""
        return len(self.study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED)))

    def _store(self, number: int, future: "Future[float]") -> str:
        """Store the outcome of a trial, and describe it in a line.

        Raises:
            Exception: The error of the settings given at the start, or of the pool.
        """
        error = future.exception()
        if error is None:
            self.study.tell(number, future.result())
            return f"trial {number}: {future.result():.5g}, best {self.study.best_value:.5g}"
        pruned = isinstance(error, optuna.TrialPruned)
        is_start = "shipped" in self.study.get_trials(deepcopy=False)[number].user_attrs
        if not pruned and (is_start or isinstance(error, BrokenExecutor)):
            raise error
        self.study.tell(number, state=TrialState.PRUNED)
        return f"trial {number}: pruned, {error if pruned else repr(error)}"


def with_values(settings: Settings, values: Mapping[str, Any], total_steps: int) -> Settings:
    """Settings with new values by place, such as "settings.gamma", adjusted to fit together.

    An algorithm of Stable-Baselines3 takes at least four iterations for `total_steps`.
    """
    changed = to_mapping(settings)
    for place, value in values.items():
        *parent, name = place.split(".")
        (changed[parent[0]] if parent else changed)[name] = value
    if isinstance(settings, TrainSettings):
        return from_mapping(TrainSettings, changed, "search")
    keywords = changed["settings"]
    if "settings.n_steps" in values:
        most = max(total_steps // (4 * changed["num_envs"]), 2)
        power_of_two = 1 << (most.bit_length() - 1)  # so that minibatches can divide it
        keywords["n_steps"] = min(keywords["n_steps"], power_of_two)
    if "settings.batch_size" in values:
        rollout = keywords["n_steps"] * changed["num_envs"]
        keywords["batch_size"] = max(math.gcd(keywords["batch_size"], rollout), 2)
    return from_mapping(SB3Settings, changed, "search")


def _load(path: Path, budget: TrialBudget) -> optuna.Study:
    """The study of a file, created if necessary."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60.0}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage,
            study_name=_STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, budget.evaluations // 4 + 1),
        )
        # The same seed would propose the same trials again after every restart.
        seed = _SAMPLER_SEED + len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return study
