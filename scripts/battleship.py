"""Measure Battleship: learning curves of the shipped settings, and the published experiment.

Policies for 5 x 5 boards are scored exactly, on all boards. An interrupted experiment resumes
where it stopped.

    python scripts/battleship.py --part microgrpo
    python scripts/battleship.py --part published
    python scripts/battleship.py --part classic --seeds 3
    python scripts/battleship.py --part density --seeds 3
    python scripts/battleship.py --figure docs/images/battleship_curves.png

The figure also shows the results of scripts/maskable_ppo.py.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from grpo_gym import GRPO
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_enumerated
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED, shipped_settings
from grpo_gym.trainers.grpo import IterationStats

ENV = "Battleship-v0"
PRESETS = {"microgrpo": "microgrpo-5x5", "classic": None, "density": "classic-10x10-density"}
"""The environment's preset of each part with shipped settings."""
PUBLISHED: dict[str, Any] = {
    "num_groups": 4,
    "group_size": 16,
    "epochs": 10,
    "num_minibatches": 1,
    "learning_rate": 4e-4,
    "learning_rate_schedule": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 1e9,
    "clip_low": 0.9,
    "clip_high": 0.3,
    "returns": "outcome",
    "discount": 1.0,
    "baseline": "trajectory",
    "center": "leave_one_out",
    "loss_normalisation": "per_group",
    "refill_rounds": 3,
    "hidden_sizes": (25,),
    "normalise_observations": False,
}
"""Settings of github.com/superlinear-ai/microGRPO; only the initial weights differ."""
SCALES: dict[str, Any] = {"LOOP": {"scale": "none"}, "Magistral": {"scale": "batch"}}
PUBLISHED_ITERATIONS = 2_000

OURS, PPO, DENSITY = "tab:blue", "tab:orange", "tab:green"
SMALL_CURVES = (
    ("maskable_ppo_microgrpo", "GRPO, equal minutes", OURS, "GRPO"),
    ("maskable_ppo_microgrpo", "MaskablePPO, equal minutes", PPO, "MaskablePPO"),
)
"""Curves of a panel: file, setting, colour and label."""
CLASSIC_CURVES = (
    ("battleship_classic", "classic", OURS, "GRPO, raw planes (3 seeds)"),
    ("battleship_density", "density", DENSITY, "GRPO, with density (3 seeds)"),
    ("maskable_ppo_classic", "MaskablePPO, equal steps", PPO, "MaskablePPO, raw planes (5 seeds)"),
)


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    part: Literal["microgrpo", "published", "classic", "density"] | None = None
    """What to measure, into battleship_<part>.json."""
    episodes: int = 10_000
    """Games at the end of each training, on boards that cannot all be played."""
    figure: Path | None = None
    """Draw the learning curves to this file (needs matplotlib)."""


def main() -> None:
    """Measure what is missing, then draw."""
    options = tyro.cli(Options, description=__doc__)
    if options.part is not None:
        trainings: dict[str, Callable[[int], dict[str, Any]]]
        if options.part == "published":
            trainings = {name: partial(train_as_published, scale) for name, scale in SCALES.items()}
        else:
            trainings = {options.part: partial(train, options.part, options.episodes)}
        options.measure(f"battleship_{options.part}", trainings)
    if options.figure is not None:
        draw(options.results, options.figure)


def train(part: str, episodes: int, seed: int) -> dict[str, Any]:
    """The learning curve of the shipped settings, and the final policy's result."""
    settings = shipped_settings(ENV, PRESETS[part])
    is_exact = part == "microgrpo"
    recorder = Recorder(exact_score if is_exact else mean_shots)
    model = experiments.train(settings, seed, callback=recorder).model
    if is_exact:
        score = recorder.curve[-1][2]
        return {"exact score of the most probable shots": score, "curve": recorder.curve}
    evaluation = model.evaluate(episodes, seed=EVALUATION_SEED)
    return {"shots": evaluation.summary()["length"], "curve": recorder.curve}


def train_as_published(scale: dict[str, Any], seed: int) -> dict[str, Any]:
    """The published experiment: scores of sampled shots, and exactly of the most probable ones."""
    env_kwargs = {"preset": "microgrpo-5x5"}
    model = GRPO("mlp", ENV, env_kwargs=env_kwargs, seed=seed, **PUBLISHED, **scale)
    curve = []
    for iteration in range(PUBLISHED_ITERATIONS + 1):
        if iteration % 100 == 0:
            sampled = model.evaluate(4_096, seed=EVALUATION_SEED, deterministic=False)
            curve.append([iteration, sampled.mean_return, exact_score(model)])
        if iteration < PUBLISHED_ITERATIONS:
            model.train_iteration()
    return {"curve: iteration, sampled score, exact score": curve, "steps": model.num_steps}


