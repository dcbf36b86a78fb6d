"""What sharing the outside world within a group is worth: gradient variance and learning.

Measures, with everything else equal, groups that share their trace against groups of unrelated
episodes: (1) the variance of the policy gradient of one iteration, for policies taken from
several stages of training, and (2) learning curves over several seeds. Every finished piece is
written to a JSON file at once, so an interrupted run goes on where it stopped.

    python scripts/shared_worlds.py --out docs/results/shared_worlds.json
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console

from grpo_gym import GRPO
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.collection import collect
from grpo_gym.rollouts.groups import EnvGroups
from grpo_gym.rollouts.randomness import ActionNoise, episode_seeds
from grpo_gym.settings.config import from_mapping, replace
from grpo_gym.storage.results import Results
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning.advantages import compute_returns, group_advantages
from grpo_gym.trainers.settings import TrainSettings, default_config

GROUPINGS = ("shared", "unrelated")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path = Path("docs/results/shared_worlds.json")
    """Results; what is there already is not measured again."""
    figure: Path | None = None
    """Draw the learning curves to this file (needs matplotlib)."""
    presets: tuple[str, ...] = ("flaky", "park")
    """Presets of LoadBalancer-v0."""
    seeds: int = 5
    """Training runs of each kind."""
    total_steps: float = 2e6
    """Environment steps of each run."""
    rollouts: int = 64
    """Rollouts that each variance is estimated from."""
    evaluation_episodes: int = 512
    """Episodes of each point of the learning curves."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then draw."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    torch.set_num_threads(1)
    results = Results(options.out, Console(stderr=True, highlight=False).print)
    for preset in options.presets:
        settings = load_settings(preset)
        for share in (0.0, 0.2, 1.0):
            key = f"variance/{preset}/after {share:.0%} of training"
            results.measure(key, partial(gradient_variance, settings, share, options))
        for seed in range(100, 100 + options.seeds):
            for grouping in GROUPINGS:
                key = f"learning/{preset}/{grouping}/seed {seed}"
                results.measure(key, partial(learning_curve, settings, grouping, seed, options))
    if options.figure is not None:
        draw(results.values, options)
    return 0


def load_settings(preset: str) -> TrainSettings:
    """The shipped settings of a preset of the load balancer."""
    kwargs = {"preset": preset}
    values = default_config("LoadBalancer-v0", kwargs)
    return from_mapping(TrainSettings, {**values, "env_kwargs": kwargs}, preset)


def make_model(settings: TrainSettings, grouping: str, seed: int) -> GRPO:
    """A model with the preset's settings and a kind of group."""
    return GRPO(
        settings.policy,
        settings.env,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        config=replace(settings.grpo, grouping=grouping, seed=seed),
    )


def gradient_variance(
    settings: TrainSettings, share: float, options: Options
) -> dict[str, dict[str, float]]:
    """Total variance of one rollout's policy gradient, and the squared norm of its mean.

    The policy stays the same; worlds and actions of the rollouts differ. Advantages are not
    rescaled, so variances can be compared.
    """
    model = make_model(settings, "shared", seed=99)
    if share > 0.0:
        model.learn(share * options.total_steps)
    config = model.config
    kwargs = {**model.env_kwargs, **model.training_env_kwargs}
    env = EnvGroups(make_batch(settings.env, kwargs, config.num_envs), config.group_size)
    groups = range(config.num_groups)
    measured = {}
    for grouping in GROUPINGS:
        members = None if grouping == "shared" else config.group_size
        gradients = []
        for number in range(options.rollouts):
            noise = ActionNoise(
                model.policy.head.noise_kind,
                7,
                number,
                groups,
                config.group_size,
                model.policy.head.num_components,
            )
            seeds = episode_seeds(7, number, groups, members)
            rollout = collect(model.policy, env, seeds, noise, config.max_episode_steps)
            returns = compute_returns(
                rollout.rewards, rollout.alive, config.returns, config.discount
            )
            advantages = group_advantages(
                returns,
                rollout.alive,
                baseline=config.baseline,
                center="leave_one_out",
                scale="none",
            )
            gradients.append(policy_gradient(model, rollout, advantages))
        stacked = np.stack(gradients)
        mean = stacked.mean(axis=0)
        variance = float(stacked.var(axis=0, ddof=1).sum())
        # The squared norm of a mean of n is too large by variance / n.
        signal = float((mean**2).sum()) - variance / len(stacked)
        measured[grouping] = {"variance": variance, "signal": signal}
    return measured


def policy_gradient(model: GRPO, rollout: Any, advantages: torch.Tensor) -> np.ndarray:
    """Gradient of the mean of advantage times log-probability, as one vector."""
    alive = rollout.alive
    distribution = model.policy.distribution(model.policy(rollout.observations[alive]))
    log_probs = distribution.log_prob(rollout.actions[alive])
    loss = (log_probs * advantages[alive].to(torch.float32)).mean()
    parts = torch.autograd.grad(loss, list(model.policy.parameters()))
    return torch.cat([part.reshape(-1) for part in parts]).double().numpy()


def learning_curve(
    settings: TrainSettings, grouping: str, seed: int, options: Options
) -> dict[str, list[float]]:
    """Mean return over fixed episodes at eight moments of training."""
    model = make_model(settings, grouping, seed)
    steps: list[float] = []
    returns: list[float] = []
    every = options.total_steps / 8

    def evaluate(model: GRPO, stats: IterationStats) -> None:
        if stats.num_steps >= (len(steps) + 1) * every:
            evaluation = model.evaluate(options.evaluation_episodes, seed=2_000_000)
            steps.append(stats.num_steps)
            returns.append(evaluation.mean_return)

    model.learn(options.total_steps, callback=evaluate)
    return {"steps": steps, "returns": returns}


def draw(results: dict[str, Any], options: Options) -> None:
    """Learning curves with the range over seeds, one panel per preset."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(options.presets), figsize=(5.5 * len(options.presets), 4), squeeze=False
    )
    for axis, preset in zip(axes[0], options.presets, strict=True):
        for grouping, colour in zip(GROUPINGS, ("tab:blue", "tab:orange"), strict=True):
            prefix = f"learning/{preset}/{grouping}/"
            runs = [value for key, value in results.items() if key.startswith(prefix)]
            steps = np.mean([run["steps"] for run in runs], axis=0) / 1e6
            costs = -np.array([run["returns"] for run in runs])
            axis.plot(steps, costs.mean(axis=0), color=colour, marker="o", label=grouping)
            axis.fill_between(steps, costs.min(axis=0), costs.max(axis=0), color=colour, alpha=0.2)
        axis.set_yscale("log")
        axis.set_title(f"LoadBalancer-v0, {preset}")
        axis.set_xlabel("environment steps (millions)")
        axis.set_ylabel("cost of an episode (minus return), lower is better")
        axis.legend(title=f"groups ({options.seeds} seeds, mean and range)")
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(options.figure, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
