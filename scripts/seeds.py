"""Train with the shipped settings over several seeds, beside the baselines.

The policy at the end of each training and every baseline play the same episodes, which no
training sees. Every finished piece is written to a JSON file at once, so an interrupted
experiment goes on where it stopped.

    python scripts/seeds.py --env LoadBalancer-v0 --out docs/results/load_balancer_flaky.json
    python scripts/seeds.py --env LoadBalancer-v0 --preset park --episodes 2000 \
        --out docs/results/load_balancer_park.json
    python scripts/seeds.py --env CartPole-v1 --seeds 10 --episodes 100 \
        --out docs/results/cartpole.json
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings.config import from_mapping, parse_value, replace
from grpo_gym.storage.results import Results
from grpo_gym.trainers.named_policies import baseline_action_function, table_names
from grpo_gym.trainers.settings import TrainSettings, default_config

EVALUATION_SEED = 5_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    env: str
    """Id of the environment."""
    out: Path
    """Results; what is there already is not measured again."""
    preset: str | None = None
    """Preset of the environment."""
    env_kwargs: tuple[str, ...] = ()
    """Further arguments of the environment: NAME=VALUE ..."""
    seeds: int = 5
    """Training runs, from seed 0."""
    episodes: int = 10_000
    """Episodes that every policy is evaluated on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    console = Console(stderr=True, highlight=False)
    results = Results(options.out, console.print)
    kwargs = {} if options.preset is None else {"preset": options.preset}
    values = {"env": options.env, "env_kwargs": kwargs, **default_config(options.env, kwargs)}
    settings = from_mapping(TrainSettings, values, options.env)
    further = {name: parse_value(text) for name, text in (p.split("=") for p in options.env_kwargs)}
    settings = replace(settings, env_kwargs={**settings.env_kwargs, **further})
    for name in table_names(settings.env, settings.env_kwargs):
        results.measure(f"baseline/{name}", partial(play_baseline, settings, name, options))
    for seed in range(options.seeds):
        results.measure(f"trained/seed {seed}", partial(train, settings, seed, options))
    return 0


def play_baseline(settings: TrainSettings, name: str, options: Options) -> dict[str, Any]:
    """Statistics of a baseline."""
    batch = make_batch(settings.env, settings.env_kwargs, min(options.episodes, 128))
    action_function = baseline_action_function(name, settings.env, batch)
    return evaluate(action_function, batch, options.episodes, EVALUATION_SEED).summary()


def train(settings: TrainSettings, seed: int, options: Options) -> dict[str, Any]:
    """Statistics of the policy at the end of training, and how long that took."""
    model = GRPO(
        settings.policy,
        settings.env,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        config=replace(settings.grpo, seed=seed),
    )
    started = time.perf_counter()
    model.learn(settings.total_steps)
    seconds = time.perf_counter() - started
    evaluation = model.evaluate(options.episodes, seed=EVALUATION_SEED)
    return {
        **evaluation.summary(),
        "training_steps": model.num_steps,
        "training_seconds": round(seconds, 1),
        "weights_sha256": model.weights_sha256(),
    }


if __name__ == "__main__":
    sys.exit(main())
