"""`LoadBalancer-v0` for one environment."""

import gymnasium as gym
import numpy as np

from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.observation import count_features
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.rendering import render_ansi, render_rgb
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.view import Event
from grpo_gym.envs.native_env import NativeEnv
from grpo_gym.envs.native_task import NativeTask


def _event(simulator: LoadBalancerSimulator, b: int, server: np.int64) -> Event:
    outcome = simulator.outcomes[b]
    return int(server), float(outcome["response_time_ms"]), bool(outcome["error"])


def _observation_space(config: LoadBalancerConfig) -> gym.spaces.Box:
    least = -1.0 if config.is_padded else 0.0
    return gym.spaces.Box(least, 1.0, (count_features(config),), np.float32)


def _action_space(config: LoadBalancerConfig) -> gym.spaces.Discrete:
    return gym.spaces.Discrete(config.server_slots)


TASK = NativeTask(
    make_config=make_config,
    simulator=LoadBalancerSimulator,
    observation_space=_observation_space,
    action_space=_action_space,
    action_name="server",
    event=_event,
    render_ansi=render_ansi,
    render_rgb=render_rgb,
)


class LoadBalancerEnv(NativeEnv[np.ndarray, np.int64]):
    """Route each request of a stream to one of N servers.

    ## Description
    Requests arrive one by one; each step sends the waiting request to a server. Servers differ
    in speed, queue what they cannot serve at once, and at random become slow, return errors, or
    refuse service, and recover. The balancer does not see a server's health: only how many
    requests it sent there are still open, and averages of what came back. All arrivals, sizes,
    faults and error coins of an episode are drawn at reset; no action changes them, so episodes
    with equal seeds face equal traffic.

    ## Action Space
    `Discrete(N)`: the server that serves the waiting request.

    ## Observation Space
    `Box(0, 1, (6 N,), float32)`, or `(8 N + 1,)` with `observe_size=True` (as in `flaky` and
    `park`). For each server in turn, all encoded as log1p(x) / log1p(10,000) and clipped at 1:

    | Num | Meaning                                     | Unit of x                 | Min | Max |
    |-----|---------------------------------------------|---------------------------|-----|-----|
    | 0   | requests in flight                          | 1                         | 0   | 1   |
    | 1   | moving average of observed latency          | mean service time / 10    | 0   | 1   |
    | 2   | moving average of observed errors           | 0.01 %                    | 0   | 1   |
    | 3   | time since the last response (1 before any) | mean service time / 10    | 0   | 1   |
    | 4   | age of the oldest request in flight         | mean service time / 10    | 0   | 1   |
    | 5   | moving average of service time              | mean service time / 10    | 0   | 1   |
    | 6   | size of the requests in flight              | mean size / 10            | 0   | 1   |
    | 7   | moving average of service time per size     | 1/10 of a rate-1 server's | 0   | 1   |

    Rows 6 and 7, and the size of the waiting request (mean size / 10) at the end, are present only
    with `observe_size=True`: a balancer that knows the sizes of requests can compute them. It
    measures a service time from the previous response, or from the request's arrival if later.

    `observation="aggregate"` has four entries, worst cases over servers clipped to [0, 1]: in
    flight / 100, latency / 300 ms, errors / 0.1, queueing delay / 500 ms.

    ## Rewards
    - `latency` (default): -response time / 100 ms - 1.5 * error probability. The probability
      instead of the realised error has the same mean and less variance.
    - `demo`: -(response time + 1500 * error probability + 0.3 * queueing delay).
    - `park`: minus the time integral of the number of requests in the system until the next
      arrival, and at the end until the last one left; the return is minus the total response
      time (without base latencies and refusals, which keep no server busy).

    ## Starting State
    Empty servers, in good health unless the schedule says otherwise, the first request waiting.

    ## Episode End
    After `episode_length` requests: truncation, as traffic would go on; termination with
    `reward="park"`, whose last reward contains all that follows.

    ## Information
    After each step, about the request just routed: `response_time_ms`, `error`; with
    `infos="full"` (default) also `estimated_rewards` (what each server would have given, shape
    (N,)), `oracle_action` (the best of them) and `regret` (its lead over the action taken).
    After each step and reset, about the servers now, shape (N,): `in_flight`, `latency_ms`,
    `error_rate`, `age_ms` as the balancer sees them, and `degraded`, which it does not see.

    ## Arguments
    `preset` names a task (`flaky`, `heavy-tails`, `bursts`, `park`, `tiny-grpo`, `mm4`, `hetero2`),
    `num_servers` its number of servers; every other keyword overrides one field of
    `grpo_gym.envs.load_balancer.presets.LoadBalancerConfig`:
    ```python
    gym.make("LoadBalancer-v0", preset="park", num_servers=5)
    ```

    ## Version History
    - v0: first version.
    """

    task = TASK
    config: LoadBalancerConfig
    simulator: LoadBalancerSimulator

    def action_masks(self) -> np.ndarray:
        """Servers that there are, shape (N,), bool; sb3-contrib's MaskablePPO calls this."""
        return self.simulator.present[0]
