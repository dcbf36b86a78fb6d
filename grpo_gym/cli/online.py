"""`train --algo online`: decisions one at a time, the published demonstration, the closing table.

A run's folder holds `config.yaml`, TensorBoard events and `checkpoints/latest.ckpt`.
"""

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from grpo_gym.cli.closing_table import compare_with_baselines
from grpo_gym.cli.run import Run
from grpo_gym.cli.settings import RunOptions
from grpo_gym.cli.signals import StopSignals
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.online import OnlineGRPO, OnlineStats, changed_at
from grpo_gym.trainers.reporting import TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings

_EVERY = 500


def train_online(
    settings: TrainSettings, options: RunOptions, signals: StopSignals, console: Console
) -> int:
    """Train to the end, save the policy and show what became of it.

    Args:
        settings: Of a run with `algo="online"`.
        options: Where it goes.
        signals: Already installed; a first signal ends training early, and what was learned is
            saved.
        console: For progress; results go to standard output.

    Returns:
        The exit status.

    Raises:
        ConfigError: If the settings or the folder cannot be used; before any work.
    """
    model = OnlineGRPO(settings.env, env_kwargs=settings.env_kwargs, config=settings.online)
    check_environment(settings.env, settings.env_kwargs)
    folder = None if options.run_dir is None else Path(options.run_dir)
    run = Run.create(settings, folder)
    console.print(f"run: {run.folder}", markup=False)
    demonstrating = settings.env_kwargs.get("preset") == "tiny-grpo"
    with signals.deferred(), TensorBoardReporter(run.folder) as board:
        if demonstrating:
            demonstrate(model, settings.total_steps, signals, Console(), board)
        else:
            _learn(model, settings.total_steps, signals, console, board)
        model.save(run.latest)
    console.print(f"weights sha256: {model.weights_sha256()}")
    if signals.number is not None:
        console.print(
            f"stopped after {model.num_steps:,} of {settings.total_steps:,} decisions; what was "
            f"learned is in {run.latest}",
            markup=False,
        )
        return 128 + signals.number
    if settings.final_episodes and not demonstrating:
        compare_with_baselines(run.latest, settings.final_episodes, Console(), console)
    return 0


def _learn(
    model: OnlineGRPO,
    total_steps: int,
    signals: StopSignals,
    console: Console,
    board: TensorBoardReporter,
) -> None:
    started, shown = time.perf_counter(), -np.inf

    def report(model: OnlineGRPO, stats: OnlineStats) -> bool:
        nonlocal shown
        board.add({"rollout/reward_mean": stats.reward_mean}, stats.num_steps)
        now = time.perf_counter()
        stopping = signals.number is not None
        if now - shown >= 1.0 or stopping or stats.num_steps == total_steps:
            shown = now
            console.print(
                f"{stats.num_steps:,}/{total_steps:,} decisions, "
                f"{stats.num_steps / (now - started):,.0f}/s, reward {stats.reward_mean:.4g}"
            )
        return not stopping

    model.learn(total_steps, callback=report)


def demonstrate(
    model: OnlineGRPO,
    total_steps: int,
    signals: StopSignals,
    console: Console,
    board: TensorBoardReporter,
) -> None:
    """Learn, and print the policy every 500 decisions and what became of each fault.

    Probabilities are the policy's own, without exploration, at the decision before.

    Args:
        model: Untrained, of the preset `tiny-grpo`.
        total_steps: Decisions to make.
        signals: A signal ends it after the next 500 decisions.
        console: For the printing.
        board: Records what is printed.
    """
    balancer = model.simulator.config
    policies = np.empty((total_steps, balancer.num_servers))
    while model.num_steps < total_steps and signals.number is None:
        first = model.num_steps
        last = min(first + _EVERY, total_steps)
        rewards = model.train_steps(last - first, policies[first:last])
        console.print(
            f"\nstep {last}: mean reward {rewards.mean():.1f} since step {first}", highlight=False
        )
        console.print(_bars(policies[last - 1]))
        board.add(_scalars(float(rewards.mean()), policies[last - 1]), last)
        for server, kind, begin, end in balancer.fault_schedule:
            if first < begin <= last < total_steps:
                console.print(f"server {server} is {kind} from here on", highlight=False)
            if first < end <= last:
                console.print(_change(policies, begin, end), highlight=False)
            if first < end <= last < total_steps:
                console.print(f"server {server} has recovered", highlight=False)
    if signals.number is None and balancer.fault_schedule:
        recovery = max(end for *_, end in balancer.fault_schedule)
        if recovery < total_steps:
            console.print(_change(policies, recovery, total_steps), highlight=False)


def _scalars(reward_mean: float, policy: np.ndarray) -> dict[str, float]:
    shares = {f"policy/server_{server}": float(share) for server, share in enumerate(policy)}
    return {"rollout/reward_mean": reward_mean, **shares}


def _change(policies: np.ndarray, begin: int, end: int) -> str:
    step = changed_at(policies, begin, end)
    likeliest = int(policies[end - 1].argmax())
    if step == begin:
        return f"server {likeliest} has been the most likely all the time"
    return (
        f"server {likeliest} has been the most likely since step {step}, "
        f"{step - begin} steps after the change"
    )


def _bars(policy: np.ndarray) -> Table:
    table = Table.grid(padding=(0, 2))
    for server, probability in enumerate(policy):
        bar = ProgressBar(total=1.0, completed=float(probability), width=50)
        table.add_row(f"server {server}", bar, f"{100 * probability:5.1f} %")
    return table
