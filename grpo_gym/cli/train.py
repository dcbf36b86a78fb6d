"""`train`: train a policy, save checkpoints, and compare it with the baselines."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from grpo_gym.cli.bookkeeping import Bookkeeper, evaluation_is_due
from grpo_gym.cli.closing_table import compare_with_baselines
from grpo_gym.cli.failures import reported
from grpo_gym.cli.online import train_online
from grpo_gym.cli.options import invocation
from grpo_gym.cli.run import Run
from grpo_gym.cli.settings import RunOptions, parse_train
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.iteration import Callback
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.reporting import ProgressReporter, TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings, new_model


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    settings, options = parse_train(sys.argv[1:] if arguments is None else arguments)
    _silence_pygame()
    console = Console(stderr=True, quiet=options.quiet, highlight=False, soft_wrap=True)
    with StopSignals().installed() as signals:
        if settings.algo == "online":
            return train_online(settings, options, signals, console)
        run, model = _open(settings, options)
        console.print(f"run: {run.folder}", markup=False)
        try:
            _train(run, model, signals, console)
            console.print(f"weights sha256: {model.weights_sha256()}")
            if run.settings.final_episodes:
                compare_with_baselines(
                    run.policy_to_show, run.settings.final_episodes, Console(), console
                )
        except Stopped as stop:
            command = f"{invocation('train')} --resume {shlex.quote(str(run.folder))}"
            console.print(f"stopped; resume with: {command}", markup=False)
            return 128 + stop.number
    return 0


def _silence_pygame() -> None:
    """Let third-party environments draw without a display, and without pygame's greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def _open(settings: TrainSettings, options: RunOptions) -> tuple[Run, GRPO]:
    """The run to resume, or a new one, and its model.

    A new folder is made only after the model, which checks the settings.
    """
    if options.resume is not None:
        run = Run.open(Path(options.resume))
        if run.settings.algo == "online":
            raise ConfigError(
                "--resume must be followed by a run of --algo grpo: online runs take seconds; "
                f"repeat this one with --config {run.folder}/config.yaml"
            )
        check_environment(run.settings.env, run.settings.env_kwargs)
        return run, run.model()
    check_environment(settings.env, settings.env_kwargs)
    model = new_model(settings)
    model.prepare()
    folder = None if options.run_dir is None else Path(options.run_dir)
    return Run.create(settings, folder), model


def _train(run: Run, model: GRPO, signals: StopSignals, console: Console) -> None:
    """Train to the end, from the beginning or from the last checkpoint.

    Raises:
        Stopped: After a signal, once the iteration has ended and is saved.
    """
    started = model.schedule.end > 0
    trained = started and model.num_steps >= model.schedule.end
    if trained and not evaluation_is_due(run.settings, model):
        return
    with (
        signals.deferred(),
        TensorBoardReporter(run.folder, model.num_steps) as tensorboard,
        ProgressReporter(console) as progress,
    ):
        bookkeeper = Bookkeeper(run, tensorboard, signals)
        bookkeeper.catch_up(model)
        callbacks: list[Callback] = [tensorboard, progress, bookkeeper]
        if signals.number is None and not trained:
            progress.start(model, model.schedule.end or run.settings.total_steps)
            if started:
                model.resume(callback=callbacks)
            else:
                model.learn(run.settings.total_steps, callback=callbacks)
    if signals.number is not None:
        raise Stopped(signals.number)
