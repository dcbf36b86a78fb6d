"""A search for settings, the same for every algorithm: optuna proposes, trainings answer.

One study lies in one SQLite file. Its first trial is the settings that there are already, so what
is found is at least as good in the episodes of the search.
"""

import math
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy.exc
from optuna.trial import Trial, TrialState

from grpo_gym.settings import ConfigError, Count, checked_dataclass, from_mapping, to_mapping
from grpo_gym.storage.processes import stop_at_once
from grpo_gym.trainers.comparison.curves import Point
from grpo_gym.trainers.comparison.runs import Plan, refuse_difference, run
from grpo_gym.trainers.comparison.search_spaces import search_space
from grpo_gym.trainers.comparison.settings import (
    Contender,
    PeerSettings,
    Settings,
    describe,
    keyword_arguments,
)
from grpo_gym.trainers.settings import TrainSettings

FIRST_SEED = 100
"""Seed of the first training; a comparison's begin at 0."""
EVALUATION_SEED = 8_000_000
"""Seed of the first episode after training, far from a comparison's."""
_SAMPLER_SEED = 0
_STUDY = "settings"
_STARTUP_TRIALS = 5
"""Trials that are random, or whole, before the others are judged by them."""
_LONGEST = 1.25
"""Iterations are whole: a trial that trained longer than this share of its steps does not count."""


@checked_dataclass
class Budget:
    """What every trial may cost, and how it is judged."""

    total_steps: Count
    """Environment steps of each training."""
    evaluations: Count = 10
    """Points of each learning curve, at which a trial below the median is given up."""
    curve_episodes: Count = 100
    """Episodes of each point."""
    final_episodes: Count = 500
    """Episodes after training; their mean return is a trial's value."""
    seeds_per_trial: Count = 1
    """Trainings of each trial; its value is their mean."""

    def plan(self, settings: Settings) -> Plan:
        """The plan of its trainings."""
        return Plan(
            env=settings.env,
            env_kwargs=settings.env_kwargs,
            total_steps=self.total_steps,
            evaluations=self.evaluations,
            curve_episodes=self.curve_episodes,
            final_episodes=self.final_episodes,
            evaluation_seed=EVALUATION_SEED,
        )


