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
    in speed and in their number of `workers`, queue what they cannot serve at once, and at random
    become slow, return errors, or refuse service, and recover (slowly, over `recovery_ramp_ms`: a
    slow start). The balancer does not see a server's health: only how many requests it sent there
    are still open, and averages of what came back. All arrivals, sizes, faults and error coins of
    an episode are drawn at reset; no action changes them, so episodes with equal seeds face equal
    traffic.

    Servers may also reject what exceeds their `connection_limit`, drop requests after `timeout_ms`,
    and get failed requests from other servers once more (`retry`).

    ## Fleets
    A setting can be a distribution, which each episode draws anew from its seed (`preset="fleets"`
    does so): `utilisation="uniform 0.4 0.85"`; `grpo_gym.envs.load_balancer.distributions` has the
    notation. Members of a group share their fleet as they share their traffic. With `num_servers`
    drawn or `max_servers` set, there is room for N servers, of which an episode may have fewer.
    Absent ones refuse requests as if they were down. `fleet_seed=3` draws one fleet for all
    episodes, without room for more.

    ## Several balancers
    With `num_balancers=M` each request comes to one of M balancers at random, and the observation
    is what that one knows: its own requests and their answers. Servers serve all of them. The more
    balancers, the less each knows. Mean response time of `least_connections` on `mm4`, in mean
    service times (standard errors up to 1 %, at 0.9 up to 2 %):

    | utilisation | M = 1 | 4    | 16   | 64   | 1,000 | random splitting, exact |
    |-------------|-------|------|------|------|-------|-------------------------|
    | 0.7         | 1.51  | 1.98 | 2.58 | 3.03 | 3.31  | 3.33                    |
    | 0.9         | 3.24  | 3.81 | 4.93 | 6.57 | 9.17  | 10                      |

    ## Action Space
    `Discrete(N)`: the server that serves the waiting request. `action_masks()` says which ones
    there are.

    ## Observation Space
    `Box(0, 1, (F N,), float32)`, with F = 6 features per server; with `observe_size=True` (as in
    `flaky` and `park`) 8, and the size of the waiting request at the end; one more with
    `observe_weights=True`. If servers may be absent the least value is -1, that of all their
    features. For each server in turn, all encoded as log1p(x) / log1p(10,000) and clipped at 1:

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
    | 8   | configured weight                           | mean weight / 10          | 0   | 1   |

    Rows 6 and 7, and the size of the waiting request (mean size / 10) at the end, are present only
    with `observe_size=True`: a balancer that knows the sizes of requests can compute them. It
    measures a service time from the previous response, or from the request's arrival if later.
    With several workers or balancers that is no longer one request's service time but the time per
    answer, and row 7 is the ratio of two averages: row 5 over the size of the requests answered.
    Row 8 is the last one with `observe_weights=True`: its number is 6 without sizes. A time-out
    counts in rows 1 and 2, as a response of `timeout_ms` and an error.

    `observation="aggregate"` has four entries, worst cases over servers clipped to [0, 1]: in
    flight / 100, latency / 300 ms, errors / 0.1, queueing delay / 500 ms.

    ## Rewards
    - `latency` (default): -response time / 100 ms - 1.5 * error probability. The probability
      instead of the realised error has the same mean and less variance. With `retry=True` a
      failure costs its response time and, in the step in which it is sent, all that its retry
      costs, error probability included; the last step has those of all retries to come.
    - `demo`: -(response time + 1500 * error probability + 0.3 * queueing delay).
    - `park`: minus the time integral of the number of requests in the system until the next
      arrival, and at the end until the last one left; the return is minus the total response
      time (without base latencies and refusals, which keep no server busy). Not with `retry`.

    ## Starting State
    Empty servers, in good health unless the schedule says otherwise, the first request waiting.

    ## Episode End
    After `episode_length` requests, and their retries: truncation, as traffic would go on;
    termination with `reward="park"`, whose last reward contains all that follows.

    ## Information
    After each step, about the request just routed: `response_time_ms`, `error`; with
    `infos="full"` (default) also `estimated_rewards` (what each server would have given, shape
    (N,), -infinity for an absent one), `oracle_action` (the best of them) and `regret` (its lead
    over the action taken); they know nothing of retries. With `timeout_ms` and `connection_limit`
    also `timed_out` and `rejected`, whether that happened to it. With `retry=True` there are
    `retries`, the number sent in this step; `error` is the number of requests that failed for good
    in this step, and `response_time_ms` includes what the retries took.
    After each reset, and with `infos="full"` after each step, about the servers now, shape (N,):
    `in_flight`, `latency_ms`, `error_rate`, `age_ms` as the balancer sees them, and `degraded`,
    which it does not see. If servers may be absent, `action_mask`, int8, shape (N,): 1 for those
    that there are, always.

    ## Arguments
    `preset` names a task (`flaky`, `heavy-tails`, `bursts`, `park`, `tiny-grpo`, `mm4`, `hetero2`,
    `fleets`), `num_servers` its number of servers, and `fleet_seed` the seed of a fleet for all
    episodes; every other keyword overrides one field of
    `grpo_gym.envs.load_balancer.presets.LoadBalancerConfig`:
    ```python
    gym.make("LoadBalancer-v0", preset="park", num_servers=5)
    gym.make("LoadBalancer-v0", workers=4, retry=True, timeout_ms=200.0, num_balancers=8)
    gym.make("LoadBalancer-v0", num_servers="loguniform 2 8", service_rates="loguniform 0.5 2")
    gym.make("LoadBalancer-v0", arrivals_csv="requests.csv")  # docs/reference/csv_formats.md
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
