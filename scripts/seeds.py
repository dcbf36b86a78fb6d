"""Train with the shipped settings over several seeds, and evaluate baselines.

The final policy of each training run and every baseline play the same episodes, which training
never uses. An interrupted experiment resumes where it stopped.

    python scripts/seeds.py --env LoadBalancer-v0 --out docs/results/load_balancer_flaky.json
    python scripts/seeds.py --env LoadBalancer-v0 --preset park --episodes 2000 \
        --out docs/results/load_balancer_park.json
    python scripts/seeds.py --env CartPole-v1 --seeds 10 --episodes 100 \
        --out docs/results/cartpole.json
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from grpo_gym.settings import parse_value
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.named_policies import evaluate_baseline, table_names
from grpo_gym.trainers.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    env: str
    """Id of the environment."""
    out: Path
    """File of the results; existing results are not measured again."""
    preset: str | None = None
    """Preset of the environment."""
    env_kwargs: tuple[str, ...] = ()
    """Further arguments of the environment: NAME=VALUE ..."""
    seeds: int = 5
    """Training runs, from seed 0."""
    episodes: int = 10_000
    """Episodes that every policy is evaluated on."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    pairs = (text.split("=") for text in options.env_kwargs)
    env_kwargs = {name: parse_value(value) for name, value in pairs}
    settings = experiments.shipped_settings(options.env, options.preset, env_kwargs=env_kwargs)
    baselines = {
        f"baseline/{name}": partial(play_baseline, name, settings, options.episodes)
        for name in table_names(settings.env, settings.env_kwargs)
    }
    trainings = {
        f"trained/seed {seed}": partial(train, settings, seed, options.episodes)
        for seed in range(options.seeds)
    }
    experiments.measure(options.out, {**baselines, **trainings})


def play_baseline(name: str, settings: TrainSettings, episodes: int) -> dict[str, Any]:
    """Statistics of a baseline."""
    env, env_kwargs = settings.env, settings.env_kwargs
    return evaluate_baseline(name, env, env_kwargs, episodes, EVALUATION_SEED).summary()


def train(settings: TrainSettings, seed: int, episodes: int) -> dict[str, Any]:
    """Statistics of the policy after training."""
    trained = experiments.train(settings, seed)
    model = trained.model
    return {
        **model.evaluate(episodes, seed=EVALUATION_SEED).summary(),
        "training_steps": model.num_steps,
        "training_seconds": round(trained.wall_seconds, 1),
        "weights_sha256": model.weights_sha256(),
    }


if __name__ == "__main__":
    main()
