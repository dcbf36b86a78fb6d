"""`train --algo online`: a progress line and the closing table, or the published demonstration.

The run's folder holds `config.yaml`, TensorBoard events and `checkpoints/latest.ckpt`.
"""

import time

import numpy as np
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from grpo_gym.cli.run import Run
from grpo_gym.cli.settings import RunOptions, demonstration_steps
from grpo_gym.cli.signals import StopSignals
from grpo_gym.cli.tables import compare_with_baselines
from grpo_gym.trainers.named_policies import check_environment
from grpo_gym.trainers.online import OnlineGRPO, OnlineStats
from grpo_gym.trainers.online.loop import settled_at
from grpo_gym.trainers.reporting import TensorBoardReporter
from grpo_gym.trainers.settings import TrainSettings

_DEMONSTRATION_EVERY = 500


def train_online(
    settings: TrainSettings, options: RunOptions, signals: StopSignals, console: Console
) -> int:
    """Train until the end or the first signal, save the policy, and return the exit status.

    Raises:
        ConfigError: If the settings or the folder cannot be used; before any work.
    """
    model = OnlineGRPO(settings.env, env_kwargs=settings.env_kwargs, config=settings.online)
    check_environment(settings.env, settings.env_kwargs)
    run = Run.create(settings, options.run_dir)
    console.print(f"run: {run.folder}", markup=False)
    total_steps = settings.total_steps
    demonstrating = bool(demonstration_steps(settings.env, settings.env_kwargs))
    with signals.deferred(), TensorBoardReporter(run.folder) as board:
        if demonstrating:
            _demonstrate(model, total_steps, signals, board)
        else:
            _learn(model, total_steps, signals, board, console, run)
        model.save(run.latest)
    console.print(f"weights sha256: {model.weights_sha256()}")
    if signals.number is not None:
        console.print(
            f"stopped after {model.num_steps:,} of {total_steps:,} decisions; what was learned is "
            f"in {run.latest}",
            markup=False,
        )
        return 128 + signals.number
    if settings.final_episodes and not demonstrating:
        compare_with_baselines(run.latest, settings.final_episodes, console)
    return 0


def _learn(
    model: OnlineGRPO,
    total_steps: int,
    signals: StopSignals,
    board: TensorBoardReporter,
    console: Console,
    run: Run,
) -> None:
    """Train with a progress line and a checkpoint every second, until the end or a signal."""
    started, shown = time.perf_counter(), -np.inf

    def report(model: OnlineGRPO, stats: OnlineStats) -> bool:
        nonlocal shown
        board.add({"rollout/reward_mean": stats.reward_mean}, stats.num_steps)
        now = time.perf_counter()
        stopping = signals.number is not None
        if now - shown >= 1.0 or stopping or stats.num_steps == total_steps:
            shown = now
            model.save(run.latest)
            console.print(
                f"{stats.num_steps:,}/{total_steps:,} decisions, "
                f"{stats.num_steps / (now - started):,.0f}/s, reward {stats.reward_mean:.4g}"
            )
        return not stopping

    model.learn(total_steps, callback=report)


def _demonstrate(
    model: OnlineGRPO, total_steps: int, signals: StopSignals, board: TensorBoardReporter
) -> None:
    """Train, and print the policy every 500 decisions and how it reacts to each fault.

    Probabilities are those of the last decision, without exploration.
    """
    console = Console(highlight=False)
    config = model.simulator.config
    policies = np.empty((total_steps, config.num_servers))
    while model.num_steps < total_steps and signals.number is None:
        first = model.num_steps
        last = min(first + _DEMONSTRATION_EVERY, total_steps)
        reward_mean = model.train_steps(last - first, policies[first:last]).mean()
        policy = policies[last - 1].tolist()
        shares = {f"policy/server_{server}": share for server, share in enumerate(policy)}
        board.add({"rollout/reward_mean": float(reward_mean), **shares}, last)
        console.print(f"\nstep {last}: mean reward {reward_mean:.1f} since step {first}")
        console.print(_bars(policy))
        for server, kind, begin, end in config.fault_schedule:
            if first < begin <= last < total_steps:
                console.print(f"server {server} is {kind} from here on")
            if first < end <= last:
                console.print(_reaction(policies, begin, end))
            if first < end <= last < total_steps:
                console.print(f"server {server} has recovered")
    recovery = max((end for *_, end in config.fault_schedule), default=total_steps)
    if signals.number is None and recovery < total_steps:
        console.print(_reaction(policies, recovery, total_steps))


def _reaction(policies: np.ndarray, begin: int, end: int) -> str:
    """How the most likely server changed between two decisions."""
    step = settled_at(policies, begin, end)
    likeliest = int(policies[end - 1].argmax())
    if step == begin:
        return f"server {likeliest} has been the most likely all the time"
    return (
        f"server {likeliest} has been the most likely since step {step}, "
        f"{step - begin} steps after the change"
    )


def _bars(policy: list[float]) -> Table:
    table = Table.grid(padding=(0, 2))
    for server, share in enumerate(policy):
        bar = ProgressBar(total=1.0, completed=share, width=50)
        table.add_row(f"server {server}", bar, f"{100 * share:5.1f} %")
    return table
