"""How true are estimates from a log, where actions change the queues that later requests meet?

On LoadBalancer-v0 a rule routes, and now and then picks a server at random; from what it logs other
rules are estimated, which then really route. A reward is that of a step, about minus a hundredth of
the request's latency in ms. Estimates take each request for a world of its own, and queues are not.

    python scripts/shadow_estimates.py --out docs/results/shadow_estimates.json
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from grpo_gym.deployment.estimates import estimate
from grpo_gym.deployment.shadow_log import LoggedRows, explore
from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.storage.results import Results
from grpo_gym.trainers.pretrained import router_file

Choose = Callable[[np.ndarray], np.ndarray]
LOGGING = ("random", "least_connections", "round_robin")
TARGETS = ("random", "least_connections", "round_robin", "peak_ewma", "pretrained")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path = Path("docs/results/shadow_estimates.json")
    """Results; what is there already is not measured again."""
    preset: str = "flaky"
    """Preset of LoadBalancer-v0."""
    episodes: int = 32
    """Episodes of each log, and of each true value."""
    epsilons: tuple[float, ...] = (0.1, 0.3)
    """Shares of random picks of rules that are not random themselves."""


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    with Results(options.out, print) as results:
        for name in TARGETS:
            results.measure(f"true: {name}", partial(true_value, name, options))
        for name in LOGGING:
            for epsilon in (1.0,) if name == "random" else options.epsilons:
                key = f"logged: {name}, {100 * epsilon:g} % random"
                results.measure(key, partial(estimates, name, epsilon, options))


def true_value(name: str, options: Options) -> float:
    """Mean reward of a rule that routes."""
    env = make_env(options)
    return float(play(env, chooser(name, env, options))[0].mean())


def estimates(name: str, epsilon: float, options: Options) -> dict[str, Any]:
    """What each rule is estimated to earn from the log of another."""
    env = make_env(options)
    shadows = {target: chooser(target, env, options) for target in TARGETS if target != "random"}
    wanted: dict[str, list[np.ndarray]] = {target: [] for target in shadows}
    propensities, generator = [], np.random.default_rng(1)
    leader = chooser("least_connections" if name == "random" else name, env, options)
    servers = range(env.single_action_space.n)  # type: ignore[attr-defined]

    def choose(observations: np.ndarray) -> np.ndarray:
        for target, shadow in shadows.items():
            wanted[target].append(shadow(observations))
        picks = [explore(each, servers, epsilon, generator) for each in leader(observations)]
        propensities.append([propensity for _, propensity in picks])
        return np.array([action for action, _ in picks])

    rewards, actions, observations = play(env, choose)
    # Rows of an episode one after the other, as a process writes them.
    log = LoggedRows(
        actions.T.ravel(),
        np.array(propensities).T.ravel(),
        rewards.T.ravel(),
        observations=observations.swapaxes(0, 1).reshape(rewards.size, -1),
    )
    policies = {target: np.eye(len(servers))[np.array(each).T.ravel()]
                for target, each in wanted.items()}  # fmt: skip
    policies["random"] = np.full((rewards.size, len(servers)), 1.0 / len(servers))
    return {target: asdict(estimate(log, policy)) for target, policy in policies.items()}


def make_env(options: Options) -> gym.vector.VectorEnv:
    """Many episodes side by side."""
    return gym.make_vec(
        "grpo_gym:LoadBalancer-v0", num_envs=options.episodes, preset=options.preset
    )


def chooser(name: str, env: gym.vector.VectorEnv, options: Options) -> Choose:
    """A rule bound to environments: it sees their state, whoever routes there."""
    rule: Any = (
        NumpyPolicy.load(router_file({"preset": options.preset}))
        if name == "pretrained"
        else make_baseline(name, env)
    )
    state = None

    def choose(observations: np.ndarray) -> np.ndarray:
        nonlocal state
        actions, state = rule.predict(observations, state=state)
        return np.asarray(actions)

    return choose


def play(env: gym.vector.VectorEnv, choose: Choose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One episode each: rewards and actions, (T, B), and observations, (T, B, D)."""
    observations, _ = env.reset(seed=0)
    rewards, actions, seen = [], [], []
    done = False
    while not done:
        chosen = choose(observations)
        seen.append(observations.copy())
        actions.append(chosen)
        observations, reward, terminated, truncated, _ = env.step(chosen)
        rewards.append(np.array(reward))
        done = bool((terminated | truncated).any())
    return np.array(rewards), np.array(actions), np.array(seen)


if __name__ == "__main__":
    main()
