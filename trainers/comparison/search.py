"""A search for settings that treats every algorithm alike: optuna proposes, trainings answer.

One study lies in one SQLite file. Its first trial uses the settings given at the start, so the
best trial is at least as good as they are on the episodes of the search.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, as_completed
from contextlib import closing, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError, to_mapping
from grpo_gym.storage.files import write_atomic
from grpo_gym.storage.processes import stop_at_once, worker_pool
from grpo_gym.trainers import advice
from grpo_gym.trainers.comparison.contenders import Contender, Settings
from grpo_gym.trainers.comparison.measurements import refuse_difference, train_and_evaluate
from grpo_gym.trainers.comparison.records import Budget, CurvePoint, Plan, TrialBudget
from grpo_gym.trainers.comparison.search_spaces import (
    Interface,
    first_parameters,
    search_space,
    values_of,
    with_values,
)
from grpo_gym.trainers.defaults import longest_episode

FIRST_SEED = 100
"""Seed of the first training of a trial; a comparison's begin at 0."""
EVALUATION_SEED = 8_000_000
"""Seed of the first final episode; a comparison's begin at 5,000,000."""
_ADVICE = logging.getLogger(advice.__name__)
_SAMPLER_SEED = 0
_STUDY = "settings"
_STARTUP_TRIALS = 5
"""Random trials before the sampler, and complete ones before the pruner, uses what was found."""
_STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)
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

        Only one process at a time may have a study.

        Raises:
            ConfigError: If the environment cannot be made, or if the file is no study, or one with
                another algorithm, start, space or budget.
            OSError: If nothing can be stored.
        """
        self.contender = contender
        self.budget = budget
        self._path = path
        settings = contender.settings
        kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
        with closing(make_batch(settings.env, kwargs, 1)) as one:
            self._longest_episode = longest_episode(one)
            self._interface = Interface(one.single_observation_space, one.single_action_space)
        if not path.exists():
            write_atomic(path, self._new_study())
        try:
            self.study = _load(_storage(path), budget)
        except (*_STORAGE_ERRORS, RuntimeError) as error:
            raise ConfigError(
                f"{path} must be a writable study of optuna, got {_reason(error)}: choose another "
                "--study"
            ) from error
        for name, value in self._asked().items():
            stored = self.study.user_attrs.get(name)
            if name == "settings" and isinstance(stored, Mapping):
                stored = contender.completed(stored)
            elif name == "space":
                stored = stored or {}  # studies of before it was kept lack it
            refuse_difference(path, "--study", name, stored, value)
        with self._storing():
            for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
                fixed = trial.system_attrs.get("fixed_params", {})
                self.study.enqueue_trial({**fixed, **trial.params}, trial.user_attrs)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self, trials: int, processes: int, report: Callable[[str], None]) -> None:
        """Run trials until the study has a given number; each is stored as soon as it ends.

        Raises:
            OSError: If nothing can be stored; what is stored is kept.
        """
        with self._storing():
            self._run(trials, processes, report)

    def _run(self, trials: int, processes: int, report: Callable[[str], None]) -> None:
        pool = worker_pool(processes)
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
        trial = self.study.ask(search_space(self.contender, self._interface))
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
            if number in reported:  # evaluations follow whole iterations, perhaps unevenly
                return
            reported.add(number)
            trial.report(point.mean_return, number)
            if trial.should_prune():
                raise optuna.TrialPruned(f"below the median after {point.steps:,} steps")

        returns: list[float] = []
        reported: set[int] = set()
        for seed in range(FIRST_SEED, FIRST_SEED + budget.seeds_per_trial):
            # Advice on settings is for those that the user chose, at the start.
            with nullcontext() if is_start else _without_advice():
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

    def _new_study(self) -> bytes:
        """The content of a new study's file: whole at once, or never there."""
        storage = _storage(None)
        study = _load(storage, self.budget)
        for name, value in self._asked().items():
            study.set_user_attr(name, value)
        study.enqueue_trial(first_parameters(self.contender, self._interface), {"shipped": True})
        content: bytes = storage.engine.raw_connection().driver_connection.serialize()
        return content

    def _asked(self) -> dict[str, Any]:
        """What decides a search, as the study keeps it."""
        return {
            "algorithm": self.contender.algorithm,
            "env": self.contender.settings.env,
            "budget": to_mapping(self.budget),
            "settings": self.contender.describe(),
            "space": {
                place: str(distribution)
                for place, distribution in search_space(self.contender, self._interface).items()
            },
        }

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except _STORAGE_ERRORS as error:
            raise OSError(f"{self._path} cannot be written: {_reason(error)}") from error

    def _settings(self, parameters: Mapping[str, Any]) -> Settings:
        values = values_of(parameters)
        return with_values(
            self.contender.settings, values, self.budget.total_steps, self._longest_episode
        )

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
        if not pruned and (is_start or isinstance(error, (BrokenExecutor, *_STORAGE_ERRORS))):
            raise error
        self.study.tell(number, state=TrialState.PRUNED)
        return f"trial {number}: pruned, {error if pruned else repr(error)}"


@contextmanager
def _without_advice() -> Iterator[None]:
    _ADVICE.disabled = True
    try:
        yield
    finally:
        _ADVICE.disabled = False


def _storage(path: Path | None) -> optuna.storages.RDBStorage:
    """The storage of a file; None: in memory."""
    place = ":memory:" if path is None else str(path)
    return optuna.storages.RDBStorage(
        f"sqlite:///{place}", engine_kwargs={"connect_args": {"timeout": 60.0}}
    )


def _load(storage: optuna.storages.RDBStorage, budget: TrialBudget) -> optuna.Study:
    """The study of a storage, created if necessary."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
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


def _reason(error: BaseException) -> object:
    """Why SQLite failed, without the statement."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return getattr(cause, "orig", None) or cause or error
