"""Environment steps per second: of environments, of their simulators alone, and of training.

Rates are those of repetitions that take turns with each other, so that other work on the machine
meets all of them: compare ratios within one run.
"""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.online import OnlineGRPO

Work = Callable[[], tuple[int, float]]
"""Does some work and returns its number of environment steps, and the seconds that they took."""

NATIVE = ("LoadBalancer-v0", "Battleship-v0", "AutoScaler-v0")
_SECONDS = 0.3
"""Least duration of one repetition of a simulator's steps."""


def measure_rates(num_envs: int, repetitions: int) -> dict[str, list[float]]:
    """Environment steps per second on one thread, by what makes them.

    Args:
        num_envs: Environments of the vectorised measurements, B.
        repetitions: Rates of each.
    """
    torch.set_num_threads(1)
    return take_turns(_works(num_envs), repetitions)


def take_turns(works: dict[str, Work], repetitions: int) -> dict[str, list[float]]:
    """The rates of some works that are repeated in turn, after one round to warm up."""
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            steps, seconds = work()
            rates[name].append(steps / seconds)
    return rates


def timed(work: Callable[[], int]) -> Work:
    """Work that is timed as a whole."""

    def timed_work() -> tuple[int, float]:
        started = time.perf_counter()
        steps = work()
        return steps, time.perf_counter() - started

    return timed_work


def _works(num_envs: int) -> dict[str, Work]:
    works = {"Gymnasium CartPole-v1, unwrapped": _single("CartPole-v1")}
    for env_id in NATIVE:
        works[f"{env_id}, unwrapped"] = _single(env_id)
    works['LoadBalancer-v0, infos="basic", unwrapped'] = _single(NATIVE[0], infos="basic")
    works[f"Gymnasium CartPole-v1, vector, {num_envs}"] = _vector("CartPole-v1", num_envs, 200)
    for env_id in NATIVE:
        works[f"{env_id}, vector, {num_envs}"] = _vector(env_id, num_envs, 400)
        works[f"{env_id}, simulator alone, {num_envs}"] = _simulator(env_id, num_envs)
    works["GRPO on LoadBalancer-v0, training"] = _training()
    works["online GRPO on LoadBalancer-v0, decisions"] = _online_decisions()
    return works


def _single(env_id: str, steps: int = 20_000, **settings: Any) -> Work:
    """Random actions in one environment, including resets."""
    env = gym.make(env_id, **settings).unwrapped
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    env.reset(seed=0)

    def work() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return steps

    return timed(work)


def _vector(env_id: str, num_envs: int, steps: int) -> Work:
    """Random actions in a vector environment, including automatic resets."""
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64)]
    env.reset(seed=0)

    def work() -> int:
        for step in range(steps):
            env.step(actions[step % 64])
        return steps * num_envs

    return timed(work)


def _simulator(env_id: str, num_envs: int) -> Work:
    """Random actions in a simulator, without resets and without Gymnasium's interface."""
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.action_space.seed(0)
    actions = [np.asarray(env.action_space.sample(), np.int64) for _ in range(64)]
    env.reset(seed=0)
    simulator = env.simulator  # type: ignore[attr-defined]

    def work() -> tuple[int, float]:
        steps, seconds = 0, 0.0
        while seconds < _SECONDS:
            chosen = actions[steps // num_envs % 64]
            started = time.perf_counter()
            simulator.step(chosen)
            seconds += time.perf_counter() - started
            steps += num_envs
            finished = np.flatnonzero(np.logical_or(*simulator.ends()))
            if len(finished):
                simulator.reset(finished)
        return steps, seconds

    return work


def _training() -> Work:
    """Whole training iterations with the default settings."""
    model = GRPO("mlp", "LoadBalancer-v0")

    def work() -> int:
        before = model.num_steps
        for _ in range(4):
            model.train_iteration()
        return model.num_steps - before

    return timed(work)


def _online_decisions() -> Work:
    """Decide, route, estimate and learn, one request after another, including resets."""
    model = OnlineGRPO("LoadBalancer-v0")

    def work() -> int:
        model.train_steps(400_000)
        return 400_000

    return timed(work)
