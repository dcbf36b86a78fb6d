"""`train`: train a policy, keep its checkpoints, and compare it with the baselines."""

import sys
from collections.abc import Sequence

from rich.console import Console

from grpo_gym.cli.comparison import compare_with_baselines
from grpo_gym.cli.failures import reported
from grpo_gym.cli.run import Bookkeeper, Run, stop_on_signals
from grpo_gym.cli.settings import RunOptions, TrainSettings, parse_train
from grpo_gym.config import ConfigError
from grpo_gym.reporting import ProgressReporter, TensorBoardReporter
from grpo_gym.trainers.grpo import GRPO


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True)
    settings, options = parse_train(given)
    run = _open_run(settings, options, given)
    model = run.model()
    console.print(f"run: {run.folder}", highlight=False, soft_wrap=True)
    number = _train(run, model, None if options.quiet else ProgressReporter(console))
    if number is not None:
        console.print(
            f"stopped by a signal after {model.num_steps:,} steps; go on with: "
            f"train --resume {run.folder}",
            highlight=False,
            soft_wrap=True,
        )
        return 128 + number
    best = run.best if run.best.is_file() else run.latest
    compare_with_baselines(best, run.settings.final_episodes, Console())
    console.print(f"weights sha256: {model.weights_sha256()}", highlight=False, soft_wrap=True)
    return 0


def _open_run(settings: TrainSettings, options: RunOptions, given: Sequence[str]) -> Run:
    if options.resume is None:
        return Run.create(settings, options.run_dir)
    others = [word for word in given if word.startswith("--")]
    others = [word for word in others if word.split("=")[0] not in ("--resume", "--quiet")]
    if others:
        raise ConfigError(
            f"--resume must come alone, got {others[0]}: a run goes on with its own settings"
        )
    return Run.open(options.resume)


def _train(run: Run, model: GRPO, progress: ProgressReporter | None) -> int | None:
    """Train to the end or to a signal, whose number is returned."""
    board = TensorBoardReporter(run.folder, model.num_steps)
    with stop_on_signals() as interruption:
        try:
            callbacks = [board, Bookkeeper(run, board, model), interruption]
            callbacks += [] if progress is None else [progress]
            if model.schedule.end == 0:
                model.learn(run.settings.total_steps, callback=callbacks)
            else:
                model.resume(callback=callbacks)
            model.save(run.latest)
        finally:
            board.close()
            if progress is not None:
                progress.close()
    return interruption.signal if model.num_steps < model.schedule.end else None


