"""The value of sharing a trace within a group: gradient variance and learning curves.

Compares groups that share a trace with groups of unrelated episodes, all else equal:
(1) the variance of one iteration's policy gradient, at several stages of training,
and (2) learning curves over several seeds. An interrupted experiment resumes where it stopped.

    python scripts/shared_worlds.py --out docs/results/shared_worlds.json
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from grpo_gym import GRPO
from grpo_gym.rollouts.rollout import GroupedRollout
from grpo_gym.trainers import experiments
from grpo_gym.trainers.collector import Collector
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning.advantages import compute_returns, group_advantages
from grpo_gym.trainers.settings import TrainSettings, new_model

Grouping = Literal["shared", "unrelated"]
GROUPINGS: tuple[Grouping, ...] = ("shared", "unrelated")
CURVE_SEED = 2_000_000
"""First seed of the episodes that learning curves are measured on."""


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


def main() -> None:
    """Measure what is missing, then draw."""
    options = tyro.cli(Options, description=__doc__)
    measurements: dict[str, Callable[[], Any]] = {}
    for preset in options.presets:
        settings = experiments.shipped_settings("LoadBalancer-v0", preset)
        for share in (0.0, 0.2, 1.0):
            key = f"variance/{preset}/after {share:.0%} of training"
            measurements[key] = partial(gradient_variance, settings, share, options)
        for seed in range(100, 100 + options.seeds):
            for grouping in GROUPINGS:
                key = f"learning/{preset}/{grouping}/seed {seed}"
                measurements[key] = partial(learning_curve, settings, grouping, seed, options)
    values = experiments.measure(options.out, measurements)
    if options.figure is not None:
        draw(values, options)


def with_grouping(settings: TrainSettings, grouping: Grouping, seed: int) -> TrainSettings:
    """The settings with a different grouping and seed."""
    return replace(settings, grpo=replace(settings.grpo, grouping=grouping, seed=seed))


def gradient_variance(
    settings: TrainSettings, share: float, options: Options
) -> dict[str, dict[str, float]]:
    """Total variance of one rollout's policy gradient, and the squared norm of its mean.

    The policy stays the same; traces and actions of the rollouts differ. Advantages are not
    rescaled, so that variances can be compared.
    """
    model = new_model(with_grouping(settings, "shared", seed=99))
    if share > 0.0:
        model.learn(share * options.total_steps)
    kwargs = {**settings.env_kwargs, **settings.training_env_kwargs}
    measured: dict[str, dict[str, float]] = {}
    for grouping in GROUPINGS:
        config = with_grouping(settings, grouping, seed=7).grpo
        collector = Collector(settings.env, kwargs, config)
        rollouts = (collector.collect(model.policy, number) for number in range(options.rollouts))
        gradients = np.stack([policy_gradient(model, rollout) for rollout in rollouts])
        variance = float(gradients.var(axis=0, ddof=1).sum())
        # The squared norm of a mean of n exceeds that of the expectation by variance / n.
        signal = float((gradients.mean(axis=0) ** 2).sum()) - variance / len(gradients)
        measured[grouping] = {"variance": variance, "signal": signal}
    return measured


def policy_gradient(model: GRPO, rollout: GroupedRollout) -> np.ndarray:
    """Gradient of the mean of advantage times log-probability, as one vector."""
    config, alive = model.config, rollout.alive
    returns = compute_returns(rollout.rewards, alive, config.returns, config.discount)
    advantages = group_advantages(
        returns, alive, baseline=config.baseline, center="leave_one_out", scale="none"
    )
    distribution = model.policy.distribution(model.policy(rollout.observations[alive]))
    log_probs = distribution.log_prob(rollout.actions[alive])
    objective = (log_probs * advantages[alive].to(torch.float32)).mean()
    gradients = torch.autograd.grad(objective, list(model.policy.parameters()))
    return torch.cat([each.reshape(-1) for each in gradients]).double().numpy()


def learning_curve(
    settings: TrainSettings, grouping: Grouping, seed: int, options: Options
) -> dict[str, list[float]]:
    """Mean return over fixed episodes, eight times during training."""
    curve: dict[str, list[float]] = {"steps": [], "returns": []}

    def evaluate(model: GRPO, stats: IterationStats) -> None:
        if stats.num_steps >= (len(curve["steps"]) + 1) * options.total_steps / 8:
            evaluation = model.evaluate(options.evaluation_episodes, seed=CURVE_SEED)
            curve["steps"].append(stats.num_steps)
            curve["returns"].append(evaluation.mean_return)

    model = new_model(with_grouping(settings, grouping, seed))
    model.learn(options.total_steps, callback=evaluate)
    return curve


def draw(results: dict[str, Any], options: Options) -> None:
    """Draw learning curves with their range over seeds, one panel for each preset."""
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
    main()
