"""Training with GRPO in a run's folder: evaluations, checkpoints, and stopping after a signal."""

import contextlib
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from grpo_gym.cli.failures import StandstillError
from grpo_gym.cli.options import invocation
from grpo_gym.cli.pictures import episode_frames
from grpo_gym.cli.run import Run
from grpo_gym.cli.settings import RunOptions
from grpo_gym.cli.shared_warnings import SharedWarnings
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.cli.tables import compare_with_baselines
from grpo_gym.cli.together import SharedRun, train_to_the_end
from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.storage import CheckpointError
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.iteration import Callback, IterationStats
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.processes.join import join
from grpo_gym.trainers.reporting import ProgressReporter, TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings, new_model


def train_grpo(
    settings: TrainSettings, options: RunOptions, signals: StopSignals, console: Console
) -> int:
    """Train to the end, from the beginning or from a run's last checkpoint, and show the result.

    Args:
        settings: Settings with `algo="grpo"`; a resumed run has its own, but for more steps.
        options: Where the run goes, or which one to resume.
        signals: Already installed; the first signal ends training after its iteration.
        console: For progress; the closing table goes to standard output.

    Returns:
        The exit status.

    Raises:
        ConfigError: If the settings or the folder cannot be used; before any work.
        StandstillError: If the last iterations changed no weight, others would not, and the policy
            has not learned its task; everything is saved and shown by then.
    """
    run = None
    try:
        with join().together():
            run, model = _open(settings, options)
            console.print(f"run: {run.folder}", markup=False)
            _train(run, model, signals, console)
        console.print(f"weights sha256: {model.weights_sha256()}")
        if episodes := run.settings.final_episodes:
            compare_with_baselines(run.policy_to_show, episodes, console)
    except BaseException as error:  # an environment or a network may raise anything
        stop = error if isinstance(error, Stopped) else None
        if run is None or (isinstance(error, KeyboardInterrupt) and stop is None):
            raise
        command = f"{invocation('train')} --resume {shlex.quote(str(run.folder))}"
        console.print(f"{'stopped' if stop else 'failed'}; resume with: {command}", markup=False)
        if stop is None:
            raise
        return 128 + stop.number
    if model.standstill.is_noticed:
        ended = f"training ended after {model.num_steps:,} of {model.schedule.end:,} steps"
        if not _has_learned(run, model):
            raise StandstillError(
                f"{ended}: {model.standstill}. The policy to keep is {run.policy_to_show}"
            )
        console.print(f"{ended}: the policy is certain of its actions, and has learned its task")
    return 0


def _open(settings: TrainSettings, options: RunOptions) -> tuple[Run, GRPO]:
    """The run to resume, or a new one, and its model."""
    if options.resume is not None:
        run = Run.open(options.resume)
        run.settings = replace(run.settings, grpo=settings.grpo)  # perhaps of another machine
        check_environment(run.settings.env, run.settings.env_kwargs)
        if settings.total_steps > run.settings.total_steps:
            run.claim()
            return run, run.lengthen(settings.total_steps)
        model = run.model()
        if _is_finished(run, model):
            return run, model  # only to be shown, perhaps from a folder that cannot be written
        run.claim()
        return run, run.model()  # once more: until now, another process may have trained it
    check_environment(settings.env, settings.env_kwargs)
    model = new_model(settings)
    model.prepare()
    # Only now the folder: the model has checked the settings.
    return Run.create(settings, options.run_dir), model


def _train(run: Run, model: GRPO, signals: StopSignals, console: Console) -> None:
    """Train to the end, from the beginning or from the last checkpoint.

    Raises:
        Stopped: After a signal, once the iteration has ended and is saved.
    """
    processes = join()
    if _is_finished(run, model):
        processes.share(None)
        return
    with (
        model,
        signals.deferred(),
        TensorBoardReporter(run.folder, model.num_steps) as tensorboard,
        ProgressReporter(console) as progress,
    ):
        bookkeeper = Bookkeeper(run, tensorboard, signals)
        bookkeeper.catch_up(model)
        if signals.number is None and not _is_trained(model):
            processes.share(SharedRun.of(run))
            progress.start(model, model.schedule.end or run.settings.total_steps)
            with (
                SharedWarnings(processes) as shared_warnings,
                bookkeeper.saving_what_is_whole(model),
            ):
                callbacks: list[Callback] = [tensorboard, progress, bookkeeper, shared_warnings]
                train_to_the_end(model, run.settings.total_steps, callbacks)
                bookkeeper.save_what_is_left(model)
                number = processes.agree(signals.number or 0)
        else:
            processes.share(None)
            number = signals.number or 0
    if number:
        raise Stopped(number)


