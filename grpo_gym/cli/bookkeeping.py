"""What happens beside training: evaluations, pictures, the latest and the best checkpoint."""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.cli.run import Run
from grpo_gym.cli.signals import Stopped, StopSignals
from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.randomness import Stream, derive_seed
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.trainers.reporting import TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings

_PICTURES = 4


class Bookkeeper:
    """A callback of `GRPO.learn` that evaluates, saves, and stops when somebody asked to.

    What it has to remember is saved with the model (`notes`), so that a resumed run evaluates
    and keeps what the uninterrupted one would.
    """

    def __init__(self, run: Run, board: TensorBoardReporter, signals: StopSignals) -> None:
        """Keep the books of a run."""
        self.run = run
        self.board = board
        self.signals = signals

    def __call__(self, model: GRPO, stats: IterationStats) -> bool:
        """Evaluate and save when it is time; False once somebody asked to stop."""
        self.evaluate_if_due(model)
        stopping = self.signals.number is not None
        finished = model.num_steps >= model.schedule.end
        if stopping or finished or model.iteration % self.run.settings.checkpoint_every == 0:
            self.board.flush()
            model.save(self.run.latest)
        return not stopping

    def make_up(self, model: GRPO) -> None:
        """Make the evaluation that a signal interrupted before the run was resumed."""
        if evaluation_is_due(self.run.settings, model):
            self.evaluate_if_due(model)
            self.board.flush()
            model.save(self.run.latest)

    def evaluate_if_due(self, model: GRPO) -> None:
        """Evaluate after each stretch of training, unless somebody asks to stop meanwhile."""
        if not evaluation_is_due(self.run.settings, model):
            return
        seed = derive_seed(model.config.seed, Stream.EVALUATION) % 2**31
        try:
            with self.signals.at_once():
                evaluation = model.evaluate(self.run.settings.evaluation_episodes, seed=seed)
                frames = episode_frames(model, seed)
        except Stopped:
            return  # it stays due, and is made up for on resuming
        self._record(model, evaluation, frames)

    def _record(self, model: GRPO, evaluation: Evaluation, frames: np.ndarray | None) -> None:
        self.board.add(evaluation_scalars(evaluation), model.num_steps)
        if frames is not None:
            self.board.add_frames(frames, model.num_steps)
        best = model.notes.get("best_return", -math.inf)
        model.notes = {
            "return": evaluation.mean_return,
            "best_return": max(best, evaluation.mean_return),
            "evaluated_stretches": _stretches(self.run.settings, model),
        }
        if evaluation.mean_return > best or not self.run.best.is_file():
            self.board.flush()
            model.save(self.run.best)


def evaluation_is_due(settings: TrainSettings, model: GRPO) -> bool:
    """Whether a stretch of training has been completed since the last evaluation."""
    return _stretches(settings, model) > model.notes.get("evaluated_stretches", 0)


def _stretches(settings: TrainSettings, model: GRPO) -> int:
    """How many stretches, each ending with an evaluation, have been completed."""
    return model.num_steps * settings.evaluations // settings.total_steps


def evaluation_scalars(evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation by TensorBoard tag."""
    summary = summarise(evaluation.returns)
    values = {
        "eval/return_mean": summary.mean,
        "eval/return_iqm": summary.iqm,
        "eval/length_mean": float(evaluation.lengths.mean()),
    }
    return values | {
        f"eval/{name}": summarise(metric).mean for name, metric in evaluation.metrics.items()
    }


def episode_frames(model: GRPO, seed: int) -> np.ndarray | None:
    """Pictures of one episode at even distances, shape (count, height, width, 3), uint8.

    None where the environment cannot be drawn here: it has no such mode, a library or a display is
    missing, or what it draws is no picture.
    """
    # Pictures are an extra: whatever a third party's renderer raises, training goes on.
    try:
        env = gym.make(
            str(model.env_source),
            render_mode="rgb_array",
            disable_env_checker=True,
            **model.env_kwargs,
        )
    except Exception:
        return None
    try:
        frames = _play(model, env, seed)
    except Exception:
        return None
    finally:
        env.close()
    if not all(_is_picture(frame) and frame.shape == frames[0].shape for frame in frames):
        return None
    picked = np.linspace(0, len(frames) - 1, min(_PICTURES, len(frames))).round().astype(int)
    return np.stack([frames[index] for index in picked])


def _is_picture(frame: Any) -> bool:
    is_array = isinstance(frame, np.ndarray)
    return is_array and frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8


def _show_chances(
    model: GRPO, env: gym.Env[Any, Any], observation: Any, info: dict[str, Any]
) -> None:
    """Let environments of ours that can draw it show the policy's probabilities."""
    if hasattr(env.unwrapped, "heat_map") and model.config.frame_history == 1:
        env.unwrapped.heat_map = model.probabilities(observation, info.get("action_mask"))


def _play(model: GRPO, env: gym.Env[Any, Any], seed: int) -> list[Any]:
    """One episode; more frames of it than are needed, its first and its last among them."""
    observation, info = env.reset(seed=seed)
    _show_chances(model, env, observation, info)
    frames = [env.render()]
    step, done = 0, False
    state: Any = None
    while not done:
        mask = info.get("action_mask")
        action, state = model.predict(observation, state, deterministic=True, action_masks=mask)
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        step += 1
        # More rarely the longer the episode, whose end is not known before.
        if done or step % (1 << max(step.bit_length() - 4, 0)) == 0:
            _show_chances(model, env, observation, info)
            frames.append(env.render())
    return frames