class Recorder:
    """A training callback that measures the policy at growing intervals, and at the end.

    Attributes:
        curve: Seconds of training, environment steps, and the score there.
    """

    def __init__(self, score: Callable[[GRPO], float]) -> None:
        self.curve: list[tuple[float, int, float]] = []
        self._score = score
        self._seconds = 0.0
        self._due_seconds = 10.0

    def __call__(self, model: GRPO, stats: IterationStats) -> None:
        """Measure if it is time to; evaluations do not count as training."""
        self._seconds += stats.collect_seconds + stats.update_seconds
        if self._seconds >= self._due_seconds or stats.num_steps >= model.schedule.end:
            self.curve.append((round(self._seconds, 1), stats.num_steps, self._score(model)))
            self._due_seconds = 1.25 * self._seconds


def exact_score(model: GRPO) -> float:
    """Mean return of the most probable shots over all boards."""
    boards = make_enumerated(ENV, model.env_kwargs, 2_048)
    return evaluate(model.action_function(), boards, boards.num_initial_states, 0).mean_return


def mean_shots(model: GRPO) -> float:
    """Mean number of shots of 1,000 games with the most probable shots."""
    return float(model.evaluate(1_000, seed=EVALUATION_SEED).lengths.mean())


def draw(folder: Path, out: Path) -> None:
    """Draw learning curves: the published experiment, all boards of 5 x 5, and 10 x 10."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.8), layout="constrained")
    published, small, classic = figure.subplots(1, 3)
    draw_published(published, folder)
    draw_curves(small, folder, SMALL_CURVES, column=0)
    draw_curves(classic, folder, CLASSIC_CURVES, column=1)
    small.axhline(0.7160, color="grey", ls="--", label="exact posterior, greedy")
    small.axhline(0.50, color="black", ls=":", label="published")
    small.set(xscale="log", xlabel="seconds of training, one core", ylabel="score")
    small.set(title="microgrpo-5x5, all boards (5 seeds)")
    small.set_xlim(left=8)
    classic.axhline(54.12, color="grey", ls=":", label="hunt_target_sunk")
    classic.axhline(44.75, color="grey", ls="--", label="probability_density")
    classic.set(xscale="log", xlabel="environment steps", ylabel="mean shots")
    classic.set(title="classic-10x10, 1,000 games a point", ylim=(42, 80))
    classic.set_xlim(left=3e4)
    for axes in (published, small, classic):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.savefig(out, dpi=100)


def draw_published(axes: Any, folder: Path) -> None:
    """Draw the published experiment by iteration: sampled score, mean and extremes."""
    for name, colour in (("LOOP", OURS), ("Magistral", PPO)):
        runs = read_curves(folder, "battleship_published", name)
        if not runs:
            continue
        iterations, scores = runs[0][:, 0], np.array([run[:, 1] for run in runs])
        axes.plot(iterations, scores.mean(axis=0), color=colour, label=f"{name}, sampled shots")
        low, high = scores.min(axis=0), scores.max(axis=0)
        axes.fill_between(iterations, low, high, color=colour, alpha=0.25, lw=0)
    axes.plot([0, 2000], [0.15, 0.50], "kx", label="published: first and last")
    axes.set(title="microGRPO's settings (5 seeds: mean, extremes)")
    axes.set(xlabel="iterations", ylabel="score")


def draw_curves(
    axes: Any, folder: Path, curves: Sequence[tuple[str, str, str, str]], column: int
) -> None:
    """Draw one thin line per seed, against a column of the curves."""
    for file, name, colour, label in curves:
        for number, run in enumerate(read_curves(folder, file, name)):
            points = run[run[:, column] > 0]
            axes.plot(
                points[:, column],
                np.abs(points[:, 2]),  # MaskablePPO's return on 10 x 10 is minus the shots
                color=colour,
                lw=1.2,
                alpha=0.8,
                label=label if number == 0 else None,
            )


def read_curves(folder: Path, file: str, name: str) -> list[np.ndarray]:
    """The curves of all seeds of a setting, shape (P, 3) each; none if the file is missing."""
    path = folder / f"{file}.json"
    if not path.exists():
        print(f"{path} is missing and left out")
        return []
    results = json.loads(path.read_text()).items()
    runs = [run for key, run in results if key.startswith(f"{name}/")]
    return [np.array(next(run[key] for key in run if key.startswith("curve"))) for run in runs]


if __name__ == "__main__":
    main()