class Bookkeeper:
    """A callback of `GRPO.learn` that evaluates, saves, and stops after a signal.

    Its memory is saved with the model (`notes`), so that a resumed run evaluates and keeps the same
    policies as an uninterrupted one.
    """

    def __init__(self, run: Run, tensorboard: TensorBoardReporter, signals: StopSignals) -> None:
        self.run = run
        self.tensorboard = tensorboard
        self.signals = signals
        self._recorded = self._saved = 0

    def __call__(self, model: GRPO, stats: IterationStats) -> bool:
        """Evaluate and save when it is due; False after a signal."""
        self._recorded = model.iteration
        self._evaluate_if_due(model)
        if model.has_ended or model.iteration % self.run.settings.checkpoint_every == 0:
            self._save(model, self.run.latest)
        return self.signals.number is None

    def save_what_is_left(self, model: GRPO) -> None:
        """Save the last iteration, after a signal to this process or to another one."""
        if self._saved < self._recorded:
            self._save(model, self.run.latest)

    @contextlib.contextmanager
    def saving_what_is_whole(self, model: GRPO) -> Iterator[None]:
        """When training fails or is stopped at once, save the last iteration that is complete.

        Nothing is saved if an update was under way, or if events of the iteration are missing.
        """
        try:
            yield
        except BaseException:  # an environment or a network may raise anything
            if not model.is_updating and self._saved < model.iteration == self._recorded:
                # The error that ended training is the one to report.
                with contextlib.suppress(OSError, CheckpointError):
                    self._save(model, self.run.latest)
            raise

    def catch_up(self, model: GRPO) -> None:
        """Make the evaluation that a signal interrupted before the run was resumed."""
        if _evaluation_is_due(self.run.settings, model):
            self._evaluate_if_due(model)
            self._save(model, self.run.latest)

    def _evaluate_if_due(self, model: GRPO) -> None:
        if not _evaluation_is_due(self.run.settings, model):
            return
        seed = derive_seed(model.config.seed, Stream.EVALUATION) % 2**31
        try:
            with self.signals.at_once():
                evaluation = model.evaluate(self.run.settings.evaluation_episodes, seed=seed)
                frames = episode_frames(model, seed)
        except Stopped:
            return  # still due when the run is resumed
        self.tensorboard.add(_scalars(evaluation), model.num_steps)
        if frames is not None:
            self.tensorboard.add_frames(frames, model.num_steps)
        best = model.notes.get("best_return", -math.inf)
        if not math.isfinite(best):  # of a version that evaluated returns that were not
            best = -math.inf
        model.notes = {
            "return": evaluation.mean_return,
            "best_return": max(best, evaluation.mean_return),
            "evaluated_stretches": _stretches(self.run.settings, model),
        }
        if evaluation.mean_return > best or not self.run.best.is_file():
            self._save(model, self.run.best)

    def _save(self, model: GRPO, path: Path) -> None:
        # In this order: a run that is killed in between records events again, and never lacks any.
        self.tensorboard.flush()
        model.save(path)
        if path == self.run.latest:
            self._saved = model.iteration


def _has_learned(run: Run, model: GRPO) -> bool:
    """Whether the policy that will not change any more is better than an untrained one.

    And not worse than the best of its training; both by more than two standard errors, in the
    episodes of the evaluations.
    """
    episodes = run.settings.evaluation_episodes
    seed = derive_seed(model.config.seed, Stream.EVALUATION) % 2**31
    last = model.evaluate(episodes, seed=seed).returns
    untrained = new_model(run.settings).evaluate(episodes, seed=seed, deterministic=False).returns
    best = (
        GRPO.load(run.best, run.settings.env, policy=run.settings.policy)
        if run.best.is_file()
        else model
    )
    losses = best.evaluate(episodes, seed=seed).returns - last
    return _is_above_noise(last - untrained) and not _is_above_noise(losses)


def _is_above_noise(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences, shape (E,), is positive by two standard errors."""
    noise = 2.0 * float(differences.std()) / math.sqrt(len(differences))
    return float(differences.mean()) > noise


def _is_finished(run: Run, model: GRPO) -> bool:
    """Whether neither training nor an evaluation is left to do."""
    return _is_trained(model) and not _evaluation_is_due(run.settings, model)


def _is_trained(model: GRPO) -> bool:
    return model.schedule.end > 0 and model.has_ended


def _evaluation_is_due(settings: TrainSettings, model: GRPO) -> bool:
    """Whether a stretch of training has been completed since the last evaluation."""
    return _stretches(settings, model) > model.notes.get("evaluated_stretches", 0)


def _stretches(settings: TrainSettings, model: GRPO) -> int:
    """Completed stretches of training; each ends with an evaluation."""
    if model.standstill.is_final:  # none is to come
        return settings.evaluations
    return model.num_steps * settings.evaluations // settings.total_steps


def _scalars(evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation by TensorBoard tag."""
    returns = summarise(evaluation.returns)
    metrics = {f"eval/{name}": summarise(v).mean for name, v in evaluation.metrics.items()}
    return {
        "eval/return_mean": returns.mean,
        "eval/return_iqm": returns.iqm,
        "eval/length_mean": float(evaluation.lengths.mean()),
        **metrics,
    }