def open_study(path: Path, contender: Contender, budget: Budget) -> optuna.Study:
    """The study of a file, new or to go on with; trials that were interrupted come again.

    Args:
        path: The SQLite file.
        contender: The algorithm and the settings to begin with.
        budget: Of every trial.

    Raises:
        ConfigError: If the file is no study, or one of something else or of another budget.
    """
    asked = {
        "algorithm": contender.algorithm,
        "env": contender.settings.env,
        "budget": to_mapping(budget),
        "settings": describe(contender.settings),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = _load(path, budget)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = getattr(error, "orig", error)
        raise ConfigError(
            f"{path} must be a study of optuna that can be written, got {reason}: choose another "
            "--study"
        ) from error
    for name, value in asked.items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
        refuse_difference(path, "--study", name, study.user_attrs[name], value)
    if not study.trials:
        shipped = _shipped_values(contender)
        space = search_space(contender)
        first = {name: space[name].as_parameter(value) for name, value in shipped.items()}
        study.enqueue_trial(first, {"shipped": True})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        fixed = trial.system_attrs.get("fixed_params", {})
        study.enqueue_trial({**fixed, **trial.params}, trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def search(
    path: Path,
    study: optuna.Study,
    contender: Contender,
    budget: Budget,
    trials: int,
    processes: int,
    report: Callable[[str], None],
) -> None:
    """Try settings out until there are so many trials; each is kept as soon as it is told.

    Args:
        path: The study's file.
        study: What `open_study` gave.
        contender: The algorithm and the settings to begin with.
        budget: Of every trial.
        trials: How many, those of the file included.
        processes: Trials at a time; each uses one core.
        report: Called with a line about each trial.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_leave_interrupts_to_parent)
    running: dict[Future[float], int] = {}
    try:
        while True:
            while len(running) < processes and _count(study) + len(running) < trials:
                number, settings = propose(study, contender)
                future = pool.submit(try_out, path, number, contender, settings, budget)
                running[future] = number
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                report(_tell(study, running.pop(future), future))
    except BaseException:
        # Somebody has interrupted, or nothing can be kept: the rest would be work for nothing.
        stop_at_once(pool)
        raise
    pool.shutdown()


def propose(study: optuna.Study, contender: Contender) -> tuple[int, Settings]:
    """The number of a new trial, and its settings."""
    trial = study.ask()
    shipped = _shipped_values(contender)
    values = {
        name: kind.suggest(trial, name, shipped[name])
        for name, kind in search_space(contender).items()
    }
    return trial.number, apply(
        contender.settings, values, study.user_attrs["budget"]["total_steps"]
    )


def try_out(
    path: Path, number: int, contender: Contender, settings: Settings, budget: Budget
) -> float:
    """The value of a trial: the mean return after training, over its seeds.

    Args:
        path: The study's file.
        number: Of the trial.
        contender: The algorithm.
        settings: To try.
        budget: How long.

    Raises:
        optuna.TrialPruned: If it is worse than half of the others at the same point, or trained
            for too long. The settings that there were already are always tried to the end.
    """
    study = _load(path, budget)
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    shipped = "shipped" in trial.user_attrs
    tried = Contender(algorithm=contender.algorithm, settings=settings, tuned=False)
    returns: list[float] = []
    for seed in range(FIRST_SEED, FIRST_SEED + budget.seeds_per_trial):
        judge = None if shipped or returns else _judge(trial, budget)
        found = run(tried, seed, budget.plan(settings), judge)
        if not shipped and found["steps"] > _LONGEST * budget.total_steps:
            raise optuna.TrialPruned(f"trained for {found['steps']:,} steps")
        returns.append(found["final"]["mean_return"])
    return float(np.mean(returns))


def apply(settings: Settings, values: Mapping[str, Any], total_steps: int) -> Settings:
    """Settings with other values, made to fit each other.

    Args:
        settings: To begin with.
        values: By their place, such as "settings.gamma".
        total_steps: Environment steps of a training: at least four iterations of a peer.
    """
    changed = to_mapping(settings)
    for name, value in values.items():
        *parent, last = name.split(".")
        inner = changed[parent[0]] if parent else changed
        inner[last] = value
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
    return from_mapping(PeerSettings, changed, "search")


def best_settings(study: optuna.Study, contender: Contender) -> Settings:
    """The settings of the best trial."""
    params = study.best_trial.params
    values = {name: kind.value(params[name]) for name, kind in search_space(contender).items()}
    return apply(contender.settings, values, study.user_attrs["budget"]["total_steps"])


def found_by(study: optuna.Study) -> str:
    """How good the best trial is, in words."""
    first = next(
        trial.value
        for trial in study.trials
        if "shipped" in trial.user_attrs and trial.state is TrialState.COMPLETE
    )
    return f"Best of {_count(study)} trials: {study.best_value:.5g}; the first: {first:.5g}"


def _load(path: Path, budget: Budget) -> optuna.Study:
    """The study of a file, made if there is none."""
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
        # Begun again with the same seed, it would propose the same again.
        seed = _SAMPLER_SEED + len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return study


def _shipped_values(contender: Contender) -> dict[str, Any]:
    """The values to begin with, by their place."""
    mapping = to_mapping(contender.settings)
    if isinstance(contender.settings, PeerSettings):
        mapping["settings"] = keyword_arguments(contender.settings)
    values = {}
    for name in search_space(contender):
        *parent, last = name.split(".")
        values[name] = (mapping[parent[0]] if parent else mapping)[last]
    return values


def _judge(trial: Trial, budget: Budget) -> Callable[[Point], None]:
    """Tells each point to the study, and gives up where the study says so."""

    def judge(point: Point) -> None:
        number = round(point["steps"] * budget.evaluations / budget.total_steps)
        trial.report(point["mean_return"], number)
        if trial.should_prune():
            raise optuna.TrialPruned(f"below the median after {point['steps']:,} steps")

    return judge


def _count(study: optuna.Study) -> int:
    """Trials that came to an end; FAIL are those that were interrupted."""
    return len(study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED)))


def _tell(study: optuna.Study, number: int, future: "Future[float]") -> str:
    """Keep what a trial came to; a line about it.

    Raises:
        Exception: That of the settings there were already, or of the pool.
    """
    error = future.exception()
    if error is None:
        study.tell(number, future.result())
        return f"trial {number}: {future.result():.5g}, best {study.best_value:.5g}"
    given_up = isinstance(error, optuna.TrialPruned)
    shipped = "shipped" in study.get_trials(deepcopy=False)[number].user_attrs
    if not given_up and (shipped or isinstance(error, BrokenExecutor)):
        raise error
    study.tell(number, state=TrialState.PRUNED)
    return f"trial {number}: given up, {error if given_up else repr(error)}"


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
