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
from grpo_gym.trainers.comparison.measurements import refuse_difference, train_and_evaluate
from grpo_gym.trainers.comparison.records import Budget, CurvePoint, Plan, TrialBudget
from grpo_gym.trainers.comparison.search_spaces import first_parameters, search_space, values_of
from grpo_gym.trainers.comparison.settings import Contender, SB3Settings, Settings, describe
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


def open_study(path: Path, contender: Contender, budget: TrialBudget) -> optuna.Study:
    """Open a study, new or to be continued; interrupted trials are queued again.

    Args:
        path: The SQLite file.
        contender: The algorithm and its settings at the start.
        budget: Budget of every trial.

    Raises:
        ConfigError: If the file is no study, or one with another algorithm, start or budget.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = _load(path, budget)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = getattr(error, "orig", error)
        raise ConfigError(
            f"{path} must be a writable study of optuna, got {reason}: choose another --study"
        ) from error
    asked = {
        "algorithm": contender.algorithm,
        "env": contender.settings.env,
        "budget": to_mapping(budget),
        "settings": describe(contender.settings),
    }
    for name, value in asked.items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
        refuse_difference(path, "--study", name, study.user_attrs[name], value)
    if not study.trials:
        study.enqueue_trial(first_parameters(contender), {"shipped": True})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        fixed = trial.system_attrs.get("fixed_params", {})
        study.enqueue_trial({**fixed, **trial.params}, trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def search(
    path: Path,
    study: optuna.Study,
    contender: Contender,
    budget: TrialBudget,
    trials: int,
    processes: int,
    report: Callable[[str], None],
) -> None:
    """Run trials until the study has a given number; each is stored as soon as it ends.

    Args:
        path: The study's file.
        study: From `open_study`.
        contender: The algorithm and its settings at the start.
        budget: Budget of every trial.
        trials: Number of trials, including those of the file.
        processes: Trials at a time; each uses one core.
        report: Called with a line about each trial.
    """
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches every process of a terminal; this one stops the others.
    ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(processes, context, initializer=ignore_interrupts)
    running: dict[Future[float], int] = {}
    try:
        while True:
            while len(running) < processes and _count(study) + len(running) < trials:
                number, settings = propose(study, contender)
                future = pool.submit(run_trial, path, number, contender, settings, budget)
                running[future] = number
            if not running:
                break
            future = next(as_completed(running))
            report(_store(study, running.pop(future), future))
    except BaseException:  # interrupted, or nothing can be stored: the rest would be wasted
        stop_at_once(pool)
        raise
    pool.shutdown()


def propose(study: optuna.Study, contender: Contender) -> tuple[int, Settings]:
    """The number of a new trial, and its settings."""
    trial = study.ask(search_space(contender))
    return trial.number, _settings_of(study, contender, trial.params)


def run_trial(
    path: Path, number: int, contender: Contender, settings: Settings, budget: TrialBudget
) -> float:
    """The value of a trial: the mean return after training, over its seeds.

    Raises:
        optuna.TrialPruned: If it is worse than half of the others at the same point, or trained
            too long. The settings given at the start are never pruned.
    """
    study = _load(path, budget)
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    is_start = "shipped" in trial.user_attrs
    tried = Contender(algorithm=contender.algorithm, settings=settings, tuned=False)
    plan = Plan(
        env=settings.env,
        env_kwargs=settings.env_kwargs,
        evaluation_seed=EVALUATION_SEED,
        **{each.name: getattr(budget, each.name) for each in fields(Budget)},
    )
    returns: list[float] = []
    for seed in range(FIRST_SEED, FIRST_SEED + budget.seeds_per_trial):
        on_point = None if is_start or returns else partial(_prune, trial, budget)
        result = train_and_evaluate(tried, seed, plan, on_point)
        if not is_start and result.steps > _MAX_OVERRUN * budget.total_steps:
            raise optuna.TrialPruned(f"trained for {result.steps:,} steps")
        returns.append(result.final.mean_return)
    return float(np.mean(returns))


def with_values(settings: Settings, values: Mapping[str, Any], total_steps: int) -> Settings:
    """Settings with some values changed, and adjusted to fit together.

    Args:
        settings: The settings to change.
        values: New values by place, such as "settings.gamma".
        total_steps: Environment steps of a training; an algorithm of Stable-Baselines3 takes at
            least four iterations for them.
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


def best_settings(study: optuna.Study, contender: Contender) -> Settings:
    """The settings of the best trial."""
    return _settings_of(study, contender, study.best_trial.params)


def summary(study: optuna.Study) -> str:
    """How good the best trial is, in words."""
    first = next(
        trial.value
        for trial in study.trials
        if "shipped" in trial.user_attrs and trial.state is TrialState.COMPLETE
    )
    return f"Best of {_count(study)} trials: {study.best_value:.5g}; the first: {first:.5g}"


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


def _settings_of(
    study: optuna.Study, contender: Contender, parameters: Mapping[str, Any]
) -> Settings:
    total_steps = study.user_attrs["budget"]["total_steps"]
    return with_values(contender.settings, values_of(parameters), total_steps)


def _prune(trial: Trial, budget: TrialBudget, point: CurvePoint) -> None:
    """Report a point to the study, and stop the trial if the study says so."""
    number = round(point.steps * budget.evaluations / budget.total_steps)
    trial.report(point.mean_return, number)
    if trial.should_prune():
        raise optuna.TrialPruned(f"below the median after {point.steps:,} steps")


def _count(study: optuna.Study) -> int:
    """Number of trials that ended; FAIL are those that were interrupted."""
    return len(study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED)))


def _store(study: optuna.Study, number: int, future: "Future[float]") -> str:
    """Store the outcome of a trial, and describe it in a line.

    Raises:
        Exception: The error of the settings given at the start, or of the pool.
    """
    error = future.exception()
    if error is None:
        study.tell(number, future.result())
        return f"trial {number}: {future.result():.5g}, best {study.best_value:.5g}"
    pruned = isinstance(error, optuna.TrialPruned)
    is_start = "shipped" in study.get_trials(deepcopy=False)[number].user_attrs
    if not pruned and (is_start or isinstance(error, BrokenExecutor)):
        raise error
    study.tell(number, state=TrialState.PRUNED)
    return f"trial {number}: pruned, {error if pruned else repr(error)}"
