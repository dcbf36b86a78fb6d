"""A training run on disk: its folder, its checkpoints, its evaluations, its interruption.

    runs/<env id>/<name>/
        config.yaml              every setting, resolved
        events.out.tfevents.*    TensorBoard
        checkpoints/latest.ckpt  to resume from
        checkpoints/best.ckpt    the best policy of the evaluations
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.config import ConfigError, from_mapping, load_yaml, save_yaml
from grpo_gym.evaluation import summarise
from grpo_gym.randomness import Stream, derive_seed
from grpo_gym.reporting import TensorBoardReporter
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.cli.settings import TrainSettings


class Interruption:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        """Nobody did yet."""
        self.signal: int | None = None

    def __call__(self, model: GRPO, stats: IterationStats) -> bool:
        """As a callback: stop after this iteration once asked."""
        return self.signal is None


@contextmanager
def stop_on_signals() -> Iterator[Interruption]:
    """Turn Ctrl-C and SIGTERM into a stop after the iteration; the second Ctrl-C stops at once."""
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        if interruption.signal is not None:
            raise KeyboardInterrupt
        interruption.signal = number

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Run:
    """The folder of one training run."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        """Describe a run; `create` and `open` are the ways to get one."""
        self.folder = folder
        self.settings = settings
        self.latest = folder / "checkpoints" / "latest.ckpt"
        self.best = folder / "checkpoints" / "best.ckpt"

    @classmethod
    def create(cls, settings: TrainSettings, folder: Path | None) -> "Run":
        """Make a new folder; nothing of another run is ever overwritten.

        Raises:
            ConfigError: If the given folder holds something already, or cannot be made.
        """
        try:
            if folder is None:
                folder = _new_folder(settings)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                if any(folder.iterdir()):
                    raise ConfigError(
                        f"--run-dir must be new or empty, got {folder}: go on with that run by "
                        f"--resume {folder}, or choose another folder"
                    )
            save_yaml(settings, folder / "config.yaml")
        except OSError as error:
            raise ConfigError(f"cannot write the run's folder {folder}: {error}") from error
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Find an existing run.

        Raises:
            ConfigError: If the folder is none.
        """
        path = folder / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"--resume must name a run's folder, got {folder}: no config.yaml")
        return cls(folder, from_mapping(TrainSettings, load_yaml(path), str(path)))

    def model(self) -> GRPO:
        """The model where the run left off, or a new one.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            ConfigError: If the settings cannot.
        """
        settings = self.settings
        if self.latest.is_file():
            return GRPO.load(self.latest, settings.env, env_kwargs=settings.env_kwargs)
        return GRPO(
            settings.policy, settings.env, env_kwargs=settings.env_kwargs, config=settings.grpo
        )


class Bookkeeper:
    """A callback that evaluates, and keeps the latest and the best policy."""

    def __init__(self, run: Run, board: TensorBoardReporter, model: GRPO) -> None:
        """Start where the model is."""
        settings = run.settings
        self.run = run
        self.board = board
        self.every = settings.total_steps / max(settings.evaluations, 1)
        self.best_return = -np.inf
        self._evaluated = self._due(model.num_steps)
        if run.best.is_file() and model.num_steps > 0:
            self.best_return = GRPO.load(run.best, settings.env).notes.get("return", -np.inf)

    def __call__(self, model: GRPO, stats: IterationStats) -> None:
        """Evaluate and save when it is time."""
        finished = stats.num_steps >= model.schedule.end
        if self.run.settings.evaluations and self._due(stats.num_steps) > self._evaluated:
            self._evaluated = self._due(stats.num_steps)
            self._evaluate(model)
        if finished or stats.iteration % self.run.settings.checkpoint_every == 0:
            model.save(self.run.latest)

    def _due(self, num_steps: int) -> int:
        return int(num_steps / self.every)

    def _evaluate(self, model: GRPO) -> None:
        settings = self.run.settings
        seed = derive_seed(settings.grpo.seed, Stream.EVALUATION) % 2**31
        evaluation = model.evaluate(settings.evaluation_episodes, seed=seed)
        summary = summarise(evaluation.returns)
        values = {
            "eval/return_mean": summary.mean,
            "eval/return_iqm": summary.iqm,
            "eval/length_mean": float(evaluation.lengths.mean()),
        }
        values |= {f"eval/{name}": float(np.nanmean(v)) for name, v in evaluation.metrics.items()}
        self.board.add(values, model.num_steps)
        frames = episode_frames(model, seed)
        if frames is not None:
            self.board.add_frames(frames, model.num_steps)
        if summary.mean > self.best_return:
            self.best_return = summary.mean
            model.notes = {"return": summary.mean, "episodes": settings.evaluation_episodes}
            model.save(self.run.best)


def episode_frames(model: GRPO, seed: int, count: int = 4) -> np.ndarray | None:
    """Pictures of one episode at even distances, shape (count, height, width, 3), uint8.

    None where the environment cannot be drawn here.
    """
    source = model.env_source
    if not isinstance(source, str):
        return None
    try:
        env = gym.make(source, render_mode="rgb_array", **model.env_kwargs)
    except (gym.error.Error, TypeError, ImportError):
        return None
    frames: list[Any] = []
    try:
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            mask = info.get("action_mask")
            action, _ = model.predict(observation, deterministic=True, action_mask=mask)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            frames.append(env.render() if _sampled(len(frames), done) else None)
    except (gym.error.Error, ImportError):
        return None
    finally:
        env.close()
    shown = [frame for frame in frames if frame is not None]
    picked = np.linspace(0, len(shown) - 1, min(count, len(shown))).round().astype(int)
    return np.stack([shown[i] for i in picked])


def _sampled(step: int, last: bool) -> bool:
    """Whether to draw a step: more rarely the longer the episode, and always the last."""
    return last or step % (1 << max(step.bit_length() - 3, 0)) == 0


def _new_folder(settings: TrainSettings) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parent = Path("runs") / settings.env.split(":")[-1]
    for attempt in range(1000):
        suffix = f"-{attempt}" if attempt else ""
        folder = parent / f"{settings.algo}-seed{settings.grpo.seed}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ConfigError(f"cannot find a new name for a run under {parent}")
