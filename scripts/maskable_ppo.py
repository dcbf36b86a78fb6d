"""GRPO against MaskablePPO of sb3-contrib on Battleship: equal steps, and equal time.

Trainings and settings are those of `compare`; what differs is that boards of 5 x 5 are scored
exactly, by playing all of them, and that the algorithms also train for equal CPU time. An
interrupted experiment resumes where it stopped.

    python scripts/maskable_ppo.py --board microgrpo
    python scripts/maskable_ppo.py --board classic

It needs `pip install -e ".[compare]"`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import tyro

from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch, make_enumerated
from grpo_gym.trainers import experiments
from grpo_gym.trainers.comparison.contenders import find_contender
from grpo_gym.trainers.comparison.curves import learn_with_curve
from grpo_gym.trainers.comparison.task_results import title
from grpo_gym.trainers.experiments import EVALUATION_SEED

ENV = "Battleship-v0"
ENV_KWARGS = {"microgrpo": {"preset": "microgrpo-5x5"}, "classic": {}}
STEPS = {
    "microgrpo": {
        "equal steps": {"grpo": 1_000_000, "maskable_ppo": 1_000_000},
        "equal minutes": {"grpo": 2_800_000, "maskable_ppo": 1_100_000},
    },
    "classic": {
        "equal steps": {"grpo": 100_000, "maskable_ppo": 100_000},
        "equal minutes": {"grpo": 220_000, "maskable_ppo": 85_000},
    },
}
"""Environment steps of each training; those of equal minutes took about two when measured."""


@dataclass(frozen=True, kw_only=True)
class Options(experiments.ExperimentOptions):
    """The command line."""

    board: Literal["microgrpo", "classic"]
    """What to play; results go into maskable_ppo_<board>.json."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    trainings = {
        f"{title(algorithm)}, {budget}": partial(train, options.board, algorithm, total_steps)
        for budget, steps in STEPS[options.board].items()
        for algorithm, total_steps in steps.items()
    }
    options.measure(f"maskable_ppo_{options.board}", trainings)


def train(board: str, algorithm: str, total_steps: int, seed: int) -> dict[str, Any]:
    """The learning curve (CPU seconds, steps, mean return) of the most probable shots."""
    torch.set_num_threads(1)
    contender = find_contender(algorithm, ENV, ENV_KWARGS[board])
    training, env_kwargs = contender.new_training(seed), contender.settings.env_kwargs
    if board == "microgrpo":
        boards = make_enumerated(ENV, env_kwargs, 2_048)
        games: tuple[Any, int, int] = boards, boards.num_initial_states, 0
    else:
        games = make_batch(ENV, env_kwargs, 500), 1_000, EVALUATION_SEED

    def measure() -> float:
        return evaluate(training.action_function(deterministic=True), *games).mean_return

    curve = learn_with_curve(training, measure, total_steps, evaluations=20)
    points = [(point.cpu_seconds, point.steps, point.mean_return) for point in curve]
    return {"curve": points, "parameters": training.parameters}


if __name__ == "__main__":
    main()
