"""What happens beside training: evaluations, and the latest and the best checkpoint."""

import math
from pathlib import Path

import numpy as np

from grpo_gym.cli.pictures import episode_frames
from grpo_gym.cli.run import Run
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.reporting import TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings


class Bookkeeper:
    """A callback of `GRPO.learn` that evaluates, saves, and stops after a signal.

    Its memory is saved with the model (`notes`), so that a resumed run evaluates and keeps the same
    policies as an uninterrupted one.
    """

    def __init__(self, run: Run, tensorboard: TensorBoardReporter, signals: StopSignals) -> None:
        self.run = run
        self.tensorboard = tensorboard
        self.signals = signals

    def __call__(self, model: GRPO, stats: IterationStats) -> bool:
        """Evaluate and save when it is due; False after a signal."""
        self._evaluate_if_due(model)
        stopping = self.signals.number is not None
        finished = model.num_steps >= model.schedule.end
        if stopping or finished or model.iteration % self.run.settings.checkpoint_every == 0:
            self._save(model, self.run.latest)
        return not stopping

    def catch_up(self, model: GRPO) -> None:
        """Make the evaluation that a signal interrupted before the run was resumed."""
        if evaluation_is_due(self.run.settings, model):
            self._evaluate_if_due(model)
            self._save(model, self.run.latest)

    def _evaluate_if_due(self, model: GRPO) -> None:
        if not evaluation_is_due(self.run.settings, model):
            return
        seed = derive_seed(model.config.seed, Stream.EVALUATION) % 2**31
        try:
            with self.signals.at_once():
                evaluation = model.evaluate(self.run.settings.evaluation_episodes, seed=seed)
                frames = episode_frames(model, seed)
        except Stopped:
            return  # still due when the run is resumed
        self._record(model, evaluation, frames)

    def _record(self, model: GRPO, evaluation: Evaluation, frames: np.ndarray | None) -> None:
        self.tensorboard.add(_scalars(evaluation), model.num_steps)
        if frames is not None:
            self.tensorboard.add_frames(frames, model.num_steps)
        best = model.notes.get("best_return", -math.inf)
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


def evaluation_is_due(settings: TrainSettings, model: GRPO) -> bool:
    """Whether a stretch of training has been completed since the last evaluation."""
    return _stretches(settings, model) > model.notes.get("evaluated_stretches", 0)


def _stretches(settings: TrainSettings, model: GRPO) -> int:
    """Completed stretches of training; each ends with an evaluation."""
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
