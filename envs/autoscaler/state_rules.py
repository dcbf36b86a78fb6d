"""What holds in every state of a cluster: numbers of replicas, positions on ladders, finite traces.

Shapes: M environments, T steps an episode.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from grpo_gym.envs.autoscaler import records
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.batch_simulator import Rule, within

_LARGEST = 1e60
"""No quantity of a cluster is larger, so that no product of a few overflows."""
_LADDERS = {
    "batch": records.BATCH_SIZES,
    "timeout": records.TIMEOUTS_S,
    "concurrency": records.CONCURRENCIES,
}


def cluster_rules(
    state: Mapping[str, np.ndarray], config: AutoScalerConfig, recorded: int
) -> Iterator[Rule]:
    """The rules of `AutoScalerSimulator.state_rules`; `recorded` is the length of `demand_csv`."""
    clusters, starting = state["clusters"], state["starting"]
    yield "a step of the episode", within(state["episodes"]["step"], 0, config.episode_steps)
    yield "a demand >= 0 in every step", within(state["demand"], 0.0, np.finfo(np.float32).max)
    yield (
        "a start in the recorded demand or the week",
        within(state["starts"], 0, _last_start(config, recorded)),
    )
    fewest, most = config.min_replicas, config.max_replicas
    yield f"{fewest} to {most} replicas", within(clusters["running"], fewest, most)
    yield "replicas that start up", within(starting, 0, most)
    yield "as many pending replicas", clusters["pending"] == starting.sum(axis=1)
    yield f"at most {most} replicas", clusters["running"] + clusters["pending"] <= most
    yield "a cooldown of these settings", within(clusters["cooldown"], 0, config.cooldown_steps)
    for name, ladder in _LADDERS.items():
        yield f"a {name} on its ladder", within(clusters[name], 0, len(ladder) - 1)
    yield "a share of traffic", within(clusters["share"], 0, records.SHARES - 1)
    for name in ("backlog", "retries", "dollars_per_hour"):
        yield f"a finite {name} >= 0", within(clusters[name], 0.0, _LARGEST)
    for name in records.METRICS:
        yield f"a finite {name} >= 0", within(state["metrics"][name], 0.0, _LARGEST)
    for name in records.OUTCOME.names or ():
        if records.OUTCOME[name] != np.bool_:
            yield f"a finite {name}", within(state["outcomes"][name], -_LARGEST, _LARGEST)
    yield "metrics from -1 to 1 in its history", within(state["history"], -1.0, 1.0)


def _last_start(config: AutoScalerConfig, recorded: int) -> int:
    return recorded - config.episode_steps - 1 if recorded else 7 * config.steps_per_day - 1
